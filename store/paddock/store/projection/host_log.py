"""The host's own log: the table ``host_events`` of ``host.sqlite``, which the supervisor writes.

It tells of the host's processes and is no session's: no hash chain, no owner but the host.
"""

import sqlite3
from contextlib import closing
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
    if not path.exists():
        return []
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE name = 'host_events'")
            if names.fetchone() is None:
                return []
            (last,) = connection.execute("SELECT max(number) FROM host_events").fetchone()
            start = 0 if (last or 0) < after else after
            found = connection.execute(
                "SELECT number, epoch, at, kind, subject, detail FROM host_events "
                "WHERE number > ? ORDER BY number LIMIT ?",
                (start, limit),
            )
            return [HostRow._make(values) for values in found]
    except sqlite3.Error as error:
        raise StoreError(f"{str(path)!r} cannot be read: {error}", path=str(path)) from error
