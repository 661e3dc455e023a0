"""How long a session takes to be ready again after kill -9 of its worker (P1, P13; DESIGN §10).

From the signal to the notice that the next worker lives, with the state of its 1,000 events: its
death is proven, its tools are looked for, its certificate is written, the next worker folds the log
and greets. Each session is killed once, so that no restart budget has a say. The same is measured
with sessions of 50,000 events, a few.
"""

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, percentile
from benchmarks._hosts import WARM_UP, host_in, workspace_in, write_at_rest
from paddock.client import Noticed, Session
from paddock.client.places import places_of
from paddock.testing import HostForTests

EVENTS = 1_000
KILLS = 40
MANY_EVENTS = 50_000
MANY_KILLS = 10
MANY_WARM_UP = 1
PATIENCE_SECONDS = 60.0


def main() -> int:
    """Measure and print."""
    given = common.arguments(__doc__).parse_args()
    with common.scratch("recover") as folder:
        few = asyncio.run(measure(folder / "few", EVENTS, given.rounds or KILLS, WARM_UP))
        kills = min(given.rounds or MANY_KILLS, MANY_KILLS)
        many = asyncio.run(measure(folder / "many", MANY_EVENTS, kills, MANY_WARM_UP))
    result = together(few, many)
    common.show("recover", result, as_json=given.json)
    return 0


@dataclass(frozen=True, slots=True)
class Measured:
    """How long it took each session of so many events, in ms."""

    events: int
    took: list[float]

    def at(self, percent: float) -> float:
        """Return a percentile of it."""
        return percentile(self.took, percent)


async def measure(folder: Path, events: int, kills: int, warm_up: int) -> Measured:
    """Return what so many kills of sessions of so many events took."""
    home_folder, workspace = folder / "home", workspace_in(folder)
    data = places_of(home_folder).data
    ids = [write_at_rest(data, seed, events, workspace) for seed in range(warm_up + kills)]
    took: list[float] = []
    async with host_in(home_folder) as (home, host):
        for session_id in ids:
            session = Session(host, session_id)
            await session.resume()
            took.append(await _recovered(home, session))
            state = await session.state()
            assert state.life.exits[-1].reason == "signal", "it was killed, and its file says so"
            await session.suspend()
    return Measured(state.sequence, took[warm_up:])


def together(few: Measured, many: Measured) -> Result:
    """Return the result of both lengths."""
    lines = [
        Line("killed -9, ready again, p50", f"{few.at(50):.1f} ms", "≤ 60 ms"),
        Line("killed -9, ready again, p99", f"{few.at(99):.1f} ms"),
        Line(f"with {MANY_EVENTS:,} events, p50", f"{many.at(50):.1f} ms"),
        Line(f"with {MANY_EVENTS:,} events, p99", f"{many.at(99):.1f} ms"),
    ]
    numbers = {"p50_ms": few.at(50), "p99_ms": few.at(99), "events": few.events}
    numbers |= {f"p50_ms_{MANY_EVENTS}": many.at(50), f"p99_ms_{MANY_EVENTS}": many.at(99)}
    numbers[f"events_{MANY_EVENTS}"] = many.events
    how = f"{len(few.took)} sessions of {few.events:,} events, each killed once"
    return Result(numbers, lines, f"{how}; {len(many.took)} of {many.events:,}")


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
