"""What large things cost in memory, process by process (F10): a message of 10 MB, a log of 100 MB.

A message of 10 MB goes in through ``paddock run -`` and comes back from the model as large. Then a
session whose log holds 100 MB (large events, 1 MB each) is woken, shown, listed, attached to and
asked for in SQL. Each command line is a process of its own. All peaks are the kernel's, which
counts a command line's from before its exec on: it is at least what this process had then.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, progress
from benchmarks._hosts import host_in, workspace_in
from benchmarks._story import opening
from benchmarks._writing import Written
from paddock.client import Host, Session
from paddock.client.places import places_of
from paddock.store.events import (
    SessionAnnotated,
    SessionConfig,
    SessionSuspended,
    WorkerExited,
)
from paddock.store.ids import SessionId
from paddock.testing import HostForTests, turn

MESSAGE_MB = 10
LOG_MB = 100
MB = 1_000_000
PATIENCE_SECONDS = 300.0
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "show": ("show",),
    "events": ("events",),
    "events, JSON": ("events", "--json"),
    "logs": ("logs",),
    "state": ("show", "--json"),
}


def main() -> int:
    """Measure and print."""
    given = common.arguments(__doc__).parse_args()
    with common.scratch("large") as folder:
        result = asyncio.run(measure(folder))
    common.show("large", result, as_json=given.json)
    return 0


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that a process had at one time (MB)."""

    who: str
    mb: float


async def measure(folder: Path) -> Result:
    """Return the peaks of all processes."""
    workspace = workspace_in(folder)
    home_folder = folder / "home"
    long_id = _write_long(places_of(home_folder).data, workspace)
    peaks: list[Peak] = []
    async with host_in(home_folder) as (home, host), asyncio.timeout(PATIENCE_SECONDS):
        await host.sql("SELECT 1")
        at_first = _of_host(home, "at first")
        peaks += await _one_message(home, host)
        peaks += _of_host(home, f"a message of {MESSAGE_MB} MB")
        peaks += await _long_log(home, host, long_id)
        peaks += _of_host(home, f"a log of {LOG_MB} MB")
    lines = [Line(peak.who, f"{peak.mb:.0f} MB") for peak in (*at_first, *peaks)]
    numbers = {peak.who.replace(" ", "_").replace(",", "") + "_mb": peak.mb for peak in peaks}
    return Result(numbers, lines, "peaks of resident memory")


async def _one_message(home: HostForTests, host: Host) -> list[Peak]:
    """Say something large, and have the model answer with as much."""
    progress(f"a message of {MESSAGE_MB} MB")
    words = "a large message " * (MESSAGE_MB * MB // 16)
    model = home.script(turn(words))
    peak = await _command(home, "run", "run", "--json", "--model", model, "-", stdin=words)
    session_id = (await host.list_sessions(limit=1))[0]["session_id"]
    worker = home.worker_pid(SessionId(session_id))
    assert worker is not None, "it lives on"
    return [peak, Peak(f"worker of a message of {MESSAGE_MB} MB", _peak_mb(worker))]


async def _long_log(home: HostForTests, host: Host, session_id: SessionId) -> list[Peak]:
    """Have a long log woken, read and asked for."""
    progress(f"a log of {LOG_MB} MB")
    session = Session(host, session_id)
    await session.resume()
    worker = home.worker_pid(session_id)
    assert worker is not None, "it was woken"
    peaks = [Peak(f"worker of a log of {LOG_MB} MB", _peak_mb(worker))]
    for name, words in COMMANDS.items():
        peaks.append(await _command(home, name, words[0], session_id, *words[1:]))
    query = f"SELECT sum(length(payload::VARCHAR)) FROM events WHERE session_id = '{session_id}'"
    peaks.append(await _command(home, "sql", "sql", query))
    whole = f"SELECT * FROM events WHERE session_id = '{session_id}'"
    peaks.append(await _command(home, "sql, every row as JSON", "sql", "--json", whole))
    count = 0
    async for _ in session.events(follow=False):
        count += 1
    assert count >= LOG_MB, "all of it was told"
    peaks.append(Peak("this client, a subscription included", _peak_mb(os.getpid())))
    return peaks


async def _command(home: HostForTests, name: str, *words: str, stdin: str = "") -> Peak:
    """Run a command line; return its peak."""
    progress(f"paddock {name}")
    return await asyncio.to_thread(_run, home, name, words, stdin)


def _run(home: HostForTests, name: str, words: tuple[str, ...], stdin: str) -> Peak:
    said = home.home / "said"
    given = home.home / "given"
    given.write_text(stdin)
    with said.open("wb") as out, given.open("rb") as into:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "paddock.supervisor.cli", *words],
            stdin=into,
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PADDOCK_HOME": str(home.home)},
        )
        assert child.stderr is not None, "it is a pipe"
        trouble = child.stderr.read().decode()
        child.stderr.close()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, (name, child.returncode, trouble[-2000:])
    return Peak(f"paddock {name}", usage.ru_maxrss * 1024 / MB)


def _of_host(home: HostForTests, when: str) -> list[Peak]:
    told = {"supervisor": home.pid}
    lock = home.data / "store.lock"
    told["store"] = int(lock.read_text())
    return [Peak(f"{who}, {when}", _peak_mb(pid)) for who, pid in told.items()]


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MB
    message = f"the kernel tells no peak of process {pid}"
    raise OSError(message)


def _write_long(data: Path, workspace: str) -> SessionId:
    """Write a session of 100 MB, at rest."""
    written = Written(data, 1, opening(SessionConfig(workspace=workspace)))
    for number in range(LOG_MB):
        text = json.dumps({"n": number}) + "x" * MB
        written.write([SessionAnnotated(key="large", value=text, by="bench")])
    written.write(
        [
            WorkerExited(worker_generation=1, ending="suspended", reason="asked"),
            SessionSuspended(reason="asked"),
        ]
    )
    written.close()
    return written.session.session_id


if __name__ == "__main__":
    sys.exit(main())
