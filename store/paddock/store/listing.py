"""Sessions by filter: the SQL of ``list_sessions``, made of nothing but our own words."""

from typing import Any

from paddock.store.protocol import SessionFilter

_TIMES = (
    ("created_after_us", "created_at > make_timestamp(?)"),
    ("created_before_us", "created_at < make_timestamp(?)"),
    ("updated_after_us", "updated_at > make_timestamp(?)"),
    ("updated_before_us", "updated_at < make_timestamp(?)"),
)
_EQUAL = ("agent", "source", "project", "owner", "name", "parent_session_id")
_ORDER = {"created": "created_at", "updated": "updated_at", "messages": "message_count"}
_TEXT = """(contains(lower(coalesce(title, '')), lower(?))
 OR contains(lower(coalesce(name, '')), lower(?))
 OR session_id IN (SELECT session_id FROM messages WHERE contains(lower(text), lower(?))))"""


def listing(wanted: SessionFilter) -> tuple[str, list[Any]]:
    """Return the query of a filter, and its parameters.

    Ties are broken by session id, so that pages by offset neither repeat nor leave out.
    """
    where, params = _conditions(wanted)
    direction = "DESC" if wanted.descending else "ASC"
    query = (
        f"SELECT * FROM sessions WHERE {where} "  # noqa: S608 - made of constants
        f"ORDER BY {_ORDER[wanted.order_by]} {direction} NULLS LAST, session_id {direction}"
    )
    if wanted.limit is not None:
        query += " LIMIT ?"
        params.append(wanted.limit)
    if wanted.offset:
        query += " OFFSET ?"
        params.append(wanted.offset)
    return query, params


def counting(wanted: SessionFilter) -> tuple[str, list[Any]]:
    """Return the query that counts what a filter lets through, limit and offset aside."""
    where, params = _conditions(wanted)
    return f"SELECT count(*) FROM sessions WHERE {where}", params  # noqa: S608 - as above


def _conditions(wanted: SessionFilter) -> tuple[str, list[Any]]:
    parts: list[str] = []
    params: list[Any] = []
    for name, condition in _TIMES:
        if (value := getattr(wanted, name)) is not None:
            parts.append(condition)
            params.append(value)
    for name in _EQUAL:
        if (value := getattr(wanted, name)) is not None:
            parts.append(f"{name} = ?")
            params.append(value)
    if wanted.model is not None:
        # Events name it as its provider does; people with the provider before it, as they chose it.
        parts.append("(model = ? OR ends_with(?, ':' || model))")
        params += [wanted.model] * 2
    for name in ("stage", "attention"):
        if values := getattr(wanted, name):
            parts.append(f"list_contains(?::VARCHAR[], {name})")
            params.append(list(values))
    if wanted.status:
        parts.append("list_contains(?::VARCHAR[], status)")
        params.append(list(wanted.status))
    else:
        parts.append("status <> 'deleted'")
    for label, value in wanted.labels.items():
        # By key and not by path: a label may hold any character.
        found = "map_extract(labels::MAP(VARCHAR, VARCHAR), ?)[1]"
        parts.append(f"{found} IS NOT NULL" if value is None else f"{found} = ?")
        params += [label] if value is None else [label, value]
    if wanted.text is not None:
        parts.append(_TEXT)
        params += [wanted.text] * 3
    return " AND ".join(parts), params
