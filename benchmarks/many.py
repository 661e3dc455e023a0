"""What a thousand live sessions cost, each in a process of its own (DESIGN §10).

They are created one after another through one client, then rest. Each worker is weighed (PSS: what
it shares with others is divided among them), then commands go to sessions at random, one at a time:
``touch`` is a round trip to the supervisor alone, an annotation is durable before its answer.
"""

import asyncio
import random
import sys
import time
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, median, percentile, progress
from benchmarks._hosts import WARM_UP, host_in, pss_mb, workspace_in
from paddock.client import Host, Session
from paddock.store.events import SessionConfig
from paddock.testing import HostForTests

SESSIONS = 1_000
COMMANDS = 500
SEED = 1
IDLE_SECONDS = 3_600.0
"""None is suspended for being idle while others are started."""
PATIENCE_SECONDS = 300.0


def main() -> int:
    """Measure and print."""
    parser = common.arguments(__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="how many live sessions")
    given = parser.parse_args()
    with common.scratch("many") as folder:
        result = asyncio.run(measure(folder, given.sessions, given.rounds or COMMANDS))
    common.show("many", result, as_json=given.json)
    return 0


async def measure(folder: Path, count: int, commands: int) -> Result:
    """Return the result of so many live sessions and commands to them."""
    settings = {"max_live_sessions": count, "idle_after_seconds": IDLE_SECONDS}
    async with host_in(folder / "home", **settings) as (home, host):
        config = SessionConfig(workspace=workspace_in(folder))
        for _ in range(WARM_UP):
            await (await host.create_session(config)).delete()
        began = time.perf_counter()
        sessions, starts = await _started(host, config, count)
        whole = time.perf_counter() - began
        weights = await asyncio.to_thread(_weighed, home, sessions)
        supervisor = pss_mb(home.pid)
        touches, settles = await _commanded(sessions, commands)
        live = sum(life["life"] == "live" for life in await host.lives())
    each, total = median(weights), sum(weights)
    touch_p50, command_p50 = percentile(touches, 50), percentile(settles, 50)
    start_p50 = percentile(starts, 50)
    lines = [
        Line("live sessions", f"{live:,}", f"{SESSIONS:,} on 24 GiB"),
        Line("a worker at rest, PSS", f"{each:.1f} MB", "≤ 12 MB", f"{total / 1000:.1f} GB of all"),
        Line("the supervisor, PSS", f"{supervisor:.0f} MB"),
        Line(
            "a start, p50",
            f"{start_p50:.1f} ms",
            "≤ 20 ms",
            f"the last tenth: {percentile(starts[-max(1, count // 10) :], 50):.1f} ms",
        ),
        Line("a start, p99", f"{percentile(starts, 99):.1f} ms", "≤ 60 ms"),
        Line("a round trip to the supervisor, p50", f"{touch_p50:.2f} ms", "≤ 1 ms"),
        Line("a durable command, answered, p50", f"{command_p50:.2f} ms", "≤ 1.5 ms accepted"),
        Line("a durable command, answered, p99", f"{percentile(settles, 99):.2f} ms"),
    ]
    numbers = {
        "sessions": live,
        "pss_mb_each": each,
        "pss_mb_supervisor": supervisor,
        "start_p50_ms": start_p50,
        "start_p99_ms": percentile(starts, 99),
        "command_p50_ms": command_p50,
        "command_p99_ms": percentile(settles, 99),
        "round_trip_p50_ms": touch_p50,
    }
    how = f"{count:,} sessions started in {whole:.0f} s, {commands} commands to them at random"
    return Result(numbers, lines, how)


async def _started(
    host: Host, config: SessionConfig, count: int
) -> tuple[list[Session], list[float]]:
    """Start so many, one after another; return them, and how many ms each took."""
    sessions, took = [], []
    for number in range(count):
        if number % 100 == 0:
            progress(f"{number} of {count} sessions live")
        began = time.perf_counter()
        sessions.append(await host.create_session(config))
        took.append((time.perf_counter() - began) * 1000)
    return sessions, took


def _weighed(home: HostForTests, sessions: list[Session]) -> list[float]:
    """Return what the workers weigh."""
    pids = [home.worker_pid(session.session_id) for session in sessions]
    return [pss_mb(pid) for pid in pids if pid is not None]


async def _commanded(sessions: list[Session], commands: int) -> tuple[list[float], list[float]]:
    """Return how many ms round trips, and durable commands, took."""
    chosen = random.Random(SEED).choices(sessions, k=commands)
    touches, settles = [], []
    async with asyncio.timeout(PATIENCE_SECONDS):
        for session in chosen:
            began = time.perf_counter()
            await session.touch()
            touches.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            await session.annotate("asked", "again")
            settles.append((time.perf_counter() - began) * 1000)
    return touches, settles


if __name__ == "__main__":
    sys.exit(main())
