"""What a query gave: rows, and the tables of those libraries that are installed."""

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from pydantic import JsonValue


class Rows(Sequence[tuple[Any, ...]]):
    """The result of a query: a sequence of tuples with named ``columns``."""

    def __init__(
        self,
        columns: Sequence[str],
        types: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        notice: str | None = None,
    ) -> None:
        self.columns = tuple(columns)
        self.types = tuple(types)
        """DuckDB's names of the columns' types."""
        self.notice = notice
        """What the store has to say about itself: that it is being rebuilt, say."""
        self._rows = [tuple(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return f"<Rows {len(self)} of {', '.join(self.columns)}>"

    def dicts(self) -> list[dict[str, Any]]:
        """Return the rows as objects, column name to value."""
        names = self._names()
        return [dict(zip(names, row, strict=True)) for row in self._rows]

    def json(self) -> list[dict[str, JsonValue]]:
        """Return the rows as objects of JSON values: times as UTC text, JSON columns as values."""
        from paddock.store.protocol import json_rows

        return json_rows(self.columns, self.types, self._rows)

    def one(self) -> Any:
        """Return the single value of a result of one row and one column.

        Raises:
            ValueError: It is not that. The caller's fault.
        """
        if len(self._rows) != 1 or len(self.columns) != 1:
            message = f"{len(self._rows)} rows of {len(self.columns)} columns are not one value"
            raise ValueError(message)
        return self._rows[0][0]

    def df(self) -> Any:
        """Return a pandas ``DataFrame``; ImportError where pandas is not installed."""
        pandas = import_module("pandas")
        return pandas.DataFrame.from_records(self._rows, columns=list(self.columns))

    def pl(self) -> Any:
        """Return a polars ``DataFrame``; ImportError where polars is not installed."""
        polars = import_module("polars")
        return polars.DataFrame(
            self._rows, schema=self._names(), orient="row", infer_schema_length=None
        )

    def arrow(self) -> Any:
        """Return a pyarrow ``Table``; ImportError where pyarrow is not installed."""
        pyarrow = import_module("pyarrow")
        return pyarrow.table(
            {name: [row[place] for row in self._rows] for place, name in enumerate(self._names())}
        )

    def _names(self) -> list[str]:
        """Return the columns' names, each once, for what holds one value under one name."""
        from paddock.store.protocol import unique_names

        return unique_names(self.columns)
