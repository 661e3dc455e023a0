"""Whether a host grows while sessions come and go for as long as asked (``--minutes``).

All the time sessions are created, put to work (a tool call each), suspended, woken, killed -9,
asked for in SQL, followed and deleted with all they left. What the supervisor, the store and the
zygote hold in memory, and their descriptors, are looked at while nothing lives, at the end of each
lap. The first quarter warms caches up; the slope is that of the rest. Sessions come at one pace.
"""

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import _common as common
from benchmarks._common import Line, Result, progress
from benchmarks._hosts import host_in, workspace_in
from paddock.client import Host
from paddock.testing import HostForTests, call, turn, wait_until_async

MINUTES = 10.0
AT_ONCE = 4
LAP = 8
"""Sessions from one look to the next."""
LAP_SECONDS = 8.0
"""A lap takes no less: what a host holds for ten minutes is then as much all the time."""
WARM_UP_SHARE = 0.25
SEED = 1
PATIENCE_SECONDS = 120.0


def main() -> int:
    """Measure and print."""
    parser = common.arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long")
    given = parser.parse_args()
    with common.scratch("soak") as folder:
        result = asyncio.run(measure(folder, given.minutes))
    common.show("soak", result, as_json=given.json)
    return 0


def _from_to(looks: "list[Look]", name: str) -> str:
    return f"from {looks[0].rss_mb[name]:.0f} to {looks[-1].rss_mb[name]:.0f} MB"


@dataclass(frozen=True, slots=True)
class Look:
    """What the host's own processes hold at one moment."""

    at_seconds: float
    rss_mb: dict[str, float]
    descriptors: int

    @property
    def total_mb(self) -> float:
        """Of all of them."""
        return sum(self.rss_mb.values())


async def measure(folder: Path, minutes: float) -> Result:
    """Return the result of so many minutes."""
    chance = random.Random(SEED)
    began = time.monotonic()
    looks: list[Look] = []
    sessions = 0
    async with host_in(folder / "home") as (home, host):
        model = home.script(turn(call("bash", command="echo hello")), turn("done"))
        while not looks or time.monotonic() - began < minutes * 60:
            lap_ends = time.monotonic() + LAP_SECONDS
            await _lap(home, host, model, workspace_in(folder), chance)
            sessions += LAP
            looks.append(await _look(host, time.monotonic() - began))
            held = ", ".join(f"{name} {mb:.1f}" for name, mb in looks[-1].rss_mb.items())
            progress(f"{sessions} sessions; MB: {held}")
            await asyncio.sleep(lap_ends - time.monotonic())
    warm = [look for look in looks if look.at_seconds >= minutes * 60 * WARM_UP_SHARE] or looks
    slopes = {
        name: slope_of([(look.at_seconds / 3600, look.rss_mb[name]) for look in warm])
        for name in warm[0].rss_mb
    }
    slope = sum(slopes.values())
    lines = [
        Line("sessions come and gone", f"{sessions:,}"),
        Line("memory of the host, slope", f"{slope:.1f} MB/h", "flat"),
        *(
            Line(f"  {name}, slope", f"{each:.1f} MB/h", "", _from_to(warm, name))
            for name, each in slopes.items()
        ),
        Line("descriptors at the end", f"{looks[-1].descriptors}", f"{looks[0].descriptors}"),
    ]
    numbers = {
        "minutes": (time.monotonic() - began) / 60,
        "rss_slope_mb_per_hour": slope,
        **{f"{name}_rss_slope_mb_per_hour": each for name, each in slopes.items()},
        "rss_start_mb": warm[0].total_mb,
        "rss_end_mb": warm[-1].total_mb,
        "fds_start": looks[0].descriptors,
        "fds_end": looks[-1].descriptors,
        "sessions": sessions,
    }
    return Result(numbers, lines, f"{minutes:g} minutes, {AT_ONCE} sessions at a time")


async def _lap(
    home: HostForTests, host: Host, model: str, workspace: str, chance: random.Random
) -> None:
    """Let a number of sessions come and go, a few at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def live() -> None:
        async with room, asyncio.timeout(PATIENCE_SECONDS):
            await _live(home, host, model, workspace, chance)

    await asyncio.gather(*(live() for _ in range(LAP)))


async def _live(
    home: HostForTests, host: Host, model: str, workspace: str, chance: random.Random
) -> None:
    """Let one session come, work, rest, be killed, come back, and go."""
    session = await host.new(model=model, mode="yolo", cwd=workspace)
    outcome = await (await session.send("go")).wait()
    assert outcome.status == "completed", outcome
    if chance.random() < 0.5:
        await session.suspend()
    elif (pid := home.worker_pid(session.session_id)) is not None:
        psutil.Process(pid).kill()
    await session.resume()
    await session.annotate("soak", "again")
    told = [stored.sequence async for stored in session.events(follow=False)]
    assert told == list(range(1, len(told) + 1)), "nothing is missing"
    rows = await host.sql("SELECT count(*) FROM events WHERE session_id = ?", [session.session_id])
    assert rows.one() >= len(told), "SQL sees all that was durable"
    await session.delete(erase=True)


async def _look(host: Host, at_seconds: float) -> Look:
    """Look at the host's own processes when no worker is left."""

    async def is_at_rest() -> bool:
        return not await host.lives()

    await wait_until_async(is_at_rest, PATIENCE_SECONDS, what="the end of all workers")
    status = await host.status()
    held = {
        "supervisor": psutil.Process(status["pid"]),
        "store": psutil.Process(status["store_pid"]),
        "zygote": psutil.Process(status["zygote_pid"]),
    }
    return Look(
        at_seconds,
        {name: process.memory_info().rss / 1e6 for name, process in held.items()},
        sum(process.num_fds() for process in held.values()),
    )


def slope_of(points: list[tuple[float, float]]) -> float:
    """Return the slope of the straight line that fits points best (least squares)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


if __name__ == "__main__":
    sys.exit(main())
