"""From the logs to DuckDB: tailing, in bounded batches, whatever the files and the database do.

One thread calls :meth:`Projector.step` and all else that is not marked as safe from any thread. A
session is *due* when its log may hold more than is projected: because somebody said so
(:meth:`learn`), or because the folders were looked through (:meth:`scan`). Correctness does not
depend on being told.

A batch is read, folded and handed to DuckDB on that thread, one after the other: all this holds
Python's own lock, and in two threads it took as long as without the second. DuckDB then stores it
in a thread of its own while the next is read. It is *in flight* until :meth:`_land`, before which
nobody else uses the connection.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from paddock.store.errors import Damaged, NeedsFold, SessionNotFound, StoreError
from paddock.store.events import Row
from paddock.store.ids import SessionId
from paddock.store.projection import fold, host_log
from paddock.store.projection.cycles import Cycles
from paddock.store.projection.database import Database, note_erasure
from paddock.store.projection.folded import HOST, Batch, Folded, dump, load, summarize
from paddock.store.projection.logs import NO_FILE, Logs
from paddock.store.projection.progress import Applied, Damage, Due, Progress
from paddock.store.projection.writing import Writer
from paddock.store.session_file import folder_lost

BATCH_EVENTS = 10_000
BATCH_BYTES = 32 * 1024 * 1024
BATCH_SECONDS = 1.0
"""A batch ends at the first of these. A table costs about 1 ms a batch, whatever it gets."""
TOLD_SECONDS = 0.1
"""And at this one, where somebody waits for a session that is not in it."""
SMALL_BATCH_EVENTS = 1_000
"""A batch this small lands before the next is gathered: what comes meanwhile waits for one only.

SQL then sees 5,000 events/s half as late (p50 50 ms, not 100); a catch-up has no batch so small.
"""
PAGE_EVENTS = 1_000
"""How many of one session at a turn, or more where few are due: none keeps the others waiting."""
LONG_PAGE_BYTES = 4 * 1024 * 1024
"""Less than where a reader ends a page early, so that a page that long may not be the last."""
ASK_AGAIN_SECONDS = 0.05
"""How often a waiting reader has its session looked at, where nobody tells of its commits."""
NARROWING = 10
"""How much smaller the next batch is in which an event is looked for that cannot be stored."""
KEPT_SESSIONS = 2_000
"""Folded sessions kept in memory; others are read from their row when they go on."""
UNFIT = (duckdb.DataError, duckdb.IntegrityError, duckdb.ProgrammingError)
"""What DuckDB says of a value that its column cannot hold: an event's fault, not the database's."""
FAILURES = (KeyError, TypeError, ValueError, AttributeError)
"""What folding a payload of an unexpected form raises; the log's or our fault, never the host's."""


@dataclass(slots=True)
class Flight:
    """A batch on its way into DuckDB."""

    batch: Batch
    touched: dict[str, Folded] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    """What the files looked like that are in it to their end."""
    events: int = 0
    written: "Future[None] | None" = None


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
        self._logs = Logs(data)
        self._connection = database.cursor()
        self._writer = Writer(self._connection)
        self._lock = threading.Lock()
        # One for those who wait for rows, one for the thread that writes them: were it the same,
        # each look at a session would wake who had asked for it, to ask again.
        self._changed = threading.Condition(self._lock)
        self._asked = threading.Condition(self._lock)
        self._due = Due()
        self._is_awaited = False
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="writing rows")
        self._gathered: Flight | None = None
        self._flight: Flight | None = None
        self._applied: dict[str, Applied] = {}
        self._damaged: dict[str, Damage] = {}
        self._apart: dict[str, int] = {}
        """Sessions that were in a batch of which DuckDB could not take a value, and how many of
        their events make a batch of their own: what is wrong with one keeps no other waiting."""
        self._missing: set[str] = set()
        """Looked for because somebody asked, and not there."""
        self._unfolded: set[str] = set()
        self._stamps: dict[str, str] = {}
        self._new_stamps: dict[str, str] = {}
        self._unchecked: set[str] = set()
        """Sessions whose file changed without a new event, and was its owner's when looked at."""
        self._checked: set[str] = set()
        self._gone: list[str] = []
        self._folded: OrderedDict[str, Folded] = OrderedDict()
        self._position = 0
        self._events = 0
        self._is_rebuilding = is_rebuild
        self._left_to_rebuild: set[str] = set()
        self._to_rebuild = 0
        self._events_to_rebuild = 0
        self._is_closed = False
        self._cycles = Cycles()
        self._load()

    # --- safe from any thread ---

    def learn(self, session_ids: Iterable[str]) -> None:
        """The logs of these sessions may have grown."""
        with self._changed:
            for session_id in session_ids:
                self._due.add(session_id, told=True)
            self._asked.notify_all()

    def sequence_of(self, session_id: str) -> int:
        """Return up to which event the session is in DuckDB; 0 if it is not."""
        applied = self._applied.get(session_id)
        return 0 if applied is None else applied.sequence

    def is_missing(self, session_id: str) -> bool:
        """Return whether there was no session of that id when it was last looked for."""
        return session_id in self._missing

    def damage_of(self, session_id: str) -> Damage | None:
        """Return why a session is not projected any further, if so."""
        return self._damaged.get(session_id)

    def wait_until(self, session_id: str, sequence: int, seconds: float) -> bool:
        """Wait until that event is in DuckDB; return whether it is. Another thread must step.

        It cannot be of a session that is damaged, or of which there is no file (any more).
        """

        def is_over() -> bool:
            return (
                self.sequence_of(session_id) >= sequence
                or session_id in self._damaged
                or session_id in self._missing
            )

        with self._changed:
            if self.sequence_of(session_id) < sequence:
                self._missing.discard(session_id)  # it may have come since it was looked for
            self._await(session_id, is_over, seconds)
        return self.sequence_of(session_id) >= sequence

    def wait_erased(self, session_id: str, seconds: float) -> bool:
        """Wait until DuckDB has no event of a session without files; return whether so."""

        def is_gone() -> bool:
            # What is read of it by now may be on its way yet.
            under_way = (self._gathered, self._flight)
            is_coming = any(one is not None and session_id in one.touched for one in under_way)
            is_shown = self.sequence_of(session_id) > 0 or session_id in self._damaged
            return not is_shown and not is_coming

        with self._changed:
            self._await(session_id, is_gone, seconds)
        return is_gone()

    def see_host(self, seconds: float) -> None:
        """Wait until the host's own log is projected as it is now; nobody tells of it."""
        stamp = self._logs.stamp(HOST)

        def is_over() -> bool:
            return self._stamps.get(HOST, NO_FILE) == stamp or HOST in self._damaged

        with self._changed:
            self._await(HOST, is_over, seconds)

    def _await(self, session_id: str, is_over: Callable[[], bool], seconds: float) -> None:
        """Have a session looked at, now and again, until it is over; the lock is held."""
        now = again = time.monotonic()
        deadline = now + seconds
        while not is_over() and not self._is_closed and now < deadline:
            if now >= again:
                again = now + ASK_AGAIN_SECONDS
                self._due.add(session_id, told=True)
                self._is_awaited = True
                self._asked.notify_all()
            self._changed.wait(min(deadline, again) - now)
            now = time.monotonic()

    def rest(self, seconds: float) -> None:
        """Wait so long, or until somebody waits for an event."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._is_awaited and not self._is_closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._asked.wait(left)
            self._is_awaited = False

    def wait_due(self, seconds: float) -> bool:
        """Wait until a session is due, at most ``seconds``; return whether one is."""
        with self._changed:
            if not self._due and not self._is_closed:
                self._asked.wait(seconds)
            return bool(self._due)

    def wake(self) -> None:
        """End the waits of other threads."""
        with self._changed:
            self._notify()

    def progress(self) -> Progress:
        """Return how far it is."""
        with self._lock:
            sessions = len(self._applied) - (HOST in self._applied)
            events = 0
            if self._is_rebuilding:
                sessions = max(sessions, self._to_rebuild)
                events = sum(one.sequence for s, one in self._applied.items() if s != HOST)
            return Progress(
                sessions=sessions,
                due=len(self._due),
                events=self._events,
                waiting_for_fold=len(self._unfolded),
                damaged=tuple(one for one in self._damaged.values() if not one.is_deleted),
                is_rebuilding=self._is_rebuilding,
                rebuilt=sessions - len(self._left_to_rebuild),
                events_rebuilt=events,
                events_to_rebuild=max(events, self._events_to_rebuild),
            )

    # --- on the one thread that writes ---

    def scan(self) -> int:
        """Look through the folders; each session whose file changed is due. Return how many are.

        Where the disk has no file of a session that DuckDB shows, it was erased, and so are its
        rows; or the host has no tombstone for that, and it is damaged.
        """
        self._land()
        found = self._logs.found()
        there = set(found)
        gone = {*self._applied, *self._damaged} - there - {HOST}
        stones = self._logs.tombstones(gone) if gone else {}
        if erased := [s for s in gone if stones.get(s)]:
            self.erase_for_good(erased)
        stamps = self._stamps
        changed = [
            s
            for s in found
            if s in self._damaged
            or self._logs.stamp(s) != stamps.get(s)
            or (s in self._unchecked and not self._logs.is_owned(s))
        ]
        changed += gone.difference(erased)
        lengths = [self._logs.length(s) for s in found if s != HOST] if self._is_rebuilding else []
        with self._changed:
            self._missing.clear()
            for session_id in changed:
                self._due.add(session_id, told=False)
            if self._is_rebuilding:
                self._left_to_rebuild = {s for s in found if s not in self._checked and s != HOST}
                self._to_rebuild = len(found) - (HOST in found)
                self._events_to_rebuild = sum(lengths)
        return len(changed)

    def save_stamps(self) -> None:
        """Remember which files are projected whole, so that the next start need not open them."""
        self._land()
        if self._new_stamps:
            stamps, self._new_stamps = self._new_stamps, {}
            self._writer.stamp(stamps)

    def step(self) -> int:
        """Fold one batch of what is due and send it off; return how many events it has.

        When nothing is due, what is in flight has landed on return.

        Where a value cannot be stored, its session is gone on with alone, and in ever smaller
        batches, until the one event is found: then the session is damaged from there on.

        Raises:
            duckdb.Error: Nothing of the batch before, or of this one, was stored; both are due.
        """
        if self._flight is not None and self._flight.events < SMALL_BATCH_EVENTS:
            self._land()
        flight = self._gathered = Flight(Batch(position=self._position))
        again: list[str] = []
        try:
            with self._cycles.left():
                self._gather(flight, again)
            self._land()
            if self._gone:
                gone, self._gone = self._gone, []
                self.erase_for_good(gone)
        except _SetApart:
            self._take_back(flight)
            return 0
        except BaseException:
            self._take_back(flight)
            raise
        finally:
            with self._changed:
                for session_id in again:
                    self._due.add(session_id, told=False)
        if flight.touched:
            self._send(flight)
        self._gathered = None
        self._end_rebuild()
        return flight.events

    def catch_up(self, session_id: str | None = None, *, seconds: float = 3_600.0) -> int:
        """Step until nothing is due (or that session is not); return how many events there were."""
        if session_id is not None:
            self.learn([session_id])
        deadline = time.monotonic() + seconds
        total = 0
        while time.monotonic() < deadline:
            with self._lock:
                if not self._due or (session_id is not None and session_id not in self._due):
                    break
            total += self.step()
        self._land()
        self._end_rebuild()
        return total

    def erase(self, session_ids: Iterable[str]) -> None:
        """Remove every row of these sessions."""
        gone = list(session_ids)
        self._land()
        self._writer.erase(gone)
        with self._changed:
            for session_id in gone:
                self._forget(session_id)
                self._applied.pop(session_id, None)
                self._stamps.pop(session_id, None)
                self._new_stamps.pop(session_id, None)
                self._damaged.pop(session_id, None)
                self._unfolded.discard(session_id)
                self._unchecked.discard(session_id)
                self._left_to_rebuild.discard(session_id)
            self._changed.notify_all()

    def erase_for_good(self, session_ids: Iterable[str]) -> None:
        """Remove every row of sessions that are erased: from here on the file owes their bytes.

        Raises:
            StoreError: The disk fails; nothing was removed.
        """
        note_erasure(self.database.path)
        self.erase(session_ids)

    def unfolded(self) -> list[str]:
        """Return the sessions whose file waits for an owner; they are due at the next scan."""
        return sorted(self._unfolded)

    def land(self) -> None:
        """Wait until nothing is being written. Raises duckdb.Error: nothing of it was."""
        self._land()

    def checkpoint(self) -> None:
        """Fold DuckDB's log into its file. Stalls the writer for a quarter of a second or so."""
        self._land()
        # A reader's snapshot may stand in the way; the next checkpoint folds what this could not.
        with suppress(duckdb.TransactionException):
            self._connection.execute("CHECKPOINT")

    def close(self) -> None:
        """Let go of the files and of the writing connection."""
        with self._changed:
            self._is_closed = True
            self._notify()
        with suppress(duckdb.Error):
            self.save_stamps()
        self._writing.shutdown()
        self._logs.close()
        with suppress(duckdb.Error):
            self._connection.close()

    # --- inside ---

    def _notify(self) -> None:
        self._changed.notify_all()
        self._asked.notify_all()

    def _end_rebuild(self) -> None:
        """See whether all that there was when a rebuild began is there again, and landed."""
        with self._changed:
            if self._is_rebuilding and not (self._left_to_rebuild or self._due or self._flight):
                self._is_rebuilding = False
            self._changed.notify_all()

    def _load(self) -> None:
        connection = self._connection
        for session_id, sequence, digest in connection.execute(
            "SELECT session_id, sequence, hash FROM internal.state"
        ).fetchall():
            self._applied[session_id] = Applied(sequence, bytes(digest))
        for found in connection.execute(
            "SELECT session_id, sequence, what, is_deleted FROM internal.damaged"
        ).fetchall():
            self._damaged[found[0]] = Damage(*found)
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
        last = connection.execute("SELECT max(position) FROM internal.events").fetchone()
        self._position = (last[0] if last else None) or 0

    def _gather(self, flight: Flight, again: list[str]) -> None:
        """Fold what is due until the batch is full; each session once, the rest ``again``."""
        began = time.monotonic()
        with self._lock:
            page = max(PAGE_EVENTS, BATCH_EVENTS // max(1, len(self._due)))
        while flight.events < BATCH_EVENTS and flight.batch.size_bytes < BATCH_BYTES:
            with self._lock:
                session_id = self._due.pop()
                is_alone = not self._due
                seconds = TOLD_SECONDS if self._due.told else BATCH_SECONDS
            if session_id is None:
                break
            if session_id in flight.touched:
                again.append(session_id)
                if is_alone:
                    break
                continue
            apart = self._apart.get(session_id)
            if apart is not None and flight.touched:
                again.append(session_id)
                break
            take = self._take_host if session_id == HOST else self._take
            if take(session_id, apart or page, flight):
                again.append(session_id)
            if apart is not None:
                break
            if time.monotonic() - began > seconds:
                break

    def _take(self, session_id: str, page: int, flight: Flight) -> bool:
        """Fold a session's next page into the batch; return whether more is left."""
        stamp = self._logs.stamp(session_id)  # before it is read: what comes after changes it
        if stamp == NO_FILE:
            self._logs.forget(session_id)  # one that is open would be read on, and end nowhere
        try:
            self._check_applied(session_id)
            rows, damage = self._logs.page(session_id, self._sequence_behind(session_id), page)
            is_checked = bool(rows) or self._check_closed(session_id, stamp)
        except SessionNotFound:
            self._miss(session_id)
            return False
        except NeedsFold:
            self._wait_for_fold(session_id)
            return False
        except StoreError as error:
            self._note_damage(session_id, error)
            return False
        size_before = flight.batch.size_bytes
        if rows and not self._fold_in(session_id, rows, flight):
            return False
        # A page ends early when it is long in bytes, so its number of rows does not tell alone.
        is_full = len(rows) == page or flight.batch.size_bytes - size_before >= LONG_PAGE_BYTES
        has_more = is_full and damage is None
        with self._lock:
            self._unfolded.discard(session_id)
            if not has_more:
                self._left_to_rebuild.discard(session_id)
        if damage is not None:
            self._note_damage(session_id, damage)
        else:
            if session_id not in self._apart:  # else it has to land first
                self._end_damage(session_id)
            if not is_checked:
                self._unchecked.add(session_id)
                self._stamps[session_id] = stamp
            elif not has_more:
                self._note_stamp(session_id, stamp, flight)
        return has_more

    def _take_host(self, session_id: str, page: int, flight: Flight) -> bool:
        """Take the next of the host's own events into the batch; return whether more is left."""
        stamp = self._logs.stamp(session_id)
        after = self._sequence_behind(session_id)
        try:
            rows = host_log.read(self._logs.place(session_id).database, after, page)
        except StoreError as error:
            self._note_damage(session_id, error)
            return False
        if rows and rows[0].number <= after:
            self.erase([session_id])  # another file than before
        if rows:
            folded = flight.touched[session_id] = self._session(session_id)
            for row in rows:
                fold.apply_host(folded, row, flight.batch)
            flight.events += len(rows)
        self._end_damage(session_id)
        has_more = len(rows) == page
        if not has_more:
            self._note_stamp(session_id, stamp, flight)
        return has_more

    def _fold_in(self, session_id: str, rows: list[Row], flight: Flight) -> bool:
        folded = self._session(session_id)
        part = Batch(position=flight.batch.position)
        try:
            fold.apply(folded, rows, part)
        except FAILURES as error:
            after = folded.sequence
            what = f"an event above {after} cannot be folded: {error!r}"
            self._forget(session_id)
            self._note_damage(session_id, Damaged(what, sequence=after + 1))
            return False
        _merge(flight.batch, part)
        flight.touched[session_id] = folded
        flight.events += len(rows)
        return True

    def _note_stamp(self, session_id: str, stamp: str, flight: Flight) -> None:
        is_known = self._stamps.get(session_id) == stamp and session_id not in self._unchecked
        self._unchecked.discard(session_id)
        if is_known:
            return
        if session_id in flight.touched:
            flight.stamps[session_id] = stamp  # not before its rows have landed
        else:
            self._stamps[session_id] = self._new_stamps[session_id] = stamp

    # --- a batch's way ---

    def _send(self, flight: Flight) -> None:
        """Have the batch written. What it is made of stays as it is from here on.

        Raises:
            duckdb.Error: Nothing of it will be; it is due again.
        """
        states = []
        for session_id, folded in flight.touched.items():
            summarize(folded)
            states.append(dump(folded))
            self._folded[session_id] = folded
            self._folded.move_to_end(session_id)
        while len(self._folded) > KEPT_SESSIONS:
            self._folded.popitem(last=False)
        applied = {state[0]: Applied(state[1], state[2]) for state in states}
        known = [session_id for session_id in applied if session_id in self._applied]
        try:
            self._writer.stage(flight.batch, states, known)
        except UNFIT as error:
            self._take_back(flight)
            self._set_apart(flight, error)
            return
        except BaseException:
            self._take_back(flight)
            raise

        def commit() -> None:
            self._writer.commit(flight.batch, known)
            with self._changed:
                self._events += flight.events
                self._applied.update(applied)
                self._checked.update(applied)
                self._stamps.update(flight.stamps)
                self._new_stamps.update(flight.stamps)
                self._changed.notify_all()

        flight.written = self._writing.submit(commit)
        self._flight = flight
        self._position = flight.batch.position

    def _land(self) -> None:
        """Wait until what is in flight is written.

        Raises:
            duckdb.Error: Nothing of it was; it is due again.
        """
        flight = self._flight
        if flight is None or flight.written is None:
            return
        try:
            flight.written.result()
        except UNFIT as error:
            is_gathering, self._flight = self._gathered is not None, None
            self._take_back(flight)
            self._set_apart(flight, error)
            if is_gathering:  # with what this one would have left behind
                raise _SetApart from error
        except BaseException:
            self._take_back(flight)
            raise
        else:
            self._flight = None
            self._end_apart(flight)
        finally:
            self._flight = None

    def _set_apart(self, flight: Flight, error: duckdb.Error) -> None:
        """Have the sessions of a batch with an unfit value gone on with each by itself."""
        if len(flight.touched) > 1:
            self._apart.update(dict.fromkeys(flight.touched, PAGE_EVENTS))
            return
        (session_id,) = flight.touched
        if flight.events > 1:
            self._apart[session_id] = max(1, flight.events // NARROWING)
            return
        self._apart[session_id] = 1
        sequence = self.sequence_of(session_id) + 1
        what = f"event {sequence} cannot be stored: {str(error).splitlines()[0]}"
        self._note_damage(session_id, Damaged(what, sequence=sequence))
        with self._lock:
            self._due.drop(session_id)  # until its file changes, or is looked at anew

    def _end_apart(self, flight: Flight) -> None:
        """A batch has landed: a session that was alone in it and has no more is as others are."""
        for session_id in [one for one in flight.stamps if one in self._apart]:
            del self._apart[session_id]
            self._end_damage(session_id)

    def _take_back(self, flight: Flight) -> None:
        """Forget what was folded of a batch that will not be written; it is due again."""
        self._gathered = None
        with self._changed:
            for session_id in flight.touched:
                self._folded.pop(session_id, None)
                self._due.add(session_id, told=True)

    # --- a session ---

    def _sequence_behind(self, session_id: str) -> int:
        """Return up to where a session is folded: projected, or in flight."""
        if self._flight is not None and session_id in self._flight.touched:
            return self._flight.touched[session_id].sequence
        return self.sequence_of(session_id)

    def _session(self, session_id: str) -> Folded:
        """Return a session as far as it is folded."""
        if self._flight is not None and session_id in self._flight.touched:
            return self._flight.touched[session_id]
        folded = self._folded.get(session_id)
        if folded is not None:
            return folded
        if session_id in self._applied:
            self._land()
            row: Any = self._connection.execute(
                "SELECT * FROM internal.state WHERE session_id = ?", [session_id]
            ).fetchone()
            if row is not None:
                return load(row)
        return Folded(session_id)

    def _check_applied(self, session_id: str) -> None:
        """See, once, that the log still has the event up to which it was projected.

        If it has another one there, the log is another: its rows go, and it is projected anew.
        """
        applied = self._applied.get(session_id)
        if applied is None or session_id in self._checked:
            return
        if self._logs.hash_at(session_id, applied.sequence) == applied.hash:
            self._checked.add(session_id)
        else:
            self.erase([session_id])

    def _check_closed(self, session_id: str, stamp: str) -> bool:
        """See whether a file was changed by nobody who may: what is projected is not read again.

        Return False where its owner has it: one that finds damage leaves the file as it is, and the
        file has to be looked at again.
        """
        under_way = {} if self._flight is None else self._flight.stamps
        known = under_way.get(session_id, self._stamps.get(session_id))
        if known == stamp and not {session_id} & (self._damaged.keys() | self._unchecked):
            return True
        return self._logs.check_closed(session_id)

    def _miss(self, session_id: str) -> None:
        """A session is not there: it was erased, or is lost, or never was."""
        self._forget(session_id)
        if session_id in self._applied or session_id in self._damaged:
            if self._logs.tombstones([session_id]).get(session_id):
                self._gone.append(session_id)
            else:
                self._note_damage(session_id, folder_lost(self._logs.place(session_id)))
        with self._changed:
            self._missing.add(session_id)
            self._left_to_rebuild.discard(session_id)
            self._changed.notify_all()

    def _forget(self, session_id: str) -> None:
        self._folded.pop(session_id, None)
        self._checked.discard(session_id)
        self._logs.forget(session_id)

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

    def _end_damage(self, session_id: str) -> None:
        if session_id in self._damaged:
            self._land()
            self._writer.forget_damage(session_id)
            with self._lock:
                del self._damaged[session_id]

    def _note_damage(self, session_id: str, error: StoreError) -> None:
        sequence = error.facts.get("sequence")
        place = int(sequence) if isinstance(sequence, int) else None
        is_deleted = session_id in self._logs.tombstones([session_id])
        damage = Damage(session_id, place, error.message, is_deleted)
        self._forget(session_id)
        if self._damaged.get(session_id) != damage:
            self._land()
            self._writer.note_damage(damage, time.time_ns() // 1000)
        with self._changed:
            self._damaged[session_id] = damage
            self._left_to_rebuild.discard(session_id)
            self._changed.notify_all()


class _SetApart(Exception):
    """The batch before this one had a value that cannot be stored."""


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
