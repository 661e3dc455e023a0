"""The other side of the store's door: questions to a running store, from any process.

Asynchronous, for one event loop. A connection that breaks is never mended by ZeroMQ (it would lose
the middle of what was said and go on): what was asked fails, and the next question makes a new one.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq
import zmq.asyncio
from pydantic import JsonValue, ValidationError
from zmq.utils.monitor import parse_monitor_message

from paddock.store import errors
from paddock.store.errors import PaddockError, PeerBroke, TimedOut
from paddock.store.ids import SessionId
from paddock.store.listing import counting, listing
from paddock.store.protocol import (
    MESSAGE_LIMIT_BYTES,
    ROWS_AHEAD,
    SAID,
    Cancel,
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
    SessionFilter,
    Snapshot,
    Sql,
    StoreStatus,
    Verify,
    Watch,
    json_rows,
    pack,
    unpack,
    unpack_rows,
)

ANSWER_SECONDS = 30.0
MORE_SECONDS = 5.0
"""How much longer than the store itself one waits for its word that time is up."""
CONNECT_SECONDS = 10.0
"""A supervisor has a dead store back in less; asking goes on that long before it is given up."""
RECONNECT_MS = 20
"""While the first connection is made; afterwards a broken one is given up."""


class StoreGone(PeerBroke):
    """The store ended, or is not there; the supervisor starts it again. Ask again."""

    code = "store_gone"


@dataclass(frozen=True, slots=True)
class Result:
    """All rows of a query, with DuckDB's names and types of the columns."""

    names: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    notice: str | None = None
    """What a reader must know about its completeness: a rebuild is under way, say."""
    is_cut: bool = False
    """Whether ``row_limit`` left rows out."""


class StoreClient:
    """Asks the store at an address (``ipc://…/store.sock``).

    A question whose store dies is asked again of the next one, unless rows of it were given out
    already. Every method raises StoreGone where none comes up in ``connect_seconds``, TimedOut at
    its deadline, and whatever the store itself told, as the class of its ``code``.
    """

    def __init__(
        self,
        address: str,
        *,
        context: zmq.asyncio.Context | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self.address = address
        self._connect_seconds = connect_seconds
        self._own_context = context is None
        self._context = context or zmq.asyncio.Context()
        self._link: _Link | None = None

    async def __aenter__(self) -> Self:
        """Return itself; the connection is made by the first question."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Let go of the connection; what is asked fails."""
        if self._link is not None:
            await self._link.close()
            self._link = None
        if self._own_context:
            self._context.term()

    # --- questions ---

    async def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        timeout_seconds: float = ANSWER_SECONDS,
        row_limit: int | None = None,
        wait_for: Mapping[SessionId, int] | None = None,
        is_noted: bool = True,
    ) -> Result:
        """Return all rows of one SELECT or EXPLAIN; see :meth:`stream` where they may be many."""
        until = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            left = until - asyncio.get_running_loop().time()
            try:
                words = self.stream(
                    query,
                    params,
                    timeout_seconds=left,
                    row_limit=row_limit,
                    wait_for=wait_for,
                    is_noted=is_noted,
                )
                return await self._whole(words)
            except StoreGone:
                if self._link is None or not self._link.is_broken or left <= 0:
                    raise

    async def _whole(self, words: AsyncGenerator[Said, None]) -> Result:
        rows: list[tuple[Any, ...]] = []
        header: Header | None = None
        is_cut = False
        async for word in words:
            match word:
                case Header():
                    header = word
                case Rows():
                    rows += unpack_rows(word.rows)
                case Done():
                    is_cut = bool(word.result.get("is_cut"))
                case _:
                    raise PeerBroke(f"the store said {word.tag!r} in a result")
        if header is None:
            raise PeerBroke("the store gave no columns")
        return Result(header.names, header.types, rows, header.notice, is_cut)

    async def stream(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        timeout_seconds: float = ANSWER_SECONDS,
        row_limit: int | None = None,
        wait_for: Mapping[SessionId, int] | None = None,
        is_noted: bool = True,
    ) -> AsyncGenerator[Said, None]:
        """Yield ``Header``, ``Rows``… (see ``unpack_rows``) and ``Done``, as they are asked for.

        The store sends on as the rows are taken; leaving the loop early cancels the query.
        """
        request = Sql(
            query=query,
            params=dict(params) if isinstance(params, Mapping) else list(params),
            timeout_ms=max(1, int(timeout_seconds * 1000)),
            row_limit=row_limit,
            wait_for=dict(wait_for or {}),
            is_noted=is_noted,
        )
        link = await self._connected(timeout_seconds)
        deadline = asyncio.get_running_loop().time() + timeout_seconds + MORE_SECONDS
        number, inbox = await link.ask(request)
        is_over = False
        try:
            while not is_over:
                word = await link.next(inbox, deadline, timeout_seconds)
                is_over = isinstance(word, Done)
                yield word
                if isinstance(word, Rows):
                    await link.say(number, More())
        except PaddockError:
            is_over = True
            raise
        finally:
            link.forget(number)
            if not is_over:
                await link.say(number, Cancel())

    async def list_sessions(
        self,
        wanted: SessionFilter | None = None,
        *,
        wait_for: Mapping[SessionId, int] | None = None,
    ) -> tuple[list[dict[str, JsonValue]], int]:
        """Return the sessions that a filter lets through, and how many without its limit."""
        chosen = wanted or SessionFilter()
        # As rows of a query, of which there may be more than one message holds.
        found = await self.sql(*listing(chosen), wait_for=wait_for, is_noted=False)
        sessions = json_rows(found.names, found.types, found.rows)
        if chosen.limit is None and not chosen.offset:
            return sessions, len(sessions)
        total: int = (await self.sql(*counting(chosen), is_noted=False)).rows[0][0]
        return sessions, total

    async def session(
        self, session_id: SessionId, *, wait_for: Mapping[SessionId, int] | None = None
    ) -> dict[str, JsonValue]:
        """Return a session's row of the view ``sessions``; SessionNotFound if there is none."""
        request = GetSession(session_id=session_id, wait_for=dict(wait_for or {}))
        found: dict[str, JsonValue] = _any((await self._ask(request))["session"])
        return found

    async def heads(self, heads: Mapping[SessionId, int]) -> None:
        """Tell the store that these logs have grown. Not answered."""
        link = await self._connected(ANSWER_SECONDS)
        await link.say(0, Heads(heads=dict(heads)))

    async def watch(self, pid: int) -> None:
        """Have the store stay as long as that process does."""
        await self._ask(Watch(pid=pid))

    async def status(self) -> StoreStatus:
        """Return how the store fares."""
        told = await self._ask(GetStatus())
        try:
            return StoreStatus.model_validate(told)
        except ValidationError as error:
            message = "the store is of another version, and its status is not understood here"
            raise PeerBroke(f"{message}; `paddock restart` brings one of this version") from error

    async def verify(self, *, timeout_seconds: float = 3_600.0) -> list[str]:
        """Return what differs between DuckDB and the logs, in words."""
        problems: list[str] = _any((await self._ask(Verify(), timeout_seconds))["problems"])
        return problems

    async def rebuild(self) -> None:
        """Have DuckDB's file made anew; ``status`` tells how far it is."""
        await self._ask(Rebuild(), 60.0)

    async def checkpoint(self) -> int:
        """Fold DuckDB's log into its file; return their size in bytes."""
        size: int = _any((await self._ask(Checkpoint(), 300.0))["size_bytes"])
        return size

    async def snapshot(self, path: str | os.PathLike[str]) -> int:
        """Copy DuckDB's file to a new place; return its size in bytes."""
        place = str(Path(path).absolute())  # noqa: ASYNC240 - asks the disk for nothing
        request = Snapshot(path=place)
        size: int = _any((await self._ask(request, 600.0))["size_bytes"])
        return size

    async def erase(self, session_id: SessionId) -> None:
        """Remove every row of a session."""
        await self._ask(Erase(session_id=session_id), 300.0)

    # --- inside ---

    async def _ask(
        self, request: Request, timeout_seconds: float = ANSWER_SECONDS
    ) -> dict[str, JsonValue]:
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            link = await self._connected(timeout_seconds)
            number, inbox = await link.ask(request)
            try:
                word = await link.next(inbox, deadline, timeout_seconds)
            except StoreGone:
                continue  # to the next one, if it comes up in time
            finally:
                link.forget(number)
            if not isinstance(word, Done):
                raise PeerBroke(f"the store answered {request.tag!r} with {word.tag!r}")
            return word.result

    async def _connected(self, seconds: float) -> "_Link":
        if self._link is None or self._link.is_broken:
            if self._link is not None:
                await self._link.close()
            self._link = _Link(self._context, self.address)
        await self._link.wait_connected(min(seconds, self._connect_seconds))
        return self._link


class _Link:
    """One connection, from its making to its first break."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self.is_broken = False
        self._address = address
        self._socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT_BYTES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._numbers = 0
        self._inboxes: dict[int, asyncio.Queue[Said | PaddockError]] = {}
        self._is_connected = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._watch(), name="store link watch"),
            asyncio.create_task(self._receive(), name="store link receive"),
        ]
        self._socket.connect(address)

    async def wait_connected(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._is_connected.wait()
        except TimeoutError as error:
            where = f"no store answers at {self._address!r}"
            message = f"{where}; `paddock status` tells how it and its host fare"
            raise StoreGone(message) from error

    async def ask(self, request: Request) -> tuple[int, "asyncio.Queue[Said | PaddockError]"]:
        self._numbers += 1
        number = self._numbers
        # The store sends at most so many rows ahead; with header and end that is a bound.
        inbox = self._inboxes[number] = asyncio.Queue(ROWS_AHEAD + 8)
        await self.say(number, request)
        return number, inbox

    async def say(self, number: int, request: Request) -> None:
        if not self.is_broken:
            await self._socket.send(pack(number, request))

    async def next(
        self, inbox: "asyncio.Queue[Said | PaddockError]", deadline: float, seconds: float
    ) -> Said:
        if self.is_broken and inbox.empty():
            raise StoreGone("the store went away; ask again")
        try:
            async with asyncio.timeout_at(deadline):
                word = await inbox.get()
        except TimeoutError as error:
            message = f"the store did not answer within {seconds:g} s"
            raise TimedOut(message, seconds=seconds) from error
        if isinstance(word, PaddockError):
            raise word
        if isinstance(word, Failed):
            raise _error_of(word)
        return word

    def forget(self, number: int) -> None:
        self._inboxes.pop(number, None)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._break()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    async def _watch(self) -> None:
        while True:
            event = parse_monitor_message(await self._monitor.recv_multipart())
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._is_connected.set()
            else:
                self._break()
                return

    async def _receive(self) -> None:
        while True:
            frame = await self._socket.recv()
            try:
                number, word = unpack(frame, SAID)
            except PeerBroke:
                self._break()
                return
            inbox = self._inboxes.get(number)
            if inbox is not None and isinstance(word, Said):
                inbox.put_nowait(word)

    def _break(self) -> None:
        self.is_broken = True
        for inbox in self._inboxes.values():
            with suppress(asyncio.QueueFull):  # what is in it comes first, and then the break
                inbox.put_nowait(StoreGone("the store went away; ask again"))


def _any(value: object) -> Any:
    """Return a part of an answer, whose form the protocol fixes."""
    return value


def _classes(root: type[PaddockError]) -> dict[str, type[PaddockError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _classes(child)
    return found


def _error_of(failed: Failed) -> PaddockError:
    """Return the error that the store told, as the class of its code."""
    known = _classes(errors.PaddockError)
    kind = known.get(failed.code, errors.Refused)
    return kind(failed.message, **failed.facts)
