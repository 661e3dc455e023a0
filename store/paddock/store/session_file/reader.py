"""Everybody else's view of a session's file: read-only, and nothing that is not durable."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.store.errors import Damaged, NeedsFold, SessionNotFound, StoreError
from paddock.store.events import Row
from paddock.store.ids import SessionId
from paddock.store.session_file import blobs, database, log, opening, snapshots
from paddock.store.session_file.blobs import Blob
from paddock.store.session_file.faults import translated
from paddock.store.session_file.finding import loss_of
from paddock.store.session_file.lock import Witness, is_owned, read_seal, read_witness
from paddock.store.session_file.place import Place, place_of
from paddock.store.session_file.snapshots import Snapshot

PAGE_EVENTS = 1000


class SessionReader:
    """A session's file, read while its owner writes and after it died, without disturbing it.

    What is shown ends at the witness: an event whose commit its owner has not seen succeed is not
    there yet. No transaction is held between calls. One thread at a time; not across a fork.
    """

    def __init__(self, folder: Path | Place, session_id: SessionId) -> None:
        """Open the file of a session.

        Raises:
            SessionNotFound: There is none.
            Damaged: It is no session's file, or another session's, or gone.
            NewerFormat: A newer Paddock wrote it.
            StoreError: It cannot be opened.
        """
        self.session_id = session_id
        self._place = place_of(folder)
        self._lock = -1
        self._last: Witness | None = None
        if not os.path.lexists(self._place.database):
            raise loss_of(self._place) or self._not_found()
        self._connection = database.connect_to_read(self._place)
        try:
            database.check_form(self._place, self._connection, session_id)
            self._lock = _open_lock(self._place)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        """Return itself; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def head(self) -> tuple[int, bytes]:
        """Return the last durable event's sequence and hash; (0, sixteen zero bytes) if none.

        Raises:
            Damaged: The file ends before its witness, or has another event there.
            NeedsFold: Nobody owns it, and its write-ahead log has commits that nobody vouches for:
                an owner has to fold them in first (:func:`fold`).
        """
        head = self._head()
        return head.sequence, head.hash

    def rows(self, after: int, limit: int = 1000) -> list[Row]:
        """Return the events numbered above ``after``, oldest first, each checked.

        At most ``limit`` come, or fewer when they are long; none means the end was reached. Cost
        grows with what is returned, not with the length of the session.

        Raises:
            Damaged: The chain breaks above ``after``; names the event. What stands before it can
                still be read, with a smaller ``limit``.
            NeedsFold: As :meth:`head`.
        """
        head = self._head()
        if after >= head.sequence:
            return []
        if self._last is None or self._last.sequence != after:
            self._last = Witness(after, log.hash_at(self._place, self._connection, after))
        rows = log.read(
            self._place,
            self._connection,
            self.session_id,
            self._last,
            last=head.sequence,
            limit=limit,
        )
        if rows:
            self._last = Witness(rows[-1].sequence, rows[-1].hash)
        return rows

    def before_damage(self, after: int = 0, *, sequence: int | None = None) -> Iterator[Row]:
        """Yield the events above ``after`` that stand before the damage of a damaged file.

        ``sequence`` is the first event in doubt, where it is known. What no witness vouches for is
        among them. Raises as :meth:`rows` where nothing at all can be read.
        """
        place, connection = self._place, self._connection
        last = log.head_of(place, connection).sequence
        last = last if sequence is None else min(last, sequence - 1)
        previous = Witness(after, log.hash_at(place, connection, after))
        while previous.sequence < last:
            start = previous.sequence
            try:
                rows = log.read(
                    place, connection, self.session_id, previous, last=last, limit=PAGE_EVENTS
                )
            except Damaged as error:
                at = error.facts.get("sequence")
                if not isinstance(at, int) or at - 1 <= start:
                    return
                last = at - 1
                continue
            yield from rows
            previous = Witness(rows[-1].sequence, rows[-1].hash)

    def matching(
        self,
        after: int = 0,
        *,
        kinds: Collection[str] | None = None,
        operation_id: str | None = None,
        tool_call_id: str | None = None,
    ) -> Iterator[Row]:
        """Yield the events above ``after`` that have all that is named, oldest first.

        Reads every event above ``after``: a log has no index. Ask the store across sessions.
        """
        while rows := self.rows(after):
            for row in rows:
                if (
                    (kinds is None or row.kind in kinds)
                    and (operation_id is None or row.operation_id == operation_id)
                    and (tool_call_id is None or row.tool_call_id == tool_call_id)
                ):
                    yield row
            after = rows[-1].sequence

    def check_closed(self) -> bool:
        """Check a file that is closed: one that is not as its owner closed it is read whole.

        Return False where it is not closed: one that is open is its owner's to check, and one with
        a log left in it the next one's. An owner that finds damage leaves the file without a seal.

        Raises:
            Damaged: Somebody else changed it; names the first event in doubt.
            StoreError: It cannot be read.
        """
        place, connection = self._place, self._connection
        witness, seal = self._witness(), self._seal()
        if place.has_wal() or is_owned(place):
            return False
        if seal is not None and opening.seal_of(place, connection) == seal:
            return True
        if is_owned(place) or self._seal() != seal:  # an owner takes the seal off first
            return False
        opening.check_whole(place, connection, self.session_id, witness)
        return True

    def snapshot(self, fold_version: int) -> Snapshot | None:
        """Return the kept state, if it is of that version and agrees with the log."""
        head = self._head()
        with translated(self._place.database):
            return snapshots.load(self._connection, fold_version=fold_version, head=head.sequence)

    def blob(self, digest: str) -> Iterator[bytes]:
        """Yield a blob's content in pieces. Raises ``BlobNotFound`` or ``Damaged``."""
        return blobs.read(self._place, self._connection, digest)

    def blob_named(self, name: str) -> Blob:
        """Return the blob of a digest, or of its beginning. Raises ``BlobNotFound``."""
        return blobs.named(self._place, self._connection, name)

    def blob_range(self, digest: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yield at most ``limit`` bytes of a blob from ``offset`` on. Raises as :meth:`blob`."""
        return blobs.read_range(self._place, self._connection, digest, offset, limit)

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        self._connection.close()
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _head(self) -> Witness:
        try:
            return self._look()
        except StoreError as error:
            if os.path.lexists(self._place.database):
                raise
            # Erased, or lost, under our hands.
            raise loss_of(self._place) or self._not_found() from error

    def _look(self) -> Witness:
        # The witness is read first: it follows the commit, so the file can only be ahead of it.
        witness = self._witness()
        while True:
            head = log.head_of(self._place, self._connection)
            if witness is not None:
                log.check_witness(self._place, self._connection, witness, head)
                if head == witness:
                    return head
            if is_owned(self._place):
                return head if witness is None else witness
            again = self._witness()
            if again == witness:  # else its owner was there still, and has just moved on
                break
            witness = again
        if self._place.has_wal():
            message = f"{str(self._place.wal)!r} was left by an owner that died; fold it in first"
            raise NeedsFold(message, path=str(self._place.wal), session_id=self.session_id)
        return head

    def _not_found(self) -> SessionNotFound:
        message = f"there is no session {self.session_id!r}; `paddock ls` shows them"
        return SessionNotFound(message, session_id=self.session_id)

    def _witness(self) -> Witness | None:
        return read_witness(self._lock) if self._has_lock() else None

    def _seal(self) -> str | None:
        return read_seal(self._lock) if self._has_lock() else None

    def _has_lock(self) -> bool:
        if self._lock < 0:
            self._lock = _open_lock(self._place)
        return self._lock >= 0


def _open_lock(place: Place) -> int:
    """Open the lock file for its witness; -1 where there is none (a file that was moved)."""
    try:
        return os.open(place.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
