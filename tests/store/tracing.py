"""Running a function in a child under ptrace, to kill it, or fail it, at a chosen system call."""

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import pytest

_NUMBERS = {
    "x86_64": {
        1: "write", 18: "pwrite64", 74: "fsync", 75: "fdatasync", 77: "ftruncate",
        82: "rename", 83: "mkdir", 87: "unlink", 263: "unlinkat", 264: "renameat",
    },
    "aarch64": {
        64: "write", 68: "pwrite64", 82: "fsync", 83: "fdatasync", 46: "ftruncate",
        38: "renameat", 34: "mkdirat", 35: "unlinkat", 276: "renameat2",
    },
}  # fmt: skip
WRITES = _NUMBERS.get(platform.machine(), {})
SYNCS = {"fsync", "fdatasync"}

_TRACEME, _POKEUSER, _SYSCALL, _SETOPTIONS, _GET_INFO = 0, 6, 24, 0x4200, 0x420E
_SYSGOOD, _EXITKILL = 1, 0x100000
_ENTRY, _EXIT = 1, 2
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_EIO = 5
_IS_TRACE_STOP = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class Fate(Enum):
    """What befalls a system call that writes."""

    GO = "it is done"
    KILL = "the process is killed before it"
    FAIL = "it is not done, and says that the disk failed"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a traced child ended: what it said, and the calls that it made or died before."""

    finished: bool
    said: list[str]
    calls: list[str]


needs_tracing = pytest.mark.skipif(
    sys.platform != "linux" or not WRITES,
    reason="ptrace is read for Linux on x86-64 and arm64 only",
)
needs_failing = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the result of a call is changed on x86-64 only"
)


def traced(
    work: Callable[[Callable[[object], None]], None], fate: Callable[[int, str], Fate]
) -> Ending:
    """Run ``work(say)`` in a forked child; ``fate(number, name)`` decides each call that writes."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _be_traced(work, write_end)
    os.close(write_end)
    try:
        finished, calls = _follow(child, fate)
        with os.fdopen(read_end, "rb") as pipe:
            said = pipe.read().decode().splitlines()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    return Ending(finished, said, calls)


def killed_before(number: int) -> Callable[[int, str], Fate]:
    return lambda at, _: Fate.KILL if at == number else Fate.GO


def _be_traced(work: Callable[[Callable[[object], None]], None], pipe: int) -> None:
    status = 1
    try:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        # Words go by a call that is not counted: writev, so that they shift no number.
        work(lambda word: void(os.writev(pipe, [f"{word}\n".encode()])))
        status = 0
    finally:
        os._exit(status)


def void(_: object) -> None:
    return None


def _follow(child: int, fate: Callable[[int, str], Fate]) -> tuple[bool, list[str]]:
    os.waitpid(child, 0)
    _ptrace(_SETOPTIONS, child, 0, _SYSGOOD | _EXITKILL)
    calls: list[str] = []
    is_failing = False
    deliver = 0
    while True:
        _ptrace(_SYSCALL, child, 0, deliver)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, calls
        deliver = 0
        if os.WSTOPSIG(status) != _IS_TRACE_STOP:
            deliver = os.WSTOPSIG(status)
            continue
        stop, number = _where(child)
        if stop == _EXIT and is_failing:
            _ptrace(_POKEUSER, child, _RAX, -_EIO)
            is_failing = False
        if stop != _ENTRY or number not in WRITES:
            continue
        calls.append(WRITES[number])
        match fate(len(calls), calls[-1]):
            case Fate.KILL:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return False, calls
            case Fate.FAIL:
                _ptrace(_POKEUSER, child, _ORIG_RAX, -1)  # no call of that number: it does nothing
                is_failing = True
            case Fate.GO:
                pass


def _where(child: int) -> tuple[int, int]:
    """Return whether a stopped child enters or leaves a call, and the call's number."""
    info = (ctypes.c_uint8 * 88)()
    _ptrace(_GET_INFO, child, len(info), ctypes.addressof(info))
    return info[0], int.from_bytes(bytes(info[24:32]), sys.byteorder)


def _ptrace(request: int, child: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, child, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
