"""Processes as the supervisor holds them: by pidfd, with the truth about how they ended.

A pid names nobody for long (F14), so nothing is signalled but through a pidfd that was opened while
the process was known to be the right one.
"""

import asyncio
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.store.session_file import start_ticks_of

PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PIDFD_GET_INFO = 0xC040FF0B
"""``_IOWR(0xFF, 11, struct pidfd_info)`` of linux/pidfd.h, the form of 64 bytes (Linux 6.13)."""
PIDFD_INFO_EXIT = 1 << 3
PIDFD_INFO = struct.Struct("<QQ11Ii")
STATUS_PAUSE_SECONDS = 0.005
STATUS_SECONDS = 0.1
"""For the kernel, once somebody reaped it; where nobody reports, nobody may ever reap it."""
REPORT_SECONDS = 2.0
"""For a zygote that lives: it reports within a millisecond, unless the machine is very busy. (With
0.1 s a sixth of the deaths of a crash suite at a load of 10 had no cause in their certificates.)"""
EXIT_CODE = struct.Struct("q")


@dataclass(frozen=True, slots=True)
class Status:
    """How a process ended; all None where nobody can tell (adopted, on an older kernel)."""

    exit_code: int | None = None
    signal: int | None = None
    was_out_of_memory: bool = False

    @property
    def is_known(self) -> bool:
        """Whether somebody could tell."""
        return self.exit_code is not None or self.signal is not None

    @classmethod
    def of_wait(cls, wait_status: int) -> "Status":
        """Return it from a status as ``wait`` gives it."""
        if os.WIFSIGNALED(wait_status):
            return cls(signal=os.WTERMSIG(wait_status))
        return cls(exit_code=os.waitstatus_to_exitcode(wait_status))

    @classmethod
    def of_exit_code(cls, code: int) -> "Status":
        """Return it from an exit code as ``subprocess`` gives it (a signal is negative)."""
        return cls(signal=-code) if code < 0 else cls(exit_code=code)


class Process:
    """A process that is held by its pidfd until it is dead; ``ended`` is called once, with how."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        *,
        sentinel: int | None = None,
    ) -> None:
        """``sentinel`` gives its exit code, once the zygote has reaped it."""
        self.pid = pid
        self.start_ticks = start_ticks_of(pid) or 0
        self.is_dead = False
        self._pidfd = pidfd
        self._sentinel = sentinel
        self._may_report = sentinel is not None
        self._oom_kills = oom_kills()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def find(cls, pid: int, start_ticks: int) -> "Process | None":
        """Return the process of that pid if it is the one that started then and lives."""
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError):
            return None
        # The pidfd names one process for good; that it is the right one is told by its start.
        if start_ticks_of(pid) != start_ticks:
            os.close(pidfd)
            return None
        return cls(pid, pidfd)

    def watch(self, ended: Callable[[Status], None]) -> None:
        """Have ``ended`` called with the status when it is dead."""
        loop = asyncio.get_running_loop()

        def notice() -> None:
            if self._pidfd >= 0:
                loop.remove_reader(self._pidfd)
            self.is_dead = True
            self._task = loop.create_task(self._tell(ended))

        if self._pidfd < 0:  # it was dead before it could be held
            notice()
        else:
            loop.add_reader(self._pidfd, notice)

    def watch_death(self, ended: Callable[[], None]) -> None:
        """Have ``ended`` called when it is dead, whatever its status (a stranger's process)."""
        loop = asyncio.get_running_loop()

        def notice() -> None:
            loop.remove_reader(self._pidfd)
            self.is_dead = True
            ended()

        loop.add_reader(self._pidfd, notice)

    def send(self, number: int) -> bool:
        """Send a signal; return whether there was somebody to get it."""
        if self.is_dead or self._pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def is_waiting(self) -> bool:
        """Whether it is there still, as its pidfd tells at this moment."""
        return self._pidfd >= 0 and not is_readable(self._pidfd, 0)

    def wait_dead(self, seconds: float) -> bool:
        """Block until it is dead, at most so long; return whether it is."""
        return self._pidfd < 0 or is_readable(self._pidfd, seconds)

    def state(self) -> str:
        """Return the kernel's letter for what it does (``D``, ``T``, ``S``), or ``X``."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return "X"
        return chr(stat[stat.rindex(b")") + 2])

    def release(self) -> None:
        """Let go of it, dead or not."""
        if self._pidfd >= 0 and not self.is_dead:
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._pidfd)
        for descriptor in (self._pidfd, self._sentinel):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._pidfd, self._sentinel = -1, None

    async def _tell(self, ended: Callable[[Status], None]) -> None:
        status = await self._status()
        self.release()
        ended(status)

    async def _status(self) -> Status:
        clock = asyncio.get_running_loop().time
        died_at = clock()
        while clock() - died_at < (REPORT_SECONDS if self._may_report else STATUS_SECONDS):
            status = self._reaped() or self._reported() or self._asked()
            if status is not None:
                was_out_of_memory = (
                    status.signal == signal.SIGKILL and oom_kills() > self._oom_kills
                )
                return Status(status.exit_code, status.signal, was_out_of_memory)
            await asyncio.sleep(STATUS_PAUSE_SECONDS)
        return Status()

    def _reaped(self) -> Status | None:
        """Reap it, if it is a child of ours (by birth, or as a subreaper)."""
        if self._pidfd < 0:
            return None
        try:
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except (ChildProcessError, OSError):
            return None
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return Status(exit_code=found.si_status)
        return Status(signal=found.si_status)

    def _reported(self) -> Status | None:
        """Read the exit code that the zygote wrote, if it did."""
        if self._sentinel is None:
            return None
        os.set_blocking(self._sentinel, False)
        try:
            data = os.read(self._sentinel, EXIT_CODE.size)
        except BlockingIOError:
            return None
        if len(data) < EXIT_CODE.size:
            self._may_report = False  # the zygote is dead: its end is no exit code
            return None
        return Status.of_exit_code(EXIT_CODE.unpack(data)[0])

    def _asked(self) -> Status | None:
        """Ask the kernel."""
        return None if self._pidfd < 0 else exit_status_of(self._pidfd)


def tells_exit_codes() -> bool:
    """Whether this kernel tells how a process ended that somebody else reaped."""
    if sys.platform != "linux":
        return False
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "pass"]) as child:
        pidfd = os.pidfd_open(child.pid)
    try:
        status = exit_status_of(pidfd)
    finally:
        os.close(pidfd)
    return status is not None and status.exit_code == 0


def exit_status_of(pidfd: int) -> Status | None:
    """Ask the kernel how a process ended, which it tells once it was reaped (Linux 6.15)."""
    buffer = bytearray(PIDFD_INFO.pack(PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    mask, *_, wait_status = PIDFD_INFO.unpack(buffer)
    return Status.of_wait(wait_status) if mask & PIDFD_INFO_EXIT else None


def oom_kills() -> int:
    """Return how many processes this kernel has ended for want of memory."""
    try:
        text = Path("/proc/vmstat").read_text("ascii")
    except OSError:
        return 0
    return next((int(line[9:]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def is_readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read within so long (0: now).

    By ``poll``: ``select`` knows no descriptor above 1023, and a thousand sessions have more.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def has_subreapers() -> bool:
    """Whether this kernel has them; asking makes none."""
    try:
        is_one = ctypes.c_int()
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(is_one), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def become_subreaper() -> bool:
    """Inherit orphaned descendants (workers of a dead zygote, tools of a dead worker)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def reap_orphans(watched: Callable[[int], bool]) -> int:
    """Reap dead children that nobody watches; return how many.

    One that is watched is left to its watcher; those behind it are seen on the next call, which
    its watcher makes when it is done.
    """
    count = 0
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return count
        if found is None or watched(found.si_pid):
            return count
        with suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)
            count += 1
