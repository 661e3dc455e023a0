"""A test may leave nothing behind: processes, sockets, descriptors and files are looked for.

A test's processes are known by being its children, by the mark in their environment (it survives a
new session and the death of the parent), or by standing in one of the test's folders. Only
processes that began during the test are looked at, so that looking takes a few milliseconds and
tests that run beside it in another worker of xdist are never blamed on it.
"""

import gc
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from paddock.session_worker.toolbox import cgroups
from paddock.supervisor.confinement import host_groups

MARK = "PADDOCK_TEST"
# A process that was told to go may need a moment, and more of it on a busy machine.
GOING_SECONDS = 15.0
# Opened once, on first use, by the interpreter or a library, and kept for the life of the process.
KEPT_OPEN = ("/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/proc/", "/sys/")
# Traces of a host; in the clone none of them has any business.
HOST_FILES = ("owner.lock", "host.lock", "host.json")
HOST_SUFFIXES = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".duckdb", ".duckdb.wal", ".sock")


@dataclass(frozen=True, slots=True)
class Before:
    """What there was before a test began."""

    pids: frozenset[int]
    descriptors: Counter[str]


def look() -> Before:
    """Return what there is now."""
    return Before(frozenset(psutil.pids()), open_descriptors())


def processes_left(before: Before, mark: str, folders: Iterable[Path]) -> list[psutil.Process]:
    """Return the test's processes that are still there after a moment to leave."""
    places = [str(folder) for folder in folders]
    deadline = time.monotonic() + GOING_SECONDS
    while True:
        found = [p for p in new_processes(before) if belongs(p, before, mark, places)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def new_processes(before: Before) -> Iterator[psutil.Process]:
    """Name the processes that began since ``before`` and are still there."""
    for pid in set(psutil.pids()) - before.pids:
        try:
            yield psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue


def belongs(process: psutil.Process, before: Before, mark: str, places: list[str]) -> bool:
    """Tell whether a process is this test's; one that is gone, or somebody else's, is not."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            # One that init inherited is dead and done; our own was never waited for.
            return process.ppid() == os.getpid()
        if is_kept_child(process):
            return False
        environment = process.environ()
        if environment.get(MARK) == mark or is_inside(environment.get("PADDOCK_HOME", ""), places):
            return True
        if is_inside(process.cwd(), places):
            return True
        return descends(process, before)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False


def descends(process: psutil.Process, before: Before) -> bool:
    """Tell whether a process came from this one since; that of a wider fixture's host did not."""
    for parent in process.parents():
        if parent.pid == os.getpid():
            return True
        if parent.pid in before.pids:
            return False
    return False


def is_inside(path: str, places: list[str]) -> bool:
    """Tell whether a path is one of the folders, or within one."""
    return any(path == place or path.startswith(place + os.sep) for place in places)


def is_kept_child(process: psutil.Process) -> bool:
    """Tell whether this is the one child that the standard library keeps for the process's life."""
    return process.ppid() == os.getpid() and "resource_tracker" in " ".join(process.cmdline())


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill what a failed test left, so that it hurts no other."""
    for process in processes:
        try:
            process.kill()
            process.wait(timeout=GOING_SECONDS)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue


def describe(process: psutil.Process) -> str:
    """Return one line by which a process can be recognised."""
    try:
        words = " ".join(process.cmdline())[:160] or process.name()
        return f"process {process.pid} ({process.status()}): {words}"
    except psutil.Error:
        return f"process {process.pid} (gone since)"


def open_descriptors() -> Counter[str]:
    """Count what this process has open, by what it is."""
    found: Counter[str] = Counter()
    for number in Path("/dev/fd").iterdir():
        try:
            found[str(number.readlink())] += 1
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def descriptors_left(before: Before) -> list[str]:
    """Return what was opened since ``before`` and is open still."""
    if not new_descriptors(before):
        return []
    # What only a cycle holds is closed sooner or later; if it warns then, pytest reports it.
    gc.collect()
    return sorted(new_descriptors(before))


def new_descriptors(before: Before) -> list[str]:
    """Return what was opened since, less what a library opens once and keeps."""
    kept = kept_descriptors()
    opened = open_descriptors() - before.descriptors
    return [w for w in opened.elements() if w not in kept and not w.startswith(KEPT_OPEN)]


def kept_descriptors() -> set[str]:
    """Return the pipe that the resource tracker keeps for the life of the process."""
    kept = set()
    for name in ("multiprocessing.resource_tracker", "multiprocess.resource_tracker"):
        tracker = getattr(sys.modules.get(name), "_resource_tracker", None)
        descriptor = getattr(tracker, "_fd", None)
        if isinstance(descriptor, int):
            kept.add(str(Path(f"/dev/fd/{descriptor}").readlink()))
    return kept


def sockets_left(folders: Iterable[Path]) -> list[Path]:
    """Return the socket files in the folders; a name that nobody listens at confuses the next."""
    found = []
    for folder in folders:
        for parent, _, names in os.walk(folder):
            paths = (Path(parent, name) for name in names)
            found += [path for path in paths if is_socket(path)]
    return sorted(found)


def groups_left(folders: Iterable[Path]) -> list[str]:
    """Remove the control groups of the folders' hosts; return those in which something ran.

    A host that was killed cannot remove its own, so an empty one is nobody's fault.
    """
    homes = (secret.parent for folder in folders for secret in folder.rglob("host.secret"))
    groups = (group for home in homes for group in host_groups(home))
    return [str(group) for group in groups if cgroups.end(group)]


def is_socket(path: Path) -> bool:
    """Tell whether a path is a socket; one that is gone is not."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def host_files(root: Path) -> set[Path]:
    """Return the traces of a host in the clone, where no test may put any."""
    found = set()
    for parent, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in {".git", ".venv", ".uv", "dist"}]
        found |= {Path(parent, n) for n in names if n in HOST_FILES or n.endswith(HOST_SUFFIXES)}
    return found
