"""The process that workers are forked from: everything imported, frozen, one thread, no sockets.

Run by ``children.Zygote`` with ``python -P -m``; it says on a pipe that it is ready, or why not
(multiprocess's own preload swallows an ImportError), and becomes a multiprocess forkserver.
"""

import contextlib
import gc
import importlib
import json
import os
import socket
import sys
from pathlib import Path
from types import TracebackType

READY = b"r"
"""What a fork says when it waits for its orders."""
FORBIDDEN = ("duckdb", "paddock.store.projection")
"""Modules that no worker needs and every worker would pay for, or that start threads."""
CYCLE_THRESHOLDS = (10_000, 20, 10)
"""How many objects more, how many looks at these, and at those, before the next (``gc``)."""


def main(listener_fd: int, alive_fd: int, report_fd: int, targets: list[str]) -> None:
    """Import what the ``targets`` (``module:function``) need, report, and serve until not needed.

    ``alive_fd`` reads as ended once neither the supervisor nor a worker has the other end.
    """
    from multiprocess import forkserver

    report: dict[str, object] = {"pid": os.getpid()}
    try:
        for target in targets:
            resolve(target)
        importlib.import_module("multiprocess.popen_forkserver")
    except (ImportError, AttributeError, SyntaxError) as error:
        report["error"] = f"{type(error).__name__}: {error}"
    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.is_dir() else 1
    if threads != 1:
        report["error"] = f"{threads} threads after the imports; a fork would lose all but one"
    heavy = [name for name in FORBIDDEN if name in sys.modules]
    if heavy:
        report["error"] = f"{heavy[0]} was imported; no worker needs it"
    sys.excepthook = _quietly
    settle_memory()
    address = Path(_address_of(listener_fd))
    try:
        if _report(report_fd, report) and "error" not in report:
            forkserver.main(listener_fd, alive_fd, None)
    except SystemExit:
        pass  # nobody needs it any more
    finally:
        # A supervisor that was killed cannot tidy up after us. (A fork never comes here: it ends
        # by os._exit.)
        with contextlib.suppress(OSError):
            address.unlink()
    sys.stderr.flush()
    os._exit(0)  # to take all modules apart first takes a third of a second, and is of no use


def settle_memory() -> None:
    """Share with the forks what is there, and have them look for cycles less often.

    What a session adds up to is many objects and no cycles: with Python's own thresholds the looks
    took a tenth of the processor time of writing events.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*CYCLE_THRESHOLDS)


def _quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing of a fork that got no orders: its supervisor ended, or needs it no more."""
    if not issubclass(kind, EOFError):
        sys.__excepthook__(kind, error, trace)


def _report(descriptor: int, report: dict[str, object]) -> bool:
    """Say how it stands; False if who wanted to know was killed meanwhile."""
    try:
        os.write(descriptor, json.dumps(report).encode())
    except BrokenPipeError:
        return False
    finally:
        os.close(descriptor)
    return True


def _address_of(listener_fd: int) -> str:
    with socket.socket(fileno=os.dup(listener_fd)) as listener:
        address = listener.getsockname()
        assert isinstance(address, str), "the supervisor listens on a unix socket"
        return address


def resolve(target: str) -> object:
    """Return what ``module:function`` names. Raises ImportError or AttributeError."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def pack_orders(orders: bytes) -> bytes:
    """Return orders as they are sent: their length (4 bytes), then they."""
    return len(orders).to_bytes(4) + orders


def _orders_from(door: socket.socket) -> bytes:
    """Return the orders that come; leaves the process where their sender ended before that."""
    with door.makefile("rb") as file, contextlib.suppress(ConnectionError):
        header = file.read(4)
        orders = file.read(int.from_bytes(header))
        if header and len(orders) == int.from_bytes(header):
            return orders
    os._exit(0)


def enter(target: str, rehearsal: str | None) -> None:
    """Become a worker: called in the fork. Waits for its orders, and ends quietly without them.

    ``rehearsal`` is a folder of its own in which a fork that is kept in hand may first live through
    a start (``rehearse`` of the target's module, if there is one); None where one is waited for.
    """
    from multiprocess import forkserver

    (door,) = forkserver.get_inherited_fds()
    function = resolve(target)
    assert callable(function), f"{target} was resolved before the fork"
    rehearse = getattr(sys.modules[target.partition(":")[0]], "rehearse", None)
    with socket.socket(fileno=door) as orders_door:
        if rehearsal is not None:
            if rehearse is not None:
                rehearse(Path(rehearsal))
            with contextlib.suppress(OSError):  # the supervisor ended meanwhile
                orders_door.send(READY)
        orders = _orders_from(orders_door)
    function(orders)
