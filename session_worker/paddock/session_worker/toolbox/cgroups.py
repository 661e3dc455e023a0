"""Control groups for tools: nothing that was started in one can leave it, and one write ends all.

``<base>/paddock-<host id>/<session id>.<generation>/<call>``: a host's folder, one below it for the
tools of each generation of a session, one below that for each call. ``cgroup.kill`` (Linux 5.14)
ends a folder and everything below at once, whatever has cleared its environment, forked twice or
gone off into a session of its own. No controller is needed, so a hierarchy without any will do.

What a machine allows is found out by doing it: ``probe`` makes a group, puts a process in, ends it.
Everything here blocks for microseconds, but for ``end``, which waits.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "paddock-"
DATA_WORD: Final = "user.paddock.data"
PROBE_SECONDS = 5.0
"""A kill takes a millisecond; a machine that is busy may take longer to reap."""
END_SECONDS = 5.0
AT_ONCE_SECONDS = 0.1
"""A group is empty by then, unless the kernel holds one of its processes, or spares it."""
PAUSE_SECONDS = 0.002


def bases() -> list[Path]:
    """Return where groups of ours might be made: this process's own group, then the root's."""
    found = []
    for mount in _mounts():
        own = _own_group()
        if own is not None and "/.." not in own:
            found.append(mount / own.lstrip("/"))
        found.append(mount)
    return list(dict.fromkeys(found))


def name_of(host_id: str) -> str:
    """Return the name of a host's folder."""
    return f"{PREFIX}{host_id}"


def open_host(host_id: str, data: Path | None = None) -> Path | None:
    """Return the folder of a host, made and tried out; None where groups are not to be had.

    One that is left from an earlier term is used again: its tools may still run. It says which
    ``data`` folder it is for, so that it is removed by another host once there is none such.
    """
    for base in bases():
        folder = base / name_of(host_id)
        if probe(folder) is None:
            with suppress(OSError):  # before Linux 5.7 a group bears no words
                if data is not None:
                    os.setxattr(folder, DATA_WORD, os.fsencode(data))
            _remove_nobodys(base)
            return folder
    return None


def _remove_nobodys(base: Path) -> None:
    """Remove the empty groups of hosts that were killed and whose data folder is gone."""
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            data = os.fsdecode(os.getxattr(folder, DATA_WORD))
            if not os.path.lexists(data):
                remove(folder)


def probe(folder: Path) -> str | None:
    """Try out ``folder``: make it, put a process into a group below, end it by its group.

    Return None if all of that works, and what did not otherwise. The folder stays only if it works.
    """
    if sys.platform != "linux":
        return "this system has no control groups"
    existed = folder.is_dir()
    trial = folder / f"probe.{os.getpid()}"
    try:
        trial.mkdir(parents=True)
        trouble = _try_out(trial)
        trial.rmdir()
    except OSError as error:
        trouble = f"{error.strerror}: {error.filename or trial}"
    if trouble is not None:
        for left in (trial, *(() if existed else (folder,))):
            with suppress(OSError):
                left.rmdir()
    return trouble


def _try_out(group: Path) -> str | None:
    if not (group / "cgroup.kill").exists():
        return "this kernel has no cgroup.kill (Linux 5.14)"
    program = shutil.which("cat") or "/bin/cat"
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        try:
            (group / "cgroup.procs").write_text(str(child.pid))
            (group / "cgroup.kill").write_text("1")
            child.wait(PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            return "a process did not end with its group"
        finally:
            child.kill()
    return None if _wait_empty(group, PROBE_SECONDS) else "a group stays populated"


def mount_of(group: Path) -> Path | None:
    """Return where the hierarchy of a group is mounted."""
    return next((mount for mount in _mounts() if group.is_relative_to(mount)), None)


def make(group: Path) -> bool:
    """Make a group and those above it; return whether it is there."""
    try:
        group.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def groups_of(host: Path, session_id: str) -> list[Path]:
    """Return the groups of all generations of a session."""
    try:
        with os.scandir(host) as entries:
            return [Path(e.path) for e in entries if e.name.startswith(f"{session_id}.")]
    except OSError:
        return []


def generations(host: Path) -> Iterator[tuple[str, Path]]:
    """Yield each generation's group in a host's folder, with the session's id."""
    with suppress(OSError):
        for group in sorted(host.iterdir()):
            session, dot, _ = group.name.rpartition(".")
            if dot and group.is_dir():
                yield session, group


def end(group: Path, seconds: float = END_SECONDS) -> int:
    """Kill everything in a group and below, remove it; return how many processes there were.

    When it is gone nothing of it runs. It stays where the kernel holds a process beyond
    ``seconds``; ``populated`` then tells.
    """
    count = len(pids(group))
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        if _wait_empty(group, min(seconds, AT_ONCE_SECONDS)) or time.monotonic() > deadline:
            break
        # The kernel kills each process by its main thread: one whose main thread is gone goes on.
        for pid in pids(group):
            _kill_in(group, pid)
    remove(group)
    return count


def _kill_in(group: Path, pid: int) -> None:
    """Kill a process if it is in the group, and not another that has its number by now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if pid in pids(group):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:  # it is gone, or may not be signalled by us: cgroup.kill alone may end it
        return
    finally:
        os.close(handle)


def pids(group: Path) -> list[int]:
    """Return the processes in a group and below it."""
    found: list[int] = []
    for folder, _, _ in os.walk(group):
        with suppress(OSError):
            found += [int(line) for line in Path(folder, "cgroup.procs").read_text().split()]
    return found


def is_populated(group: Path) -> bool:
    """Tell whether a process lives in a group or below it."""
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except OSError:
        return False


def remove(group: Path) -> None:
    """Remove a group and those below it, as far as nothing lives there."""
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()


def owner_of(pid: int, host: Path) -> str | None:
    """Return the ``<session id>.<generation>`` in whose group a process lives; None if in none."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("0::"):
            parts = line[3:].split("/")
            if host.name in parts[:-1]:
                return parts[parts.index(host.name) + 1]
    return None


def _wait_empty(group: Path, seconds: float) -> bool:
    """Wait until nothing lives in a group; the kernel tells by its events file."""
    deadline = time.monotonic() + seconds
    while is_populated(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def _mounts() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            yield Path(before.split()[4].replace("\\040", " "))


def _own_group() -> str | None:
    try:
        text = Path("/proc/self/cgroup").read_text("utf-8", "replace")
    except OSError:
        return None
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), None)
