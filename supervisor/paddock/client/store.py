"""Asking the store: the running one, or one that is opened here for the call; by the same words."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import JsonValue

from paddock.client.rows import Rows
from paddock.store.errors import AlreadyOwned, Damaged, SessionNotFound, TimedOut
from paddock.store.ids import SessionId
from paddock.store.protocol import (
    Header,
    ProjectionDamaged,
    SessionFilter,
    Sink,
    StoreStatus,
    unpack_rows,
)
from paddock.store.protocol import Rows as Part

if TYPE_CHECKING:
    from paddock.store.door import StoreClient
    from paddock.store.process.local import LocalStore

QUERY_SECONDS = 60.0
SEE_SECONDS = 5.0
"""How long the newest events are waited for: a hundred times the lag at 5,000 events a second."""
LOCAL_WAIT_SECONDS = 20.0
"""How long another call's own store is waited for."""
LOOK_AGAIN_SECONDS = 0.05

type Params = Sequence[Any] | Mapping[str, Any]
type Told = Callable[[StoreStatus], None]


class Store(Protocol):
    """What can be asked of a store."""

    async def sql(
        self, query: str, params: Params = (), *, deadline_seconds: float = QUERY_SECONDS
    ) -> Rows:
        """Return what one SELECT or EXPLAIN gives."""

    async def sql_into(
        self,
        sink: Sink,
        query: str,
        params: Params = (),
        *,
        deadline_seconds: float = QUERY_SECONDS,
        row_limit: int | None = None,
    ) -> str | None:
        """Give its rows to ``sink`` as they come; return the notice.

        Where the store dies in the middle it is asked again, and the sink begins anew.
        """

    async def list_sessions(self, chosen: SessionFilter) -> list[dict[str, JsonValue]]:
        """Return the rows of the view ``sessions`` that a filter chooses."""

    async def session(self, session_id: SessionId) -> dict[str, JsonValue]:
        """Return a session's row."""

    async def rebuild(self, told: Told | None = None) -> StoreStatus:
        """Make DuckDB's file anew; ``told`` hears how far it is."""

    async def snapshot(self, path: Path) -> int:
        """Copy DuckDB's file; return its size in bytes."""

    async def status(self) -> StoreStatus:
        """Return how the store fares."""


class _Local:
    """A store in this process, asked in one thread of its own."""

    def __init__(self, store: "LocalStore", thread: ThreadPoolExecutor) -> None:
        self._store = store
        self._thread = thread

    async def _run[T](self, work: "Any", *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))

    async def sql(
        self, query: str, params: Params = (), *, deadline_seconds: float = QUERY_SECONDS
    ) -> Rows:
        found = await self._run(self._store.sql, query, params, timeout_seconds=deadline_seconds)
        return Rows(found.names, found.types, found.rows, notice=found.notice)

    async def sql_into(
        self,
        sink: Sink,
        query: str,
        params: Params = (),
        *,
        deadline_seconds: float = QUERY_SECONDS,
        row_limit: int | None = None,
    ) -> str | None:
        notice: str | None = await self._run(
            self._store.sql_into,
            sink,
            query,
            params,
            timeout_seconds=deadline_seconds,
            row_limit=row_limit,
        )
        return notice

    async def list_sessions(self, chosen: SessionFilter) -> list[dict[str, JsonValue]]:
        found: list[dict[str, JsonValue]] = (await self._run(self._store.list_sessions, chosen))[0]
        return found

    async def session(self, session_id: SessionId) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = await self._run(self._store.session, session_id)
        return found

    async def rebuild(self, told: Told | None = None) -> StoreStatus:
        work = asyncio.ensure_future(self._run(self._store.rebuild))
        while told is not None and not work.done():
            await asyncio.wait([work], timeout=LOOK_AGAIN_SECONDS)
            told(self._store.keeper.status())
        status: StoreStatus = await work
        return status

    async def snapshot(self, path: Path) -> int:
        size: int = await self._run(self._store.snapshot, path)
        return size

    async def status(self) -> StoreStatus:
        status: StoreStatus = await self._run(self._store.status)
        return status


class Running:
    """The store of a running host. It sees all that was durable when it was asked.

    What cannot be seen in time (a session whose file is damaged, a rebuild under way) does not fail
    a question about all the others: the answer's ``notice`` tells.
    """

    def __init__(
        self,
        client: "StoreClient",
        heads: Callable[[], Awaitable[dict[SessionId, int]]],
    ) -> None:
        self._client = client
        self._heads = heads

    async def sql(
        self, query: str, params: Params = (), *, deadline_seconds: float = QUERY_SECONDS
    ) -> Rows:
        """Return what one SELECT or EXPLAIN gives."""

        async def ask(seconds: float) -> Rows:
            missing = await self._see(min(seconds, SEE_SECONDS))
            found = await self._client.sql(query, params, timeout_seconds=seconds)
            notice = _together(found.notice, missing)
            return Rows(found.names, found.types, found.rows, notice=notice)

        return await _patiently(ask, deadline_seconds)

    async def sql_into(
        self,
        sink: Sink,
        query: str,
        params: Params = (),
        *,
        deadline_seconds: float = QUERY_SECONDS,
        row_limit: int | None = None,
    ) -> str | None:
        """Give the rows of one SELECT or EXPLAIN to ``sink``; return the notice."""

        async def ask(seconds: float) -> str | None:
            notice = await self._see(min(seconds, SEE_SECONDS))
            words = self._client.stream(query, params, timeout_seconds=seconds, row_limit=row_limit)
            async with aclosing(words):
                async for word in words:
                    match word:
                        case Header():
                            notice = _together(word.notice, notice)
                            sink.begin(word.names, word.types)
                        case Part():
                            sink.add(unpack_rows(word.rows))
                        case _:
                            pass  # done
            return notice

        return await _patiently(ask, deadline_seconds)

    async def list_sessions(self, chosen: SessionFilter) -> list[dict[str, JsonValue]]:
        """Return the rows of the view ``sessions`` that a filter chooses."""

        async def ask(seconds: float) -> list[dict[str, JsonValue]]:
            await self._see(min(seconds, SEE_SECONDS))
            return (await self._client.list_sessions(chosen))[0]

        return await _patiently(ask, QUERY_SECONDS)

    async def session(self, session_id: SessionId) -> dict[str, JsonValue]:
        """Return a session's row."""

        async def ask(seconds: float) -> dict[str, JsonValue]:
            await self._see(min(seconds, SEE_SECONDS), session_id)
            return await self._client.session(session_id)

        return await _patiently(ask, QUERY_SECONDS)

    async def _see(self, seconds: float, only: SessionId | None = None) -> str | None:
        """Wait until what is durable now can be seen; return what cannot be, in words."""
        heads = await self._heads()
        if only is not None:
            heads = {one: head for one, head in heads.items() if one == only}
        missing: list[str] = []
        while heads:
            try:
                await self._client.sql(
                    "SELECT 1", timeout_seconds=seconds, wait_for=heads, is_noted=False
                )
                break
            except (Damaged, SessionNotFound) as error:
                named = SessionId(str(error.facts.get("session_id")))
                if heads.pop(named, None) is None:
                    raise
                is_damaged = isinstance(error, Damaged)
                how = "is damaged and not all here" if is_damaged else "has no file any more"
                missing.append(f"session {named} {how}")
            except TimedOut as error:
                missing.append(error.message)
                break
        return "; ".join(missing) or None

    async def rebuild(self, told: Told | None = None) -> StoreStatus:
        """Make DuckDB's file anew, and wait until it holds what there was."""
        await self._client.rebuild()
        status = await self.status()
        while status.state == "rebuilding":
            if told is not None:
                told(status)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            status = await self.status()
        return status

    async def snapshot(self, path: Path) -> int:
        """Copy DuckDB's file; return its size in bytes."""
        return await self._client.snapshot(path)

    async def status(self) -> StoreStatus:
        """Return how the store fares."""
        return await _patiently(lambda _: self._client.status(), QUERY_SECONDS)


def _together(*notices: str | None) -> str | None:
    return "; ".join(one for one in notices if one) or None


async def _patiently[T](ask: Callable[[float], Awaitable[T]], seconds: float) -> T:
    """Ask again while the store is being started anew: a question changes nothing."""
    from paddock.store.door import StoreGone

    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        try:
            return await ask(max(LOOK_AGAIN_SECONDS, until - loop.time()))
        except (StoreGone, ProjectionDamaged):
            if loop.time() >= until:
                raise
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


@asynccontextmanager
async def local_store(data: Path) -> AsyncIterator[Store]:
    """Give a store over the files of a home for which no host runs, up to date with them.

    Raises:
        AlreadyOwned: Another process has it open and keeps it; names its pid.
        StoreError: DuckDB's file cannot be opened or written.
    """
    with ExitStack() as stack:
        if not data.is_dir():  # noqa: ASYNC240 - one stat
            # Nothing was ever kept there: looking leaves no folder behind.
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paddock-")))
        thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="paddock-store"))
        loop = asyncio.get_running_loop()
        opened, store = await loop.run_in_executor(thread, _open, data)
        try:
            yield _Local(store, thread)
        finally:
            await loop.run_in_executor(thread, opened.__exit__, None, None, None)


def _open(data: Path) -> "tuple[AbstractContextManager[LocalStore], LocalStore]":
    """Open the store, after whoever else has it open for a call of their own."""
    from paddock.store.process import open_local

    until = time.monotonic() + LOCAL_WAIT_SECONDS
    while True:
        opened = open_local(data)
        try:
            return opened, opened.__enter__()
        except AlreadyOwned:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_AGAIN_SECONDS)
