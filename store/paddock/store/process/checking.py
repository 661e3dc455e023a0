"""Comparing what DuckDB has with what the logs say, row by row."""

from pathlib import Path
from typing import Any

import duckdb

from paddock.store.errors import SessionNotFound, StoreError
from paddock.store.ids import SessionId
from paddock.store.projection import HOST, Database
from paddock.store.projection.schema import ALL_TABLES
from paddock.store.session_file import SessionReader, folder_of, sessions_in

PAGE = 2_000
PROBLEM_LIMIT = 100

_EVENTS = """
SELECT sequence, generation, epoch_us(occurred_at), kind, operation_id, message_id, tool_call_id,
       command_id, payload
FROM internal.events WHERE session_id = ? AND sequence > ? ORDER BY sequence LIMIT ?
"""


def read_all(database: Database) -> None:
    """Read every block of every table.

    Raises:
        duckdb.Error: One cannot be read.
    """
    cursor = database.cursor()
    try:
        for table in ALL_TABLES:
            # The hash of all columns is the cheapest question that needs every one of them.
            cursor.execute(f"SELECT sum(hash(t)) FROM internal.{table} t").fetchall()  # noqa: S608 - ours
    finally:
        cursor.close()


def compare(database: Database, data: Path) -> list[str]:
    """Return what differs between DuckDB and the logs, in words; nothing if all is well.

    Every block of every table is read, so that DuckDB's own checksums have their say. At most
    ``PROBLEM_LIMIT`` problems are told.
    """
    problems: list[str] = []
    read_all(database)
    cursor = database.cursor()
    try:
        query = "SELECT session_id FROM internal.damaged WHERE is_deleted"
        deleted = {session_id for (session_id,) in cursor.execute(query).fetchall()}
        query = "SELECT session_id FROM internal.state WHERE session_id <> ?"
        rows = cursor.execute(query, [HOST]).fetchall()
        known = {session_id for (session_id,) in rows} - deleted
        there = [session_id for session_id in sessions_in(data) if session_id not in deleted]
        problems += [f"session {s}: in DuckDB, but not on disk" for s in known - set(there)]
        for session_id in there:
            problem = _difference(cursor, data, session_id)
            if problem is not None:
                problems.append(f"session {session_id}: {problem}")
            if len(problems) >= PROBLEM_LIMIT:
                break
    finally:
        cursor.close()
    return problems[:PROBLEM_LIMIT]


def _difference(cursor: duckdb.DuckDBPyConnection, data: Path, session_id: SessionId) -> str | None:
    after = 0
    try:
        with SessionReader(folder_of(data, session_id), session_id) as reader:
            while True:
                rows: list[Any] = [tuple(row[:9]) for row in reader.rows(after, PAGE)]
                found = cursor.execute(_EVENTS, [session_id, after, len(rows) or 1]).fetchall()
                if rows != found:
                    return _first_difference(rows, found, after)
                if not rows:
                    return None
                after = rows[-1][0]
    except StoreError as error:
        return error.message
    except SessionNotFound:  # it was erased meanwhile
        return None


def _first_difference(rows: list[Any], found: list[Any], after: int) -> str:
    for row, other in zip(rows, found, strict=False):
        if row != other:
            return f"event {row[0]} differs in DuckDB"
    common = min(len(rows), len(found))
    if len(found) > len(rows):
        return f"DuckDB has event {found[common][0]}, which the log has not"
    return f"event {after + common + 1} is not in DuckDB"
