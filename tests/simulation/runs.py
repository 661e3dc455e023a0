"""Run schedules: one by its seed, or many on all processors, and tell what they broke."""

from dataclasses import dataclass

from tests.simulation.house import House
from tests.simulation.mischief import remember_as_ever
from tests.simulation.mutations import patched
from tests.simulation.world import Broken, World

TROUBLE_SECONDS = 60.0
REST_SECONDS = 30.0
RESTS = 40
STEPS_AT_MOST = 20_000
BUG = "bug"
"""In place of a promise: the program itself failed."""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one schedule."""

    seed: int
    promise: str | None
    what: str
    steps: int
    told: list[str]


def run(seed: int, mutation: str = "", *, tells: bool = False) -> Run:
    """Run the schedule of a seed."""
    with patched(mutation):
        return _run(seed, mutation, tells=tells)


def _run(seed: int, mutation: str, *, tells: bool) -> Run:
    world = World(seed, mutation, tells=tells)
    try:
        _play(world)
    except Broken as broken:
        return Run(seed, broken.promise, str(broken), world.steps, world.told)
    except Exception as error:
        if tells:
            raise
        what = f"{type(error).__name__}: {error}"
        return Run(seed, BUG, what, world.steps, world.told)
    finally:
        remember_as_ever()
    return Run(seed, None, "", world.steps, world.told)


def _play(world: World) -> None:
    house = House(world)
    random = world.random
    world.mishaps = random.randint(0, 5)
    world.rate = random.choice((0.002, 0.01, 0.03))
    for _ in range(random.randint(0, 2)):
        world.after(45.0 * random.random(), world.nobody, house.mishap, world.nobody)
    world.run(TROUBLE_SECONDS, STEPS_AT_MOST)
    world.mishaps = 0
    for _ in range(RESTS):
        for process in list(world.processes.values()):
            world.go_on(process)
        world.run(world.now + REST_SECONDS, STEPS_AT_MOST)
        if not house.client.wakes_what_is_open() and house.is_at_rest():
            break
    house.judge.rest()


def first_broken(mutation: str, schedules: int, seed: int = 1) -> Run | None:
    """Return the first schedule from a seed on that breaks a promise without that rule."""
    for each in range(seed, seed + schedules):
        found = run(each, mutation)
        if found.promise is not None:
            return found
    return None
