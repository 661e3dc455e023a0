"""The hash chain of a log: each event's hash covers all its columns and the hash before."""

from hashlib import blake2b

from paddock.store.errors import Damaged
from paddock.store.events import Row
from paddock.store.ids import SessionId

HASH_BYTES = 16
"""128 bits: it guards against damage and unnoticed edits, not against who can rewrite the file."""

GENESIS = bytes(HASH_BYTES)
"""The hash before the first event."""


def hash_of(  # noqa: PLR0913, PLR0917 - one argument a column, and in the hottest loop there is
    previous: bytes,
    session_id: SessionId,
    sequence: int,
    generation: int,
    occurred_at: int,
    kind: str,
    operation_id: str | None,
    message_id: str | None,
    tool_call_id: str | None,
    command_id: str | None,
    payload: str,
) -> bytes:
    """Return an event's hash: BLAKE2b, 16 bytes, over the hash before and all its columns.

    Each text stands behind its length, so that no two rows give the same bytes; the payload is the
    last and needs none.
    """
    text = (
        f"{session_id} {sequence} {generation} {occurred_at} {len(kind)}:{kind}"
        f"{operation_id and len(operation_id)}:{operation_id}"
        f"{message_id and len(message_id)}:{message_id}"
        f"{tool_call_id and len(tool_call_id)}:{tool_call_id}"
        f"{command_id and len(command_id)}:{command_id} {payload}"
    )
    return blake2b(previous + text.encode(), digest_size=HASH_BYTES).digest()


def check(previous: bytes, session_id: SessionId, row: Row, sequence: int) -> None:
    """Check that ``row`` is the event ``sequence`` that follows the hash ``previous``.

    Raises:
        Damaged: It is another one, or not what was written; names the event.
    """
    if row.sequence != sequence:
        message = f"event {sequence} is missing: event {row.sequence} stands in its place"
        raise Damaged(message, sequence=sequence)
    try:
        actual = hash_of(previous, session_id, *row[:-1])
    except (TypeError, UnicodeEncodeError) as error:  # a column of another type: not what we wrote
        message = f"event {sequence} holds a value of a wrong type ({error})"
        raise Damaged(message, sequence=sequence) from error
    if actual != row.hash:
        message = f"event {sequence} is not what was written: its hash does not fit"
        raise Damaged(message, sequence=sequence)
