"""What follows a worker's death, in its order (DESIGN §2); runs in the pool of threads.

Death is proven before this begins. Then: its tools are killed and gone; its lock is taken; the
certificate is written, if the file lacks it, folded from it under that lock with what only the
supervisor knows; ``certificate`` says what is written and what comes next. Waiting for the lock
before the tools are gone would deadlock: a tool may have inherited it.
"""

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.session_worker.commands import accepted_deletion
from paddock.session_worker.redaction import without_secrets
from paddock.session_worker.toolbox import cgroups
from paddock.session_worker.toolbox.processes import kill_owned
from paddock.store.errors import AlreadyOwned, Damaged, NewerFormat, PaddockError, StoreError
from paddock.store.events import CommandAccepted, Event, Stored, WorkerExited, decode
from paddock.store.fold import FOLD_VERSION, evolve
from paddock.store.ids import SessionId
from paddock.store.session import Session, dump, load
from paddock.store.session_file import SessionFile, events_of, folder_of, holder_of
from paddock.store.session_file.lock import boot_id
from paddock.supervisor.births import last_words
from paddock.supervisor.certificate import (
    Known,
    Outcome,
    certified_generation,
    ending_of,
)
from paddock.supervisor.errors import OwnerStuck
from paddock.supervisor.processes import Status
from paddock.supervisor.restart import Budget
from paddock.supervisor.stimuli import Bury

LOCK_SECONDS = 2.0
"""A flock is free at the moment a pidfd reports death; whoever has it after this inherited it."""
TOOLS_SECONDS = 5.0
LAST_WORDS_BYTES = 16 * 1024
KEPT_WORDS = 20
"""Files of stderr a session keeps: as many generations as may die within an hour."""
FOLD_AT_ONCE = 1000
SNAPSHOT_AFTER = 200
"""Events that take the next worker as long to fold as a snapshot takes to be kept and read."""


@dataclass(frozen=True, slots=True)
class Rites:
    """All that a burial needs to know beside the file."""

    data: Path
    session_id: SessionId
    bury: Bury
    status: Status
    was_stopped: bool
    start_id: str | None
    budget: Budget
    secrets: tuple[str, ...]
    memory_limit_bytes: int | None
    now_us: Callable[[], int]
    chance: float
    group: Path | None = None
    """The control group of the host's tools, where there is one."""


def bury(rites: Rites) -> Outcome:
    """Bury a dead worker and return how its session stands.

    Raises:
        OwnerStuck: The lock is held still, by the process that is named.
        Damaged, NewerFormat, StoreError: The file cannot be written.
    """
    folder = folder_of(rites.data, rites.session_id)
    killed = _kill_tools(rites)
    with _own(rites, folder) as file:
        return _Burial(rites, folder, file, killed).carry_out()


def is_final(error: PaddockError) -> bool:
    """Whether trying the burial again is of no use."""
    return isinstance(error, Damaged | NewerFormat)


def _kill_tools(rites: Rites) -> int:
    """End the tools of every generation: no worker is left, and the dead one's may not be known.

    By their groups first, which nothing can leave; then whoever carries their marks: the host may
    have had no groups when they were started, or others.
    """
    killed = 0
    if rites.group is not None:
        for group in cgroups.groups_of(rites.group, rites.session_id):
            killed += cgroups.end(group, TOOLS_SECONDS)
    return killed + kill_owned(f"{rites.session_id}.", deadline_seconds=TOOLS_SECONDS)


def _own(rites: Rites, folder: Path) -> SessionFile:
    """Own the file. Where no pid was known, whoever holds it is a worker of ours: end it first."""
    try:
        return SessionFile.own(folder, rites.session_id, wait_seconds=LOCK_SECONDS)
    except AlreadyOwned as error:
        holder = holder_of(folder)
        is_ours = holder is not None and holder.pid == os.getpid()  # a look, say, in a thread
        if rites.bury.pid is None and holder is not None and holder.is_alive and not is_ours:
            _end_holder(holder.pid, holder.start_ticks)
            _kill_tools(rites)  # it may have begun some since
            try:
                return SessionFile.own(folder, rites.session_id, wait_seconds=LOCK_SECONDS)
            except AlreadyOwned as again:
                raise _stuck(rites, folder) from again
        raise _stuck(rites, folder) from error


def _end_holder(pid: int, start_ticks: int) -> None:
    from paddock.supervisor.processes import Process

    process = Process.find(pid, start_ticks)
    if process is not None:
        process.send(signal.SIGKILL)
        process.release()


def _stuck(rites: Rites, folder: Path) -> OwnerStuck:
    pids = _who_has(folder / "owner.lock")
    held = ", ".join(f"process {pid} ({_name_of(pid)})" for pid in pids)
    message = (
        f"session {rites.session_id!r} is still held by {held or 'a process that cannot be seen'}: "
        "end it, and it goes on"
    )
    pid = pids[0] if pids else None
    return OwnerStuck(message, pid=pid, pids=pids, session_id=rites.session_id)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "gone by now"


def _who_has(lock: Path) -> list[int]:
    """Return the processes of ours that hold the lock (flock does not tell its holder).

    Where the kernel does not tell by which descriptor it is held: all that have the file open.
    """
    try:
        wanted = lock.stat()
    except OSError:
        return []
    found: list[tuple[int, bool]] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        numbers = _descriptors_of(folder, wanted)
        found += [(int(folder.name), _holds_a_lock(folder, number)) for number in numbers]
    holders = {pid for pid, holds in found if holds}
    return sorted(holders or {pid for pid, _ in found})


def _descriptors_of(process: Path, wanted: os.stat_result) -> list[str]:
    """Return the numbers of a process's descriptors of one file."""
    numbers = []
    try:
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    numbers.append(descriptor.name)
    except OSError:  # it ended, or is not ours to read
        return numbers
    return numbers


def _holds_a_lock(process: Path, number: str) -> bool:
    try:
        return "\nlock:" in (process / "fdinfo" / number).read_text()
    except OSError:
        return False


class _Burial:
    """One burial, under the lock: what the certificate's rules say is read for and written."""

    def __init__(self, rites: Rites, folder: Path, file: SessionFile, killed: int) -> None:
        self._rites = rites
        self._folder = folder
        self._file = file
        self._killed = killed
        self._session, self._snapshot_at = _fold(file)

    def carry_out(self) -> Outcome:
        """Write what the file lacks, and remove what its tools had put out and nobody read."""
        shutil.rmtree(self._file.place.spool, ignore_errors=True)
        known = self._known()
        ending = ending_of(self._session, known)
        if ending.events:
            secrets = self._rites.secrets
            clean = [without_secrets(event, secrets) for event in ending.events]
            first = self._file.head + 1
            self._file.append(clean, generation=ending.generation, at_us=known.at_us)
            self._tidy(ending.generation, ending.exit)
            if ending.starts_again:
                self._spare_the_next_a_fold(clean, first, ending.generation, known.at_us)
        return ending.outcome

    def _known(self) -> Known:
        rites, last = self._rites, self._file.last_generation
        generation = certified_generation(self._session, rites.bury, last)
        return Known(
            bury=rites.bury,
            status=rites.status,
            was_stopped=rites.was_stopped,
            boot_id=boot_id(),
            budget=rites.budget,
            memory_limit_bytes=rites.memory_limit_bytes,
            tools_killed=self._killed,
            last_generation=last,
            words="" if generation is None else self._last_words(generation),
            deletion=self._deletion(),
            at_us=rites.now_us(),
            chance=rites.chance,
        )

    def _deletion(self) -> CommandAccepted | None:
        sequence = accepted_deletion(self._session)
        if sequence is None:
            return None
        row = self._file.rows(sequence - 1, 1)[0]
        words = decode(row.kind, row.payload, command_id=row.command_id)
        assert isinstance(words, CommandAccepted), "the fold took its place from it"
        return words

    def _spare_the_next_a_fold(
        self, events: Sequence[Event], first: int, generation: int, at_us: int
    ) -> None:
        """Keep the state that was folded here: the next worker begins in a moment, and from it."""
        if first - self._snapshot_at < SNAPSHOT_AFTER:
            return
        for sequence, event in enumerate(events, start=first):
            stored = Stored(self._rites.session_id, sequence, generation, at_us, event)
            evolve(self._session, stored)
        with suppress(StoreError):  # a cache: a disk that refuses it has been heard of already
            self._file.save_snapshot(self._session.sequence, FOLD_VERSION, dump(self._session))

    def _last_words(self, generation: int) -> str:
        """Return the end of what it said, which it names by its generation before that is durable.

        A start that died before that name stands under its own; one that died after it, for want of
        a first commit, under the generation that it was to be, and is given here.
        """
        is_start = self._session.life.worker is None
        names = (self._rites.start_id, str(generation)) if is_start else (str(generation),)
        said = (last_words(self._folder, name, LAST_WORDS_BYTES) for name in names if name)
        return next((words for words in said if words), "")

    def _tidy(self, generation: int, exit_: WorkerExited | None) -> None:
        """Name the words of a start by its generation, and let go of those of long ago."""
        if exit_ is not None and exit_.last_stage == "starting" and self._rites.start_id:
            words = self._folder / f"stderr.{self._rites.start_id}"
            if words.exists():
                words.rename(self._folder / f"stderr.{generation}")
        for path in self._folder.glob("stderr.*"):
            suffix = path.suffix[1:]
            if suffix.isdigit() and int(suffix) <= generation - KEPT_WORDS:
                path.unlink(missing_ok=True)


def _fold(file: SessionFile) -> tuple[Session, int]:
    """Return the folded state, and of which event the snapshot was that it began with (0: none).

    A snapshot that cannot be believed is as good as none.
    """
    session = Session(file.session_id)
    snapshot = file.snapshot(FOLD_VERSION)
    if snapshot is not None:
        try:
            session = load(snapshot.state)
        except ValueError:
            session = Session(file.session_id)  # a cache: what does not fit is thrown away
    began_at = session.sequence
    while session.sequence < file.head:
        for stored in events_of(file.session_id, file.rows(session.sequence, FOLD_AT_ONCE)):
            evolve(session, stored)
    return session, began_at


__all__ = ["Outcome", "Rites", "StoreError", "bury", "is_final"]
