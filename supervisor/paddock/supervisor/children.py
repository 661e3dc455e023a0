"""The zygote and the workers forked from it: multiprocess's forkserver, held on our own terms.

What differs from ``get_context("forkserver").Process.start()`` and why: its zygote is looked for
anew by each start (ours is replaced when it is dead or does not answer in time), its preload hides
an ImportError, it starts a resource tracker that nothing here needs, it imports the supervisor's
``__main__`` into every worker, and its exit hooks join or kill workers. The forkserver process, its
protocol and the process objects are multiprocess's own.
"""

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from multiprocess import forkserver, get_context
from multiprocess.context import reduction, set_spawning_popen

from paddock.store.errors import PeerBroke
from paddock.supervisor.processes import Process, Status, is_readable
from paddock.supervisor.zygote import enter, pack_orders

READY_SECONDS = 30.0
"""The imports take 1-2.5 s on two idle cores."""
FORK_SECONDS = 10.0
"""A fork takes 1-3 ms; a zygote that is silent for so long is stopped or hangs."""
FORKS_AT_ONCE = 4
REFILL_SECONDS = 0.02
"""The spare fork is made when the worker that took the last one is up."""
DROP_SECONDS = 0.2
"""A fork that was killed is gone within a millisecond, unless it waits for the disk."""
REHEARSAL_PREFIX = "rehearsal-"
SOCKET_PREFIX = "zyg-"
"""With eight digits no longer than the names of the host's other sockets."""
DIRECT = ("-P", "-c")


class ZygoteBroke(PeerBroke):
    """The zygote is dead, does not answer, or could not import what workers need."""

    code = "zygote_broke"


class Zygote:
    """One forkserver process; made by ``start`` and of no use after ``end`` or its death."""

    def __init__(
        self, process: Process, target: str, address: Path, *, alive: int, nothing: int
    ) -> None:
        self.process = process
        self._target = target
        self._address = address
        self._alive = alive
        self._nothing = nothing
        self._threads = ThreadPoolExecutor(FORKS_AT_ONCE, "fork")
        self._gone = asyncio.Event()
        self._spare: _Unborn | None = None
        self._refill: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._is_closed = False

    @classmethod
    async def start(cls, target: str, folder: Path, ended: Callable[[Status], None]) -> "Zygote":
        """Start one whose forks run ``target`` (``module:function``) and wait until it is ready.

        ``ended`` is called when it is dead.

        Its socket is made in ``folder``.

        Raises:
            ZygoteBroke: It could not import what it should, or was not ready in time.
        """
        address = folder / f"{SOCKET_PREFIX}{os.urandom(4).hex()}"
        try:
            with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
                alive_read, alive_write = _pipe(its, ours)
                report_read, report_write = _pipe(ours, its)
                nothing = os.open(os.devnull, os.O_RDONLY)
                ours.callback(os.close, nothing)
                listener = its.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(address))
                listener.listen(128)
                process = _launch(target, listener.fileno(), alive_read, report_write)
                ours.pop_all()
        except OSError as error:  # no room for the socket, or no descriptor
            address.unlink(missing_ok=True)
            message = f"the zygote could not be started: {error}"
            raise ZygoteBroke(message) from error
        zygote = cls(process, target, address, alive=alive_write, nothing=nothing)
        process.watch(ended)
        try:
            report = await _report(report_read, READY_SECONDS)
        except (TimeoutError, ValueError) as error:
            zygote.end()
            message = "the zygote did not come up; its words are in the host's log"
            raise ZygoteBroke(message, pid=process.pid) from error
        except asyncio.CancelledError:
            zygote.end()
            raise
        finally:
            os.close(report_read)
        if "error" in report:
            zygote.end()
            message = f"the zygote could not be made ready: {report['error']}"
            raise ZygoteBroke(message, pid=process.pid)
        if process.is_dead:  # ``ended`` was called before anybody had it, and is not called again
            zygote.close()
            message = f"the zygote (process {process.pid}) was killed as it became ready"
            raise ZygoteBroke(message, pid=process.pid)
        zygote._make_spare()
        return zygote

    async def fork(self, orders: bytes, is_wanted: Callable[[], bool]) -> Process | None:
        """Return a new worker that carries out ``orders``; None if it is not wanted any more.

        Raises:
            ZygoteBroke: It gave no process in time; it should be ended and replaced. No session is
                started by it then: a process without orders ends by itself.
        """
        unborn = self._spare_in_hand()
        if unborn is None:
            unborn = await self._ask(rehearses=False)
        if not is_wanted():
            unborn.drop()
            return None
        unborn.begin(orders)
        if self._spare is None and self._refill is None and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._refill = loop.call_later(REFILL_SECONDS, self._make_spare)
        return unborn.process

    def _spare_in_hand(self) -> "_Unborn | None":
        """Take the spare fork if it waits for orders; one that still rehearses is left to it."""
        unborn = self._spare
        if unborn is None or (unborn.process.is_waiting() and not unborn.is_ready()):
            return None
        self._spare = None
        if unborn.process.is_waiting():
            return unborn
        unborn.drop()
        return None

    async def _ask(self, *, rehearses: bool) -> "_Unborn":
        if self.process.is_dead or self._is_closed:
            message = f"the zygote (process {self.process.pid}) is dead"
            raise ZygoteBroke(message, pid=self.process.pid)
        loop = asyncio.get_running_loop()
        request = loop.run_in_executor(self._threads, self._fork, rehearses)
        try:
            async with asyncio.timeout(FORK_SECONDS):
                return await asyncio.shield(request)
        except (OSError, EOFError, TimeoutError) as error:
            request.add_done_callback(_drop)
            message = f"the zygote (process {self.process.pid}) gave no process: {error!r}"
            raise ZygoteBroke(message, pid=self.process.pid) from error
        except asyncio.CancelledError:
            request.add_done_callback(_drop)  # nobody else would end what it gives
            raise

    def _make_spare(self) -> None:
        self._refill = asyncio.get_running_loop().create_task(self._keep_spare())

    async def _keep_spare(self) -> None:
        """Have one fork in hand, so that the next start does not wait for it."""
        try:
            spare = await self._ask(rehearses=True)
        except ZygoteBroke:
            self.end()  # its death is noticed, and the next one is made
            return
        finally:
            self._refill = None
        if self._is_closed or self._spare is not None:
            spare.drop()
        else:
            self._spare = spare

    def end(self) -> None:
        """Kill it. Its workers live on."""
        self.process.send(signal.SIGKILL)
        self.close()

    def gone(self) -> None:
        """Take note that it is dead."""
        self.close()
        self._gone.set()

    async def wait_gone(self) -> None:
        """Wait until its death was noticed, which is what starts the next one.

        Raises:
            ZygoteBroke: It was killed and is there still.
        """
        try:
            async with asyncio.timeout(FORK_SECONDS):
                await self._gone.wait()
        except TimeoutError as error:
            message = f"the zygote (process {self.process.pid}) was killed and does not end"
            raise ZygoteBroke(message, pid=self.process.pid) from error

    def close(self) -> None:
        """Let go of it; without workers it then ends by itself."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._refill is not None:
            self._refill.cancel()
        if self._spare is not None:
            self._spare.drop()
        os.close(self._alive)
        os.close(self._nothing)
        self._threads.shutdown(wait=False)
        self._address.unlink(missing_ok=True)

    def _fork(self, rehearses: bool) -> "_Unborn":  # noqa: FBT001 - run_in_executor has no keywords
        """Do as ``multiprocess.popen_forkserver.Popen`` does; runs in a thread, may block."""
        with contextlib.ExitStack() as ours:
            with contextlib.ExitStack() as its:
                parent_read, child_write = _pipe(ours, its)
                child_read, parent_write = _pipe(its, ours)
                door, child_door = socket.socketpair()
                ours.enter_context(door)
                its.enter_context(child_door)
                client = its.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(self._address))
                # In this order: what it reads, what it writes, the life line, the resource tracker
                # (none: an end that is never written to).
                fds = [child_read, child_write, self._alive, self._nothing, child_door.fileno()]
                reduction.sendfds(client, fds)
            # Not before: our own copy of its end would keep the pipe of a dead zygote open.
            pid = forkserver.read_signed(parent_read)
            process = Process(pid, _pidfd_of(pid, parent_read), sentinel=parent_read)
            ours.pop_all()
        scratch = self._address.with_name(f"{REHEARSAL_PREFIX}{pid}") if rehearses else None
        with contextlib.suppress(BrokenPipeError), os.fdopen(parent_write, "wb") as file:
            file.write(_entry(self._target, scratch))  # less than a pipe takes at once
        return _Unborn(process, door, scratch)


class _Unborn:
    """A fork that waits for its orders, and ends if it gets none."""

    def __init__(self, process: Process, door: socket.socket, scratch: Path | None) -> None:
        self.process = process
        self._door = door
        self._scratch = scratch
        door.settimeout(0)

    def is_ready(self) -> bool:
        """Whether it has said that it waits for its orders."""
        return is_readable(self._door.fileno(), 0)

    def begin(self, orders: bytes) -> None:
        """Give it its orders: from here on it is a worker.

        Raises:
            ZygoteBroke: It is dead, or the orders are larger than its socket holds.
        """
        packed = pack_orders(orders)
        # A socket takes 200 KiB at once, and orders have 1 KiB beside the session's credentials.
        try:
            written = self._door.send(packed)
        except OSError as error:
            self.drop()
            message = f"process {self.process.pid} did not take its orders: {error}"
            raise ZygoteBroke(message, pid=self.process.pid) from error
        if written < len(packed):
            self.drop()
            message = f"orders of {len(orders)} bytes are too many"
            raise ZygoteBroke(message, pid=self.process.pid)
        self._door.close()

    def drop(self) -> None:
        """End it: it is not needed."""
        self._door.close()
        self.process.send(signal.SIGKILL)
        if self._scratch is not None and self._scratch.exists():  # in the middle of its rehearsal
            self.process.wait_dead(DROP_SECONDS)
            shutil.rmtree(self._scratch, ignore_errors=True)
        self.process.release()


def sweep(folder: Path) -> None:
    """Remove what zygotes and forks left whose supervisors were killed; under the host's lock."""
    for left in folder.glob(f"{SOCKET_PREFIX}*"):
        left.unlink(missing_ok=True)
    for left in folder.glob(f"{REHEARSAL_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Return the ends of a pipe, to read and to write, each closed with its stack."""
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def _entry(target: str, scratch: Path | None) -> bytes:
    """Return what a forkserver's child reads: a process, here one that enters ``target``."""
    arguments = (target, None if scratch is None else str(scratch))
    work = get_context("forkserver").Process(target=enter, args=arguments, daemon=False)
    buffer = io.BytesIO()
    set_spawning_popen(work)  # else a process object refuses to be pickled; thread-local
    try:
        reduction.dump({"name": work.name}, buffer)
        reduction.dump(work, buffer)
    finally:
        set_spawning_popen(None)
    return buffer.getvalue()


def _launch(target: str, listener: int, alive: int, report: int) -> Process:
    code = (
        "from paddock.supervisor.zygote import main; "
        f"main({listener}, {alive}, {report}, [{target!r}])"
    )
    environment = dict(os.environ)
    extra = [entry for entry in sys.path if entry and "site-packages" not in entry]
    environment["PYTHONPATH"] = os.pathsep.join(extra)
    # A session of its own: a Ctrl-C at the terminal of `paddock up` must not reach any worker.
    child = subprocess.Popen(
        [sys.executable, *DIRECT, code],
        stdin=subprocess.DEVNULL,
        pass_fds=(listener, alive, report),
        start_new_session=True,
        cwd="/",
        env=environment,
    )
    process = Process(child.pid, os.pidfd_open(child.pid))
    child.returncode = 0  # it is reaped through its pidfd; subprocess has no part in that
    return process


def _pidfd_of(pid: int, sentinel: int) -> int:
    """Return a pidfd of a worker just forked, or -1 if it is dead already.

    The zygote reports an exit code right after it reaped: as long as it has not, the pid cannot
    have been given to another process before the pidfd was opened.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    if is_readable(sentinel, 0):
        os.close(pidfd)
        return -1
    return pidfd


async def _report(descriptor: int, seconds: float) -> dict[str, object]:
    """Read the zygote's report. Raises TimeoutError, or ValueError where it ended without one."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _set, ready)
    try:
        async with asyncio.timeout(seconds):
            await ready
    finally:
        loop.remove_reader(descriptor)
    found = json.loads(os.read(descriptor, 65536))
    if not isinstance(found, dict):
        message = f"{found!r} is no report"
        raise ValueError(message)  # noqa: TRY004 - json's own error is a ValueError, too
    return found


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _drop(request: "asyncio.Future[_Unborn]") -> None:
    """End the fork that a request gave that was given up."""
    if not request.cancelled() and request.exception() is None:
        request.result().drop()
