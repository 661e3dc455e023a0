"""Where a process comes from that speaks at a door: from a session, or from outside.

What a session started may not decide, configure, or ask outside that session (P12). Four things
tell it, each by itself: the control group it runs in, the mark in its limits, the mark in its
environment, and whose descendant it is. To be taken for an outsider a tool would have to be rid of
all four. Reads a few files of ``/proc``, 0.1-0.2 ms, once for each client.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from paddock.session_worker.toolbox import cgroups, marks, processes
from paddock.store.errors import SessionNotFound
from paddock.store.ids import SessionId
from paddock.store.session_file import folder_of, sessions_in
from paddock.store.session_file.lock import is_over

UNKNOWN = "unknown"
"""The session of a process that came from one of ours, nobody knows which, or is gone."""
DEEPEST = 64
"""So many ancestors are looked at; the chain of a person's shell has about six."""
PPID_FIELD = 1
OWNER = f"{processes.OWNER_VARIABLE}=".encode()


def session_of(
    pid: int,
    *,
    group: Path | None,
    worker_of: Callable[[int], str | None],
    sessions: Iterable[str],
    is_ours: Callable[[str], bool],
    host_pid: int,
) -> str | None:
    """Return the session that a process descends from; None for an outsider.

    ``group`` is the control group of the host's tools, ``worker_of`` tells whose live worker a
    process is, ``sessions`` are those of which the host has a record, and ``is_ours`` tells whether
    it has a session at all. Other marks are another host's: one host may run in a session of
    another.
    """
    if pid in (0, host_pid):  # of another pid namespace, further out; or a part of the host
        return None
    ancestors = _line(pid)
    if not ancestors:
        return UNKNOWN  # it is gone: whoever has its connection now is not to be known
    found = _by_group(pid, group) or _by_limits(pid, sessions) or _by_environment(pid, is_ours)
    if found is not None:
        return found
    for ancestor in ancestors:
        session = worker_of(ancestor)
        if session is not None:
            return session
    # Orphans of tools become the host's own children; it starts nobody who asks it anything.
    return UNKNOWN if host_pid in ancestors else None


def is_in_session(data: Path) -> bool:
    """Whether a session under ``data`` started this process, by the marks that it carries."""
    me = os.getpid()
    if marks.read_mark(me) is not None and _by_limits(me, sessions_in(data)) is not None:
        return True
    return _by_environment(me, lambda session: is_session(data, session)) is not None


def _by_group(pid: int, group: Path | None) -> str | None:
    owner = None if group is None else cgroups.owner_of(pid, group)
    return None if owner is None else owner.rpartition(".")[0]


def is_session(data: Path, session: str) -> bool:
    """Tell whether a data folder has a session, by its files."""
    try:
        return folder_of(data, SessionId(session)).exists()
    except SessionNotFound:
        return False


def _by_limits(pid: int, sessions: Iterable[str]) -> str | None:
    mark = marks.read_mark(pid)
    if mark is None:
        return None
    return next((one for one in sessions if marks.is_of(mark, f"{one}.", None)), None)


def _by_environment(pid: int, is_ours: Callable[[str], bool]) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    for entry in environment.split(b"\0"):
        if entry.startswith(OWNER):
            session = entry[len(OWNER) :].decode("ascii", "replace").rpartition(".")[0]
            return session if is_ours(session) else None
    return None


def _line(pid: int) -> list[int]:
    """Return a process and its ancestors, the nearest first; [] if it is gone."""
    line: list[int] = []
    while pid > 1 and len(line) < DEEPEST:
        parent = _parent_of(pid)
        if parent is None:
            return line
        line.append(pid)
        pid = parent
    return line


def _parent_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if is_over(fields) else int(fields[PPID_FIELD])
