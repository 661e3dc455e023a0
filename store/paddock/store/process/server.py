"""The store's door: one loop for the socket, which waits for nobody.

What takes time runs in threads: one that writes (``Keeper.work``) and a few that ask. Requests wait
in bounded queues and are refused when these are full; rows go out as far as their asker gave leave.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zmq

from paddock.store.errors import (
    Bug,
    PaddockError,
    PeerBroke,
    Refused,
    SessionNotFound,
    StoreError,
    TimedOut,
    TooLarge,
)
from paddock.store.ids import SessionId
from paddock.store.porter import Porter
from paddock.store.process.keeper import Keeper
from paddock.store.protocol import (
    MESSAGE_LIMIT_BYTES,
    REQUESTS,
    ROWS_AHEAD,
    Cancel,
    Cancelled,
    Checkpoint,
    Done,
    Erase,
    Failed,
    GetSession,
    GetStatus,
    Header,
    Heads,
    More,
    Rebuild,
    Request,
    Rows,
    Said,
    Snapshot,
    Sql,
    StoreBusy,
    Verify,
    Watch,
    json_rows,
    pack,
    pack_rows,
    unpack,
)
from paddock.store.query import Asking
from paddock.store.session_file.lock import start_ticks_of

ASKING_THREADS = 6
WAITING_REQUESTS = 64
"""At most so many requests wait or run; the next is refused as ``busy``."""
WAITING_WRITES = 16
"""At most so many wait for the thread that writes, erasures not counted: those are promised."""
FRAMES_PER_PEER = 256
"""What ZeroMQ holds for a peer that does not read; then what it asked for is ended."""
DRAIN = 200
"""Frames taken in before the loop looks at anything else."""
FRAME_BYTES = 4 * 1024 * 1024
AROUND_ROWS_BYTES = 1024
"""More than what a frame has around its rows. One event (31 MiB) fits with its columns."""
ROOT = 0
SHARE = 0.5
"""Of the store's descriptors: the others are for sessions' files."""
PEER_FIELDS = 4
KNOWN_PEERS = 1024

type Origin = Callable[[int, int | None], str | None]
"""Tells of a process, with the supervisor's, which session it comes from; None: from none."""
type Key = tuple[bytes, int]
"""Who asked, and the number of the request."""


@dataclass(slots=True)
class Running:
    """A request that is under way."""

    leave: threading.Semaphore
    cancelled: threading.Event = field(default_factory=threading.Event)
    asking: Asking | None = None

    def begin(self, asking: Asking) -> None:
        """Know the query that is about to run, so that it can be cancelled while it does."""
        self.asking = asking
        if self.cancelled.is_set():
            asking.cancel()

    def cancel(self) -> None:
        """End it, wherever it is."""
        self.cancelled.set()
        self.leave.release()
        if self.asking is not None:
            self.asking.cancel()


@dataclass(slots=True)
class Refusals:
    """What came to the door and was not let in."""

    bad_messages: int = 0
    strangers: int = 0
    refused_of_sessions: int = 0


class Peers:
    """Which sessions the processes at the door come from: each is looked into once."""

    def __init__(self, origin: Origin | None) -> None:
        self.supervisor: int | None = None
        self._origin = origin
        self._known: dict[int, tuple[int | None, str | None]] = {}

    def session_of(self, pid: int) -> str | None:
        """Return the session that a process comes from, None for an outsider."""
        if self._origin is None:
            return None
        born = start_ticks_of(pid)  # the number of one that is gone is another's later
        known = self._known.get(pid)
        if known is None or known[0] != born:
            if len(self._known) >= KNOWN_PEERS:
                self._known.clear()
            known = self._known[pid] = (born, self._origin(pid, self.supervisor))
        return known[1]


class Server:
    """Answers at a socket until :meth:`stop`. Everything here but ``_run_*`` is on the loop."""

    def __init__(
        self,
        keeper: Keeper,
        socket_path: Path,
        *,
        on_watch: Callable[[int], None] | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Take the keeper that answers; with ``origin``, what comes from a session is refused."""
        self.keeper = keeper
        self.path = socket_path
        self.refusals = Refusals()
        self.peers = Peers(origin)
        self._on_watch = on_watch
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._porter = Porter(
            self._socket,
            socket_path,
            share=SHARE,
            turned_away=self._turned_away,
            moved=lambda _is_shut, _count: None,
        )
        self._pool = ThreadPoolExecutor(ASKING_THREADS, thread_name_prefix="asking")
        self._running: dict[Key, Running] = {}
        self._writes = 0

    def start(self) -> None:
        """Bind the socket, for this user alone.

        Only the holder of ``store.lock`` calls this: an ipc path is taken from whoever has it.
        """
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.SNDHWM, FRAMES_PER_PEER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._socket.bind(f"ipc://{self.path}")
        except zmq.ZMQError as error:
            raise StoreError(f"cannot listen at {str(self.path)!r}: {error}") from error
        finally:
            os.umask(mask)
        self._porter.open()
        self._loop.add_reader(self._descriptor, self._drain)
        self._loop.call_soon(self._drain)

    def stop(self) -> None:
        """Say no more: running requests end, the socket is closed."""
        self._loop.remove_reader(self._descriptor)
        for running in self._running.values():
            running.cancel()
        self._porter.close()
        self._socket.close(linger=0)
        self._context.term()
        self.path.unlink(missing_ok=True)

    def end_threads(self) -> None:
        """Wait for the asking threads; all they do was cancelled by then."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # --- in ---

    def _drain(self) -> None:
        """Take in what has come; the socket's descriptor tells of changes, not of what is left."""
        for _ in range(DRAIN):
            if self._socket.closed:
                return
            try:
                identity, *parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._take(identity.bytes, parts)
        self._loop.call_soon(self._drain)

    def _take(self, identity: bytes, parts: list[zmq.Frame]) -> None:
        pid = _pid_of(parts[-1]) if parts else None
        if pid is None:
            self.refusals.strangers += 1
            return
        try:
            if len(parts) != 1:
                raise PeerBroke(f"{len(parts)} frames are no request")
            request_id, word = unpack(parts[0].buffer, REQUESTS)
        except PeerBroke as error:
            self.refusals.bad_messages += 1
            # A number that nobody uses: the frame's own is not known.
            self._say((identity, 0), Failed(code=error.code, message=error.message))
            return
        assert isinstance(word, Request), "REQUESTS are requests"
        key = (identity, request_id)
        session = None if isinstance(word, GetStatus) else self.peers.session_of(pid)
        if session is None:
            self._handle(key, word)
        elif not isinstance(word, More | Cancel):  # those belong to what was refused before
            self.refusals.refused_of_sessions += 1
            if not isinstance(word, Heads):
                message = f"a process of session {session} may not ask the store {word.tag!r}"
                self._fail(key, Refused(message, session_id=session, verb=word.tag))

    def _turned_away(self) -> None:
        self.refusals.strangers += 1

    def _handle(self, key: Key, request: Request) -> None:
        match request:
            case Heads():
                self.keeper.learn(request.heads)
            case More():
                running = self._running.get(key)
                if running is not None:
                    running.leave.release(request.frames)
            case Cancel():
                running = self._running.get(key)
                if running is not None:
                    running.cancel()
            case GetStatus():
                status = self.keeper.status().model_copy(update=asdict(self.refusals))
                self._say(key, Done(result=status.model_dump()))
            case Watch():
                self.peers.supervisor = request.pid
                if self._on_watch is not None:
                    self._on_watch(request.pid)
                self._say(key, Done(result={}))
            case Sql():
                self._begin(key, lambda running: self._run_sql(key, request, running))
            case GetSession():
                self._begin(key, lambda running: self._run_session(key, request, running))
            case _:
                self._write(key, request)

    def _begin(self, key: Key, run: Callable[[Running], None]) -> None:
        if key in self._running:
            self._fail(key, Refused("a request of that number is under way"))
            return
        if len(self._running) >= WAITING_REQUESTS:
            self._fail(key, StoreBusy(f"{WAITING_REQUESTS} requests wait already; ask again"))
            return
        running = self._running[key] = Running(threading.Semaphore(ROWS_AHEAD))
        self._pool.submit(self._run, key, running, run)

    def _write(self, key: Key, request: Request) -> None:
        """Hand a request to the thread that writes; it is answered when it is done."""
        if self._writes >= WAITING_WRITES and not isinstance(request, Erase):
            self._fail(key, StoreBusy(f"{WAITING_WRITES} requests wait already; ask again"))
            return
        match request:
            case Verify():
                future: Future[Any] = self.keeper.submit(_verify)
            case Rebuild():
                future = self.keeper.submit(_rebuild)
            case Checkpoint():
                future = self.keeper.submit(lambda keeper: {"size_bytes": keeper.checkpoint()})
            case Snapshot():
                path = Path(request.path)
                future = self.keeper.submit(
                    lambda keeper: {"path": str(path), "size_bytes": keeper.snapshot(path)}
                )
            case Erase():
                future = self.keeper.submit_erasure(request.session_id)
            case _:
                self._fail(key, Refused(f"{request.tag!r} is not asked of the store"))
                return
        self._writes += 1
        future.add_done_callback(lambda done: self._from_thread(self._written, key, done))

    def _written(self, key: Key, future: Future[Any]) -> None:
        self._writes -= 1
        if future.cancelled():
            self._fail(key, StoreError("the store is going; ask again"))
        elif (error := future.exception()) is not None:
            self._fail(key, error)
        else:
            self._say(key, Done(result=future.result() or {}))

    # --- out ---

    def _say(self, key: Key, word: Said) -> None:
        try:
            frame = pack(key[1], word)
        except PeerBroke as error:
            frame = pack(key[1], Failed(code="too_large", message=error.message))
        self._send(key, frame)

    def _send(self, key: Key, frame: bytes) -> None:
        if self._socket.closed:
            return
        try:
            self._socket.send_multipart([key[0], frame], zmq.NOBLOCK)
        except zmq.ZMQError:
            # It has gone, or reads nothing: what it asked for is not wanted any more.
            for (identity, _), running in self._running.items():
                if identity == key[0]:
                    running.cancel()
        # Sending may have eaten the sign that something came in.
        self._loop.call_soon(self._drain)

    def _fail(self, key: Key, error: BaseException) -> None:
        self._say(key, _failed(error))

    def _from_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- in the asking threads ---

    def _run(self, key: Key, running: Running, run: Callable[[Running], None]) -> None:
        try:
            if not running.cancelled.is_set():
                run(running)
            last: Said | None = None
        except PaddockError as error:
            last = _failed(error)
        except Exception as error:  # noqa: BLE001 - told to the asker: a thread has nobody else
            last = _failed(Bug(f"{type(error).__name__}: {error}"))
        self._from_thread(self._end, key, last)

    def _end(self, key: Key, last: Said | None) -> None:
        self._running.pop(key, None)
        if last is not None:
            self._say(key, last)

    def _run_sql(self, key: Key, request: Sql, running: Running) -> None:
        seconds = request.timeout_ms / 1000
        deadline = time.monotonic() + seconds
        if request.wait_for:
            self.keeper.wait_for(request.wait_for, seconds)
        left = max(deadline - time.monotonic(), 0.001)
        with self.keeper.asking(
            request.query,
            request.params,
            timeout_seconds=left,
            row_limit=request.row_limit,
            on_begin=running.begin,
        ) as asking:
            notice = self.keeper.caveat() if request.is_noted else None
            header = Header(names=asking.names, types=asking.types, notice=notice)
            self._from_thread(self._say, key, header)
            for chunk in asking.chunks():
                for packed in _split(chunk):
                    self._wait_for_leave(running, deadline, seconds)
                    self._from_thread(self._say, key, Rows(rows=packed))
            done = Done(result={"rows": asking.count, "is_cut": asking.is_cut})
        self._from_thread(self._say, key, done)

    def _wait_for_leave(self, running: Running, deadline: float, seconds: float) -> None:
        if not running.leave.acquire(timeout=max(deadline - time.monotonic(), 0)):
            message = f"the result was not read within {round(seconds, 2):g} s"
            raise TimedOut(f"{message}; ask for less, or allow more time", seconds=seconds)
        if running.cancelled.is_set():
            raise Cancelled("the query was cancelled")

    def _run_session(self, key: Key, request: GetSession, running: Running) -> None:
        self._wait_for(request.wait_for)
        query = "SELECT * FROM sessions WHERE session_id = ?"
        found = self._rows(running, query, [request.session_id])
        if not found:
            message = f"there is no session {request.session_id!r}; `paddock ls` shows them"
            raise SessionNotFound(message, session_id=request.session_id)
        self._from_thread(self._say, key, Done(result={"session": found[0]}))

    def _wait_for(self, heads: Mapping[SessionId, int]) -> None:
        if heads:
            self.keeper.wait_for(heads, 30.0)

    def _rows(self, running: Running, query: str, params: list[Any]) -> list[dict[str, Any]]:
        with self.keeper.asking(query, params, on_begin=running.begin) as asking:
            rows = [row for chunk in asking.chunks() for row in chunk]
            return json_rows(asking.names, asking.types, rows)


def _verify(keeper: Keeper) -> dict[str, Any]:
    problems = keeper.verify()
    return {"ok": not problems, "problems": problems}


def _rebuild(keeper: Keeper) -> dict[str, Any]:
    keeper.rebuild()
    return {}


def _split(chunk: list[tuple[Any, ...]]) -> list[bytes]:
    """Return a chunk packed, in as many parts as keep each well below a frame's limit.

    Raises:
        TooLarge: One row alone is above it. The asker's fault.
    """
    packed = pack_rows(chunk)
    size, limit = len(packed), MESSAGE_LIMIT_BYTES - AROUND_ROWS_BYTES
    if len(chunk) == 1 and size > limit:
        message = (
            f"a row of the result has {size:,} bytes, and may have {limit:,}; ask for a part of "
            "its values (substr), or for more and smaller rows (unnest)"
        )
        raise TooLarge(message, size_bytes=size, limit_bytes=limit)
    if len(packed) <= FRAME_BYTES or len(chunk) == 1:
        return [packed]
    middle = len(chunk) // 2
    return _split(chunk[:middle]) + _split(chunk[middle:])


def _failed(error: BaseException) -> Failed:
    if isinstance(error, PaddockError):
        facts = {name: _fact(value) for name, value in error.facts.items()}
        return Failed(code=error.code, message=error.message, facts=facts)
    return Failed(code="bug", message=f"{type(error).__name__}: {error}")


def _fact(value: object) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _pid_of(frame: zmq.Frame) -> int | None:
    """Return the process that sent a frame, as the kernel says; None if it is not this user's.

    Over ipc the ``Peer-Address`` is ``localhost:uid:gid:pid``. Root may ask as well.
    """
    try:
        fields = str(frame.get("Peer-Address")).split(":")
        if len(fields) != PEER_FIELDS or int(fields[1]) not in {os.getuid(), ROOT}:
            return None
        return int(fields[3])
    except (zmq.ZMQError, ValueError):
        return None
