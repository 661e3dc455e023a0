"""How long a new session takes until its worker is ready, and what an idle one weighs (DESIGN §10).

Through a client, with a warm zygote: the session's name and file are made, its worker is forked,
owns the file, commits, greets. The peer in the same run, in turns: a Jupyter kernel, started by
``AsyncMultiKernelManager`` and ready for its first cell.
"""

import asyncio
import sys
import time
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, median, percentile
from benchmarks._hosts import WARM_UP, host_in, pss_mb, workspace_in
from benchmarks._kernels import Kernels
from paddock.store.events import SessionConfig

STARTS = 60
LIVE = 8
"""How many of each live when they are weighed: what workers share is divided by their number."""
PEERS = 8


def main() -> int:
    """Measure and print."""
    given = common.arguments(__doc__).parse_args()
    with common.scratch("start") as folder:
        result = asyncio.run(measure(folder, given.rounds or STARTS))
    common.show("start", result, as_json=given.json)
    return 0


async def measure(folder: Path, starts: int) -> Result:
    """Return the result of so many starts."""
    config = SessionConfig(workspace=workspace_in(folder))
    peers = Kernels()
    took: list[float] = []
    peers_took: list[float] = []
    async with host_in(folder / "home") as (home, host):
        for _ in range(WARM_UP):
            await (await host.create_session(config)).delete()
        pids = []
        for number in range(max(starts, LIVE)):
            began = time.perf_counter()
            session = await host.create_session(config)
            took.append((time.perf_counter() - began) * 1000)
            if number < LIVE:
                pids.append(home.worker_pid(session.session_id))
                peers_took.append(await _peer_started(peers))
            if number == LIVE - 1:
                weight = median([pss_mb(pid) for pid in pids if pid is not None])
                peer_weight = median([pss_mb(pid) for pid in peers.pids()])
                await peers.close()
            if number >= LIVE:
                await session.suspend()
    return _told(took, peers_took, weight, peer_weight)


async def _peer_started(peers: Kernels) -> float:
    """Start a kernel and return after how many ms it was ready."""
    began = time.perf_counter()
    client = await peers.start()
    took = (time.perf_counter() - began) * 1000
    client.stop_channels()
    return took


def _told(took: list[float], peers: list[float], weight: float, peer_weight: float) -> Result:
    p50, p99, peer_p50 = percentile(took, 50), percentile(took, 99), percentile(peers, 50)
    numbers = {
        "p50_ms": p50,
        "p99_ms": p99,
        "pss_mb": weight,
        "peer_p50_ms": peer_p50,
        "peer_pss_mb": peer_weight,
        "ratio": peer_p50 / p50,
        "starts": len(took),
    }
    lines = [
        Line("a session is ready, p50", f"{p50:.1f} ms", "≤ 20 ms"),
        Line("a session is ready, p99", f"{p99:.1f} ms", "≤ 60 ms"),
        Line("its worker at rest, PSS", f"{weight:.1f} MB", "≤ 12 MB", f"{LIVE} live"),
        Line("the peer: a Jupyter kernel, p50", f"{peer_p50:.0f} ms"),
        Line("the peer's PSS", f"{peer_weight:.1f} MB", "", f"{PEERS} live"),
        Line("ratio of the times", f"{peer_p50 / p50:.1f}"),
    ]
    return Result(numbers, lines, f"{len(took)} starts, {len(peers)} of the peer, one at a time")


if __name__ == "__main__":
    sys.exit(main())
