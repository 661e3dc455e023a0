"""What an owner does before it believes a file: check it, and only then fold its log in.

The order matters. Folding writes, and cuts a write-ahead log off where SQLite finds its first
fault; what stands behind it would be gone. So whatever is found first, nothing was changed.
"""

import sqlite3
from zlib import crc32

from paddock.store.errors import Damaged, StoreError
from paddock.store.ids import SessionId
from paddock.store.session_file import database, log
from paddock.store.session_file.faults import translated
from paddock.store.session_file.lock import Witness
from paddock.store.session_file.place import Place
from paddock.store.session_file.verify import Check

SEALED_TAIL_EVENTS = 100
"""How many of the last events are checked in a file that is, byte for byte, what was closed."""

UNSEALED_TAIL_EVENTS = 10_000
"""How many are checked after an unclean end: 50 ms."""

SEAL_LIMIT_BYTES = 2 * 1024 * 1024
"""The largest database that is sealed by its content, which is copied in memory for that; a larger
one is sealed by what the file system says of it. (Content took 24 of the 110 ms of processor time
in which a worker came back to 10,000 events; `store verify` reads the whole.)"""


def check(
    place: Place,
    connection: sqlite3.Connection,
    session_id: SessionId,
    *,
    witness: Witness | None,
    seal: str | None,
) -> Witness:
    """Check a file as far as an opening can afford, changing nothing; return its head.

    Every opening checks its form, its last events and that it reaches its witness. A file that is
    not the one that was closed is checked whole.

    Raises:
        Damaged: Something is not what was written; names file and event.
        NewerFormat: A newer Paddock wrote it.
    """
    database.check_form(place, connection, session_id)
    head = log.head_of(place, connection)
    if witness is not None:
        log.check_witness(place, connection, witness, head)
    tail = UNSEALED_TAIL_EVENTS
    if seal is not None and not place.has_wal():
        if seal == seal_of(place, connection):
            tail = SEALED_TAIL_EVENTS
        else:
            check_whole(place, connection, session_id, witness)
    start = max(0, head.sequence - tail)
    after = Witness(start, log.hash_at(place, connection, start))
    while after.sequence < head.sequence:
        rows = log.read(place, connection, session_id, after, last=head.sequence, limit=1000)
        after = Witness(rows[-1].sequence, rows[-1].hash)
    return head


def fold(place: Place, connection: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the database, synced, and empty it.

    Raises:
        DiskFull, StoreError: It could not be copied; nothing is lost.
    """
    with translated(place.database):
        _, pages, folded = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    # A reader in the middle of a read keeps the log from being cut, which is only tidiness; what
    # counts is that every page was copied and synced.
    if pages != folded:
        message = f"{str(place.wal)!r} could not be folded in: {folded} of {pages} pages"
        raise StoreError(f"{message}; a reader holds it, try again", path=str(place.wal))


def seal_of(place: Place, connection: sqlite3.Connection) -> str:
    """Return what tells a folded database from any other.

    Content is read through SQLite: another descriptor of the file, once closed, would take all
    locks of this process on it away. The time of change cannot be set by whoever changes a file.
    """
    with translated(place.database):
        found = place.database.stat()
        if found.st_size > SEAL_LIMIT_BYTES:
            return f"{found.st_size}-{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_ctime_ns:x}"
        return seal_of_image(connection.serialize())


def seal_of_image(image: bytes) -> str:
    """Return what tells a database of these bytes from any other."""
    return f"{len(image)}-{crc32(image):08x}"


def check_whole(
    place: Place, connection: sqlite3.Connection, session_id: SessionId, witness: Witness | None
) -> None:
    """Look for what made a file another one; that its bytes differ is no damage by itself."""
    report = Check(place, connection, session_id, witness).run()
    if report.problems:
        first = report.problems[0]
        message = f"{str(place.database)!r} was changed since it was closed: {first.what}"
        raise Damaged(message, path=str(place.database), sequence=first.sequence)
