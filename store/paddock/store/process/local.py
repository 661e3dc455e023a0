"""The store for one call: the same projection and the same questions, without a process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pydantic import JsonValue

from paddock.store.errors import SessionNotFound
from paddock.store.listing import counting, listing
from paddock.store.process.keeper import Keeper
from paddock.store.projection import Settings
from paddock.store.protocol import SessionFilter, Sink, StoreStatus, json_rows
from paddock.store.query import ProjectionDamaged


class Result(NamedTuple):
    """All rows of a query, with DuckDB's names and types of the columns."""

    names: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    notice: str | None
    is_cut: bool


class LocalStore:
    """A store in this process. Blocking; one thread at a time; close it."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        timeout_seconds: float = 30.0,
        row_limit: int | None = None,
    ) -> Result:
        """Return what one SELECT or EXPLAIN gives. Raises as ``query.Asking`` does."""
        return self._undamaged(lambda: self._ask(query, params, timeout_seconds, row_limit))

    def sql_into(
        self,
        sink: Sink,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        timeout_seconds: float = 30.0,
        row_limit: int | None = None,
    ) -> str | None:
        """Give what a query gives to ``sink``, part by part; return the notice. Raises as `sql`."""

        def pour() -> str | None:
            with self.keeper.asking(
                query, params, timeout_seconds=timeout_seconds, row_limit=row_limit
            ) as asking:
                sink.begin(asking.names, asking.types)
                for chunk in asking.chunks():
                    sink.add(chunk)
                return self.keeper.caveat()

        return self._undamaged(pour)

    def _undamaged[T](self, ask: Callable[[], T]) -> T:
        """Ask; where DuckDB's file turns out to be damaged, make it anew and ask again."""
        try:
            return ask()
        except ProjectionDamaged as error:
            self.keeper.rebuild(error.message)
            self.keeper.catch_up()
            return ask()

    def _ask(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any],
        timeout_seconds: float,
        row_limit: int | None,
    ) -> Result:
        with self.keeper.asking(
            query, params, timeout_seconds=timeout_seconds, row_limit=row_limit
        ) as asking:
            rows = [row for chunk in asking.chunks() for row in chunk]
            return Result(asking.names, asking.types, rows, self.keeper.caveat(), asking.is_cut)

    def list_sessions(
        self, wanted: SessionFilter | None = None
    ) -> tuple[list[dict[str, JsonValue]], int]:
        """Return the sessions that a filter lets through, and how many without its limit."""
        chosen = wanted or SessionFilter()
        result = self.sql(*listing(chosen))
        found = json_rows(result.names, result.types, result.rows)
        if chosen.limit is None and not chosen.offset:
            return found, len(found)
        return found, int(self.sql(*counting(chosen)).rows[0][0])

    def session(self, session_id: str) -> dict[str, JsonValue]:
        """Return the row of one session; SessionNotFound if there is none."""
        result = self.sql("SELECT * FROM sessions WHERE session_id = ?", [session_id])
        if not result.rows:
            message = f"there is no session {session_id!r}; `paddock ls` shows them"
            raise SessionNotFound(message, session_id=session_id)
        return json_rows(result.names, result.types, result.rows)[0]

    def rebuild(self) -> StoreStatus:
        """Throw DuckDB's file away and fill a new one; return how it fares then."""
        self.keeper.rebuild()
        self.keeper.catch_up()
        return self.keeper.status()

    def snapshot(self, path: Path) -> int:
        """Copy DuckDB's file to a new place; return its size in bytes."""
        return self.keeper.snapshot(path)

    def erase(self, session_id: str) -> None:
        """Remove every row of a session, and every byte of it from DuckDB's file."""
        self.keeper.erase([session_id])
        self.keeper.catch_up()

    def verify(self) -> list[str]:
        """Return what differs between DuckDB and the logs, in words."""
        return self.keeper.verify()

    def status(self) -> StoreStatus:
        """Return how it fares."""
        return self.keeper.status()

    def close(self) -> None:
        """Close DuckDB's file and free the lock."""
        self.keeper.close()


@contextmanager
def open_local(data: Path, *, settings: Settings | None = None) -> Iterator[LocalStore]:
    """Give a store over a data folder for which no host runs, up to date with its logs.

    Files that a dead owner left are folded in first; nobody else would.

    Raises:
        AlreadyOwned: A store has the folder open; the facts give its ``pid``. Ask that one.
        StoreError: DuckDB's file cannot be opened or written.
    """
    with LocalStore(Keeper(data, settings=settings, folds_files=True)) as store:
        store.keeper.open()
        store.keeper.catch_up()
        yield store
