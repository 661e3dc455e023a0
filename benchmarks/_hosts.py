"""A real host in a folder of its own, and sessions at rest in it that were written before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks._story import Author, opening, told
from benchmarks._writing import Written, batches
from paddock.client import Host
from paddock.store.events import SessionConfig, SessionSuspended, WorkerExited
from paddock.store.ids import SessionId
from paddock.testing import HostForTests

WARM_UP = 3


@asynccontextmanager
async def host_in(folder: Path, **settings: object) -> AsyncIterator[tuple[HostForTests, Host]]:
    """Give a host and a client of it; both are gone afterwards."""
    home = HostForTests(folder, **settings)
    try:
        async with await home.connect() as host:
            yield home, host
    finally:
        await asyncio.to_thread(home.end)


def workspace_in(folder: Path) -> str:
    """Return an empty workspace."""
    path = folder / "workspace"
    path.mkdir(parents=True, exist_ok=True)
    return str(path)


def write_at_rest(data: Path, seed: int, events: int, workspace: str) -> SessionId:
    """Write a session of about so many events, suspended; return its id."""
    written = Written(data, seed, opening(SessionConfig(workspace=workspace)))
    turns = Author(seed).turns(events)
    # Whole turns, so that nothing is open: at most one turn fewer than asked for.
    for batch in batches(told(turns[:-1]), 100):
        written.write(batch)
    written.write(
        [
            WorkerExited(worker_generation=1, ending="suspended", reason="asked"),
            SessionSuspended(reason="asked"),
        ]
    )
    written.close()
    return written.session.session_id


def pss_mb(pid: int) -> float:
    """Return a process's share of memory: its own, and of what is shared its part (MB)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    message = f"the kernel tells no PSS of process {pid}"
    raise OSError(message)
