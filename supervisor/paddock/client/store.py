"""Asking the store: the running one, or one that is opened here for the call; by the same words."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import JsonValue

from paddock.client.rows import Rows
from paddock.store.errors import AlreadyOwned
from paddock.store.ids import SessionId
from paddock.store.protocol import SessionFilter, StoreStatus

if TYPE_CHECKING:
    from paddock.store.process.local import LocalStore

QUERY_SECONDS = 60.0
LOCAL_WAIT_SECONDS = 20.0
"""How long another call's own store is waited for."""
LOOK_AGAIN_SECONDS = 0.05

type Params = Sequence[Any] | Mapping[str, Any]


class Store(Protocol):
    """What can be asked of a store."""

    async def sql(
        self, query: str, params: Params = (), *, deadline_seconds: float = QUERY_SECONDS
    ) -> Rows:
        """Return what one SELECT or EXPLAIN gives."""

    async def list_sessions(self, chosen: SessionFilter) -> list[dict[str, JsonValue]]:
        """Return the rows of the view ``sessions`` that a filter chooses."""

    async def session(self, session_id: SessionId) -> dict[str, JsonValue]:
        """Return a session's row."""

    async def rebuild(self) -> StoreStatus:
        """Make DuckDB's file anew."""

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

    async def list_sessions(self, chosen: SessionFilter) -> list[dict[str, JsonValue]]:
        found: list[dict[str, JsonValue]] = (await self._run(self._store.list_sessions, chosen))[0]
        return found

    async def session(self, session_id: SessionId) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = await self._run(self._store.session, session_id)
        return found

    async def rebuild(self) -> StoreStatus:
        status: StoreStatus = await self._run(self._store.rebuild)
        return status

    async def snapshot(self, path: Path) -> int:
        size: int = await self._run(self._store.snapshot, path)
        return size

    async def status(self) -> StoreStatus:
        status: StoreStatus = await self._run(self._store.status)
        return status


@asynccontextmanager
async def local_store(data: Path) -> AsyncIterator[Store]:
    """Give a store over the files of a home for which no host runs, up to date with them.

    Raises:
        AlreadyOwned: Another process has it open and keeps it; names its pid.
        StoreError: DuckDB's file cannot be opened or written.
    """
    with ExitStack() as stack:
        if not data.is_dir():
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
