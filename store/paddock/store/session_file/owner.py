"""The owner's view of a session's file: one read-write connection under the exclusive lock."""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import batched, chain
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic_core import PydanticSerializationError

from paddock.store.errors import (
    AlreadyExists,
    Bug,
    Damaged,
    Refused,
    SessionNotFound,
    StoreError,
    TooLarge,
)
from paddock.store.events import EventBase, Row, payload_of
from paddock.store.ids import SessionId
from paddock.store.session_file import blobs, database, log, opening, snapshots
from paddock.store.session_file.blobs import Blob, Draft
from paddock.store.session_file.chain import GENESIS, hash_of, stamp_of
from paddock.store.session_file.database import INSERT_EVENT
from paddock.store.session_file.faults import meaning_of, translated
from paddock.store.session_file.lock import NOTHING, OwnerLock, Witness
from paddock.store.session_file.place import Place, make_folder, place_of, sync_folder
from paddock.store.session_file.snapshots import Snapshot

EVENT_LIMIT_BYTES = 31 * 1024 * 1024
"""What is stored can be told: a message between processes has 32 MiB."""
"""The largest payload; what is larger belongs into a blob. (A message may well be 10 MB.)"""

type Values = tuple[int, int, int, str, str | None, str | None, str | None, str | None, str, bytes]
"""A row of ``events``, its columns in order."""

# Rows in one statement: 25 take a sixth less time than one by one, and 100 no less than 25.
_ROWS_AT_ONCE = 25
_INSERT_MANY = INSERT_EVENT + ", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)" * (_ROWS_AT_ONCE - 1)


class SessionFile:
    """A session's file, owned: no other process, and nobody else in this one, can write it.

    Every method may be called from any thread; they take turns. Not usable in a forked child.
    """

    def __init__(self, place: Place, session_id: SessionId, lock: OwnerLock) -> None:
        """For :meth:`create` and :meth:`own`, which are the ways to get one."""
        self.session_id = session_id
        self.head = 0
        self.head_hash = b""
        self.last_generation = 0
        self._place = place
        self._lock = lock
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._believed: Witness | None = None
        self._witness_is_late = False
        self._turn = threading.RLock()
        self._process = os.getpid()

    @classmethod
    def create(cls, folder: Path | Place, session_id: SessionId, *, at_us: int) -> Self:
        """Make a session's file, with its folder, and own it.

        A file without a single event is what a creation that died left behind, and is taken over.

        Raises:
            AlreadyExists: There is one with events in it.
            AlreadyOwned: Another process owns it, or makes it at this moment.
            Damaged: There is one, and it is damaged.
            DiskFull, StoreError: It cannot be made; nothing of it is left that counts.
        """
        place = place_of(folder)
        with translated(place.database):
            for parent in make_folder(place.folder):
                sync_folder(parent)
        made = cls(place, session_id, OwnerLock.take(place))
        with made._closed_on_error():
            if not _has_history(place, made._lock):
                database.build(place, session_id, at_us=at_us)
            made._open_empty()
            return made

    @classmethod
    def make(
        cls,
        folder: Path | Place,
        session_id: SessionId,
        first: Sequence[EventBase],
        *,
        generation: int,
        at_us: int,
    ) -> None:
        """Make a session's file with its first events in it, durable and at rest.

        As :meth:`create`, :meth:`append` and a clean :meth:`close`, and raises as they do; but with
        2 commits of the file system in place of 10 and without a write-ahead log, since nobody can
        have seen the file.
        """
        place = place_of(folder)
        with translated(place.database):
            parents = make_folder(place.folder)
        made = cls(place, session_id, OwnerLock.take(place))
        with made._closed_on_error():
            if _has_history(place, made._lock):  # of a creation that died, unless it is refused
                made._open_empty()
                made.append(first, generation=generation, at_us=at_us)
                made.close(clean=True)
                with translated(place.database):  # it may have died before it came to that
                    sync_folder(place.folder.parent)
                    sync_folder(place.folder.parent.parent)
                return
            made.head_hash = GENESIS
            rows = made._rows_for(first, generation, at_us)
            image = database.build(place, session_id, at_us=at_us, rows=rows)
            with translated(place.database):
                # Last, when a journalling file system has the new names on disk with the file.
                for parent in parents:
                    sync_folder(parent)
            made._lock.testify(Witness(rows[-1][0], rows[-1][9]) if rows else NOTHING)
            made._lock.seal(opening.seal_of_image(image))
            made._lock.close()

    @classmethod
    def own(cls, folder: Path | Place, session_id: SessionId, *, wait_seconds: float = 0.0) -> Self:
        """Own the file of a session that exists.

        After an unclean end the write-ahead log is folded in before anything in it counts. The last
        events are checked against their hashes, and the head against the witness.

        Raises:
            AlreadyOwned: Another process owns it, still after ``wait_seconds``.
            SessionNotFound: There is none.
            Damaged: It is not what was written; names file and event. It is left as it is.
            NewerFormat: A newer Paddock wrote it.
            StoreError: It cannot be read.
        """
        place = place_of(folder)
        if not place.folder.is_dir():
            raise _not_found(place, session_id)
        owned = cls(place, session_id, OwnerLock.take(place, wait_seconds=wait_seconds))
        with owned._closed_on_error():
            if not _has_history(place, owned._lock):
                raise _not_found(place, session_id)
            owned._open()
            return owned

    def __enter__(self) -> Self:
        """Return itself; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, folded if nothing went wrong."""
        self.close(clean=error is None)

    @property
    def place(self) -> Place:
        """Where the file stands."""
        return self._place

    def append(self, events: Sequence[EventBase], *, generation: int, at_us: int) -> int:
        """Append events in one durable transaction; return the sequence of the first.

        They get consecutive sequences from ``head + 1``. When this returns they are on the disk.

        Raises:
            DiskFull, StoreError: Nothing of the batch is stored, and the next call opens the file
                anew before it believes anything. So, too, where the file does not stand at its
                place any more.
            TooLarge: A payload is over ``EVENT_LIMIT_BYTES``. Nothing is stored.
        """
        with self._using() as connection:
            first = self.head + 1
            if not events:
                return first
            rows = self._rows_for(events, generation, at_us)
            self._lock.say(generation)
            self._check_there()
            self._commit(connection, rows)
            last = rows[-1]
            self._believed = Witness(last[0], last[9])
            self.head, self.head_hash, self.last_generation = last[0], last[9], generation
            # The events are durable now, whatever becomes of the witness: a late one is written
            # before the next commit, which fails if it still cannot be.
            self._witness_is_late = True
            with suppress(StoreError):
                self._testify()
            return first

    def rows(self, after: int, limit: int = 1000) -> list[Row]:
        """Return the events numbered above ``after``, oldest first, each checked.

        At most ``limit`` come, or fewer when they are long; none means the end was reached.

        Raises:
            Damaged: The chain breaks above ``after``; names the event.
        """
        with self._using() as connection:
            if after >= self.head:
                return []
            start = Witness(after, log.hash_at(self._place, connection, after))
            return log.read(
                self._place, connection, self.session_id, start, last=self.head, limit=limit
            )

    def put_blob(
        self,
        source: Path | bytes | Iterator[bytes],
        *,
        limit_bytes: int = blobs.BLOB_LIMIT_BYTES,
        session_limit_bytes: int = blobs.SESSION_BLOBS_LIMIT_BYTES,
    ) -> Blob:
        """Store a content, durably, and return its name; one that is there already is not doubled.

        It is read and stored part by part, and other threads' appends go in between.

        Raises:
            TooLarge: It, or with it all blobs of the session, would be over the limit.
            DiskFull, StoreError: It could not be read or stored; nothing of it remains that counts.
        """
        name, draft = sha256(), blobs.Draft()
        try:
            groups = blobs.in_commits(blobs.parts_of(source))
            group = next(groups)
            while True:
                following = next(groups, None)
                for part in group:
                    name.update(part)
                    draft.size_bytes += len(part)
                if draft.size_bytes > limit_bytes:
                    raise blobs.too_large("the content", draft.size_bytes, limit_bytes)
                stored = [blobs.compress(part) for part in group]
                digest = name.hexdigest() if following is None else None
                self._put_parts(draft, stored, digest, session_limit_bytes)
                if following is None:
                    return Blob(name.hexdigest(), draft.size_bytes)
                group = following
        except BaseException:
            self._discard(draft)
            raise

    def blob(self, digest: str) -> Iterator[bytes]:
        """Yield a blob's content in pieces. Raises ``BlobNotFound`` or ``Damaged``."""
        with self._using() as connection:
            pieces = blobs.read(self._place, connection, digest)
        yield from self._each(pieces)

    def _each(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield pieces, letting others at the file between two of them."""
        while True:
            with self._using():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def discard_unnamed_blobs(self) -> int:
        """Remove what a dead owner stored and did not live to name; return how many blobs."""
        with self._using() as connection, self._transaction(connection):
            return blobs.discard_unnamed(connection)

    def blob_named(self, name: str) -> Blob:
        """Return the blob of a digest, or of its beginning. Raises ``BlobNotFound``."""
        with self._using() as connection:
            return blobs.named(self._place, connection, name)

    def blob_range(self, digest: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yield at most ``limit`` bytes of a blob from ``offset`` on. Raises as :meth:`blob`."""
        with self._using() as connection:
            pieces = blobs.read_range(self._place, connection, digest, offset, limit)
        yield from self._each(pieces)

    def save_snapshot(self, sequence: int, fold_version: int, state: bytes) -> None:
        """Keep the folded state after the event ``sequence``, in place of the one before."""
        with self._using() as connection:
            if sequence > self.head:
                raise Bug(f"a snapshot of event {sequence}, but the last is {self.head}")
            log_hash = log.hash_at(self._place, connection, sequence)
            snapshot = Snapshot(sequence, state)
            with translated(self._place.database):
                snapshots.save(connection, snapshot, fold_version=fold_version, log_hash=log_hash)

    def snapshot(self, fold_version: int) -> Snapshot | None:
        """Return the kept state, or None; one that disagrees with anything is thrown away."""
        with self._using() as connection, translated(self._place.database):
            found = snapshots.load(connection, fold_version=fold_version, head=self.head)
            if found is None:
                snapshots.drop(connection)
            return found

    def reopen(self) -> None:
        """Close the connection and open the file anew, as after a failed write.

        What was not acknowledged is taken out again; what was must be there.

        Raises:
            Damaged, StoreError: It is not, or the file cannot be read or written.
        """
        with self._turn:
            self._drop_connection()
            self._open()

    def close(self, *, clean: bool) -> None:
        """Give the file up. ``clean``: fold the write-ahead log to nothing first.

        The lock is given up in any case, last. Closing twice does nothing.

        Raises:
            StoreError: It could not be folded; the next owner will do it.
        """
        if os.getpid() != self._process:
            self._lock.abandon()  # a forked child owns nothing, and leaves its connection alone
            return
        with self._turn:
            try:
                if clean and self._connection is not None:
                    opening.fold(self._place, self._connection)
                    self._lock.seal(opening.seal_of(self._place, self._connection))
                    # Closed by the last connection, an empty WAL is removed with its index.
                    self._connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, False)  # noqa: FBT003
            finally:
                self._drop_connection()
                self._lock.close()

    # --- below: how -------------------------------------------------------------------------------

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close(clean=False)
            raise

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one call, opened anew if the last one failed."""
        if os.getpid() != self._process:
            message = "a session's file was used in a forked child; open it there instead"
            raise Bug(message, path=str(self._place.database))
        with self._turn:
            if self._lock.descriptor < 0:
                message = f"{str(self._place.database)!r} was used after its close"
                raise Bug(message, path=str(self._place.database))
            if self._connection is None:
                self._open()
            if self._witness_is_late:
                self._testify()
            assert self._connection is not None
            try:
                yield self._connection
            except (Refused, Bug):
                raise
            except BaseException:
                # Whatever broke off here, in whatever state: what counts is what the file says when
                # it is opened anew.
                self._drop_connection()
                raise

    def _rows_for(self, events: Sequence[EventBase], generation: int, at_us: int) -> list[Values]:
        sequence, previous = self.head, self.head_hash
        stamp = stamp_of(self.session_id, generation, at_us)
        rows: list[Values] = []
        for event in events:
            sequence += 1
            try:
                columns = (
                    sequence,
                    generation,
                    at_us,
                    event.kind,
                    event.operation_id,
                    event.message_id,
                    event.tool_call_id,
                    event.command_id,
                    payload_of(event),
                )
                previous = hash_of(previous, stamp, sequence, *columns[3:])
            except (PydanticSerializationError, UnicodeEncodeError) as error:
                message = f"a {event.kind!r} cannot be stored: {error}; store/text.py mends text"
                raise Bug(message, kind=event.kind) from error
            if len(columns[8]) > EVENT_LIMIT_BYTES:
                message = f"a {event.kind!r} of {len(columns[8])} bytes is over {EVENT_LIMIT_BYTES}"
                raise TooLarge(f"{message}; put large contents into a blob", kind=event.kind)
            rows.append((*columns, previous))
        return rows

    def _check_there(self) -> None:
        """Raise StoreError unless the open file is the one that stands at its place.

        SQLite goes on in a file that was removed, and all that it commits is lost with its process.
        A look at the name is 2 µs of the 300 that a commit takes.
        """
        if self._file is None or _file_at(self._place.database) != self._file:
            message = (
                f"{str(self._place.database)!r} was removed, or another one put there, while its "
                "session was live; put it back, or restore it from a backup"
            )
            raise StoreError(message, path=str(self._place.database))

    def _commit(self, connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            if len(rows) == 1:
                connection.execute(INSERT_EVENT, rows[0])  # a transaction by itself
                return
            connection.execute("BEGIN IMMEDIATE")
            for some in batched(rows, _ROWS_AT_ONCE):
                if len(some) == _ROWS_AT_ONCE:
                    connection.execute(_INSERT_MANY, list(chain.from_iterable(some)))
                else:
                    connection.executemany(INSERT_EVENT, some)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._drop_connection()
            raise meaning_of(error, self._place.database) from error
        except BaseException as error:
            self._drop_connection()  # in the middle of a transaction, which thereby never was
            if isinstance(error, OverflowError):
                raise Bug(f"a generation or time has more than 64 bits: {error}") from error
            raise

    def _put_parts(
        self, draft: Draft, parts: Sequence[bytes], digest: str | None, session_limit_bytes: int
    ) -> None:
        """Store the next parts of a blob in one transaction; with a digest, they are the last."""
        with self._using() as connection, self._transaction(connection):
            if draft.number == 0:
                draft.number = blobs.begin(connection)
            elif not blobs.is_draft(connection, draft.number):
                message = "the blob in the making was lost when the file was opened anew; try again"
                raise StoreError(message, path=str(self._place.database))
            for part in parts:
                blobs.add(connection, draft, part)
            total = blobs.stored_bytes(connection) + draft.stored_bytes
            if total > session_limit_bytes:
                raise blobs.too_large("the session's blobs", total, session_limit_bytes)
            if digest is not None:
                blobs.finish(connection, draft, digest)

    def _discard(self, draft: Draft) -> None:
        if draft.number == 0:
            return
        # Without a name it counts for nobody, and every opening discards what has none.
        with suppress(StoreError), self._using() as connection, self._transaction(connection):
            blobs.discard(connection, draft.number)

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        with translated(self._place.database):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back after the worst errors
                    connection.execute("ROLLBACK")
                raise

    def _testify(self) -> None:
        self._lock.testify(Witness(self.head, self.head_hash))
        self._witness_is_late = False

    def _open(self) -> None:
        """Open the file, check it, and only then fold it; sets all that is known of it."""
        file = _file_at(self._place.database)  # before: what replaces it later is not this one
        if file is None and self._believed is not None:
            self._file = None
            self._check_there()
        connection = database.connect_to_write(self._place)
        try:
            head = opening.check(
                self._place,
                connection,
                self.session_id,
                witness=self._believed or self._lock.inherited,
                seal=None if self._believed else self._lock.inherited_seal,
            )
            opening.fold(self._place, connection)
            if self._believed is not None and head.sequence > self._believed.sequence:
                # Its commit was reported as failed and nobody was shown it: the cap of every reader
                # is the witness. It must not appear now.
                head = self._believed
                self._take_out_above(connection, head.sequence)
            self.head, self.head_hash = head.sequence, head.hash
            self.last_generation = _last_generation(self._place, connection)
            with translated(self._place.database):
                blobs.discard_drafts(connection)
            self._believed = head
            self._testify()
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, file

    def _open_empty(self) -> None:
        self._open()
        if self.head > 0:
            message = f"session {self.session_id!r} exists already, with {self.head} events"
            raise AlreadyExists(message, session_id=self.session_id)

    def _take_out_above(self, connection: sqlite3.Connection, sequence: int) -> None:
        with translated(self._place.database):
            connection.execute("DELETE FROM events WHERE sequence > ?", (sequence,))

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # it failed already, or nothing is left to be done by it
                connection.close()


def _has_history(place: Place, lock: OwnerLock) -> bool:
    """Return whether there is a file; called under the lock.

    Raises:
        Damaged: There is none, or an empty one, though the witness says that there were events.
    """
    try:
        size = place.database.stat().st_size
    except FileNotFoundError:
        size = -1
    if size > 0:
        return True
    had_events = lock.inherited is not None and lock.inherited.sequence > 0
    if size == 0 or had_events or place.has_wal():
        gone = "is gone" if size < 0 else "is empty"
        message = f"{str(place.database)!r} {gone}, though it had events; restore it from a backup"
        raise Damaged(message, path=str(place.database), sequence=1)
    return False


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return which file stands at a path; None if there is none, or it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _last_generation(place: Place, connection: sqlite3.Connection) -> int:
    query = "SELECT generation FROM events ORDER BY sequence DESC LIMIT 1"
    with translated(place.database):
        found = connection.execute(query).fetchone()
    return 0 if found is None else int(found[0])


def _not_found(place: Place, session_id: SessionId) -> SessionNotFound:
    message = (
        f"there is no session {session_id!r} in {str(place.folder)!r}; `paddock ls` shows them"
    )
    return SessionNotFound(message, session_id=session_id)


def fold(folder: Path | Place, session_id: SessionId, *, wait_seconds: float = 0.0) -> None:
    """Fold in what an owner that died left behind, so that readers can go on. Raises as ``own``."""
    SessionFile.own(folder, session_id, wait_seconds=wait_seconds).close(clean=True)
