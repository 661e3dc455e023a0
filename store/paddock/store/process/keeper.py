"""The one who has the DuckDB file: opens it, keeps it up with the logs, replaces it when it is bad.

Two kinds of thread use a keeper. One writes: it calls :meth:`Keeper.open` and then either
:meth:`Keeper.work` until it is told to stop (the store process), or :meth:`Keeper.catch_up` (a
command that looks without a host). Others ask, through :meth:`Keeper.asking`; each has a cursor of
its own, and all of them are ended before the file is replaced.
"""

import fcntl
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import duckdb

from paddock.store.errors import (
    AlreadyExists,
    AlreadyOwned,
    Damaged,
    PaddockError,
    SessionNotFound,
    SqlRefused,
    StoreError,
    TimedOut,
)
from paddock.store.ids import SessionId
from paddock.store.process.checking import compare, read_all
from paddock.store.projection import (
    FILE_NAME,
    HOST,
    SMALL_BATCH_EVENTS,
    Database,
    Progress,
    Projector,
    Settings,
    Untrusted,
    is_damage,
    move_aside,
    owes_bytes,
    take_place,
)
from paddock.store.protocol import ProjectionDamaged, StoreStatus
from paddock.store.query import Asking
from paddock.store.session_file import fold, folder_of

LOCK_NAME = "store.lock"
SCAN_SECONDS = 30.0
"""How often the folders are looked through, if nothing else is wanted: it costs a look at each."""
LOOK_SECONDS = 2.0
"""How often is looked whether DuckDB's file is there: whoever has it open does not notice."""
BATCH_EVERY_SECONDS = 0.04
"""Small batches begin no sooner, unless somebody waits: each costs 10 ms whatever it holds.

At 150 events/s the store took 0.7 of a processor without it, from the sessions that it serves.
"""
REST_SECONDS = 5.0
"""After so long without an event a checkpoint disturbs nobody."""
CHECKPOINT_BYTES = 8 * 1024 * 1024
"""A log of DuckDB's smaller than this is left where it is."""
RETRY_SECONDS = 1.0
LOCK_POLL_SECONDS = 0.05
HOST_SECONDS = 2.0
"""How long a query about it waits for the host's own log, of which nobody tells."""
PATIENCE_SECONDS = 2.0
"""How long queries may take to end by themselves before the file is written anew."""
COMPACT_EVERY_SECONDS = 5.0
"""How long the file is left as it is once it was written anew; the next erased bytes wait."""
COMPACT_SHARE = 0.25
"""How much of its time the store gives to writing its file anew, at most."""
SWAP_SECONDS = 30.0
"""How long a rebuild waits for queries, which it cancels, to end."""

ASKED_FOR = "asked for"
"""Why a person has the file made anew: nobody need be told of that."""

type Job[T] = Callable[["Keeper"], T]


class Keeper:
    """Holds ``store.lock`` from the start to :meth:`close`.

    ``folds_files``: files whose owner died are folded in here, since no host will do it.
    ``scan_seconds``: so often the folders are looked through, for what nobody told of.

    Raises:
        AlreadyOwned: A store has this data folder, still after ``wait_seconds``; the facts give
            its ``pid``.
    """

    def __init__(
        self,
        data: Path,
        *,
        settings: Settings | None = None,
        folds_files: bool = False,
        wait_seconds: float = 0.0,
        scan_seconds: float = SCAN_SECONDS,
    ) -> None:
        self.data = data
        self.path = data / FILE_NAME
        self.notice: str | None = None
        """Why the file was made anew, or why nothing is written; one line for a person."""
        self.is_ready = threading.Event()
        self._settings = settings
        self._scan_seconds = scan_seconds
        self._fold_file = self._fold if folds_files else None
        self._is_first = not (data / LOCK_NAME).exists()
        self._lock = _take_lock(data, wait_seconds)
        self._database: Database | None = None
        self._projector: Projector | None = None
        self._file: os.stat_result | None = None
        """DuckDB's file as it was when it was opened."""
        self._compact_at = 0.0
        """When the file may be written anew again, as the monotonic clock tells it."""
        self._is_short = False
        """Whether it lacked some of its blocks when it was last looked at."""
        self._gate = threading.Condition()
        self._askings: set[Asking] = set()
        self._is_swapping = False
        self._is_stopped = threading.Event()
        self._is_stalled = False
        self._is_working = False
        self._untold: str | None = None
        """Why the file was made anew, until the first answer from it has told so."""
        self._erasures: queue.SimpleQueue[tuple[str, Future[None]]] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[tuple[Job[Any], Future[Any]]] = queue.SimpleQueue()

    # --- from any thread ---

    @contextmanager
    def asking(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        timeout_seconds: float = 30.0,
        row_limit: int | None = None,
        on_begin: Callable[[Asking], None] | None = None,
    ) -> Iterator[Asking]:
        """Give a query that runs. Raises as :class:`Asking` does, and TimedOut while it opens.

        ``on_begin`` is told of it first: to begin may take as long as the whole query does.
        """
        deadline = time.monotonic() + timeout_seconds
        self._enter(deadline)
        projector = self._projector
        if self._is_working and projector is not None and "host_events" in query.lower():
            projector.see_host(min(HOST_SECONDS, timeout_seconds))
        with self._gate:  # known to a rebuild before the file can go
            asking = Asking(
                self._when_open(deadline),
                query,
                params,
                timeout_seconds=max(deadline - time.monotonic(), 0.001),
                row_limit=row_limit,
            )
            self._askings.add(asking)
        try:
            if on_begin is not None:
                on_begin(asking)
            with asking:
                yield asking
        except ProjectionDamaged as error:
            if self._is_working:  # else its one thread is the caller's, who sees to it
                why = error.message
                self.submit(lambda keeper: keeper.rebuild(why))
            raise
        except SqlRefused as error:
            if self._is_working and isinstance(error.__cause__, duckdb.InternalException):
                self.submit(lambda keeper: keeper.read_all())
            raise
        finally:
            with self._gate:
                self._askings.discard(asking)
                self._gate.notify_all()

    def wait_for(self, heads: Mapping[SessionId, int], timeout_seconds: float) -> None:
        """Wait until these events can be seen in SQL: one reads what one wrote.

        Event 0 is that of an erased session, of which nothing can be seen any more.

        Raises:
            Damaged: A session's file cannot be read up to there.
            SessionNotFound: There is no such session.
            TimedOut: It took longer.
        """
        deadline = time.monotonic() + timeout_seconds
        for session_id, sequence in heads.items():
            while True:
                self._enter(deadline)
                projector = self._projector
                if projector is None:
                    continue  # it is being replaced, and _enter waits for that
                left = deadline - time.monotonic()
                if sequence == 0:
                    is_seen = projector.wait_erased(session_id, left)
                else:
                    is_seen = projector.wait_until(session_id, sequence, left)
                if is_seen:
                    break
                damage = projector.damage_of(session_id)
                if damage is not None and sequence > 0:
                    if damage.is_deleted:
                        break  # there is no more to be seen of it
                    raise Damaged(damage.what, session_id=session_id, sequence=damage.sequence)
                if sequence > 0 and projector.is_missing(session_id):
                    message = f"there is no session {session_id!r}; `paddock ls` shows them"
                    raise SessionNotFound(message, session_id=session_id)
                if deadline - time.monotonic() <= 0:
                    what = f"event {sequence} of session {session_id!r} could not be seen"
                    if sequence == 0:
                        what = f"session {session_id!r} was erased, and could still be seen"
                    message = f"{what} in SQL within {timeout_seconds:g} s; {self.word()}"
                    raise TimedOut(message, seconds=timeout_seconds)

    def learn(self, heads: Mapping[SessionId, int]) -> None:
        """These logs have grown, up to there; 0 is "nobody knows how far"."""
        projector = self._projector
        if projector is not None:
            known = projector.sequence_of
            projector.learn([one for one, head in heads.items() if not head or known(one) < head])

    def submit[T](self, job: Job[T]) -> "Future[T]":
        """Have the writing thread do something between two batches."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        projector = self._projector
        if projector is not None:
            projector.wake()
        return future

    def submit_erasure(self, session_id: str) -> "Future[None]":
        """Have a session's rows removed; their bytes go soon (:meth:`work`), or at the close."""
        future: Future[None] = Future()
        self._erasures.put((session_id, future))
        self.submit(lambda keeper: keeper._erase_all())  # noqa: SLF001 - itself
        return future

    def stop(self) -> None:
        """Have :meth:`work` return soon, and end the queries that run."""
        self._is_stopped.set()
        with self._gate:
            for asking in self._askings:
                asking.cancel()
        projector = self._projector
        if projector is not None:
            projector.wake()

    def progress(self) -> Progress:
        """Return how far the projection is."""
        projector = self._projector
        return Progress() if projector is None else projector.progress()

    def state(self) -> Literal["ready", "catching_up", "rebuilding", "stalled"]:
        """Return what it does, in a word."""
        if self._is_stalled:
            return "stalled"
        progress = self.progress()
        if progress.is_rebuilding or not self.is_ready.is_set():
            return "rebuilding" if progress.is_rebuilding else "catching_up"
        return "catching_up" if progress.due else "ready"

    def word(self) -> str:
        """Return how it fares, as one line for a person."""
        progress = self.progress()
        match self.state():
            case "stalled":
                text = f"nothing new can be seen: {self.notice}"
            case "rebuilding":
                text = (
                    f"the projection is being {'made' if self.notice is None else 'rebuilt'} "
                    f"({progress.events_rebuilt:,} of {progress.events_to_rebuild:,} events, "
                    f"{progress.rebuilt:,} of {progress.sessions:,} sessions)"
                )
                if self.notice is not None:
                    text += f": {self.notice}"
            case "catching_up":
                text = f"catching up, {progress.due} sessions to look at"
            case "ready":
                text = f"{progress.sessions} sessions, up to date"
        damaged = [damage for damage in progress.damaged if damage.session_id != HOST]
        if damaged:
            text += f"; {_number(len(damaged), 'session')} damaged and not up to date"
        if len(damaged) < len(progress.damaged):
            text += "; the host's own log cannot be read"
        if progress.waiting_for_fold:
            text += f"; {_number(progress.waiting_for_fold, 'session')} to be recovered first"
        return text

    def caveat(self) -> str | None:
        """Return what a reader of a result must know about it, or None.

        That is how complete it is; and, once, that the file was made anew and why.
        """
        progress = self.progress()
        is_whole = self.state() in {"ready", "catching_up"}
        is_whole = is_whole and not progress.damaged and not progress.waiting_for_fold
        told = [] if is_whole else [self.word()]
        untold, self._untold = self._untold, None
        if untold is not None:
            told.append(f"the projection was made anew from the logs: {untold}")
        return "; ".join(told) or None

    def status(self) -> StoreStatus:
        """Return how it fares."""
        progress = self.progress()
        database = self._database
        return StoreStatus(
            word=self.word(),
            pid=os.getpid(),
            state=self.state(),
            sessions=progress.sessions,
            due=progress.due,
            events=progress.events,
            rebuilt=progress.rebuilt,
            events_rebuilt=progress.events_rebuilt,
            events_to_rebuild=progress.events_to_rebuild,
            waiting_for_fold=progress.waiting_for_fold,
            damaged={damage.session_id: damage.what for damage in progress.damaged},
            size_bytes=0 if database is None else database.size_bytes(),
            notice=self.notice,
        )

    @property
    def owes_bytes(self) -> bool:
        """Whether bytes of what was erased are left in the file."""
        return owes_bytes(self.path)

    @property
    def projector(self) -> Projector:
        """The projector of the moment; a rebuild brings another."""
        assert self._projector is not None, "opened before it is asked"
        return self._projector

    # --- on the one thread that writes ---

    def open(self) -> None:
        """Open the database; one that cannot be trusted is moved aside, and a new one filled.

        Raises:
            StoreError: Another process has the file open, or the disk fails.
        """
        try:
            self._open(is_rebuild=not self.path.exists() and self._has_sessions())
        except Untrusted as error:
            self._replace(error.message)
        if self.progress().is_rebuilding and self.notice is None and not self._is_first:
            self.notice = self._untold = "its file was not there"
        self.projector.scan()
        self.is_ready.set()

    def work(self) -> None:
        """Keep up with the logs until :meth:`stop`."""
        self._is_working = True
        scanned = moved = looked = time.monotonic()
        is_dirty = True
        while not self._is_stopped.is_set():
            if self._projector is None:  # a rebuild failed half way: the disk is full, say
                self._cure(duckdb.Error(self.notice or "the file could not be made anew"))
                continue
            self._do_jobs()
            try:
                self._compact_when_due()
                if time.monotonic() - looked > LOOK_SECONDS:
                    looked = time.monotonic()
                    if (why := self._loss()) is not None:
                        self._renew(why)
                        continue
                if time.monotonic() - scanned > self._scan_seconds:
                    scanned = time.monotonic()
                    self.projector.scan()
                began = time.monotonic()
                if events := self.projector.step():
                    moved, is_dirty = time.monotonic(), True
                    if events < SMALL_BATCH_EVENTS:
                        self.projector.rest(began + BATCH_EVERY_SECONDS - moved)
                    continue  # at least until what is in flight has landed
                if is_dirty and time.monotonic() - moved > REST_SECONDS:
                    is_dirty = False
                    self._rest()
                self._is_stalled = False
            except duckdb.Error as error:
                self._cure(error)
                continue
            except StoreError as error:  # an erasure could not be noted: the disk's trouble
                self._stall(error.message)
                continue
            self.projector.wait_due(min(LOOK_SECONDS, self._scan_seconds))

    def catch_up(self, *, seconds: float = 3_600.0) -> None:
        """Project all that is due now.

        Raises:
            StoreError: DuckDB's file cannot be written.
        """
        for _ in range(3):  # a file that is damaged anew each time is the disk's fault
            try:
                self.projector.catch_up(seconds=seconds)
                self._do_jobs()
            except duckdb.Error as error:
                if not is_damage(error):
                    raise StoreError(f"{str(self.path)!r} cannot be written: {error}") from error
                self.rebuild(str(error).splitlines()[0])
            else:
                return
        raise StoreError(f"{str(self.path)!r} is damaged again and again; check the disk")

    def rebuild(self, why: str = ASKED_FOR) -> None:
        """Throw the file away and begin a new one. Queries that run are ended."""
        with self._swapping():
            self._replace(why)
            self.projector.scan()

    def erase(self, session_ids: Sequence[str]) -> None:
        """Remove every row of these sessions, and every byte. Raises as :meth:`compact` does."""
        self.projector.erase_for_good(session_ids)
        self.compact()

    def compact(self) -> None:
        """Write the file anew, without the bytes of what was erased.

        Queries go on meanwhile, and are ended only if they are still at it when the files change
        places.

        Where it cannot be read, it is begun anew.

        Raises:
            StoreError: It could not be written, and still owes them.
        """
        assert self._database is not None
        try:
            new = self._database.compacted()
        except (duckdb.Error, OSError) as error:
            if isinstance(error, duckdb.Error) and is_damage(error):
                self.rebuild(str(error))
                return
            message = f"{str(self.path)!r} could not be written anew: {error}"
            raise StoreError(message, path=str(self.path)) from error
        with self._swapping(patience_seconds=PATIENCE_SECONDS):
            take_place(self.path, new)
            self._open(is_rebuild=False)
            self.projector.scan()

    def checkpoint(self) -> int:
        """Fold DuckDB's log into its file; return the size of both."""
        self.projector.save_stamps()
        self.projector.checkpoint()
        assert self._database is not None
        return self._database.size_bytes()

    def snapshot(self, path: Path) -> int:
        """Copy the file as it is now, whole and readable by any DuckDB; return its size.

        Raises:
            AlreadyExists: There is something at ``path``; it is left as it is.
            StoreError: It cannot be written there.
        """
        if path.exists():
            raise AlreadyExists(f"{str(path)!r} is there already", path=str(path))
        if self.owes_bytes:
            self.compact()
        self.checkpoint()
        new = path.with_name(path.name + ".new")
        log, new_log = Path(f"{self.path}.wal"), Path(f"{new}.wal")
        try:
            # Nothing writes meanwhile: this is the only thread that does.
            shutil.copyfile(self.path, new)
            if log.exists():
                shutil.copyfile(log, new_log)
            _fold_copy(new)
            new.chmod(0o600)
            os.link(new, path)  # unlike a rename it takes nobody's place
        except FileExistsError as error:
            raise AlreadyExists(f"{str(path)!r} is there already", path=str(path)) from error
        except (OSError, duckdb.Error) as error:
            raise StoreError(f"no snapshot at {str(path)!r}: {error}", path=str(path)) from error
        finally:
            new.unlink(missing_ok=True)
            new_log.unlink(missing_ok=True)
        return path.stat().st_size

    def read_all(self) -> None:
        """Read every block of the file, so that DuckDB's checksums have their say.

        Raises:
            duckdb.Error: One cannot be read.
        """
        assert self._database is not None
        read_all(self._database)

    def verify(self) -> list[str]:
        """Read every row, compare it with the logs, and return what differs, in words."""
        projector = self.projector
        projector.scan()
        self.catch_up()
        assert self._database is not None
        return compare(self._database, self.data)

    def close(self) -> None:
        """Close the file, its log folded in where nothing stands in the way; free the lock."""
        self.stop()
        if self._projector is not None and not self._is_stalled:
            with suppress(PaddockError, duckdb.Error):
                if self.owes_bytes:
                    self.compact()
                self.checkpoint()
        self._close_database()
        for waiting in (self._jobs, self._erasures):
            while not waiting.empty():
                waiting.get()[1].cancel()
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    # --- inside ---

    def _enter(self, deadline: float) -> None:
        """Wait while the database is opened or replaced."""
        if not self.is_ready.wait(max(deadline - time.monotonic(), 0)):
            raise TimedOut("the store is still opening its file; ask again")
        with self._gate:
            self._when_open(deadline)

    def _when_open(self, deadline: float) -> Database:
        """Return the database when it is there. Called with the gate held."""
        while self._is_swapping and not self._is_stopped.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut("the store is replacing its file; ask again")
            self._gate.wait(left)
        if self._is_stopped.is_set() or self._database is None:
            raise StoreError("the store is going, or has no file yet; ask again")
        return self._database

    def _open(self, *, is_rebuild: bool) -> None:
        database = Database(self.path, self._settings)
        try:
            self._projector = Projector(
                database, self.data, is_rebuild=is_rebuild, fold_file=self._fold_file
            )
        except duckdb.Error as error:
            database.close()
            raise Untrusted(f"{str(self.path)!r} cannot be read: {error}") from error
        except BaseException:
            database.close()
            raise
        self._database = database
        self._file, self._is_short = self.path.stat(), False

    def _loss(self) -> str | None:
        """Return what became of the file under us, in a line; None if it is what was opened."""
        assert self._database is not None
        assert self._file is not None, "it is looked at when it is opened"
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return "its file was removed while it was in use"
        except OSError:
            return None  # the disk's trouble, which writing will tell
        if not os.path.samestat(found, self._file):
            return "another file took the place of its own while it was in use"
        # Blocks may be counted before they are written: only what lacks them at two looks was cut
        # off, and nothing is being written by then. What is free at its end goes with its count.
        was_short, self._is_short = self._is_short, found.st_size < self._database.least_bytes()
        if was_short and self._is_short:
            self.projector.land()
            with suppress(OSError):  # it may be gone by now: then the next look says so
                if self.path.stat().st_size < self._database.least_bytes():
                    return "its file was cut off while it was in use"
        return None

    def _compact_when_due(self) -> None:
        """Write the file anew if it owes bytes, now and then: all of it is written each time."""
        began = time.monotonic()
        if began < self._compact_at or not self.owes_bytes:
            return
        try:
            self.compact()
        except StoreError as error:
            self.notice = error.message
        finally:
            ended = time.monotonic()
            pause = max(COMPACT_EVERY_SECONDS, (ended - began) * (1 / COMPACT_SHARE - 1))
            self._compact_at = ended + pause

    def _replace(self, why: str) -> None:
        move_aside(self.path)
        self.notice = why.strip().splitlines()[0]
        self._untold = None if why == ASKED_FOR else self.notice
        self._open(is_rebuild=True)

    @contextmanager
    def _swapping(self, *, patience_seconds: float = 0.0) -> Iterator[None]:
        """Close the database, and let nobody in before the block has opened another."""
        with self._gate:
            self._is_swapping = True
        try:
            self._close_database(patience_seconds)
            yield
        finally:
            with self._gate:
                self._is_swapping = False
                self._gate.notify_all()

    def _close_database(self, patience_seconds: float = 0.0) -> None:
        with self._gate:
            self._gate.wait_for(lambda: not self._askings, patience_seconds)
            for asking in self._askings:
                asking.cancel()
            if not self._gate.wait_for(lambda: not self._askings, SWAP_SECONDS):
                raise StoreError("a query does not end; the file cannot be replaced")
        if self._projector is not None:
            self._projector.close()
            self._projector = None
        if self._database is not None:
            self._database.close()
            self._database = None

    def _cure(self, error: duckdb.Error) -> None:
        """Do what a failed batch asks for: a new file, or patience."""
        text = str(error).strip().splitlines()[0]
        if is_damage(error) or self._database is None:
            self._renew(text)
        else:
            self._stall(text)

    def _renew(self, why: str) -> None:
        """Begin a new file; where that fails, wait before it is tried again."""
        try:
            self.rebuild(why)
        except StoreError as error:
            self._stall(error.message)

    def _stall(self, why: str) -> None:
        self._is_stalled = True
        self.notice = why
        self._is_stopped.wait(RETRY_SECONDS)

    def _rest(self) -> None:
        self.projector.save_stamps()
        log = Path(f"{self.path}.wal")
        if log.exists() and log.stat().st_size > CHECKPOINT_BYTES:
            self.projector.checkpoint()

    def _do_jobs(self) -> None:
        while not self._jobs.empty():
            job, future = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job(self))
            except PaddockError as error:
                future.set_exception(error)
            except duckdb.Error as error:
                future.set_exception(StoreError(str(error)))
                if is_damage(error):
                    self._cure(error)
            if self._projector is None:
                return

    def _erase_all(self) -> None:
        waiting: dict[str, list[Future[None]]] = {}
        while not self._erasures.empty():
            session_id, future = self._erasures.get()
            if future.set_running_or_notify_cancel():
                waiting.setdefault(session_id, []).append(future)
        if not waiting:
            return
        futures = [future for some in waiting.values() for future in some]
        try:
            self.projector.erase_for_good(list(waiting))
        except (PaddockError, duckdb.Error) as error:
            for future in futures:
                future.set_exception(StoreError(str(error)))
            raise
        for future in futures:
            future.set_result(None)

    def _has_sessions(self) -> bool:
        return any((self.data / "sessions").glob("*/*"))

    def _fold(self, session_id: SessionId) -> None:
        fold(folder_of(self.data, session_id), session_id)


def _fold_copy(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("CHECKPOINT")


def _take_lock(data: Path, wait_seconds: float) -> int:
    path = data / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(LOCK_POLL_SECONDS)
                continue
            holder = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            pid = int(holder) if holder.isdigit() else None
            message = f"the store of {str(data)!r} is open already, by pid {holder or 'unknown'}"
            raise AlreadyOwned(f"{message}; ask it, or end it", pid=pid) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


def _number(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"
