"""Questions to DuckDB: a user's SQL, made safe, and lists of sessions."""

from typing import Any

from pydantic import JsonValue

from paddock.store.errors import SessionNotFound
from paddock.store.projection.database import Database
from paddock.store.protocol import Cancelled, ProjectionDamaged, SessionFilter, json_rows
from paddock.store.query.asking import Asking
from paddock.store.query.sessions import counting, listing

__all__ = [
    "Asking",
    "Cancelled",
    "ProjectionDamaged",
    "get_session",
    "list_sessions",
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


def list_sessions(
    database: Database, wanted: SessionFilter, *, timeout_seconds: float = 30.0
) -> tuple[list[dict[str, JsonValue]], int]:
    """Return the sessions that a filter lets through, and how many without limit and offset."""
    found = query_json(database, *listing(wanted), timeout_seconds=timeout_seconds)
    if wanted.limit is None and not wanted.offset:
        return found, len(found)
    counted = query_json(database, *counting(wanted), timeout_seconds=timeout_seconds)
    total = next(iter(counted[0].values()))
    assert isinstance(total, int), "count(*) is an integer"
    return found, total


def get_session(
    database: Database, session_id: str, *, timeout_seconds: float = 30.0
) -> dict[str, JsonValue]:
    """Return the row of one session, deleted or not.

    Raises:
        SessionNotFound: There is none (or it was erased).
    """
    query = "SELECT * FROM sessions WHERE session_id = ?"
    found = query_json(database, query, [session_id], timeout_seconds=timeout_seconds)
    if not found:
        message = f"there is no session {session_id!r}; `paddock ls` shows them"
        raise SessionNotFound(message, session_id=session_id)
    return found[0]
