"""The SQLite file itself: how it is made and opened, and what its errors mean."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from urllib.parse import quote

from paddock.store.errors import Damaged, NewerFormat
from paddock.store.events import FORMAT_VERSION
from paddock.store.ids import SessionId
from paddock.store.session_file.faults import translated
from paddock.store.session_file.lock import is_owned
from paddock.store.session_file.place import FILE_MODE, Place, sync_folder

APPLICATION_ID = 0x5041444B
"""``PADK``: what ``file`` and ``PRAGMA application_id`` tell of a session's file."""

# A part of a blob stands at ``number << PART_BITS | part``, so that it needs no index of its own.
PART_BITS = 24

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    occurred_at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    operation_id TEXT,
    message_id TEXT,
    tool_call_id TEXT,
    command_id TEXT,
    payload TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TABLE blobs (
    number INTEGER PRIMARY KEY,
    digest TEXT UNIQUE,
    size_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    parts INTEGER NOT NULL
) STRICT;
CREATE TABLE blob_parts (position INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE snapshot (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    sequence INTEGER NOT NULL,
    fold_version INTEGER NOT NULL,
    log_hash BLOB NOT NULL,
    digest BLOB NOT NULL,
    state BLOB NOT NULL
) STRICT;
"""

INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

BUSY_SECONDS = 5.0
"""How long SQLite waits for a lock of its own: only a recovery or a fold holds one that blocks."""

# Measured on 2 cores (batches of 100, then single events): 4096-byte pages and SQLite's own 1000
# pages between folds were the best or equal in both; larger pages cost a single event up to half as
# much again, and a longer log more memory and a slower next opening. A larger cache gains nothing.
PAGE_BYTES = 4096
FOLD_PAGES = 1000
CACHE_KIB = 1024

_UNWRITABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


def build(
    place: Place, session_id: SessionId, *, at_us: int, rows: Sequence[Sequence[object]] = ()
) -> bytes:
    """Make a session's file with its first events; whole or not at all, and durable with its name.

    Called under the lock. It is put together in memory, written beside its place, synced once and
    renamed. Returns what is in the file.
    """
    new = place.folder / (place.database_name + ".new")
    with translated(place.database):
        image = _image(session_id, at_us, rows)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - made with its mode
            file.write(image)
            file.flush()
            os.fsync(descriptor)
        new.rename(place.database)
        sync_folder(place.folder)
    return image


def _image(session_id: SessionId, at_us: int, rows: Sequence[Sequence[object]]) -> bytes:
    meta = [("session_id", session_id), ("created_at", str(at_us))]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(_empty())
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        connection.executemany(INSERT_EVENT, rows)
        connection.execute("COMMIT")
        image = bytearray(connection.serialize())
    # The versions for writing and reading: 2 is "with a write-ahead log" (SQLite's file format,
    # 1.3.3), which no database in memory can have.
    image[18:20] = b"\2\2"
    return bytes(image)


@cache
def _empty() -> bytes:
    """Return a session's file without a line in it. To make the tables anew each time took 2 ms."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT")
        return connection.serialize()


def connect_to_write(place: Place) -> sqlite3.Connection:
    """Open the file, which must be there, as its owner, under its lock."""
    pragmas = (
        "PRAGMA synchronous = FULL",
        "PRAGMA fullfsync = ON",  # macOS alone: its fsync stops at the disk's cache
        "PRAGMA checkpoint_fullfsync = ON",
        f"PRAGMA wal_autocheckpoint = {FOLD_PAGES}",
    )
    with translated(place.database):
        return _connect(place, "mode=rw", *pragmas)


def connect_to_read(place: Place) -> sqlite3.Connection:
    """Open the file, which must be there, as anybody may."""
    with translated(place.database):
        try:
            return _connect(place, "mode=ro", "PRAGMA query_only = ON")
        except sqlite3.OperationalError as error:
            # SQLite makes its index file even for reading. On a disk that cannot be written it may
            # do without, if the log is folded and nobody can be writing it.
            is_unwritable = getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE
            if not is_unwritable or place.has_wal() or is_owned(place):
                raise
            return _connect(place, "mode=ro&immutable=1", "PRAGMA query_only = ON")


def _connect(place: Place, options: str, *pragmas: str) -> sqlite3.Connection:
    """Open a connection that never folds the log in by being closed.

    A log with damage in its middle would be cut off there and thrown away. Folding is the owner's
    decision.
    """
    if not place.database.is_file() and os.path.lexists(place.database):
        message = f"{str(place.database)!r} is no file; restore it from a backup"
        raise Damaged(message, path=str(place.database), sequence=1)
    uri = f"file:{quote(str(place.database.absolute()))}?{options}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # noqa: FBT003 - no keyword
        for pragma in ("PRAGMA mmap_size = 0", f"PRAGMA cache_size = -{CACHE_KIB}", *pragmas):
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def check_form(place: Place, connection: sqlite3.Connection, session_id: SessionId) -> None:
    """Check that the file is one of ours, of a version known here, and of that session.

    Raises:
        NewerFormat: A newer Paddock wrote it.
        Damaged: It is no session's file, or another session's.
    """
    with translated(place.database):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            message = f"{str(place.database)!r} is no session's file; restore it from a backup"
            raise Damaged(message, path=str(place.database), sequence=1)
        if version > FORMAT_VERSION:
            message = f"{str(place.database)!r} is of format {version}, newer than this Paddock's"
            raise NewerFormat(f"{message} ({FORMAT_VERSION}); upgrade", path=str(place.database))
        found = connection.execute("SELECT value FROM meta WHERE key = 'session_id'").fetchone()
    if found != (session_id,):
        message = f"{str(place.database)!r} says it is of session {found and found[0]!r}"
        raise Damaged(f"{message}, not {session_id!r}", path=str(place.database), sequence=1)
