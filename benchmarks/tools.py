"""How long a call of a Python tool takes, cold and from a warm template, in turns.

The function is one of an agent's module, as users write them (``from paddock.agent import tool``),
and does nothing: what is measured is everything else, from the prepared call to its outcome, the
keeper with its limits included. Cold is an interpreter of its own for each call.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, percentile
from benchmarks._hosts import pss_mb
from paddock.agent import tool
from paddock.session_worker.tools import Room, Tool, ToolSpec, Warm, python_tool

CALLS = 30
ROOT = Path(__file__).resolve().parent.parent


@tool(effects="none", approval="allow")
def nothing(text: str) -> str:
    """Give back what came."""
    return text


def main() -> int:
    """Measure and print."""
    given = common.arguments(__doc__).parse_args()
    with common.scratch("tools") as folder:
        result = asyncio.run(measure(folder, given.rounds or CALLS))
    common.show("tools", result, as_json=given.json)
    return 0


async def measure(folder: Path, calls: int) -> Result:
    """Return the result of so many calls of each kind."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    room = Room(folder, environment, f"bench-{os.getpid()}.1", folder)
    spec = ToolSpec("nothing", "", {}, "none", "allow", 60.0, 30_000, exclusive=False)
    reference, path = "benchmarks.tools:nothing", (str(ROOT),)
    warm = Warm()
    kinds = {
        "cold": python_tool(reference, spec, path),
        "warm": python_tool(reference, spec, path, None, warm),
    }
    first = await _timed(kinds["warm"], room)
    took: dict[str, list[float]] = {"cold": [], "warm": []}
    for number in range(calls):
        common.progress(f"call {number + 1} of {calls}")
        for kind, function in kinds.items():
            took[kind].append(await _timed(function, room))
    weight = pss_mb(warm.pid) if warm.pid is not None else 0.0
    await warm.close()
    return _told(took["cold"], took["warm"], first, weight)


async def _timed(function: Tool, room: Room) -> float:
    plan = function.prepare({"text": "hello"}, room)
    began = time.perf_counter()
    done = await function.run(plan, room, lambda _: None)
    assert done.text == "hello", done
    return (time.perf_counter() - began) * 1000


def _told(cold: list[float], warm: list[float], first: float, weight: float) -> Result:
    cold_p50, warm_p50 = percentile(cold, 50), percentile(warm, 50)
    numbers = {
        "cold_p50_ms": cold_p50,
        "cold_p99_ms": percentile(cold, 99),
        "warm_p50_ms": warm_p50,
        "warm_p99_ms": percentile(warm, 99),
        "first_ms": first,
        "ratio": cold_p50 / warm_p50,
        "template_pss_mb": weight,
        "calls": len(cold),
    }
    lines = [
        Line("a call, cold, p50", f"{cold_p50:.0f} ms"),
        Line("a call from the template, p50", f"{warm_p50:.1f} ms"),
        Line("a call from the template, p99", f"{percentile(warm, 99):.1f} ms"),
        Line("the first call, the template's start included", f"{first:.0f} ms"),
        Line("ratio, cold to warm", f"{cold_p50 / warm_p50:.1f}"),
        Line("the template while it waits, PSS", f"{weight:.1f} MB", "", "leaves after 60 s"),
    ]
    return Result(numbers, lines, f"{len(cold)} calls of each kind, in turns")


if __name__ == "__main__":
    sys.exit(main())
