"""What goes wrong in the simulated world, and how often in relation to the rest."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.world import SIGKILL, Process, World

if TYPE_CHECKING:
    from tests.simulation.house import House


def kill_self(house: "House", process: Process) -> None:
    """Kill whoever runs just now: between any two of its steps."""
    if process.kind in {"worker", "host", "tool"}:
        house.world.end(process, signal=SIGKILL)


def kill_host(house: "House", _: Process) -> None:
    """Kill the supervisor."""
    _one(house, "host", lambda host: house.world.end(host, signal=SIGKILL))


def kill_worker(house: "House", _: Process) -> None:
    """Kill a worker."""
    _one(house, "worker", lambda worker: house.world.end(worker, signal=SIGKILL))


def kill_tool(house: "House", _: Process) -> None:
    """Kill a tool."""
    _one(house, "tool", lambda tool: house.world.end(tool, signal=SIGKILL))


def kill_everything(house: "House", _: Process) -> None:
    """Kill nearly all at once, without a power cut: nobody is left who saw the others die."""
    for each in list(house.world.processes.values()):
        if each.kind in {"host", "worker", "tool"} and house.world.chance() < 0.8:
            house.world.end(each, signal=SIGKILL)


def power_cut(house: "House", _: Process) -> None:
    """Lose the whole host."""
    house.lose_power()


def stop_worker(house: "House", _: Process) -> None:
    """Stop a worker for a while."""
    world = house.world
    _one(house, "worker", lambda worker: world.stop(worker, _stop_seconds(world)))


def stop_host(house: "House", _: Process) -> None:
    """Stop the supervisor for a while."""
    world = house.world
    _one(house, "host", lambda host: world.stop(host, _stop_seconds(world)))
    if world.is_mutated("host_lock_not_taken"):
        house.host = None
        house.start_host()


def hang_worker(house: "House", _: Process) -> None:
    """Let a worker's loop do nothing any more."""

    def hang(worker: Process) -> None:
        worker.is_hung = True

    _one(house, "worker", hang)


def sink_worker(house: "House", _: Process) -> None:
    """Let a worker sit in the kernel, where no signal gets at it."""
    world = house.world
    _one(house, "worker", lambda worker: world.sink(worker, world.between(1.0, 40.0)))


def cut_line(house: "House", _: Process) -> None:
    """Cut the line of a living worker."""
    lines = [
        each.line
        for each in house.workers.values()
        if each.process.is_alive and each.line is not None and not each.line.is_cut
    ]
    if lines:
        house.world.random.choice(lines).cut()


def disk_fails(house: "House", _: Process) -> None:
    """Let the next write of a session fail."""
    file = house.world.random.choice(list(house.files.values()))
    file.fails = "full" if house.world.chance() < 0.5 else "sync"


def clock_jumps(house: "House", _: Process) -> None:
    """Set the time of day by days."""
    house.world.offset_us += int(house.world.between(-2e5, 2e5) * 1e6)


def sleep(house: "House", _: Process) -> None:
    """Let the machine sleep."""
    house.world.now += house.world.between(20.0, 4000.0)


type Mishap = Callable[["House", Process], None]

MISHAPS: dict[Mishap, int] = {
    kill_self: 30,
    kill_host: 14,
    kill_worker: 16,
    kill_tool: 4,
    power_cut: 10,
    kill_everything: 8,
    stop_worker: 8,
    stop_host: 8,
    hang_worker: 5,
    sink_worker: 4,
    cut_line: 10,
    disk_fails: 8,
    clock_jumps: 3,
    sleep: 3,
}
CHANCES = (list(MISHAPS), list(MISHAPS.values()))


def _one(house: "House", kind: str, do: Callable[[Process], None]) -> None:
    """Do something to one living process of a kind."""
    found = [each for each in house.world.processes.values() if each.is_alive and each.kind == kind]
    if found:
        do(house.world.random.choice(found))


def _stop_seconds(world: World) -> float:
    return 0.1 + 90.0 * world.chance() ** 3
