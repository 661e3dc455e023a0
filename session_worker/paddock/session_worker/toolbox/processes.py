"""Find and end the processes that a session's tools started, by the marks that they carry.

Every child of a tool carries ``PADDOCK_OWNER=<session id>.<generation>``, and
``PADDOCK_CALL=<tag>`` of its call, in the environment it was started with, and the same in its
limits (``marks.py``), which it cannot clear as it can its environment. Both survive ``setsid``,
double forks and the death of every parent. Where the machine has control groups (``cgroups.py``)
they come first: what runs in one cannot lay it off.
"""

import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass

from paddock.session_worker.toolbox.marks import is_of, read_mark
from paddock.store.session_file.lock import is_over

OWNER_VARIABLE = "PADDOCK_OWNER"
CALL_VARIABLE = "PADDOCK_CALL"
KEEPER_VARIABLE = "PADDOCK_KEEPER"
PAUSE_SECONDS = 0.005  # between two looks; a process being born or replaced shows no environment
LOOKS_WITHOUT_A_FIND = 2
READ_BYTES = 64 * 1024
START_TIME_FIELD = 19  # number 22 of proc(5), counted from the state


@dataclass(frozen=True, slots=True)
class OwnedProcess:
    """A process and when it started (clock ticks after boot), which together name it for good."""

    pid: int
    start_time: int


def owned_processes(owner: str, call: str | None = None) -> list[OwnedProcess]:
    """Return the living processes of this user that carry the owner's mark (and the call's).

    An owner that ends in a dot stands for all generations of its session. Costs two looks at each
    process of the host, about 25 µs; empty where there is no /proc.
    """
    found = []
    for pid in _pids():
        if _has_marks(pid, owner, call):
            started = _start_time(pid)
            if started is not None:
                found.append(OwnedProcess(pid, started))
    return found


def kill_owned(
    owner: str,
    call: str | None = None,
    deadline_seconds: float = 5.0,
    *,
    spare: Collection[int] = (),
) -> int:
    """Kill every process that carries the owner's mark (and the call's); return how many it found.

    Keepers of calls are only told to go in the first half of the time: they alone see what of
    their call has cleared its environment, and end it first.

    It returns when they are gone (two looks found none) or at the deadline; ``owned_processes``
    tells which are left. Never signalled: this process, those in ``spare``, and a process that got
    the number of one that died (the mark is read again while a pidfd holds the number).
    It blocks, so an event loop calls it in a thread.
    """
    began = time.monotonic()
    spared = {os.getpid(), *spare}
    ended: set[OwnedProcess] = set()
    clean_looks = 0
    while True:
        found = [process for process in owned_processes(owner, call) if process.pid not in spared]
        clean_looks = 0 if found else clean_looks + 1
        waited = time.monotonic() - began
        if clean_looks == LOOKS_WITHOUT_A_FIND or waited > deadline_seconds:
            return len(ended)
        mercy = waited < deadline_seconds / 2
        for process in found:
            _end(process, owner, mercy=mercy)
        ended.update(found)  # some are ended by their keeper before their turn comes
        time.sleep(PAUSE_SECONDS)


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - cheap
    except OSError:
        return []


def _has_marks(pid: int, owner: str, call: str | None) -> bool:
    mark = read_mark(pid)
    if mark is not None and is_of(mark, owner, call):
        return True
    environment = _environment(pid)
    end = "" if owner.endswith(".") else "\0"
    if f"\0{OWNER_VARIABLE}={owner}{end}".encode() not in environment:
        return False
    return call is None or f"\0{CALL_VARIABLE}={call}\0".encode() in environment


def _environment(pid: int) -> bytes:
    """Return a process's environment, a zero on both sides of each variable; b"" if not ours."""
    folder = f"/proc/{pid}"
    try:
        if os.stat(folder).st_uid != os.geteuid():  # noqa: PTH116 - a Path is half the cost
            return b""
        return b"\0" + _read(f"{folder}/environ")
    except OSError:  # it ended, or is not ours to read
        return b""


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = piece = os.read(descriptor, READ_BYTES)
        while piece:
            piece = os.read(descriptor, READ_BYTES)
            data += piece
        return data
    finally:
        os.close(descriptor)


def _start_time(pid: int) -> int | None:
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None
    is_alive = len(fields) > START_TIME_FIELD and not is_over(fields)
    return int(fields[START_TIME_FIELD]) if is_alive else None


def _end(process: OwnedProcess, owner: str, *, mercy: bool) -> bool:
    """Kill a process, or with mercy tell a keeper to; say whether there was one to signal."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # Looked at once more with the pidfd open: it can only signal the process it was opened on,
        # and that this is the one that was found is told by its start time.
        if _start_time(process.pid) != process.start_time:
            return False
        if not _has_marks(process.pid, owner, None):
            return False
        is_keeper = f"\0{KEEPER_VARIABLE}=".encode() in _environment(process.pid)
        if is_keeper and mercy:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            signal.pidfd_send_signal(handle, signal.SIGCONT)  # if something stopped it
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True
