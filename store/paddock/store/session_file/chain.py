"""The hash chain of a log: each event's hash covers all its columns and the hash before."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from paddock.store.errors import Damaged
from paddock.store.events import Row
from paddock.store.ids import SessionId

HASH_BYTES = 16
"""128 bits: it guards against damage and unnoticed edits, not against who can rewrite the file."""

GENESIS = bytes(HASH_BYTES)
"""The hash before the first event."""


_ABSENT = "\1\1\1"
"""What stands for an id that is not there; no id holds control characters."""

_EMPTY = blake2b(digest_size=HASH_BYTES)
# A copy of an empty hash is made in half the time of a new one.


def stamp_of(session_id: SessionId, generation: int, occurred_at: int) -> str:
    """Return what the events of one batch have in common in their hashes."""
    return f"{session_id} {generation} {occurred_at}"


def hash_of(  # noqa: PLR0913, PLR0917 - one argument a column, in the hottest loop there is
    previous: bytes,
    stamp: str,
    sequence: int,
    kind: str,
    operation_id: str | None,
    message_id: str | None,
    tool_call_id: str | None,
    command_id: str | None,
    payload: str,
) -> bytes:
    """Return an event's hash: BLAKE2b, 16 bytes, over the hash before and all its columns."""
    # Written out for speed: this took 1.0 µs an event where quoting the ids took 2.0.
    text = (
        f"{stamp} {sequence} {kind}\0{_ABSENT if operation_id is None else operation_id}\0"
        f"{_ABSENT if message_id is None else message_id}\0"
        f"{_ABSENT if tool_call_id is None else tool_call_id}\0"
        f"{_ABSENT if command_id is None else command_id}\0{payload}"
    )
    digest = _EMPTY.copy()
    digest.update(previous + text.encode())
    return digest.digest()


def check(previous: bytes, session_id: SessionId, row: Row, sequence: int) -> None:
    """Check that ``row`` is the event ``sequence`` that follows the hash ``previous``.

    Raises:
        Damaged: It is another one, or not what was written; names the event.
    """
    for _ in checked(previous, session_id, [row], sequence):
        pass


def checked(
    previous: bytes, session_id: SessionId, rows: Iterable[tuple[Any, ...]], first: int
) -> Iterator[Row]:
    """Yield rows, in the columns' order, each checked to be the next after the hash ``previous``.

    Raises:
        Damaged: One is another, or not what was written; names the event.
    """
    # One loop, since it is run for every event that is read by anybody (3.2 µs in place of 5.5).
    sequence, made = first, tuple.__new__
    stamped: tuple[object, object] | None = None
    stamp = ""
    for values in rows:
        found, generation, at_us, kind, operation, message, call, command, payload, digest = values
        if found != sequence:
            text = f"event {sequence} is missing: event {found} stands in its place"
            raise Damaged(text, sequence=sequence)
        try:
            if stamped != (generation, at_us):
                stamped, stamp = (generation, at_us), stamp_of(session_id, generation, at_us)
            previous = hash_of(
                previous, stamp, sequence, kind, operation, message, call, command, payload
            )
        except (TypeError, UnicodeEncodeError) as error:  # of another type: not what we wrote
            text = f"event {sequence} holds a value of a wrong type ({error})"
            raise Damaged(text, sequence=sequence) from error
        if previous != digest:
            text = f"event {sequence} is not what was written: its hash does not fit"
            raise Damaged(text, sequence=sequence)
        yield made(Row, values)
        sequence += 1
