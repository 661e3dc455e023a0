"""The host's own log: tables of ``host.sqlite``, which the supervisor writes.

``host_events`` tells of the host's processes and is no session's: no hash chain, no owner but the
host. ``tombstones`` tells what was deleted, also where the session's own file cannot.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from paddock.store.errors import StoreError

BUSY_SECONDS = 5.0


class HostRow(NamedTuple):
    """One event of the host; ``detail`` is JSON text."""

    number: int
    epoch: int
    at: int
    kind: str
    subject: str
    detail: str


def read(path: Path, after: int, limit: int) -> list[HostRow]:
    """Return the host's events numbered above ``after``, oldest first; none where there is no file.

    A file with fewer than ``after`` events is another one than before, and is read from its start.

    Raises:
        StoreError: It cannot be read.
    """
    with _opened(path) as connection:
        if connection is None or not _has(connection, "host_events"):
            return []
        (last,) = connection.execute("SELECT max(number) FROM host_events").fetchone()
        start = 0 if (last or 0) < after else after
        found = connection.execute(
            "SELECT number, epoch, at, kind, subject, detail FROM host_events "
            "WHERE number > ? ORDER BY number LIMIT ?",
            (start, limit),
        )
        return [HostRow._make(values) for values in found]


def tombstones(path: Path, session_ids: Iterable[str]) -> dict[str, bool]:
    """Return which of these sessions were deleted, each with whether it was to be erased.

    Raises:
        StoreError: It cannot be read.
    """
    with _opened(path) as connection:
        if connection is None or not _has(connection, "tombstones"):
            return {}
        query = "SELECT erase FROM tombstones WHERE session_id = ?"
        found = ((one, connection.execute(query, (one,)).fetchone()) for one in session_ids)
        return {one: bool(row[0]) for one, row in found if row is not None}


def known_sessions(path: Path) -> set[str]:
    """Return the sessions that were started or named, and not deleted since.

    Raises:
        StoreError: It cannot be read.
    """
    known: set[str] = set()
    with _opened(path) as connection:
        for table in ("entries", "names"):
            if connection is not None and _has(connection, table):
                rows = connection.execute(f"SELECT session_id FROM {table}")  # noqa: S608 - ours
                known |= {session_id for (session_id,) in rows}
    return known


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection | None]:
    if not path.exists():
        yield None
        return
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise StoreError(f"{str(path)!r} cannot be read: {error}", path=str(path)) from error


def _has(connection: sqlite3.Connection, table: str) -> bool:
    query = "SELECT name FROM sqlite_master WHERE name = ?"
    return connection.execute(query, (table,)).fetchone() is not None
