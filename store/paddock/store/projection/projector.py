"""From the logs to DuckDB: tailing, in bounded batches, whatever the files and the database do.

One thread calls :meth:`Projector.step` and all else that is not marked as safe from any thread. A
session is *due* when its log may hold more than is projected: because somebody said so
(:meth:`learn`), or because the folders were looked through (:meth:`scan`). Correctness does not
depend on being told.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from paddock.store.errors import (
    Damaged,
    NeedsFold,
    SessionNotFound,
    StoreError,
)
from paddock.store.events import Row
from paddock.store.ids import SessionId
from paddock.store.projection import fold, host_log
from paddock.store.projection.database import Database
from paddock.store.projection.fold import HOST, Batch, Folded
from paddock.store.projection.writing import Writer
from paddock.store.session_file import Place, SessionReader, folder_of, host_place, sessions_in

BATCH_EVENTS = 20_000
BATCH_BYTES = 32 * 1024 * 1024
BATCH_SECONDS = 1.0
"""A batch ends at the first of these. A table costs about 1 ms a batch, whatever it gets."""
TOLD_SECONDS = 0.1
"""And at this one, where somebody waits for a session that is not in it."""
PAGE_EVENTS = 1_000
"""How many of one session at a turn: a long one does not keep the others waiting."""
LONG_PAGE_BYTES = 4 * 1024 * 1024
"""Less than where a reader ends a page early, so that a page that long may not be the last."""
ASK_AGAIN_SECONDS = 0.05
"""How often a waiting reader has its session looked at, where nobody tells of its commits."""
OPEN_READERS = 200
"""1.2 ms to open one; 200 that are open are tailed in 9 ms (DESIGN §5)."""
NO_FILE = "- -"
"""The stamp of a file that is not there."""
KEPT_SESSIONS = 2_000
"""Folded sessions kept in memory; others are read from their row when they go on."""
FAILURES = (KeyError, TypeError, ValueError, AttributeError)
"""What folding a payload of an unexpected form raises; the log's or our fault, never the host's."""


@dataclass(frozen=True, slots=True)
class Applied:
    """How far a session is projected."""

    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a session is not projected any further."""

    session_id: str
    sequence: int | None
    what: str


@dataclass(slots=True)
class Progress:
    """How far the projector is; a copy, safe to keep."""

    sessions: int = 0
    due: int = 0
    events: int = 0
    """Projected since it was opened."""
    waiting_for_fold: int = 0
    damaged: tuple[Damage, ...] = ()
    is_rebuilding: bool = False
    rebuilt: int = 0
    """Sessions that are whole again, of ``sessions``, while ``is_rebuilding``."""


@dataclass(slots=True)
class _Due:
    """Sessions to be looked at, each once; those that somebody told of come first."""

    told: OrderedDict[str, None] = field(default_factory=OrderedDict)
    found: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def add(self, session_id: str, *, told: bool) -> None:
        if told:
            self.found.pop(session_id, None)
            self.told[session_id] = None
        elif session_id not in self.told:
            self.found[session_id] = None

    def pop(self) -> str | None:
        for queue in (self.told, self.found):
            if queue:
                return queue.popitem(last=False)[0]
        return None

    def __len__(self) -> int:
        return len(self.told) + len(self.found)


class Projector:
    """Keeps a database up with the logs under a data folder."""

    def __init__(
        self,
        database: Database,
        data: Path,
        *,
        is_rebuild: bool = False,
        fold_file: Callable[[SessionId], None] | None = None,
    ) -> None:
        """Check the rows against ``applied``; what differs will be projected anew.

        ``is_rebuild`` only says what to tell while it catches up. ``fold_file`` is called for a
        file whose owner died (only where no host will do it).

        Raises:
            duckdb.Error: The file cannot be read: :func:`database.is_damage` tells what to do.
        """
        self.data = data
        self.database = database
        self._fold_file = fold_file
        self._connection = database.cursor()
        self._writer = Writer(self._connection)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._due = _Due()
        self._applied: dict[str, Applied] = {}
        self._damaged: dict[str, Damage] = {}
        self._unfolded: set[str] = set()
        self._stamps: dict[str, str] = {}
        self._new_stamps: dict[str, str] = {}
        self._checked: set[str] = set()
        self._gone: list[str] = []
        self._folded: OrderedDict[str, Folded] = OrderedDict()
        self._readers: OrderedDict[str, SessionReader] = OrderedDict()
        self._position = 0
        self._events = 0
        self._is_rebuilding = is_rebuild
        self._left_to_rebuild: set[str] = set()
        self._to_rebuild = 0
        self._is_closed = False
        self._load()

    # --- safe from any thread ---

    def learn(self, session_ids: Iterable[str]) -> None:
        """The logs of these sessions may have grown."""
        with self._changed:
            for session_id in session_ids:
                self._due.add(session_id, told=True)
            self._changed.notify_all()

    def sequence_of(self, session_id: str) -> int:
        """Return up to which event the session is in DuckDB; 0 if it is not."""
        applied = self._applied.get(session_id)
        return 0 if applied is None else applied.sequence

    def damage_of(self, session_id: str) -> Damage | None:
        """Return why a session is not projected any further, if so."""
        return self._damaged.get(session_id)

    def wait_until(self, session_id: str, sequence: int, seconds: float) -> bool:
        """Wait until that event is in DuckDB; return whether it is. Another thread must step."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self.sequence_of(session_id) < sequence and not self._is_closed:
                if self._damaged.get(session_id) is not None:
                    return False
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._due.add(session_id, told=True)
                self._changed.notify_all()
                self._changed.wait(min(left, ASK_AGAIN_SECONDS))
        return self.sequence_of(session_id) >= sequence

    def see_host(self, seconds: float) -> None:
        """Wait until the host's own log is projected as it is now; nobody tells of it."""
        stamp = self._stamp(HOST)
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._stamps.get(HOST, NO_FILE) != stamp and not self._is_closed:
                left = deadline - time.monotonic()
                if left <= 0 or HOST in self._damaged:
                    return
                self._due.add(HOST, told=True)
                self._changed.notify_all()
                self._changed.wait(min(left, ASK_AGAIN_SECONDS))

    def wait_due(self, seconds: float) -> bool:
        """Wait until a session is due, at most ``seconds``; return whether one is."""
        with self._changed:
            if not self._due and not self._is_closed:
                self._changed.wait(seconds)
            return bool(self._due)

    def wake(self) -> None:
        """End the waits of other threads."""
        with self._changed:
            self._changed.notify_all()

    def progress(self) -> Progress:
        """Return how far it is."""
        with self._lock:
            sessions = len(self._applied) - (HOST in self._applied)
            if self._is_rebuilding:
                sessions = max(sessions, self._to_rebuild)
            return Progress(
                sessions=sessions,
                due=len(self._due),
                events=self._events,
                waiting_for_fold=len(self._unfolded),
                damaged=tuple(self._damaged.values()),
                is_rebuilding=self._is_rebuilding,
                rebuilt=sessions - len(self._left_to_rebuild),
            )

    # --- on the one thread that writes ---

    def scan(self) -> int:
        """Look through the folders; each session whose file changed is due. Return how many are.

        Sessions of which DuckDB has rows and the disk has no file were erased: so are their rows.
        """
        found = sessions_in(self.data)
        there = set(found)
        gone = [s for s in self._applied if s not in there and s != HOST]
        if gone:
            self.erase(gone)
        if host_place(self.data).database.exists():
            found.append(SessionId(HOST))
        changed = [s for s in found if s in self._damaged or self._stamp(s) != self._stamps.get(s)]
        with self._changed:
            for session_id in changed:
                self._due.add(session_id, told=False)
            if self._is_rebuilding:
                self._left_to_rebuild = {s for s in found if s not in self._checked and s != HOST}
                self._to_rebuild = len(found) - (HOST in found)
        return len(changed)

    def save_stamps(self) -> None:
        """Remember which files are projected whole, so that the next start need not open them."""
        if self._new_stamps:
            stamps, self._new_stamps = self._new_stamps, {}
            self._writer.stamp(stamps)

    def step(self) -> int:
        """Project one batch of what is due; return how many events it had.

        Raises:
            duckdb.Error: Nothing of the batch was stored; it is due again.
        """
        batch = Batch(position=self._position)
        touched: dict[str, Folded] = {}
        again: list[str] = []
        try:
            count = self._gather(batch, touched, again)
            if self._gone:
                gone, self._gone = self._gone, []
                self.erase(gone)
            if touched:
                self._commit(batch, touched, count)
        except BaseException:
            with self._changed:
                for session_id in touched:
                    self._folded.pop(session_id, None)  # it is ahead of its row now
                    self._stamps.pop(session_id, None)
                    self._new_stamps.pop(session_id, None)
                    self._due.add(session_id, told=True)
            raise
        finally:
            with self._changed:
                for session_id in again:
                    self._due.add(session_id, told=False)
        with self._changed:
            if self._is_rebuilding and not self._left_to_rebuild and not self._due:
                self._is_rebuilding = False
            self._changed.notify_all()
        return count

    def catch_up(self, session_id: str | None = None, *, seconds: float = 3_600.0) -> int:
        """Step until nothing is due (or that session is not); return how many events there were."""
        if session_id is not None:
            self.learn([session_id])
        deadline = time.monotonic() + seconds
        total = 0
        while time.monotonic() < deadline:
            with self._lock:
                is_due = session_id in self._due.told or session_id in self._due.found
                if not self._due or (session_id is not None and not is_due):
                    break
            total += self.step()
        return total

    def erase(self, session_ids: Iterable[str]) -> None:
        """Remove every row of these sessions."""
        gone = list(session_ids)
        self._writer.erase(gone)
        with self._changed:
            for session_id in gone:
                self._forget(session_id)
                self._applied.pop(session_id, None)
                self._stamps.pop(session_id, None)
                self._new_stamps.pop(session_id, None)
                self._damaged.pop(session_id, None)
                self._unfolded.discard(session_id)
                self._left_to_rebuild.discard(session_id)
            self._changed.notify_all()

    def unfolded(self) -> list[str]:
        """Return the sessions whose file waits for an owner; they are due at the next scan."""
        return sorted(self._unfolded)

    def checkpoint(self) -> None:
        """Fold DuckDB's log into its file. Stalls the writer for a quarter of a second or so."""
        # A reader's snapshot may stand in the way; the next checkpoint folds what this could not.
        with suppress(duckdb.TransactionException):
            self._connection.execute("CHECKPOINT")

    def close(self) -> None:
        """Let go of the files and of the writing connection."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for session_id in list(self._readers):
            self._forget(session_id)
        with suppress(duckdb.Error):
            self.save_stamps()
        with suppress(duckdb.Error):
            self._connection.close()

    # --- inside ---

    def _load(self) -> None:
        connection = self._connection
        for session_id, sequence, digest in connection.execute(
            "SELECT session_id, sequence, hash FROM internal.state"
        ).fetchall():
            self._applied[session_id] = Applied(sequence, bytes(digest))
        for session_id, sequence, what in connection.execute(
            "SELECT session_id, sequence, what FROM internal.damaged"
        ).fetchall():
            self._damaged[session_id] = Damage(session_id, sequence, what)
        self._stamps = dict(
            connection.execute("SELECT session_id, stamp FROM internal.stamps").fetchall()
        )
        differing = connection.execute(
            "SELECT coalesce(e.session_id, s.session_id) FROM (SELECT session_id, "
            "count(*) AS number, max(sequence) AS last FROM internal.events GROUP BY session_id) e "
            "FULL JOIN (SELECT * FROM internal.state WHERE session_id <> ?) s "
            "ON s.session_id = e.session_id "
            "WHERE e.number IS DISTINCT FROM s.sequence OR e.last IS DISTINCT FROM s.sequence",
            [HOST],
        ).fetchall()
        if differing:
            self.erase([session_id for (session_id,) in differing])
        found = connection.execute("SELECT max(position) FROM internal.events").fetchone()
        self._position = (found[0] if found else None) or 0

    def _gather(self, batch: Batch, touched: dict[str, Folded], again: list[str]) -> int:
        """Fold what is due until the batch is full; each session once, the rest ``again``."""
        began = time.monotonic()
        count = 0
        while count < BATCH_EVENTS and batch.size_bytes < BATCH_BYTES:
            with self._lock:
                session_id = self._due.pop()
                is_alone = not self._due
                seconds = TOLD_SECONDS if self._due.told else BATCH_SECONDS
            if session_id is None:
                break
            if session_id in touched:
                again.append(session_id)
                if is_alone:
                    break
                continue
            page = BATCH_EVENTS - count if is_alone else PAGE_EVENTS
            taken, has_more = self._take(session_id, page, batch, touched)
            count += taken
            if has_more:
                again.append(session_id)
            if time.monotonic() - began > seconds:
                break
        return count

    def _take(
        self, session_id: str, page: int, batch: Batch, touched: dict[str, Folded]
    ) -> tuple[int, bool]:
        """Fold a session's next page into the batch; return its events, and if more is left."""
        if session_id == HOST:
            return self._take_host(page, batch, touched)
        stamp = self._stamp(session_id)  # before it is read: what comes after changes it
        try:
            reader = self._reader(session_id)
            if not self._is_as_applied(session_id, reader):
                # The log is another one than what was projected: all of it is projected anew.
                self.erase([session_id])
                reader = self._reader(session_id)
            rows, damage = _read(reader, self.sequence_of(session_id), page)
        except SessionNotFound:
            self._forget(session_id)
            if session_id in self._applied:
                self._gone.append(session_id)
            return 0, False
        except NeedsFold:
            self._wait_for_fold(session_id)
            return 0, False
        except StoreError as error:
            self._note_damage(session_id, error)
            return 0, False
        size_before = batch.size_bytes
        if rows:
            folded = self._session(session_id)
            if not self._fold_in(session_id, folded, rows, batch):
                return 0, False
            touched[session_id] = folded
        # A page ends early when it is long in bytes, so its number of rows does not tell alone.
        is_full = len(rows) == page or batch.size_bytes - size_before >= LONG_PAGE_BYTES
        has_more = is_full and damage is None
        with self._lock:
            self._unfolded.discard(session_id)
            if not has_more:
                self._left_to_rebuild.discard(session_id)
        if not has_more and damage is None and self._stamps.get(session_id) != stamp:
            self._stamps[session_id] = self._new_stamps[session_id] = stamp
        if damage is not None:
            self._note_damage(session_id, damage)
        elif self._damaged.pop(session_id, None) is not None:
            self._writer.forget_damage(session_id)
        return len(rows), has_more

    def _take_host(self, page: int, batch: Batch, touched: dict[str, Folded]) -> tuple[int, bool]:
        stamp = self._stamp(HOST)
        try:
            rows = host_log.read(host_place(self.data).database, self.sequence_of(HOST), page)
            if rows and rows[0].number <= self.sequence_of(HOST):
                self.erase([HOST])  # another file than before
        except StoreError as error:
            self._note_damage(HOST, error)
            return 0, False
        if rows:
            folded = touched[HOST] = self._session(HOST)
            for row in rows:
                fold.apply_host(folded, row, batch)
        has_more = len(rows) == page
        if not has_more and self._stamps.get(HOST) != stamp:
            self._stamps[HOST] = self._new_stamps[HOST] = stamp
        if self._damaged.pop(HOST, None) is not None:
            self._writer.forget_damage(HOST)
        return len(rows), has_more

    def _fold_in(self, session_id: str, folded: Folded, rows: list[Row], batch: Batch) -> bool:
        part = Batch(position=batch.position)
        try:
            fold.apply(folded, rows, part)
        except FAILURES as error:
            after = folded.sequence
            what = f"an event above {after} cannot be folded: {error!r}"
            self._forget(session_id)
            self._note_damage(session_id, Damaged(what, sequence=after + 1))
            return False
        _merge(batch, part)
        return True

    def _commit(self, batch: Batch, touched: dict[str, Folded], count: int) -> None:
        sessions = list(touched.values())
        for folded in sessions:
            fold.summarize(folded)
        self._writer.write(batch, sessions, self._applied)
        self._position = batch.position
        with self._lock:
            self._events += count
            for folded in sessions:
                self._applied[folded.session_id] = Applied(folded.sequence, folded.hash)
                self._checked.add(folded.session_id)
                self._folded[folded.session_id] = folded
                self._folded.move_to_end(folded.session_id)
            while len(self._folded) > KEPT_SESSIONS:
                self._folded.popitem(last=False)

    def _session(self, session_id: str) -> Folded:
        folded = self._folded.get(session_id)
        if folded is not None:
            return folded
        if session_id in self._applied:
            row: Any = self._connection.execute(
                "SELECT * FROM internal.state WHERE session_id = ?", [session_id]
            ).fetchone()
            if row is not None:
                return fold.load(row)
        return Folded(session_id)

    def _is_as_applied(self, session_id: str, reader: SessionReader) -> bool:
        """Return whether the log still has the event up to which it was projected; asked once."""
        applied = self._applied.get(session_id)
        if applied is None or session_id in self._checked:
            return True
        head, _ = reader.head()
        if head < applied.sequence:
            message = f"it ends at event {head}, but event {applied.sequence} was there before"
            raise Damaged(message, sequence=head + 1)
        rows = reader.rows(applied.sequence - 1, 1)
        if rows[0].hash != applied.hash:
            return False
        self._checked.add(session_id)
        return True

    def _place(self, session_id: str) -> Place:
        if session_id == HOST:
            return host_place(self.data)
        return Place(folder_of(self.data, SessionId(session_id)))

    def _stamp(self, session_id: str) -> str:
        """Return what tells a file from itself at another time; the time of change is not forged.

        Two writes within one tick of the kernel's clock may look alike; who owns the file tells of
        them.
        """
        place = self._place(session_id)
        parts = []
        for path in (place.database, place.wal):
            try:
                found = path.stat()
            except FileNotFoundError:
                parts.append("-")
                continue
            # An empty log is made by whoever opens the file, and tells nothing.
            is_told = path == place.database or found.st_size
            parts.append(f"{found.st_ino}.{found.st_size}.{found.st_ctime_ns}" if is_told else "-")
        return " ".join(parts)

    def _reader(self, session_id: str) -> SessionReader:
        reader = self._readers.get(session_id)
        if reader is None:
            reader = SessionReader(self._place(session_id), SessionId(session_id))
            self._readers[session_id] = reader
            if len(self._readers) > OPEN_READERS:
                _, oldest = self._readers.popitem(last=False)
                oldest.close()
        self._readers.move_to_end(session_id)
        return reader

    def _forget(self, session_id: str) -> None:
        self._folded.pop(session_id, None)
        self._checked.discard(session_id)
        reader = self._readers.pop(session_id, None)
        if reader is not None:
            reader.close()

    def _wait_for_fold(self, session_id: str) -> None:
        if self._fold_file is not None and session_id not in self._unfolded:
            self._unfolded.add(session_id)
            self._forget(session_id)
            with suppress(StoreError):  # somebody else does it, or it is damaged: then it is told
                self._fold_file(SessionId(session_id))
            with self._changed:
                self._due.add(session_id, told=True)
            return
        with self._lock:
            self._unfolded.add(session_id)
            self._left_to_rebuild.discard(session_id)

    def _note_damage(self, session_id: str, error: StoreError) -> None:
        sequence = error.facts.get("sequence")
        place = int(sequence) if isinstance(sequence, int) else None
        damage = Damage(session_id, place, error.message)
        self._forget(session_id)
        if self._damaged.get(session_id) != damage:
            self._writer.note_damage(session_id, place, error.message, time.time_ns() // 1000)
        with self._changed:
            self._damaged[session_id] = damage
            self._left_to_rebuild.discard(session_id)
            self._changed.notify_all()


def _read(reader: SessionReader, after: int, page: int) -> tuple[list[Row], Damaged | None]:
    """Return the next page, and the damage that ends it early: what stands before it counts."""
    try:
        return reader.rows(after, page), None
    except Damaged as error:
        sequence = error.facts.get("sequence")
        whole = sequence - 1 - after if isinstance(sequence, int) else 0
        if whole <= 0:
            raise
        try:
            return reader.rows(after, min(whole, page)), error
        except Damaged:
            raise error from None


def _merge(batch: Batch, part: Batch) -> None:
    for name in Batch.__slots__:
        value = getattr(part, name)
        if isinstance(value, list):
            if value:
                getattr(batch, name).extend(value)
        elif isinstance(value, dict):
            batch.branched.update(value)
    batch.position = part.position
    batch.size_bytes += part.size_bytes
