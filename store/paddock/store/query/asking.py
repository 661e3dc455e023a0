"""One query of a user, safe by construction.

The database is locked down when it is opened (``projection.database``). Here a query gets a cursor
of its own, must be one statement that only reads, runs in a read-only transaction, and is
interrupted by our own timer. Its rows are fetched as they are asked for, and no faster.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import duckdb

from paddock.store.errors import SqlRefused, TimedOut
from paddock.store.projection.database import Database, is_damage
from paddock.store.projection.schema import OUTPUT_STRUCT
from paddock.store.protocol import Cancelled, ProjectionDamaged
from paddock.store.query.outputs import Outputs

CHUNK_ROWS = 500
FIRST_ROWS = 8
"""Of the first chunk, whose rows may be messages of 10 MB for all that is known."""
CHUNK_BYTES = 1024 * 1024
"""About how much a chunk of rows may hold; a row is never cut."""
INTERRUPT_AGAIN_SECONDS = 0.05
"""An interrupt that falls between two statements is lost, so it is said until it is heard."""

_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
# As a function it passes for a SELECT that writes nothing; it stalls the projection.
_NEVER = re.compile(r"\b(?:force_)?checkpoint\"?\s*\(", re.IGNORECASE)
_ZONED = "TIMESTAMP WITH TIME ZONE"


class Asking:
    """A query that runs. Use it in a ``with`` block, in one thread; :meth:`cancel` is for others.

    ``names`` and ``types`` are the columns of the result, ``is_cut`` (after the last chunk)
    whether ``row_limit`` left rows out.

    Raises:
        SqlRefused: It is not one SELECT or EXPLAIN, or DuckDB refuses it; the text is DuckDB's.
        TimedOut: ``timeout_seconds`` passed, counted from here to the last row.
        ProjectionDamaged: The file cannot be read.
    """

    def __init__(
        self,
        database: Database,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        timeout_seconds: float = 30.0,
        row_limit: int | None = None,
    ) -> None:
        self.names: list[str] = []
        self.types: list[str] = []
        self.is_cut = False
        self.count = 0
        self._database = database
        self._query = query
        self._params = dict(params) if isinstance(params, Mapping) else list(params)
        self._seconds = timeout_seconds
        self._limit = row_limit
        self._deadline = time.monotonic() + timeout_seconds
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._is_cancelled = False
        self._stirred = threading.Event()
        """Set when it is cancelled or over: the timer looks."""
        self._outputs_at: set[int] = set()
        self._outputs = Outputs(database.path.parent)
        self._is_over = False
        self._timer = threading.Thread(target=self._watch, name="query timer", daemon=True)

    def __enter__(self) -> Self:
        """Begin: afterwards the columns are known, and the first rows are on their way."""
        try:
            self._cursor = self._database.cursor()
            self._timer.start()
            with self._translated():
                self._begin(self._cursor)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, read to its end or not."""
        self._end()

    def chunks(self) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows, a bounded number at a time."""
        cursor = self._cursor
        assert cursor is not None, "chunks() is for the inside of the with block"
        size = FIRST_ROWS
        while True:
            self._go_on()
            wanted = size if self._limit is None else min(size, self._limit - self.count)
            with self._translated():
                # One more than allowed tells whether something was left out.
                rows = cursor.fetchmany(max(wanted, 1))
            if not rows:
                return
            if wanted <= 0:
                self.is_cut = True
                return
            self.count += len(rows)
            if self._outputs_at:
                yield from self._with_outputs(rows)
            else:
                yield rows
            size = _next_size(rows, size)

    def cancel(self) -> None:
        """End it from another thread; it raises ``Cancelled`` in its own."""
        with self._lock:
            self._is_cancelled = True
        self._stirred.set()

    # --- inside ---

    def _begin(self, cursor: duckdb.DuckDBPyConnection) -> None:
        statement = one_statement(cursor, self._query)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        try:
            cursor.execute(statement, self._params or None)
        except (duckdb.InvalidInputException, duckdb.NotImplementedException) as error:
            raise SqlRefused(_text(error)) from error
        self._describe(cursor)
        if any(_ZONED in kind for kind in self.types):
            self._without_zones(cursor, statement.query)

    def _describe(self, cursor: duckdb.DuckDBPyConnection) -> None:
        described = cursor.description or []
        self.names = [str(column[0]) for column in described]
        types = [str(column[1]) for column in described]
        self._outputs_at = {at for at, kind in enumerate(types) if kind == OUTPUT_STRUCT}
        self.types = [
            "VARCHAR" if at in self._outputs_at else kind for at, kind in enumerate(types)
        ]

    def _with_outputs(self, rows: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
        """Yield rows with their outputs read, no more at a time than a chunk may hold."""
        some: list[tuple[Any, ...]] = []
        weight = 0
        for row in rows:
            self._go_on()
            whole = tuple(
                self._outputs.text(value, self._go_on) if at in self._outputs_at else value
                for at, value in enumerate(row)
            )
            some.append(whole)
            weight += _weight(whole)
            if weight > CHUNK_BYTES:
                yield some
                some, weight = [], 0
        if some:
            yield some

    def _go_on(self) -> None:
        """Raise when nobody waits for it any more."""
        if time.monotonic() > self._deadline or self._is_cancelled:
            raise self._stopped()

    def _without_zones(self, cursor: duckdb.DuckDBPyConnection, query: str) -> None:
        """Ask again with times as UTC: Python gets zoned ones only by a library we do without.

        Columns are taken by their place, since two may have one name; those of outputs stay what
        they are.
        """
        cursor.abort()
        names, outputs_at = self.names, self._outputs_at
        places = [f"c{place}" for place in range(len(names))]
        listed = ", ".join(
            f"CAST({place} AS {kind.replace(_ZONED, 'TIMESTAMP')}) AS {place}"
            if _ZONED in kind
            else place
            for place, kind in zip(places, self.types, strict=True)
        )
        wrapped = f"SELECT {listed} FROM (\n{_without_end(query)}\n) AS asked({', '.join(places)})"  # noqa: S608 - one statement already
        cursor.execute(wrapped, self._params or None)
        self._describe(cursor)
        assert self._outputs_at == outputs_at, "a cast of times changes no other column"
        self.names = names

    def _watch(self) -> None:
        """Interrupt it when it is cancelled or late, again and again until it is over."""
        self._stirred.wait(max(self._deadline - time.monotonic(), 0))
        while not self._is_over:
            with self._lock:
                if self._cursor is not None:
                    self._cursor.interrupt()
            self._stirred.clear()
            if not self._is_over:
                self._stirred.wait(INTERRUPT_AGAIN_SECONDS)

    def _end(self) -> None:
        self._outputs.close()
        self._is_over = True
        self._stirred.set()
        if self._timer.is_alive():
            self._timer.join()
        with self._lock:
            cursor, self._cursor = self._cursor, None
        if cursor is not None:
            # An interrupted or failed transaction says so again here, and nothing follows from it.
            with suppress(duckdb.Error):
                cursor.abort()
            with suppress(duckdb.Error):
                cursor.execute("ROLLBACK")
            with suppress(duckdb.Error):
                cursor.close()

    def _stopped(self) -> SqlRefused | TimedOut:
        if self._is_cancelled:
            return Cancelled("the query was cancelled")
        message = f"the query took longer than {round(self._seconds, 2):g} s"
        return TimedOut(f"{message}; ask for less, or allow more time", seconds=self._seconds)

    def _translated(self) -> "_Translated":
        return _Translated(self)


class _Translated:
    """Turns DuckDB's errors into ours, at the door."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raise what the error means."""
        asking = self._asking
        if error is None or isinstance(error, SqlRefused):
            return
        if isinstance(error, duckdb.InterruptException) or (
            isinstance(error, duckdb.Error) and asking._is_cancelled  # noqa: SLF001 - its other half
        ):
            raise asking._stopped() from error  # noqa: SLF001
        if isinstance(error, duckdb.Error | RuntimeError | ValueError | TypeError):
            if is_damage(error):
                raise ProjectionDamaged(f"DuckDB's file cannot be read: {_text(error)}") from error
            raise SqlRefused(_text(error)) from error


def one_statement(cursor: duckdb.DuckDBPyConnection, query: str) -> duckdb.Statement:
    """Return the one statement of a query.

    Raises:
        SqlRefused: It is not one, or not of a kind that reads. The asker's fault.
    """
    if _NEVER.search(query):
        raise SqlRefused("a checkpoint is not asked for in SQL; see `paddock store`")
    try:
        statements = cursor.extract_statements(query)
    except duckdb.Error as error:
        raise SqlRefused(_text(error)) from error
    if len(statements) != 1:
        found = "is empty" if not statements else f"has {len(statements)} statements"
        raise SqlRefused(f"the query {found}; give one SELECT or EXPLAIN")
    statement = statements[0]
    if statement.type not in _READS:
        raise SqlRefused(f"{statement.type.name} is refused; give one SELECT or EXPLAIN")
    return statement


def _without_end(statement: str) -> str:
    """Return a statement without its semicolon and what comes behind it."""
    told = statement.encode()
    for offset, kind in duckdb.tokenize(statement):
        if kind == duckdb.token_type.operator and told[offset : offset + 1] == b";":
            return told[:offset].decode()
    return statement


def _next_size(rows: Sequence[Sequence[Any]], size: int) -> int:
    """Return how many rows the next chunk may have, by what the last ones weighed."""
    weight = sum(_weight(row) for row in rows)
    if weight <= 0:
        return CHUNK_ROWS
    return max(1, min(CHUNK_ROWS, size * 8, CHUNK_BYTES * len(rows) // weight))


def _weight(row: Sequence[Any]) -> int:
    return sum(len(value) for value in row if isinstance(value, str | bytes))


def _text(error: BaseException) -> str:
    """Return DuckDB's own words, without the part that points into its source."""
    text = str(error).strip()
    return text or type(error).__name__
