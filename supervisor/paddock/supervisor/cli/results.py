"""What a query gave, in print: a table, JSON or CSV, of as many rows as there may be."""

import csv
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from tempfile import SpooledTemporaryFile
from typing import Any, Self

from paddock.supervisor.cli.printing import cell, clean, hint, json_of, print_table, say

SPOOL_BYTES = 16 * 1024 * 1024
"""A result larger than this waits on the disk until it is whole."""
PLAN = ["explain_key", "explain_value"]
"""The columns of what EXPLAIN gives: a drawing of many lines."""


class TableResult:
    """Rows that are shown as a table."""

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._rows: list[tuple[Any, ...]] = []

    def begin(self, names: Sequence[str], types: Sequence[str]) -> None:  # noqa: ARG002
        """Begin with these columns."""
        self._names, self._rows = names, []

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take the next rows."""
        self._rows += rows

    def print(self, limit: int) -> None:
        """Print the first rows (0: all), and say if there are more."""
        shown = self._rows[: limit or None]
        if list(self._names) == PLAN:
            for _, plan in shown:
                say(clean(str(plan)))
            return
        names = [cell(name) for name in self._names]
        numbers = [
            name
            for place, name in enumerate(names)
            if shown and all(isinstance(row[place], int | float | None) for row in shown)
        ]
        told = [[table_cell(value) for value in row] for row in shown]
        print_table(names, told, empty="no rows", right=numbers)
        if len(shown) < len(self._rows):
            hint(f"the first {limit} rows; --limit 0, --json or --csv gives all")


class _Spooled:
    """A printed result, kept until it is whole: on the disk where it is large.

    Of one that fails in the middle nothing is printed, and no query waits for who reads slowly.
    """

    def __init__(self) -> None:
        self._text = SpooledTemporaryFile(  # noqa: SIM115 - closed at the end of its own block
            SPOOL_BYTES, "w+", encoding="utf-8", errors="surrogatepass", newline=""
        )

    def __enter__(self) -> Self:
        """Return itself; leaving the block gives up what it kept."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what it kept."""
        self._text.close()

    def _empty(self) -> None:
        self._text.seek(0)
        self._text.truncate()

    def print(self) -> None:
        """Print it."""
        self._text.seek(0)
        shutil.copyfileobj(self._text, sys.stdout)
        sys.stdout.flush()


class JsonResult(_Spooled):
    """An array of row objects: one line for a pipe, indented for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._names: Sequence[str] = ()
        self._types: Sequence[str] = ()
        self._is_empty = True
        self._indent = 2 if sys.stdout.isatty() else None

    def begin(self, names: Sequence[str], types: Sequence[str]) -> None:
        """Begin with these columns."""
        self._empty()
        self._text.write("[")
        self._names, self._types, self._is_empty = names, types, True

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take the next rows."""
        from paddock.store.protocol import json_rows

        if not rows:
            return
        # The array of these rows, without its brackets.
        inner = json_of(json_rows(self._names, self._types, rows), self._indent)[1:-1].rstrip()
        if not self._is_empty:
            self._text.write("," if self._indent else ", ")
        self._text.write(inner)
        self._is_empty = False

    def print(self) -> None:
        """Print it."""
        self._text.write("\n]\n" if self._indent and not self._is_empty else "]\n")
        super().print()


class CsvResult(_Spooled):
    """Lines of CSV (RFC 4180) below a head of the columns' names."""

    def begin(self, names: Sequence[str], types: Sequence[str]) -> None:  # noqa: ARG002
        """Begin with these columns."""
        self._empty()
        csv.writer(self._text).writerow(names)

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take the next rows."""
        csv.writer(self._text).writerows([csv_cell(value) for value in row] for row in rows)


def csv_cell(value: Any) -> Any:
    """Return a value as CSV has it: as in JSON, but for decimals, which keep all their digits."""
    from paddock.store.protocol import json_value

    match value:
        case bool() | dict() | list() | tuple():
            return json_of(json_value(value))
        case None | str() | int() | float() | Decimal():
            return value
        case _:
            return json_value(value)


def table_cell(value: Any) -> Any:
    """Return a value as a table has it: times in UTC and whole, as a query takes them."""
    match value:
        case datetime():
            moment = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return moment.isoformat(sep=" ", timespec="microseconds")
        case bytes():
            return value.hex()
        case _:
            return value
