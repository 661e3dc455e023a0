"""What follows a worker's death, in its order (DESIGN §2); runs in the pool of threads.

Death is proven before this begins. Then: its tools are killed and gone; its lock is taken; the
certificate is written, if the file lacks it, folded from it under that lock with what only the
supervisor knows; the verdict says what comes next. Waiting for the lock before the tools are gone
would deadlock: a tool may have inherited it.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.session_worker.ledger import digest_of
from paddock.session_worker.protocol import Command
from paddock.session_worker.redaction import without_secrets
from paddock.session_worker.toolbox.processes import kill_owned
from paddock.store.errors import AlreadyOwned, Damaged, NewerFormat, PaddockError, StoreError
from paddock.store.events import (
    CommandAccepted,
    Event,
    SessionDeleted,
    SessionFailed,
    SessionSuspended,
    Stored,
    StruckCall,
    WorkerExited,
    decode,
)
from paddock.store.ids import CommandId, OperationId, SessionId
from paddock.store.session import FOLD_VERSION, Exit, Session, dump, evolve, load
from paddock.store.session_file import SessionFile, events_of, folder_of, holder_of
from paddock.store.session_file.lock import boot_id
from paddock.supervisor.births import last_words
from paddock.supervisor.errors import OwnerStuck
from paddock.supervisor.processes import Status
from paddock.supervisor.restart import (
    CONFIGURATION_EXIT_CODE,
    Again,
    Budget,
    NoMore,
    Verdict,
    action_of,
    decide,
)
from paddock.supervisor.stimuli import Bury

LOCK_SECONDS = 2.0
"""A flock is free at the moment a pidfd reports death; whoever has it after this inherited it."""
TOOLS_SECONDS = 5.0
LAST_WORDS_BYTES = 16 * 1024
KEPT_WORDS = 20
"""Files of stderr a session keeps: as many generations as may die within an hour."""
STACKS_MARK = "most recent call first"
FOLD_AT_ONCE = 1000
SNAPSHOT_AFTER = 200
"""Events that take the next worker as long to fold as a snapshot takes to be kept and read."""
KILLED_WITH_STACKS = frozenset({"hang", "start_timeout", "suspend_timeout", "stopped"})


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session stands after the burial; ``restart_seconds`` None: it is not started again."""

    head: int
    ending: str
    reason: str
    restart_seconds: float | None = None
    failed: str | None = None
    error_kind: str | None = None
    deleted_by: CommandId | None = None
    erase: bool = False


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
    """End the tools of every generation: no worker is left, and the dead one's may not be known."""
    return kill_owned(f"{rites.session_id}.", deadline_seconds=TOOLS_SECONDS)


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
    pid = pids[0] if pids else None
    message = (
        f"session {rites.session_id!r} is still held by process {pid or 'unknown'}: "
        "end it, and the session goes on"
    )
    return OwnerStuck(message, pid=pid, pids=pids, session_id=rites.session_id)


def _who_has(lock: Path) -> list[int]:
    """Return the processes of ours that have the file open (flock does not tell its holder)."""
    try:
        wanted = lock.stat()
    except OSError:
        return []
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            descriptors = list((folder / "fd").iterdir())
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                if os.path.samestat(descriptor.stat(), wanted):
                    found.append(int(folder.name))
                    break
            except OSError:
                continue
    return found


class _Burial:
    """One burial, under the lock."""

    def __init__(self, rites: Rites, folder: Path, file: SessionFile, killed: int) -> None:
        self._rites = rites
        self._bury = rites.bury
        self._folder = folder
        self._file = file
        self._killed = killed
        self._session, self._snapshot_at = _fold(file)

    def carry_out(self) -> Outcome:
        life = self._session.life
        if life.status == "deleted":
            return self._outcome("finished", "deleted", deleted=True)
        events: list[Event] = []
        generation = self._file.last_generation
        exit_ = None
        if life.worker is not None or self._died_starting():
            if life.worker is None:
                generation += 1
            exit_ = self._certificate(generation)
        deletion = self._deletion()
        verdict = self._verdict(exit_)
        if exit_ is not None:
            action = "none" if verdict is None else action_of(verdict)
            events.append(exit_.model_copy(update={"action": action}))
        if deletion is not None:
            events += deletion
        elif isinstance(verdict, NoMore):
            events.append(SessionFailed(reason=verdict.reason, error_kind=verdict.error_kind))
        elif verdict is None and life.status in {"live", "down"}:
            reason = exit_.reason if exit_ is not None else (life.reason or "asked")
            events.append(SessionSuspended(reason=reason))
        if events:
            secrets = self._rites.secrets
            clean = [without_secrets(event, secrets) for event in events]
            at_us, first = self._rites.now_us(), self._file.head + 1
            self._file.append(clean, generation=generation, at_us=at_us)
            self._tidy(generation, exit_)
            if isinstance(verdict, Again):
                self._spare_the_next_a_fold(clean, first, generation, at_us)
        if deletion is not None:
            return self._outcome("finished", "deleted", deletion=deletion)
        return self._settle(exit_, verdict)

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

    def _settle(self, exit_: WorkerExited | None, verdict: Verdict | None) -> Outcome:
        last = self._session.life.exits[-1] if self._session.life.exits else None
        ending = exit_.ending if exit_ else (last.ending if last else "finished")
        reason = exit_.reason if exit_ else (last.reason if last else "")
        match verdict:
            case Again(after_seconds=seconds):
                return self._outcome(ending, reason, restart_seconds=seconds)
            case NoMore(reason=why, error_kind=kind):
                return self._outcome(ending, reason, failed=why, error_kind=kind)
            case None:
                if self._session.life.status == "failed":
                    return self._outcome(ending, reason, failed=self._session.life.reason or "")
                return self._outcome(ending, reason)

    def _outcome(
        self,
        ending: str,
        reason: str,
        *,
        restart_seconds: float | None = None,
        failed: str | None = None,
        error_kind: str | None = None,
        deleted: bool = False,
        deletion: list[Event] | None = None,
    ) -> Outcome:
        erase, by = False, None
        if deleted:
            erase, by = self._session.life.erase, self._deleted_by()
        elif deletion is not None:
            last = deletion[-1]
            assert isinstance(last, SessionDeleted), "a deletion ends with its event"
            erase, by = last.erase, last.command_id
        return Outcome(
            self._file.head, ending, reason, restart_seconds, failed, error_kind, by, erase
        )

    # --- the certificate ---

    def _died_starting(self) -> bool:
        """Whether a start died before its first commit: it gets a generation of its own."""
        if self._bury.is_found or self._bury.last_stage != "starting":
            return False
        return self._bury.pid is not None

    def _certificate(self, generation: int) -> WorkerExited:
        session, bury, status = self._session, self._bury, self._rites.status
        worker = session.life.worker
        is_start = worker is None
        host_was_lost = worker is not None and worker.boot_id != boot_id()
        reason = self._reason(host_was_lost=host_was_lost)
        struck = _Struck() if is_start or host_was_lost else _struck(session, bury.in_delivery)
        name = self._rites.start_id if is_start else str(generation)
        words = last_words(self._folder, name or "", LAST_WORDS_BYTES)
        stacks_at = words.find(STACKS_MARK) if reason in KILLED_WITH_STACKS else -1
        operation = session.conversation.operation
        return WorkerExited(
            worker_generation=generation,
            ending="crashed",
            reason=reason,
            signal=status.signal,
            exit_code=status.exit_code,
            last_stage="starting" if is_start else _last_stage(bury, session),
            operation_id=operation.operation_id if operation is not None else None,
            open_tool_call_ids=tuple(operation.open_calls) if operation is not None else (),
            peak_rss_bytes=bury.peak_rss_bytes,
            memory_limit_bytes=self._rites.memory_limit_bytes,
            last_words=words or None,
            stacks=words if stacks_at >= 0 else None,
            in_delivery_command_id=bury.in_delivery[0] if bury.in_delivery else None,
            tools_killed=self._killed,
            struck_operation_id=struck.operation_id,
            struck_command_ids=struck.command_ids,
            struck_calls=struck.calls,
            pid=worker.pid if worker is not None else bury.pid,
        )

    def _reason(self, *, host_was_lost: bool) -> str:
        status = self._rites.status
        if host_was_lost:
            return "host_lost"
        if self._rites.was_stopped:
            return "stopped"
        if self._bury.cause is not None:
            return self._bury.cause
        if status.was_out_of_memory:
            return "out_of_memory"
        if status.exit_code == CONFIGURATION_EXIT_CODE:
            return "configuration"
        if status.signal is not None:
            return "signal"
        return "exit_code" if status.exit_code is not None else "unknown"

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

    # --- the verdict ---

    def _verdict(self, exit_: WorkerExited | None) -> Verdict | None:
        """Return whether it is to be started again; None: it rests."""
        session, bury = self._session, self._bury
        if bury.is_found and not _has_work(session):
            return None
        if exit_ is None:
            # It wrote its own end, or there is nothing to certify.
            return Again(0.0) if bury.is_found and session.life.status != "failed" else None
        if bury.is_asked:
            return None
        if exit_.reason == "configuration":
            return NoMore(_last_line(exit_.last_words) or "configuration", "configuration")
        new = Exit(
            sequence=self._file.head + 1,
            occurred_at=self._rites.now_us(),
            generation=exit_.worker_generation,
            ending=exit_.ending,
            reason=exit_.reason,
            struck_operation_id=exit_.struck_operation_id,
            struck_command_ids=exit_.struck_command_ids,
            struck_calls=exit_.struck_calls,
            last_stage=exit_.last_stage,
        )
        if exit_.reason == "host_lost":
            return Again(0.0)
        return decide(
            [*session.life.exits, new],
            progress=session.conversation.progress_sequence,
            reset=session.life.reset_sequence,
            at_us=self._rites.now_us(),
            chance=self._rites.chance,
            budget=self._rites.budget,
        )

    # --- deletion ---

    def _deletion(self) -> list[Event] | None:
        """Return the events that delete it: a deletion accepted before, or the one asked for."""
        life = self._session.life
        for command_id, accepted in life.accepted.items():
            if accepted.verb == "delete" and self._session.answer_to(command_id) is None:
                row = self._file.rows(accepted.sequence - 1, 1)[0]
                words = decode(row.kind, row.payload, command_id=command_id)
                assert isinstance(words, CommandAccepted), "the fold took its place from it"
                erase = bool(words.arguments.get("erase", False))
                return [SessionDeleted(command_id=command_id, erase=erase)]
        asked = self._bury.delete
        if asked is None:
            return None
        erase = bool(asked.arguments.get("erase", False))
        return [_acceptance(asked), SessionDeleted(command_id=asked.command_id, erase=erase)]

    def _deleted_by(self) -> CommandId | None:
        life = self._session.life
        for command_id, answer in life.answers.items():
            if answer.kind == "session_deleted":
                return command_id
        return None


def _acceptance(command: Command) -> CommandAccepted:
    return CommandAccepted(
        command_id=command.command_id,
        verb=command.verb,
        digest=digest_of([command.verb, command.arguments]),
        arguments=command.arguments,
        by=command.by,
    )


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


@dataclass(frozen=True, slots=True)
class _Struck:
    """What a death strikes: it may have been the cause."""

    operation_id: OperationId | None = None
    command_ids: tuple[CommandId, ...] = ()
    calls: tuple[StruckCall, ...] = ()


def _struck(session: Session, in_delivery: tuple[CommandId, ...]) -> _Struck:
    """Return what was open; an operation that only waits for an approval is not struck."""
    conversation = session.conversation
    commands = tuple(dict.fromkeys([*session.unanswered(), *in_delivery]))
    operation = conversation.operation
    if operation is None:
        return _Struck(command_ids=commands)
    calls = [conversation.calls[call_id] for call_id in operation.open_calls]
    running = [call for call in calls if call.stage == "started"]
    is_asking = operation.model_call is not None
    waits = bool(calls) and not is_asking and all(call.stage == "waiting" for call in calls)
    return _Struck(
        None if waits else operation.operation_id,
        commands,
        tuple(
            StruckCall(
                tool_call_id=c.tool_call_id, tool=c.tool, arguments_digest=c.arguments_digest
            )
            for c in running
        ),
    )


def _has_work(session: Session) -> bool:
    """Whether something is undone that does not wait for an approval."""
    conversation = session.conversation
    if session.unanswered() or (conversation.queue and conversation.operation is None):
        return True
    return _struck(session, ()).operation_id is not None


def _last_stage(bury: Bury, session: Session) -> str | None:
    if bury.last_stage is not None and bury.last_stage != "starting":
        return bury.last_stage
    return "working" if session.conversation.operation is not None else "resting"


def _last_line(words: str | None) -> str:
    lines = [line for line in (words or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


__all__ = ["Outcome", "Rites", "StoreError", "bury", "is_final"]
