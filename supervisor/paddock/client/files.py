"""Sessions read straight from their files: the same for one that lives and one that rests."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

from paddock.store.errors import BlobNotFound, Damaged, NeedsFold, SessionNotFound, StoreError
from paddock.store.events import Stored, ToolCallFinished, stored_of
from paddock.store.fold import FOLD_VERSION, evolve
from paddock.store.ids import SessionId
from paddock.store.session import Session, load
from paddock.store.session_file import SessionReader, events_of, fold, folder_of, sessions_in

ROWS_AT_ONCE = 1000
FOLD_SECONDS = 5.0
"""How long a host that folds it in at the same moment is waited for."""


def read_state(data: Path, session_id: SessionId) -> Session:
    """Return the fold of a session's file, helped by its snapshot.

    Raises:
        SessionNotFound: There is no such file.
        Damaged: The file is not what was written.
    """
    with _reader(data, session_id) as reader:
        snapshot = reader.snapshot(FOLD_VERSION)
        session = load(snapshot.state) if snapshot is not None else Session(session_id)
        for stored in _events(reader, session_id, session.sequence):
            evolve(session, stored)
        return session


def read_events(data: Path, session_id: SessionId, after: int = 0) -> Generator[Stored, None, None]:
    """Yield the stored events above ``after``; raises as :func:`read_state` does.

    Where the file is damaged, what stands before that comes first.
    """
    try:
        with _reader(data, session_id) as reader:
            for stored in _events(reader, session_id, after):
                yield stored
                after = stored.sequence
    except Damaged as error:
        yield from _before(data, session_id, after, error)
        raise


def read_what_is_left(data: Path, session_id: SessionId) -> tuple[Session, Damaged | None]:
    """Return the fold of what can be read of a session, and what is wrong with the rest, if so.

    Raises:
        SessionNotFound: There is no such file, and nothing says that there was one.
        StoreError: It cannot be read for another reason than damage.
    """
    try:
        with _reader(data, session_id) as reader:
            reader.check_closed()
        return read_state(data, session_id), None
    except Damaged as error:
        session = Session(session_id)
        for stored in _before(data, session_id, 0, error):
            evolve(session, stored)
        return session, error


def _before(
    data: Path, session_id: SessionId, after: int, damage: Damaged
) -> Generator[Stored, None, None]:
    """Yield what can be read above ``after`` of a file that is damaged; nothing may be."""
    found = damage.facts.get("sequence")
    sequence = found if isinstance(found, int) else None
    with (
        suppress(StoreError),
        SessionReader(folder_of(data, session_id), session_id) as reader,
    ):
        rows = reader.before_damage(after, sequence=sequence)
        yield from events_of(session_id, rows)


def read_output(
    data: Path,
    session_id: SessionId,
    call: str | None = None,
    offset: int = 0,
    limit: int | None = None,
) -> Iterator[bytes]:
    """Yield the whole output of a call, named by its id or digest; the last one by default.

    One that was short enough is all in the call's result, and is yielded from there. A negative
    ``offset`` counts from the end. Raises as :func:`read_state`, and:

        BlobNotFound: There is no such call or output.
    """
    with _reader(data, session_id) as reader:
        try:
            blob = reader.blob_named(call or "")
        except BlobNotFound:
            finished = _last_result(reader, session_id, call)
            if finished is None:
                what = f"of {call!r}" if call else "yet"
                message = f"the session has no output {what}; `paddock events` shows its calls"
                raise BlobNotFound(message, digest=call) from None
            if finished.output_blob is None:
                text = finished.text.encode("utf-8", "replace")
                begin = offset if offset >= 0 else max(0, len(text) + offset)
                yield text[begin : None if limit is None else begin + limit]
                return
            blob = reader.blob_named(finished.output_blob)
        begin = offset if offset >= 0 else max(0, blob.size_bytes + offset)
        most = blob.size_bytes if limit is None else limit
        yield from reader.blob_range(blob.digest, begin, most)


def _last_result(
    reader: SessionReader, session_id: SessionId, call: str | None
) -> ToolCallFinished | None:
    """Return the last result of a call whose id has that part; of any call when None."""
    last = None
    for row in reader.matching(kinds={"tool_call_finished"}):
        if call is None or call in (row.tool_call_id or ""):
            last = row
    if last is None:
        return None
    event = stored_of(session_id, last).event
    assert isinstance(event, ToolCallFinished), "its kind says so"
    return event


def _reader(data: Path, session_id: SessionId) -> SessionReader:
    """Open a session's file; what an owner that died left undone in it is folded in first."""
    folder = folder_of(data, session_id)
    reader = SessionReader(folder, session_id)
    try:
        reader.head()
    except NeedsFold:
        reader.close()
        fold(folder, session_id, wait_seconds=FOLD_SECONDS)
        return SessionReader(folder, session_id)
    except BaseException:
        reader.close()
        raise
    return reader


def _events(reader: SessionReader, session_id: SessionId, after: int) -> Iterator[Stored]:
    while rows := reader.rows(after, ROWS_AT_ONCE):
        for stored in events_of(session_id, rows):
            yield stored
            after = stored.sequence


def find_session(data: Path, text: str) -> SessionId:
    """Return the id of a session by name, or by a part of an id that only it has.

    Raises:
        SessionNotFound: There is none, or several.
    """
    ids = sessions_in(data)
    found = [one for one in ids if text in one] if is_part_of_id(text) else []
    if len(found) != 1:
        named = [one for one in ids if name_of(data, one) == text]
        found = named or found
    if len(found) == 1:
        return found[0]
    what = f"{text!r} is a part of several ids" if found else f"there is no session {text!r}"
    raise SessionNotFound(f"{what}; `paddock ls` shows them", text=text)


def is_part_of_id(text: str) -> bool:
    """Whether a text could be a part of a session's id."""
    return bool(text) and all(character in "0123456789abcdef-" for character in text)


def name_of(data: Path, session_id: SessionId) -> str | None:
    """Return a session's name; None where it has none, was deleted, or cannot be read."""
    try:
        life = read_state(data, session_id).life
    except StoreError:
        return None
    return life.config.name if life.config is not None and life.status != "deleted" else None
