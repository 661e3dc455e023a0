"""How long a session takes to be ready again after kill -9 of its worker (P1, P13; DESIGN §10).

From the signal to the notice that the next worker lives, with the state of its 1,000 events: its
death is proven, its tools are looked for, its certificate is written, the next worker folds the log
and greets. Each session is killed once, so that no restart budget has a say.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, percentile
from benchmarks._hosts import WARM_UP, host_in, workspace_in, write_at_rest
from paddock.client import Noticed, Session
from paddock.client.places import places_of
from paddock.testing import HostForTests

EVENTS = 1_000
KILLS = 40
PATIENCE_SECONDS = 60.0


def main() -> int:
    """Measure and print."""
    given = common.arguments(__doc__).parse_args()
    with common.scratch("recover") as folder:
        result = asyncio.run(measure(folder, given.rounds or KILLS))
    common.show("recover", result, as_json=given.json)
    return 0


async def measure(folder: Path, kills: int) -> Result:
    """Return the result of so many kills."""
    home_folder, workspace = folder / "home", workspace_in(folder)
    data = places_of(home_folder).data
    ids = [write_at_rest(data, seed, EVENTS, workspace) for seed in range(WARM_UP + kills)]
    took: list[float] = []
    async with host_in(home_folder) as (home, host):
        for session_id in ids:
            session = Session(host, session_id)
            await session.resume()
            took.append(await _recovered(home, session))
            state = await session.state()
            assert state.life.exits[-1].reason == "signal", "it was killed, and its file says so"
            await session.suspend()
        events = state.sequence
    p50, p99 = percentile(took[WARM_UP:], 50), percentile(took[WARM_UP:], 99)
    lines = [
        Line("killed -9, ready again, p50", f"{p50:.1f} ms", "≤ 60 ms"),
        Line("killed -9, ready again, p99", f"{p99:.1f} ms"),
    ]
    numbers = {"p50_ms": p50, "p99_ms": p99, "events": events}
    return Result(numbers, lines, f"{kills} sessions of {events:,} events, each killed once")


async def _recovered(home: HostForTests, session: Session) -> float:
    """Kill the worker of a session; return after how many ms the next one was ready."""
    pid = home.worker_pid(session.session_id)
    assert pid is not None, "the session lives"
    head = (await session.state()).sequence
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with session.follow(after=head, deltas=False) as feed:
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            async for told in feed:
                if isinstance(told, Noticed) and told.what == "live":
                    return (time.perf_counter() - began) * 1000
    message = f"session {session.session_id} was given up"
    raise AssertionError(message)


if __name__ == "__main__":
    sys.exit(main())
