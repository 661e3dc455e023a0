"""The store process: ``python -P -m paddock.store.process --data DIR --runtime DIR``.

It ends by SIGTERM or SIGINT, and a while after its supervisor has gone, if it was told of one.
Exit codes: 0 it was told to go, 3 another store has the folder, 4 its files cannot be used.
"""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from paddock.store.errors import AlreadyOwned, StoreError
from paddock.store.process.keeper import SCAN_SECONDS, Keeper
from paddock.store.process.server import Origin, Server
from paddock.store.projection import Settings

SOCKET_NAME = "store.sock"
OWNED, UNUSABLE = 3, 4
M_ARENA_MAX = -8
"""glibc's name (malloc.h) for how many heaps threads have among them."""
ARENAS = 2


class Supervisor:
    """Knows by pidfd whether the supervisor of the moment lives; after a while without, it ends."""

    def __init__(self, over: asyncio.Event, grace_seconds: float) -> None:
        self._over = over
        self._grace = grace_seconds
        self._loop = asyncio.get_running_loop()
        self._descriptor = -1
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, pid: int) -> None:
        """Stay as long as that process does, and no longer because of the one before."""
        self.forget()
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone()
            return
        self._loop.add_reader(self._descriptor, self._gone)

    def forget(self) -> None:
        """Watch nobody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _gone(self) -> None:
        self.forget()
        self._timer = self._loop.call_later(self._grace, self._over.set)


async def serve(
    keeper: Keeper,
    runtime: Path,
    pid: int | None,
    grace_seconds: float,
    origin: Origin | None = None,
) -> int:
    """Serve until told to go; return the exit code."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    supervisor = Supervisor(over, grace_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    server = Server(keeper, runtime / SOCKET_NAME, on_watch=supervisor.watch, origin=origin)
    server.peers.supervisor = pid
    server.start()
    if pid is not None:
        supervisor.watch(pid)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            keeper.open()
            keeper.work()
        except BaseException as error:  # noqa: BLE001 - it ends the process, which tells it
            failures.append(error)
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(over.set)

    writer = threading.Thread(target=write, name="writing")
    writer.start()
    await over.wait()
    supervisor.forget()
    keeper.stop()
    server.stop()
    await asyncio.to_thread(writer.join)
    await asyncio.to_thread(server.end_threads)
    if failures:
        sys.stderr.write(f"paddock store: {failures[0]}\n")
        return UNUSABLE
    return 0


def main(
    arguments: list[str] | None = None, *, origins: Callable[[Path], Origin] | None = None
) -> int:
    """Run the store process; return its exit code.

    ``origins`` gives for a data folder what knows the processes of its sessions: a host's store has
    it from the supervisor's room (``supervisor.store_process``).
    """
    parser = argparse.ArgumentParser(prog="paddock.store.process", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sessions")
    parser.add_argument("--runtime", type=Path, required=True, help="the folder of the socket")
    parser.add_argument("--supervisor-pid", type=int, help="end when that process has gone")
    parser.add_argument("--grace-seconds", type=float, default=10.0, help="that long after it")
    parser.add_argument(
        "--wait-seconds", type=float, default=0.0, help="for the store before this one to leave"
    )
    parser.add_argument(
        "--scan-seconds", type=float, default=SCAN_SECONDS, help="between two looks at all folders"
    )
    parser.add_argument("--memory-mb", type=int, default=1024, help="what DuckDB may take")
    parser.add_argument("--threads", type=int, default=2, help="of DuckDB")
    given = parser.parse_args(arguments)
    _share_memory_of_threads()
    settings = Settings(memory_limit_mb=given.memory_mb, threads=given.threads)
    try:
        keeper = Keeper(
            given.data,
            settings=settings,
            wait_seconds=given.wait_seconds,
            scan_seconds=given.scan_seconds,
        )
    except AlreadyOwned as error:
        sys.stderr.write(f"paddock store: {error.message}\n")
        return OWNED
    except OSError as error:
        sys.stderr.write(f"paddock store: {error}\n")
        return UNUSABLE
    try:
        origin = None if origins is None else origins(given.data)
        watched, grace_seconds = given.supervisor_pid, given.grace_seconds
        return asyncio.run(serve(keeper, given.runtime, watched, grace_seconds, origin))
    except StoreError as error:
        sys.stderr.write(f"paddock store: {error.message}\n")
        return UNUSABLE
    finally:
        keeper.close()


def leave(code: int) -> NoReturn:
    """End the process, whose files are closed by now.

    To take all modules apart, as Python does at its end, took half a second for which a host that
    ends had to wait; closing the files takes a twentieth of one.
    """
    sys.stderr.flush()
    os._exit(code)


def _share_memory_of_threads() -> None:
    """Have the C library keep less freed memory for each thread, where it can be told.

    DuckDB's threads come and go with each file that is written anew: 24 of 49 MB lay unused.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


if __name__ == "__main__":
    leave(main())
