"""What 50 sessions' commands feel of three neighbours that behave badly (P9, P11).

Each quiet session gets a durable command now and then, at its own times. Measured twice, in turns:
with nobody else, and while one session's tool burns all cores, one's takes and touches memory
without end, and one's writes as fast as it can. Budget: the p99 at most doubles.

The floor, in the same turns: as many bare processes, of which each syncs a page and answers through
a pipe. What they feel is the machine's own, and nobody's who runs on it.
"""

import asyncio
import os
import random
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, percentile, progress
from benchmarks._hosts import host_in, workspace_in
from paddock.client import Host
from paddock.store.errors import PaddockError
from paddock.store.events import Limits, SessionConfig

SESSIONS = 50
ROUNDS = 5
SECONDS = 10.0
PAUSE_SECONDS = 1.0
"""Between the commands of one session, on average: 50 a second of all of them."""
SEED = 1

FLOOR = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
for line in sys.stdin.buffer:
    os.pwrite(file, b"x" * 4120, 0)
    os.fdatasync(file)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""

EATEN_MB = 2_048
HOGS = {
    "cpu": f"for i in $(seq {os.cpu_count()}); do while :; do :; done & done; wait",
    "memory": (
        f"{sys.executable} -c 'while True:\n"
        f' held = [bytearray(b"x" * (1 << 20)) for _ in range({EATEN_MB})]\''
    ),
    "output": "yes this-is-a-flood-of-output",
}


def main() -> int:
    """Measure and print."""
    parser = common.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="each measurement")
    given = parser.parse_args()
    with common.scratch("neighbours") as folder:
        result = asyncio.run(measure(folder, given.rounds or ROUNDS, given.seconds))
    common.show("neighbours", result, as_json=given.json)
    return 0


async def measure(folder: Path, rounds: int, seconds: float) -> Result:
    """Return the result of so many turns of quiet and noise."""
    config = SessionConfig(workspace=workspace_in(folder))
    quiet: list[float] = []
    loaded: list[float] = []
    floor_quiet: list[float] = []
    floor_loaded: list[float] = []
    async with host_in(folder / "home") as (_, host), _bare(folder) as bare:
        sessions = [await host.create_session(config) for _ in range(SESSIONS)]
        commands = [partial(session.annotate, "asked", "again") for session in sessions]
        floor = [partial(_answered, process) for process in bare]
        await _asked(commands, 1.0)
        await _asked(floor, 1.0)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            quiet += await _asked(commands, seconds)
            floor_quiet += await _asked(floor, seconds / 2)
            async with _noise(host, folder):
                loaded += await _asked(commands, seconds)
            async with _noise(host, folder):
                floor_loaded += await _asked(floor, seconds / 2)
    quiet_p99, loaded_p99 = percentile(quiet, 99), percentile(loaded, 99)
    floor_quiet_p99, floor_loaded_p99 = percentile(floor_quiet, 99), percentile(floor_loaded, 99)
    ratio, floor_ratio = loaded_p99 / quiet_p99, floor_loaded_p99 / floor_quiet_p99
    lines = [
        Line("commands of quiet sessions, p50", f"{percentile(quiet, 50):.1f} ms"),
        Line("p99", f"{quiet_p99:.1f} ms", "", f"{len(quiet):,} commands"),
        Line("with noisy neighbours, p50", f"{percentile(loaded, 50):.1f} ms"),
        Line("p99", f"{loaded_p99:.1f} ms", "", f"{len(loaded):,} commands"),
        Line("ratio of the p99", f"{ratio:.2f}", "≤ 2"),
        Line("the floor: bare processes, p99", f"{floor_quiet_p99:.1f} ms"),
        Line("with noisy neighbours, p99", f"{floor_loaded_p99:.1f} ms"),
        Line("ratio of the floor", f"{floor_ratio:.2f}"),
    ]
    numbers = {
        "quiet_p50_ms": percentile(quiet, 50),
        "quiet_p99_ms": quiet_p99,
        "loaded_p50_ms": percentile(loaded, 50),
        "loaded_p99_ms": loaded_p99,
        "ratio_p99": ratio,
        "floor_quiet_p99_ms": floor_quiet_p99,
        "floor_loaded_p99_ms": floor_loaded_p99,
        "floor_ratio_p99": floor_ratio,
    }
    how = (
        f"{SESSIONS} sessions, {rounds} times {seconds:g} s quiet and {seconds:g} s with three hogs"
    )
    return Result(numbers, lines, how)


@asynccontextmanager
async def _noise(host: Host, folder: Path) -> AsyncIterator[None]:
    """Let three sessions behave badly for a while."""
    limits = Limits(tool_seconds=600, memory_mb=4 * EATEN_MB)
    hogs = [await host.new(cwd=workspace_in(folder), mode="yolo", limits=limits) for _ in HOGS]
    for session, command in zip(hogs, HOGS.values(), strict=True):
        await session.shell(command)
    try:
        yield
    finally:
        for session in hogs:
            with suppress(PaddockError):  # a flood may have met its limit
                await session.interrupt()
            await session.delete()


@asynccontextmanager
async def _bare(folder: Path) -> AsyncIterator[list[Process]]:
    """Give processes that do nothing but sync a page and answer."""
    words = [sys.executable, "-c", FLOOR]
    started = [
        await asyncio.create_subprocess_exec(
            *words, str(folder / f"floor-{number}"), stdin=PIPE, stdout=PIPE
        )
        for number in range(SESSIONS)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            await process.wait()


async def _answered(process: Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"asked\n")
    await process.stdout.readline()


async def _asked(asks: Sequence[Callable[[], Awaitable[object]]], seconds: float) -> list[float]:
    """Return how many ms all answers took, where each is asked for at its own times."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def go_on(ask: Callable[[], Awaitable[object]], chance: random.Random) -> None:
        while True:
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_SECONDS))
            began = time.perf_counter()
            if began > until:
                return
            await ask()
            took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(
        *(go_on(ask, random.Random(SEED + place)) for place, ask in enumerate(asks))
    )
    return took


if __name__ == "__main__":
    sys.exit(main())
