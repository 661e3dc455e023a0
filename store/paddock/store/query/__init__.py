"""Questions to DuckDB: a user's SQL, made safe."""

from typing import Any

from pydantic import JsonValue

from paddock.store.projection.database import Database
from paddock.store.protocol import Cancelled, ProjectionDamaged, json_rows
from paddock.store.query.asking import Asking

__all__ = [
    "Asking",
    "Cancelled",
    "ProjectionDamaged",
    "query_json",
]


def query_json(
    database: Database,
    query: str,
    params: list[Any] | dict[str, Any] | None = None,
    *,
    timeout_seconds: float = 30.0,
) -> list[dict[str, JsonValue]]:
    """Return all rows of a query as JSON objects. Raises as :class:`Asking` does."""
    rows: list[tuple[Any, ...]] = []
    with Asking(database, query, params or [], timeout_seconds=timeout_seconds) as asking:
        for chunk in asking.chunks():
            rows += chunk
        return json_rows(asking.names, asking.types, rows)
