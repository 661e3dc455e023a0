"""How long a suspended session takes to be ready again (DESIGN §1, §10): 10,000 events.

The session was written before the host started, and rests. Each round wakes it through a client and
suspends it again; as in life, the worker of the round before left a snapshot.
"""

import asyncio
import sys
import time
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, percentile
from benchmarks._hosts import WARM_UP, host_in, workspace_in, write_at_rest
from paddock.client import Session
from paddock.client.places import places_of

EVENTS = 10_000
WAKES = 40


def main() -> int:
    """Measure and print."""
    given = common.arguments(__doc__).parse_args()
    with common.scratch("wake") as folder:
        result = asyncio.run(measure(folder, given.rounds or WAKES))
    common.show("wake", result, as_json=given.json)
    return 0


async def measure(folder: Path, wakes: int) -> Result:
    """Return the result of so many wakes."""
    home = folder / "home"
    data = places_of(home).data
    session_id = write_at_rest(data, 1, EVENTS, workspace_in(folder))
    async with host_in(home) as (_, host):
        for _ in range(WARM_UP):
            created = await host.new(cwd=workspace_in(folder))
            await created.delete()
        session = Session(host, session_id)
        first = await _woken(session)
        took = [await _woken(session) for _ in range(wakes)]
        events = (await session.state()).sequence
    p50, p99 = percentile(took, 50), percentile(took, 99)
    lines = [
        Line("a suspended session is ready, p50", f"{p50:.1f} ms", "≤ 60 ms"),
        Line("a suspended session is ready, p99", f"{p99:.1f} ms"),
        Line("the first time, without a snapshot", f"{first:.1f} ms", "", "all events are folded"),
    ]
    numbers = {"p50_ms": p50, "p99_ms": p99, "events": events, "without_snapshot_ms": first}
    return Result(numbers, lines, f"{wakes} wakes of a session of {events:,} events")


async def _woken(session: Session) -> float:
    began = time.perf_counter()
    await session.resume()
    took = (time.perf_counter() - began) * 1000
    await session.suspend()
    return took


if __name__ == "__main__":
    sys.exit(main())
