"""What 50 sessions' commands feel of three neighbours that behave badly (P9, P11).

Each quiet session gets a durable command now and then, at its own times. Measured twice, in turns:
with nobody else, and while one session's tool burns all cores, one's takes and touches memory
without end, and one's writes as fast as it can. Budget: the p99 at most doubles.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, percentile, progress
from benchmarks._hosts import host_in, workspace_in
from paddock.client import Host, Session
from paddock.store.errors import PaddockError
from paddock.store.events import Limits, SessionConfig

SESSIONS = 50
ROUNDS = 3
SECONDS = 10.0
PAUSE_SECONDS = 1.0
"""Between the commands of one session, on average: 50 a second of all of them."""
SEED = 1

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
    async with host_in(folder / "home") as (_, host):
        sessions = [await host.create_session(config) for _ in range(SESSIONS)]
        await _commanded(sessions, 1.0)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            quiet += await _commanded(sessions, seconds)
            async with _noise(host, folder):
                loaded += await _commanded(sessions, seconds)
    quiet_p99, loaded_p99 = percentile(quiet, 99), percentile(loaded, 99)
    ratio = loaded_p99 / quiet_p99
    lines = [
        Line("commands of quiet sessions, p50", f"{percentile(quiet, 50):.1f} ms"),
        Line("p99", f"{quiet_p99:.1f} ms", "", f"{len(quiet):,} commands"),
        Line("with noisy neighbours, p50", f"{percentile(loaded, 50):.1f} ms"),
        Line("p99", f"{loaded_p99:.1f} ms", "", f"{len(loaded):,} commands"),
        Line("ratio of the p99", f"{ratio:.2f}", "≤ 2"),
    ]
    numbers = {
        "quiet_p50_ms": percentile(quiet, 50),
        "quiet_p99_ms": quiet_p99,
        "loaded_p50_ms": percentile(loaded, 50),
        "loaded_p99_ms": loaded_p99,
        "ratio_p99": ratio,
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


async def _commanded(sessions: list[Session], seconds: float) -> list[float]:
    """Return how many ms the commands of all sessions took, each asking at its own times."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def ask(session: Session, chance: random.Random) -> None:
        while True:
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_SECONDS))
            began = time.perf_counter()
            if began > until:
                return
            await session.annotate("asked", "again")
            took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(
        *(ask(session, random.Random(SEED + place)) for place, session in enumerate(sessions))
    )
    return took


if __name__ == "__main__":
    sys.exit(main())
