"""Faults at exact points: what a process that is tested is told to suffer, just where it is told.

The ordinary processes run, with their functions wrapped by the mains beside this file
(``faulty_worker``, ``faulty_host``, ``faulty_store``). A wrapper says which point was reached; what
stands in the folder of orders for that point is taken, turned to ``.struck``, and obeyed. Without
an order nothing happens, but the points may be taken down (``RECORD``).
"""

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal, get_args

FOLDER: Final = "PADDOCK_TEST_FAULTS"
"""The variable that names the folder of orders; every process of the host inherits it."""
RECORD: Final = "record"
"""Where this file is in the folder, each process writes down the points that it reaches."""
ANYONE: Final = "any"
"""Whose point it is where a process works for all sessions."""
STRUCK_SUFFIX: Final = ".struck"
ROOM_SUFFIX: Final = ".room"
HOG_BYTES: Final = 512 * 1024 * 1024
PIECE_BYTES: Final = 4 * 1024 * 1024
REFUSED_BYTES: Final = 1 << 36

type Role = Literal["worker", "store", "zygote", "supervisor", "tool"]
type Fault = Literal["SIGKILL", "SIGSTOP", "SIGSEGV", "out of memory", "hang", "disk full"]
ROLES: Final[tuple[Role, ...]] = get_args(Role.__value__)
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault.__value__)


# --- giving orders, in the test -------------------------------------------------------------------


class Orders:
    """The folder of orders, as the test sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def give(self, role: Role, point: str, fault: Fault, subject: str = ANYONE) -> Path:
        """Order a fault; return the file that is there once it was obeyed, with the pid in it."""
        order = self.folder / f"{role}.{point}.{subject}"
        struck = order.with_name(order.name + STRUCK_SUFFIX)
        for former in (struck, struck.with_suffix(ROOM_SUFFIX)):
            former.unlink(missing_ok=True)  # of a cell before it, at the same point
        draft = order.with_name(f"{order.name}.draft")
        draft.write_text(fault)
        draft.rename(order)
        return struck

    def record(self) -> None:
        """From now on take down every point that is reached."""
        (self.folder / RECORD).touch()

    def recorded(self) -> set[str]:
        """Return the points that were reached, as ``role.point``."""
        return set((self.folder / RECORD).read_text().split("\n")) - {""}


# --- obeying, in the process ----------------------------------------------------------------------


class Here:
    """Who this process is; a fork of the zygote becomes a worker."""

    role: Role = "supervisor"


def reach(point: str, subject: str = ANYONE) -> None:
    """Say that a point is reached; obey the order for it, if there is one."""
    named = os.environ.get(FOLDER)
    if named is None:
        return
    folder = Path(named)
    if (folder / RECORD).exists():
        with (folder / RECORD).open("a") as record:  # short appends of several do not mix
            record.write(f"{Here.role}.{point}\n")
    for who in {subject, ANYONE}:
        order = folder / f"{Here.role}.{point}.{who}"
        taken = order.with_name(order.name + ".taken")
        try:
            order.rename(taken)
        except FileNotFoundError:
            continue
        fault = taken.read_text()
        taken.write_text(str(os.getpid()))
        struck = order.with_name(order.name + STRUCK_SUFFIX)
        taken.rename(struck)
        if fault == "disk full":
            threading.Thread(target=_wait_for_room, args=(struck,), daemon=True).start()
        _OBEYED[fault]()


@contextmanager
def write_point(name: str, subject: str = ANYONE) -> Iterator[None]:
    """Reach the points before and after something is written."""
    try:
        reach(f"{name}:before", subject)
        yield
        reach(f"{name}:after", subject)
    except BaseException:
        give_room()
        raise


def give_room() -> None:
    """Let this process write again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def wrap_before(place: Any, name: str, point: str) -> None:
    """Have a method reach a point before it does anything."""
    inner = getattr(place, name)

    @wraps(inner)
    def told(*args: Any, **words: Any) -> Any:
        reach(point)
        return inner(*args, **words)

    setattr(place, name, told)


def _wait_for_room(struck: Path) -> None:
    """Give room when the test says so, for a write that failed at no point of ours."""
    while not struck.with_suffix(ROOM_SUFFIX).exists():
        time.sleep(0.02)
    give_room()


def _take_room() -> None:
    """Have the kernel refuse every write of this process to a file, until ``give_room``.

    What it answers is EFBIG, where a full disk says ENOSPC: the rest is the same, each write fails
    at the system call. (Disks that are really full: tests/store/test_damage_disk.py.)
    """
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _send(number: signal.Signals) -> Callable[[], None]:
    def send() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)

    return send


def _hang() -> None:
    """Do nothing for ever and hold the GIL meanwhile, so that no other thread does anything."""
    libc = ctypes.PyDLL(None)
    while True:
        libc.pause()


def _run_out_of_memory() -> None:
    """Grow beyond the session's limit, or be refused what is asked for.

    The first where somebody looks at the memory: at a worker whose loop runs meanwhile. Else what
    befalls a process is the kernel's killer, which is a SIGKILL, or an allocation that fails.
    """
    if Here.role == "worker" and not _is_main_thread():
        hog: list[bytes] = []
        while True:  # the loop goes on in its own thread, and its beats tell
            if len(hog) * PIECE_BYTES < HOG_BYTES:
                hog.append(b"x" * PIECE_BYTES)
            time.sleep(0.001)
    with _no_more_memory():
        bytearray(REFUSED_BYTES)


@contextmanager
def _no_more_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with Path("/proc/self/statm").open() as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


_OBEYED: dict[str, Callable[[], None]] = {
    "SIGKILL": _send(signal.SIGKILL),
    "SIGSTOP": _send(signal.SIGSTOP),
    "SIGSEGV": _send(signal.SIGSEGV),
    "out of memory": _run_out_of_memory,
    "hang": _hang,
    "disk full": _take_room,
}


def is_zygote() -> bool:
    """Whether this process is the one that workers are forked from."""
    return any("paddock.supervisor.zygote" in word for word in sys.orig_argv)
