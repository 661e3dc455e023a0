"""What the host itself has to remember, in ``host.sqlite``: small tables, no truth about sessions.

Epochs, reserved names, tombstones, the sessions that may have something open, and the faults of the
host's own processes. All but the last can be told from the sessions' files again, so a commit here
need not survive a power cut (``synchronous=NORMAL``); it survives any death of a process. The one
exception is the tombstone of a session whose file is about to be erased.
"""

import itertools
import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from paddock.store.errors import AlreadyExists, Damaged, PaddockError, StoreError
from paddock.store.ids import CommandId, SessionId
from paddock.store.session_file.faults import meaning_of
from paddock.supervisor.traces import Traces

TABLES = """
CREATE TABLE IF NOT EXISTS epochs (
    epoch INTEGER PRIMARY KEY, pid INTEGER NOT NULL, boot_id TEXT NOT NULL, started_at INTEGER
    NOT NULL, ended_at INTEGER, reason TEXT);
CREATE TABLE IF NOT EXISTS entries (
    session_id TEXT PRIMARY KEY, start_id TEXT NOT NULL, boot_id TEXT NOT NULL,
    pid_namespace INTEGER NOT NULL, written_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS looks (boot_id TEXT PRIMARY KEY); -- and the mount, behind a space
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, session_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tombstones (
    session_id TEXT PRIMARY KEY, command_id TEXT NOT NULL, erase INTEGER NOT NULL,
    deleted_at INTEGER NOT NULL, is_erased INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS host_events (
    number INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
    subject TEXT NOT NULL, detail TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The term of one supervisor, and what the one before it left."""

    number: int
    is_told_all: bool
    """Whether this file lacks nothing: all sessions were looked at since the machine was started
    and the disk mounted, by a host that came to the end of it."""
    was_clean: bool
    is_first: bool


@dataclass(frozen=True, slots=True)
class Former:
    """How a supervisor ended, as its watcher saw it; a signal is a negative status."""

    pid: int
    status: int
    ended_at: int
    """UTC microseconds."""
    hung: bool = False
    """Whether it was ended since its loop stood still."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A session that may have something open: a start was or is under way."""

    session_id: SessionId
    start_id: str
    boot_id: str
    pid_namespace: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A session that was deleted, and by which command."""

    session_id: SessionId
    command_id: CommandId
    erase: bool
    is_erased: bool


class Registry:
    """The host's own file. Methods may be called from any thread; they take turns."""

    def __init__(self, path: Path) -> None:
        """Open it, made if missing, under the host's lock.

        Raises:
            Damaged: It is not what was written. :meth:`open` makes it anew.
            DiskFull: There is no room, or no right to write.
            StoreError: It cannot be opened.
        """
        self.path = path
        self.notice: str | None = None
        """Why it was made anew, in a line for a person."""
        self._turn = threading.Lock()
        self._epoch = 0
        self._since = ""
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(TABLES)
            told = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            self._connection.close()
            raise self._failed(error) from error
        if told != "ok":
            self._connection.close()
            raise _damaged(path, told.splitlines()[-1])
        path.chmod(0o600)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open it; one that is damaged is moved aside, and made anew.

        Nothing that counts is lost: names and tombstones are told by the sessions' files, all of
        which are looked at then.

        Raises:
            StoreError: It cannot be opened, or be made anew.
        """
        try:
            return cls(path)
        except Damaged as error:
            aside = _move_aside(path)
            registry = cls(path)
            registry.notice = f"made anew from the sessions: {error.message}; it is {str(aside)!r}"
            return registry

    def close(self) -> None:
        """Close it."""
        with self._turn:
            self._connection.close()

    # --- epochs and host events ---

    def begin_epoch(
        self,
        pid: int,
        boot_id: str,
        at_us: int,
        former: Former | None = None,
        *,
        traces: Traces | None = None,
        mount: str = "",
        above: int = 0,
    ) -> Epoch:
        """Begin the term of this supervisor; its number is above all before, and ``above``.

        ``mount``: by which the disk of this file is there.

        A term before it that was not ended was a death: it is recorded, with how it ended where
        ``former`` tells, and with what ``traces`` tell of it.
        """
        last = self._one(
            "SELECT epoch, boot_id, ended_at, pid FROM epochs ORDER BY epoch DESC LIMIT 1"
        )
        number = max(above, 0 if last is None else int(last[0])) + 1
        self._do(
            "INSERT INTO epochs VALUES (?, ?, ?, ?, NULL, NULL)", (number, pid, boot_id, at_us)
        )
        self._epoch = number
        if last is not None and last[2] is None:
            was_lost = last[1] != boot_id
            died_at, detail = self._death(last[0], last[3], former, traces, was_lost, at_us)
            self.note("died", "supervisor", detail, died_at)
        self.note("started", "supervisor", {"pid": pid}, at_us)
        self._since = f"{boot_id} {mount}"
        looked = self._one("SELECT 1 FROM looks WHERE boot_id = ?", (self._since,))
        was_clean = last is None or last[2] is not None
        return Epoch(number, looked is not None, was_clean, is_first=last is None)

    def looked_at_all(self) -> None:
        """Remember that every session was looked at in this boot, and what is open has an entry."""
        self._do("DELETE FROM looks WHERE boot_id != ?", (self._since,))
        self._do("INSERT OR IGNORE INTO looks VALUES (?)", (self._since,))

    def _death(
        self,
        epoch: int,
        pid: int,
        former: Former | None,
        traces: Traces | None,
        was_lost: bool,  # noqa: FBT001 - named where it is called
        found_at: int,
    ) -> tuple[int, dict[str, object]]:
        """Return when the supervisor of a term died, and what is known of it.

        One that nobody saw was between its last sign of life and ``found_at``, and is dated by the
        first.
        """
        detail: dict[str, object] = {"pid": pid, "epoch": epoch, "exit_code": None, "signal": None}
        words = "" if traces is None else traces.last_words(pid)
        if words:
            detail["last_words"] = words
        if was_lost:
            detail["reason"] = "lost with the whole machine (power, reboot)"
        elif former is not None and former.pid == pid:
            is_signal = former.status < 0
            detail["signal" if is_signal else "exit_code"] = abs(former.status)
            if former.hung:
                detail["reason"] = "its loop stood still, and its watcher killed it"
            return min(found_at, former.ended_at), detail
        seen_at = None if traces is None else traces.seen_at_us(pid)
        told = self._one("SELECT max(at) FROM host_events WHERE epoch = ?", (epoch,))
        # After its own events: what is looked for behind it is the start of the next one.
        last_event = (told[0] if told is not None and told[0] is not None else 0) + 1
        detail["found_at"] = found_at
        return min(found_at, max(last_event, seen_at or 0)), detail

    def end_epoch(self, reason: str, at_us: int) -> None:
        """Say that this supervisor leaves in good order."""
        self._do(
            "UPDATE epochs SET ended_at = ?, reason = ? WHERE epoch = ?",
            (at_us, reason, self._epoch),
        )
        self.note("stopped", "supervisor", {"reason": reason}, at_us)

    def note(self, kind: str, subject: str, detail: Mapping[str, object], at_us: int) -> None:
        """Record what happened to supervisor, store or zygote (``host_events``)."""
        self._do(
            "INSERT INTO host_events (epoch, at, kind, subject, detail) VALUES (?, ?, ?, ?, ?)",
            (self._epoch, at_us, kind, subject, json.dumps(detail)),
        )

    # --- sessions that may have something open ---

    def enter(self, entry: Entry, at_us: int) -> None:
        """Remember that a start of the session is under way. Before the start."""
        self._do(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
            (entry.session_id, entry.start_id, entry.boot_id, entry.pid_namespace, at_us),
        )

    def enter_found(self, entry: Entry, at_us: int) -> None:
        """Remember that a session was found with something open, unless a start of it is known."""
        self._do(
            "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?)",
            (entry.session_id, entry.start_id, entry.boot_id, entry.pid_namespace, at_us),
        )

    def strike_out(self, session_id: SessionId) -> None:
        """Forget it: the session is at rest and certified."""
        self._do("DELETE FROM entries WHERE session_id = ?", (session_id,))

    def entries(self) -> list[Entry]:
        """Return the sessions that may have something open."""
        query = "SELECT session_id, start_id, boot_id, pid_namespace FROM entries"
        return [Entry(SessionId(row[0]), row[1], row[2], row[3]) for row in self._all(query)]

    def knows(self, session_id: SessionId) -> bool:
        """Return whether a start of the session was under way, or a name is its."""
        query = (
            "SELECT session_id FROM entries WHERE session_id = ?1 "
            "UNION SELECT session_id FROM names WHERE session_id = ?1"
        )
        return self._one(query, (session_id,)) is not None

    # --- names ---

    def reserve(self, name: str, session_id: SessionId) -> bool:
        """Give the name to the session; return whether it is new to it.

        Raises:
            AlreadyExists: Another session has it.
        """
        with self._turn:
            try:
                self._connection.execute("INSERT INTO names VALUES (?, ?)", (name, session_id))
            except sqlite3.IntegrityError:
                found = self._connection.execute(
                    "SELECT session_id FROM names WHERE name = ?", (name,)
                ).fetchone()
                if found is not None and found[0] == session_id:
                    return False
                owner = None if found is None else found[0]
                message = f"the name {name!r} is taken by session {owner}; choose another"
                raise AlreadyExists(message, name=name, session_id=owner) from None
            except sqlite3.Error as error:
                raise self._failed(error) from error
            return True

    def release(self, name: str, session_id: SessionId) -> None:
        """Take a name back from a session."""
        self._do("DELETE FROM names WHERE name = ? AND session_id = ?", (name, session_id))

    def release_others(self, name: str, session_id: SessionId) -> None:
        """Take back every name of a session but this one: it goes by this name now."""
        self._do("DELETE FROM names WHERE session_id = ? AND name != ?", (session_id, name))

    def session_of(self, name: str) -> SessionId | None:
        """Return whose name it is."""
        found = self._one("SELECT session_id FROM names WHERE name = ?", (name,))
        return None if found is None else SessionId(found[0])

    def reserved(self) -> list[tuple[str, SessionId]]:
        """Return every name with its session, which for a moment may have two."""
        rows = self._all("SELECT name, session_id FROM names")
        return [(row[0], SessionId(row[1])) for row in rows]

    def names(self) -> dict[SessionId, str]:
        """Return the names of all sessions that have one."""
        return {
            SessionId(row[1]): row[0] for row in self._all("SELECT name, session_id FROM names")
        }

    # --- tombstones ---

    def bury(
        self, session_id: SessionId, command_id: CommandId, *, erase: bool, at_us: int
    ) -> None:
        """Remember that the session was deleted, and give its names back.

        With ``erase`` it is on the disk when this returns: soon nothing else tells of it.
        """
        with self._turn:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute(
                    "INSERT OR IGNORE INTO tombstones VALUES (?, ?, ?, ?, 0)",
                    (session_id, command_id, erase, at_us),
                )
                for table in ("names", "entries"):
                    self._connection.execute(
                        f"DELETE FROM {table} WHERE session_id = ?",  # noqa: S608 - two constants
                        (session_id,),
                    )
                self._connection.execute("COMMIT")
                if erase:
                    self._sync()
            except sqlite3.Error as error:
                if self._connection.in_transaction:  # else all that follows would be a part of it
                    self._connection.execute("ROLLBACK")
                raise self._failed(error) from error

    def _sync(self) -> None:
        """Have all that was committed survive a power cut, too: a checkpoint syncs log and file."""
        is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if is_busy:
            message = f"{str(self.path)!r} is being read, so that its log is not synced: ask again"
            raise StoreError(message, path=str(self.path))

    def tombstone(self, session_id: SessionId) -> Tombstone | None:
        """Return the tombstone of a session, None if it was not deleted."""
        found = self._one(
            "SELECT command_id, erase, is_erased FROM tombstones WHERE session_id = ?",
            (session_id,),
        )
        if found is None:
            return None
        return Tombstone(session_id, CommandId(found[0]), bool(found[1]), bool(found[2]))

    def buried(self) -> set[SessionId]:
        """Return all deleted sessions."""
        return {SessionId(row[0]) for row in self._all("SELECT session_id FROM tombstones")}

    def to_erase(self) -> list[SessionId]:
        """Return the deleted sessions whose files are still to be erased."""
        query = "SELECT session_id FROM tombstones WHERE erase AND NOT is_erased"
        return [SessionId(row[0]) for row in self._all(query)]

    def erased(self, session_id: SessionId) -> None:
        """Remember that nothing of the session is left."""
        self._do("UPDATE tombstones SET is_erased = 1 WHERE session_id = ?", (session_id,))

    # --- below ---

    def _do(self, statement: str, values: Iterable[object] = ()) -> None:
        with self._turn:
            try:
                self._connection.execute(statement, tuple(values))
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def _one(self, query: str, values: Iterable[object] = ()) -> tuple[Any, ...] | None:
        rows = self._all(query, values)
        return rows[0] if rows else None

    def _all(self, query: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        with self._turn:
            try:
                return self._connection.execute(query, tuple(values)).fetchall()
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> PaddockError:
        meaning = meaning_of(error, self.path)
        return _damaged(self.path, str(error)) if isinstance(meaning, Damaged) else meaning


def _damaged(path: Path, what: str) -> Damaged:
    message = (
        f"the host's own file {str(path)!r} is damaged ({what}); sessions go on; `paddock restart` "
        "makes it anew from their files"
    )
    return Damaged(message, path=str(path))


def _move_aside(path: Path) -> Path:
    """Move the file and its log to a name that is free; return it."""
    aside = next(
        new
        for number in itertools.count(1)
        if not (new := path.with_name(f"{path.name}.damaged-{number}")).exists()
    )
    try:
        for end in ("-shm", "-wal", ""):  # a log without its file is nobody's
            with suppress(FileNotFoundError):
                Path(f"{path}{end}").rename(f"{aside}{end}")
    except OSError as error:
        message = f"{str(path)!r} is damaged and cannot be moved away ({error}); do that yourself"
        raise StoreError(message, path=str(path)) from error
    return aside
