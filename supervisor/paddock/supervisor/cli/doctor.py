"""``paddock doctor``: whether this machine is fit for a host, and what it cannot do."""

import asyncio
import os
import platform
import resource
import shutil
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from paddock.client.places import Places, announced, places_of
from paddock.session_worker.toolbox import cgroups
from paddock.session_worker.toolbox.contract import Sandbox
from paddock.session_worker.toolbox.sandbox import landlock_version
from paddock.store.errors import PaddockError
from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.printing import print_json, say, size
from paddock.supervisor.cli.sessions import AsJson
from paddock.supervisor.confinement import Trial
from paddock.supervisor.home import read_configuration
from paddock.supervisor.processes import has_subreapers, tells_exit_codes

if TYPE_CHECKING:
    from paddock.store.protocol import StoreStatus

type Verdict = Literal["ok", "note", "bad"]

SAFE_SQLITE = (3, 51, 3)
"""Before it, checkpoints that race can corrupt a file (we use one connection, so it is a note)."""
ENOUGH_FILES = 4096
ENOUGH_PROCESSES = 2048
ENOUGH_BYTES = 2_000_000_000
PAGE_BYTES = 4096
SOCKET_PATH_LIMIT = 107
STORE_SECONDS = 5.0
CLOCK_SECONDS = 2.0
FORGETFUL_FILE_SYSTEMS = {"tmpfs", "ramfs"}
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "lustre"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``note``: it works, with less; ``bad``: it will not do."""

    name: str
    verdict: Verdict
    value: str
    advice: str | None = None


def doctor(*, as_json: AsJson = False) -> int:
    """Look whether this machine is fit for a host; exit code 1 if something will not do.

    Examples:
      paddock doctor
      paddock doctor --json | jq '.[] | select(.verdict != "ok")'
    """
    findings = list(examine(places_of()))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
        for finding in findings:
            advice = f"\n      → {finding.advice}" if finding.advice else ""
            say(f"{marks[finding.verdict]}  {finding.name:<18}{finding.value}{advice}")
    is_bad = any(finding.verdict == "bad" for finding in findings)
    return exit_codes.FAILED if is_bad else exit_codes.DONE


def examine(places: Places) -> Iterator[Finding]:
    """Yield what there is to say about this machine and this home."""
    yield from _versions()
    yield from _folders(places)
    yield _disk(places.data)
    yield _file_system(places.data)
    yield _clock(places.data)
    yield from _limits()
    settings = _settings()
    yield settings.finding
    yield from _kernel(settings.sandbox)
    yield _socket(places.runtime)
    yield _host(places)
    yield from _store(places)


def _versions() -> Iterator[Finding]:
    yield Finding("paddock", "ok", _installed("paddock"))
    is_old = sys.version_info < (3, 12)
    yield Finding("python", "bad" if is_old else "ok", f"{platform.python_version()}")
    told = sqlite3.sqlite_version
    is_safe = tuple(int(part) for part in told.split(".")) >= SAFE_SQLITE
    yield Finding(
        "sqlite",
        "ok" if is_safe else "note",
        told,
        None
        if is_safe
        else "before 3.51.3 racing checkpoints can corrupt a file; a session has one connection, "
        "so it is safe with Paddock, but open its files with no other program that writes",
    )
    for package in ("duckdb", "pyzmq", "multiprocess", "pydantic"):
        found = _installed(package)
        yield Finding(package, "ok" if found != "missing" else "bad", found)
    agent = _installed("pydantic-ai-slim")
    yield Finding(
        "pydantic-ai",
        "ok" if agent != "missing" else "note",
        agent,
        "real models need it: pip install 'paddock[agent]'" if agent == "missing" else None,
    )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _folders(places: Places) -> Iterator[Finding]:
    for name, folder in (
        ("data", places.data),
        ("runtime", places.runtime),
        ("config", places.config),
    ):
        yield _folder(name, folder)


def _folder(name: str, folder: Path) -> Finding:
    if not folder.exists():
        return Finding(f"{name} folder", "ok", f"{folder} (not made yet)")
    mode = stat.S_IMODE(folder.stat().st_mode)
    shown = f"{folder} ({mode:04o})"
    if not os.access(folder, os.W_OK | os.X_OK):
        advice = f"make it writable: chmod u+wx {folder}"
        return Finding(f"{name} folder", "bad", shown, advice)
    if (trouble := _trouble_of_writing(folder)) is not None:
        advice = f"{trouble}: make room, or check the disk; sessions can write nothing there"
        return Finding(f"{name} folder", "bad", shown, advice)
    kind = file_system_of(folder)
    if name == "data" and kind in NETWORK_FILE_SYSTEMS:
        advice = "locks and fsync mean something else there: put PADDOCK_HOME on a local disk"
        return Finding(f"{name} folder", "bad", f"{shown} on {kind}", advice)
    if mode & 0o077 and name != "config":
        advice = f"others can look into it: chmod 700 {folder}"
        return Finding(f"{name} folder", "note", shown, advice)
    return Finding(f"{name} folder", "ok", shown)


def _trouble_of_writing(folder: Path) -> str | None:
    """Write a page and have it synced; return what fails, in the system's words."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PAGE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None


def file_system_of(folder: Path) -> str | None:
    """Return the kind of file system that a folder stands on; None where that is not told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    here = str(folder.resolve())
    best, kind = "", None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        inside = here == point or here.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def _disk(data: Path) -> Finding:
    folder = next(path for path in (data, *data.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    advice = None if free > ENOUGH_BYTES else "make room: a full disk stops sessions"
    return Finding("free disk", "ok" if advice is None else "note", size(free), advice)


def _file_system(data: Path) -> Finding:
    folder = next(path for path in (data, *data.parents) if path.exists())
    kind = file_system_of(folder) or "not told"
    if kind in FORGETFUL_FILE_SYSTEMS:
        advice = "what is there is gone after a power cut: put PADDOCK_HOME on a disk"
        return Finding("file system", "note", kind, advice)
    return Finding("file system", "ok", kind)


def _clock(data: Path) -> Finding:
    """Compare the clock with what the host wrote last: order never hangs on it, shown times do."""
    now = time.time()
    shown = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    written = [path.stat().st_mtime for path in data.glob("host.*") if path.is_file()]
    ahead = max(written, default=now) - now
    if ahead > CLOCK_SECONDS:
        advice = "set it right: events keep their order, but say times that were already used"
        return Finding("clock", "note", f"{shown}, {ahead:.0f} s behind this home's files", advice)
    return Finding("clock", "ok", shown)


@dataclass(frozen=True, slots=True)
class _Settings:
    finding: Finding
    sandbox: Sandbox = "auto"


def _settings() -> _Settings:
    """Read what a host of this home would be started with; a wrong value keeps it from starting."""
    try:
        found = read_configuration({}).settings
    except PaddockError as error:
        return _Settings(Finding("settings", "bad", error.message, "`paddock config` shows them"))
    shown = f"sandbox {found.sandbox}, cgroups {found.cgroups}"
    return _Settings(Finding("settings", "ok", shown), found.sandbox)


def _limits() -> Iterator[Finding]:
    for name, which, enough, command in (
        ("open files", resource.RLIMIT_NOFILE, ENOUGH_FILES, "ulimit -n 65536"),
        ("processes", resource.RLIMIT_NPROC, ENOUGH_PROCESSES, "ulimit -u 8192"),
    ):
        soft, hard = resource.getrlimit(which)
        is_enough = soft == resource.RLIM_INFINITY or soft >= enough
        shown = f"{_limit(soft)} (at most {_limit(hard)})"
        advice = None if is_enough else f"too few for hundreds of sessions: {command}"
        yield Finding(name, "ok" if is_enough else "note", shown, advice)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _kernel(mode: Sandbox) -> Iterator[Finding]:
    yield Finding("kernel", "ok" if sys.platform == "linux" else "note", platform.platform())
    has_pidfd = hasattr(os, "pidfd_open") and _opens_pidfd()
    yield Finding(
        "pidfd",
        "ok" if has_pidfd else "note",
        "yes" if has_pidfd else "no",
        None if has_pidfd else "deaths of adopted workers are proven by their lock alone",
    )
    tells = has_pidfd and tells_exit_codes()
    yield Finding(
        "pidfd exit codes",
        "ok" if tells else "note",
        "yes" if tells else "no",
        None if tells else "how an adopted worker ended is unknown (Linux 6.15 tells)",
    )
    yield _cgroup()
    yield _subreaper()
    landlock = landlock_version()
    yield Finding(
        "landlock",
        "ok" if landlock else "note",
        f"version {landlock}" if landlock else "no",
        None if landlock else "tools are kept out of other folders by namespaces alone, if at all",
    )
    yield _sandbox(mode)


def _subreaper() -> Finding:
    if has_subreapers():
        return Finding("subreaper", "ok", "yes: orphans of tools and workers are inherited")
    return Finding(
        "subreaper", "note", "no", "what a dead zygote forked is seen by its pidfd alone"
    )


def _sandbox(mode: Sandbox) -> Finding:
    """Try the sandbox out, as a host does at its start."""
    walls = Trial().walls()
    if mode == "off":
        advice = f'tools can read this home; with sandbox = "auto": {walls.told("auto")}'
        return Finding("sandbox", "note", "off, by setting", advice)
    if walls.is_veiled:
        return Finding("sandbox", "ok", f"{walls.told('auto')}: tools do not see this home")
    if walls.names:
        advice = (
            "it cannot hide folders (that takes root or user namespaces): tools can make no new "
            "names on the way to this home (in ~, ~/.local/share) and can list the names in it"
        )
        return Finding("sandbox", "ok", walls.told("auto"), advice)
    if mode == "require":
        advice = 'no tool that is a process will run: set sandbox = "auto", or use another kernel'
        return Finding("sandbox", "bad", walls.told(mode), advice)
    advice = 'run agents that you do not trust in a container, or set sandbox = "require"'
    return Finding("sandbox", "note", walls.told(mode), advice)


def _opens_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _cgroup() -> Finding:
    """Try control groups out: a group is made, a process put into it and ended with it."""
    troubles = []
    for base in cgroups.bases():
        folder = base / cgroups.name_of(f"doctor.{os.getpid()}")
        trouble = cgroups.probe(folder)
        if trouble is None:
            cgroups.remove(folder)
            return Finding("cgroup v2", "ok", f"yes, in {base}: tools cannot hide from their end")
        troubles.append(f"{base}: {trouble}")
    advice = (
        "tools are found by their marks instead, one by one; under systemd, run the host in a "
        "user service (Delegate=yes), in a container, with a writable /sys/fs/cgroup"
    )
    return Finding("cgroup v2", "note", "; ".join(troubles) or "no cgroup v2 is mounted", advice)


def _socket(runtime: Path) -> Finding:
    longest = len(os.fsencode(runtime / "clients.sock"))
    if longest > SOCKET_PATH_LIMIT:
        advice = f"at most {SOCKET_PATH_LIMIT} characters: choose a shorter PADDOCK_HOME"
        return Finding("socket path", "bad", f"{longest} characters", advice)
    return Finding("socket path", "ok", f"{longest} characters of {SOCKET_PATH_LIMIT}")


def _host(places: Places) -> Finding:
    found = announced(places)
    if found is None:
        return Finding("host", "ok", "none runs")
    if not found.is_live():
        advice = "it was killed; the next `paddock up` finishes what it left"
        return Finding("host", "note", f"pid {found.pid} is gone", advice)
    return Finding("host", "ok", f"runs, pid {found.pid}, epoch {found.epoch}")


def _store(places: Places) -> Iterator[Finding]:
    """Ask a running host's store how it fares; where no host runs, there is nothing to ask."""
    from paddock.client import connect
    from paddock.supervisor.cli.common import run_async

    found = announced(places)
    if found is None or not found.is_live():
        return

    async def ask() -> "StoreStatus":
        async with await connect(start=False, name="cli") as host, asyncio.timeout(STORE_SECONDS):
            return await (await host.store()).status()

    try:
        status = run_async(ask())
    except (PaddockError, TimeoutError):
        advice = "the host starts one that ended, and host.log says why it did; sessions go on"
        yield Finding("store", "note", "does not answer", advice)
        return
    if status.damaged:
        advice = "`paddock store verify` names file and event; the other sessions go on"
        yield Finding("store", "bad", status.word, advice)
    elif status.state == "stalled":
        advice = "make room, or give the right to write: it goes on by itself; so do sessions"
        yield Finding("store", "bad", status.word, advice)
    elif status.notice is not None:
        advice = f"made anew from the logs: {status.notice}"
        yield Finding("store", "note", status.word, advice)
    else:
        yield Finding("store", "ok", status.word)
