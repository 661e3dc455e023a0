"""Reading the events of an open file, each checked against the one before it."""

import sqlite3
from collections.abc import Iterable, Iterator

from paddock.store.errors import Damaged
from paddock.store.events import Row, Stored, stored_of
from paddock.store.ids import SessionId
from paddock.store.session_file.chain import GENESIS, checked
from paddock.store.session_file.faults import meaning_of, translated
from paddock.store.session_file.lock import Witness
from paddock.store.session_file.place import Place

ROWS_LIMIT_BYTES = 16 * 1024 * 1024
"""Payload after which :func:`read` ends a page early, so that memory stays bounded."""

NO_EVENT = Witness(0, GENESIS)
"""What stands before the first event."""

_PAGE = """
SELECT sequence, generation, occurred_at, kind, operation_id, message_id, tool_call_id, command_id,
       payload, hash
FROM events WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?
"""


def head_of(place: Place, connection: sqlite3.Connection) -> Witness:
    """Return the last event's sequence and hash; 0 and the genesis hash if there is none."""
    query = "SELECT sequence, hash FROM events ORDER BY sequence DESC LIMIT 1"
    with translated(place.database):
        found = connection.execute(query).fetchone()
    return NO_EVENT if found is None else Witness(*found)


def hash_at(place: Place, connection: sqlite3.Connection, sequence: int) -> bytes:
    """Return the hash of an event that must be there; the genesis hash for 0.

    Raises:
        Damaged: It is not there.
    """
    if sequence == 0:
        return GENESIS
    query = "SELECT hash FROM events WHERE sequence = ?"
    with translated(place.database, sequence):
        found = connection.execute(query, (sequence,)).fetchone()
    if found is None:
        message = f"event {sequence} is missing in {str(place.database)!r}"
        raise Damaged(message, path=str(place.database), sequence=sequence)
    digest: bytes = found[0]
    return digest


def read(
    place: Place,
    connection: sqlite3.Connection,
    session_id: SessionId,
    after: Witness,
    *,
    last: int,
    limit: int,
) -> list[Row]:
    """Return the events numbered above ``after`` up to ``last``, checked, oldest first.

    At most ``limit`` come, or fewer when they pass ``ROWS_LIMIT_BYTES``; none means the end.

    Raises:
        Damaged: The chain breaks; names the event.
    """
    sequence = after.sequence
    rows: list[Row] = []
    size = 0  # of the payloads, in characters: good enough for a bound
    try:
        cursor = connection.execute(_PAGE, (after.sequence, last, limit))
        for row in checked(after.hash, session_id, cursor, sequence + 1):
            sequence += 1
            rows.append(row)
            size += len(row.payload)
            if size > ROWS_LIMIT_BYTES:
                cursor.close()  # an open cursor is an open transaction
                break
    except sqlite3.Error as error:
        raise meaning_of(error, place.database, sequence + 1) from error
    except Damaged as error:
        message = f"{str(place.database)!r} is damaged: {error.message}"
        raise Damaged(message, path=str(place.database), sequence=sequence + 1) from error
    if sequence < last and len(rows) < limit and size <= ROWS_LIMIT_BYTES:
        message = f"event {sequence + 1} is missing in {str(place.database)!r}"
        raise Damaged(message, path=str(place.database), sequence=sequence + 1)
    return rows


def events_of(session_id: SessionId, rows: Iterable[Row]) -> Iterator[Stored]:
    """Return rows of the log as events with their places.

    Raises:
        NewerFormat: A kind is unknown to this version.
        Damaged: A payload is not one of its kind, though its hash fits: a version of Paddock that
            wrote what this one does not understand.
    """
    for row in rows:
        try:
            yield stored_of(session_id, row)
        except ValueError as error:
            message = (
                f"event {row.sequence} of session {session_id!r} cannot be understood: {error}"
            )
            raise Damaged(message, sequence=row.sequence, session_id=session_id) from error


def check_witness(
    place: Place, connection: sqlite3.Connection, witness: Witness, head: Witness
) -> None:
    """Check that the file still has the last event that its owner saw durable.

    Raises:
        Damaged: It ends before it, or has another event there.
    """
    path = str(place.database)
    if head.sequence < witness.sequence:
        message = (
            f"{path!r} ends at event {head.sequence}, but event {witness.sequence} was written"
        )
        raise Damaged(
            f"{message}; `paddock store verify` tells what is left",
            path=path,
            sequence=head.sequence + 1,
        )
    if hash_at(place, connection, witness.sequence) != witness.hash:
        message = f"{path!r} has another event {witness.sequence} than the one that was written"
        raise Damaged(message, path=path, sequence=witness.sequence)
