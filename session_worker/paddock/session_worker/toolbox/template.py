"""A warm process that forks a worker's calls of Python functions: ``python -P template.py SOCKET``.

    worker ── a datagram, five descriptors ──► template ── fork ──► keeper ── fork ──► the call
           ◄─ the pidfd of the keeper ────────

It was started by exec, so it holds nothing of the worker: no lock, no socket, no thread. It imports
the modules of the session's functions once; a fork then finds them loaded. The keeper of a call is
the one of ``keeper.py`` with the same limits, on the same pipes; it does nothing until the worker
says go on its leash, so a call of which the worker never heard was never made.

The template may be killed at any time: its keepers do not notice, and the next call starts another.
It leaves with the worker (the socket ends), when nobody called for a while, and when a file of what
it has loaded was changed. Whoever has more than one thread after loading may not fork: it says so.
"""

import ctypes  # noqa: F401 - for the keeper, which would load it in every fork
import gc
import importlib
import inspect
import json
import os
import select
import signal
import socket
import sys
from types import ModuleType
from typing import Any, NoReturn

ORDERS_BYTES = 1 << 20
GO = b"g"
STALE = b"stale"
DESCRIPTORS = 5
"""Of a call: leash, frames, orders, request, result."""
KEEPER_NAME, CALL_NAME = b"PADDOCK_KEEPER", b"PADDOCK_CALL="
FORKED_NAME = b"PADDOCK_FORKED"  # as long as the keeper's name, in whose place it is written
ENV_START_FIELD = 47  # number 50 of proc(5), counted from the state


def main() -> None:
    """Load what the first datagram names, say how that went, fork until nobody asks any more."""
    door = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
    _let_the_kernel_take_me_first()
    orders = json.loads(door.recv(ORDERS_BYTES))
    for folder in orders["path"]:
        if folder not in sys.path:
            sys.path.append(folder)  # at the end: nothing of the user's shadows the library
    _bear_marks(orders["mark"], orders["group"])
    _preload(orders["functions"])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - Path would be one more import
    _send(door, json.dumps({"threads": threads}).encode())
    if threads == 1:
        gc.collect()
        gc.freeze()
        _serve(door, _loaded_files(), orders["idle_seconds"])
    os._exit(0)


def _bear_marks(mark: list[int], group: str) -> None:
    """Be found as a process of the session's tools, with whatever a module starts."""
    from paddock.session_worker.toolbox import keeper

    keeper.set_mark(tuple(mark))
    keeper.enter_group(group)


def _preload(functions: list[str]) -> None:
    """Import the functions' modules; what cannot be imported is told by the call itself."""
    from paddock.session_worker.toolbox import python_child

    wanted = set()
    for reference in functions:
        try:
            function = python_child.load(reference)
        except python_child.Failed:
            continue
        if not python_child.has_plain_parameters(function):
            wanted.add("paddock.session_worker.toolbox.signature")
        if inspect.iscoroutinefunction(function):
            wanted.add("asyncio")
    for module in wanted:
        importlib.import_module(module)


def _serve(door: socket.socket, loaded: dict[str, int], idle_seconds: float) -> None:
    poll = select.poll()
    poll.register(door, select.POLLIN)
    while poll.poll(idle_seconds * 1000):
        flags = socket.MSG_CMSG_CLOEXEC
        word, descriptors, _, _ = socket.recv_fds(door, len(GO), DESCRIPTORS, flags)
        if not word or len(descriptors) != DESCRIPTORS:
            return
        if any(_changed_at(file) != at for file, at in loaded.items()):
            _send(door, STALE)
            return
        _fork(door, descriptors)


def _fork(door: socket.socket, descriptors: list[int]) -> None:
    pid = os.fork()
    if pid == 0:
        _become_keeper(door, *descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:  # killed already
        _send(door, b"0")
        return
    _send(door, str(pid).encode(), process)
    os.close(process)


def _become_keeper(
    door: socket.socket, leash: int, frames: int, orders: int, request: int, result: int
) -> NoReturn:
    """Keep one call, once the worker says go; leave when all of it is gone."""
    try:
        os.setsid()
        door.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(leash, 0)
        os.dup2(frames, 1)
        for descriptor in (leash, frames):
            os.close(descriptor)
        if os.read(0, len(GO)) != GO:
            os._exit(1)
        _keep(json.loads(_whole(orders)), request, result)
    finally:
        os._exit(1)


def _keep(asked: dict[str, Any], request: int, result: int) -> None:
    from paddock.session_worker.toolbox import keeper, python_child

    environment: dict[str, str] = asked["environment"]
    _overwrite(CALL_NAME, len(CALL_NAME), environment["PADDOCK_CALL"].encode())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(asked["folder"])
    _reseed(sys.modules.get("numpy.random"))

    def call() -> None:
        _overwrite(KEEPER_NAME, 0, FORKED_NAME)
        python_child.serve(request, result)

    keeper.run(asked["words"], call)


def _overwrite(name: bytes, offset: int, new: bytes) -> None:
    """Write into this process's environment, ``offset`` after a name, as others read it in /proc.

    A fork shows the one its template was started with, and what is looked for there is whose a
    process is. The kernel shows the memory itself, which is this process's own to write.
    """
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - Path would be one more import
        found = (b"\0" + file.read()).find(b"\0" + name)
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        start = int(file.read().rpartition(b")")[2].split()[ENV_START_FIELD])
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        if found >= 0:
            os.pwrite(memory, new, start + found + offset)
    finally:
        os.close(memory)


def _reseed(numpy_random: ModuleType | None) -> None:
    """Let calls draw numbers of their own; Python's generator sees to that by itself."""
    if numpy_random is not None:
        numpy_random.seed()


def _loaded_files() -> dict[str, int]:
    """Return the files of the user's modules that were loaded, and when each was changed."""
    installed = (sys.prefix, sys.base_prefix)
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return {file: _changed_at(file) for file in files if file and not file.startswith(installed)}


def _changed_at(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns  # noqa: PTH116 - Path would be one more import
    except OSError:
        return 0


def _whole(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _let_the_kernel_take_me_first() -> None:
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:  # noqa: PTH123
            file.write(b"800")
    except OSError:
        return


def _send(door: socket.socket, word: bytes, *descriptors: int) -> None:
    try:
        socket.send_fds(door, [word], list(descriptors))
    except OSError:  # the worker is gone
        os._exit(0)


if __name__ == "__main__":
    main()
