"""What a burial writes, and what comes next: pure, from the log and what is known beside it.

The burial (``burial``) has proven the death, ended the tools and taken the lock; here it is said
which events the file lacks (the certificate, a deletion, a failure or a rest) and whether another
worker is started.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paddock.session_worker.answers import answer_in, settled
from paddock.session_worker.commands import digest_of_words
from paddock.session_worker.protocol import Command, Settled
from paddock.session_worker.recovery import is_struck
from paddock.store.errors import PaddockError
from paddock.store.events import (
    CommandAccepted,
    CommandRejected,
    Event,
    SessionDeleted,
    SessionFailed,
    SessionSuspended,
    StruckCall,
    WorkerExited,
)
from paddock.store.ids import CommandId, OperationId
from paddock.store.session import Exit, Session
from paddock.supervisor.commands import Unsettled
from paddock.supervisor.life import is_left_down, was_deleted
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

if TYPE_CHECKING:
    from paddock.supervisor.processes import Status

STACKS_MARK = "most recent call first"
AGENT_STUCK = "agent_stuck"
"""Why a worker suspends itself whose agent does not end (``session_worker.engine``)."""
KILLED_WITH_STACKS = frozenset({"hang", "start_timeout", "suspend_timeout", "stopped"})


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
    answers: tuple[Settled, ...] = ()
    """To the commands that were on their way, as far as the log has them."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a death beside the log."""

    bury: Bury
    status: "Status"
    was_stopped: bool
    boot_id: str
    """Of this boot: a worker of another one was lost with its host."""
    budget: Budget
    memory_limit_bytes: int | None
    tools_killed: int
    last_generation: int
    """Of the last event in the file."""
    words: str
    """The end of what it wrote to its stderr."""
    deletion: CommandAccepted | None
    """The accepted deletion that nobody carried out, read from its place in the log."""
    at_us: int
    chance: float
    """In [0, 1): jitter."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The events that the file lacks, the generation that they belong to, and what is next."""

    events: list[Event]
    generation: int
    exit: WorkerExited | None
    outcome: Outcome

    @property
    def starts_again(self) -> bool:
        """Whether a worker begins in a moment."""
        return self.outcome.restart_seconds is not None


def certified_generation(session: Session, bury: Bury, last_generation: int) -> int | None:
    """Return the generation that lacks its certificate; None if none does.

    A start that died before its first commit gets a generation of its own.
    """
    if session.life.worker is not None:
        return last_generation
    if session.life.status == "deleted":
        return None
    died_starting = not bury.is_found and bury.last_stage == "starting" and bury.pid is not None
    return last_generation + 1 if died_starting else None


def ending_of(session: Session, known: Known) -> Ending:
    """Return what is to be written into the file of a dead worker, and how its session stands."""
    life = session.life
    generation = certified_generation(session, known.bury, known.last_generation)
    exit_ = None if generation is None else _certificate(session, known, generation)
    if life.status == "deleted":
        return _ending_of_deleted(session, known, exit_)
    events: list[Event] = []
    deletion = _deletion(session, known)
    verdict = _verdict(session, known, exit_)
    if exit_ is not None:
        action = "none" if verdict is None else action_of(verdict)
        events.append(exit_.model_copy(update={"action": action}))
    if deletion is not None:
        events += deletion
    elif isinstance(verdict, NoMore):
        events += _refusals(session, is_left_down(session.session_id, verdict.reason))
        events.append(SessionFailed(reason=verdict.reason, error_kind=verdict.error_kind))
    elif verdict is None and life.status in {"live", "down"}:
        events.append(SessionSuspended(reason=_rest_reason(session, known, exit_)))
    head = session.sequence + len(events)
    outcome = _outcome(session, head, exit_, verdict, deletion)
    outcome = replace(outcome, answers=_answers(session, events, known.bury.unsettled))
    last = known.last_generation if generation is None else generation
    return Ending(events, last, exit_, outcome)


def _rest_reason(session: Session, known: Known, exit_: WorkerExited | None) -> str:
    """Return why it rests: why it was asked to, else of what its last worker died."""
    if known.bury.leave_reason is not None:
        return known.bury.leave_reason
    return exit_.reason if exit_ is not None else (session.life.reason or "asked")


def _ending_of_deleted(session: Session, known: Known, exit_: WorkerExited | None) -> Ending:
    """Return the end of a session that its worker deleted, which may have died right after it."""
    events: list[Event] = [] if exit_ is None else [exit_.model_copy(update={"action": "none"})]
    outcome = Outcome(
        session.sequence + len(events),
        "finished",
        "deleted",
        deleted_by=_deleted_by(session),
        erase=session.life.erase,
        answers=_answers(session, events, known.bury.unsettled),
    )
    return Ending(events, known.last_generation, exit_, outcome)


def _outcome(
    session: Session,
    head: int,
    exit_: WorkerExited | None,
    verdict: Verdict | None,
    deletion: list[Event] | None,
) -> Outcome:
    if deletion is not None:
        last = deletion[-1]
        assert isinstance(last, SessionDeleted), "a deletion ends with its event"
        return Outcome(head, "finished", "deleted", deleted_by=last.command_id, erase=last.erase)
    last_exit = session.life.exits[-1] if session.life.exits else None
    ending = exit_.ending if exit_ else (last_exit.ending if last_exit else "finished")
    reason = exit_.reason if exit_ else (last_exit.reason if last_exit else "")
    match verdict:
        case Again(after_seconds=seconds):
            return Outcome(head, ending, reason, restart_seconds=seconds)
        case NoMore(reason=why, error_kind=kind):
            return Outcome(head, ending, reason, failed=why, error_kind=kind)
        case None:
            failed = (session.life.reason or "") if session.life.status == "failed" else None
            return Outcome(head, ending, reason, failed=failed)


# --- the certificate ---


def _certificate(session: Session, known: Known, generation: int) -> WorkerExited:
    bury, status = known.bury, known.status
    worker = session.life.worker
    is_start = worker is None
    host_was_lost = worker is not None and worker.boot_id != known.boot_id
    reason = _reason(known, host_was_lost=host_was_lost)
    # Its answer may have been durable and on its way when the worker died.
    in_delivery = tuple(each for each in bury.in_delivery if session.answer_to(each) is None)
    # After a strike its worker held back what was handed to it: that has not been tried.
    tried = () if is_struck(session) else in_delivery
    struck = Struck() if is_start or host_was_lost else struck_by_death(session, tried)
    words = known.words
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
        memory_limit_bytes=known.memory_limit_bytes,
        last_words=words or None,
        stacks=words if stacks_at >= 0 else None,
        in_delivery_command_id=in_delivery[0] if in_delivery else None,
        tools_killed=known.tools_killed,
        struck_operation_id=struck.operation_id,
        struck_command_ids=struck.command_ids,
        struck_calls=struck.calls,
        pid=worker.pid if worker is not None else bury.pid,
    )


def _reason(known: Known, *, host_was_lost: bool) -> str:
    status = known.status
    if host_was_lost:
        return "host_lost"
    if known.was_stopped:
        return "stopped"
    if known.bury.cause is not None:
        return known.bury.cause
    if status.was_out_of_memory:
        return "out_of_memory"
    if status.exit_code == CONFIGURATION_EXIT_CODE:
        return "configuration"
    if status.signal is not None:
        return "signal"
    return "exit_code" if status.exit_code is not None else "unknown"


# --- the verdict ---


def _verdict(session: Session, known: Known, exit_: WorkerExited | None) -> Verdict | None:
    """Return whether it is to be started again; None: it rests."""
    bury = known.bury
    if bury.is_found and not has_work(session):
        return None
    if exit_ is None:
        # It wrote its own end, or there is nothing to certify, or a burial that failed (its sync
        # did) has certified it and was to have it started again.
        was_to_go_on = session.life.status == "down" and not bury.is_asked
        goes_on = bury.is_found or was_to_go_on or left_its_work(session)
        return Again(0.0) if goes_on and session.life.status != "failed" else None
    if bury.is_asked:
        return None
    if exit_.reason == "configuration":
        return NoMore(_last_line(exit_.last_words) or "configuration", "configuration")
    if exit_.reason == "host_lost":
        return Again(0.0)
    new = Exit(
        sequence=session.sequence + 1,
        occurred_at=known.at_us,
        generation=exit_.worker_generation,
        ending=exit_.ending,
        reason=exit_.reason,
        struck_operation_id=exit_.struck_operation_id,
        struck_command_ids=exit_.struck_command_ids,
        struck_calls=exit_.struck_calls,
        last_stage=exit_.last_stage,
    )
    return decide(
        [*session.life.exits, new],
        progress=session.conversation.progress_sequence,
        reset=session.life.reset_sequence,
        at_us=known.at_us,
        chance=known.chance,
        budget=known.budget,
    )


# --- commands ---


def _refusals(session: Session, error: PaddockError, but: CommandId | None = None) -> list[Event]:
    """Return the answers to what was accepted and will not be carried out any more (P14)."""
    return [
        CommandRejected(command_id=command_id, code=error.code, reason=error.message)
        for command_id in session.unanswered()
        if command_id != but
    ]


def _answers(
    session: Session, events: Sequence[Event], unsettled: Sequence[Unsettled]
) -> tuple[Settled, ...]:
    """Return the answers that the log, with ``events`` behind it, has to commands on their way.

    Other words by the id of a command that has its answer get none: the next worker refuses them.
    """
    new = {
        event.command_id: answer_in(event, sequence)
        for sequence, event in enumerate(events, session.sequence + 1)
        if event.kind != "command_accepted"
    }
    found = (
        (each, session.answer_to(each.command_id) or new.get(each.command_id)) for each in unsettled
    )
    return tuple(
        settled(each.command_id, answer, _digest_of_accepted(session, each.command_id))
        for each, answer in found
        if answer is not None and not _has_other_words(session, each)
    )


def _digest_of_accepted(session: Session, command_id: CommandId) -> str:
    accepted = session.life.accepted.get(command_id)
    return "" if accepted is None else accepted.digest


def _has_other_words(session: Session, unsettled: Unsettled) -> bool:
    """Whether the log has an answer by that id to another payload, or has forgotten to which."""
    command_id, command = unsettled.command_id, unsettled.command
    accepted = session.life.accepted.get(command_id)
    if command is None:
        return False
    if accepted is None:
        return session.answer_to(command_id) is not None
    return accepted.digest != digest_of_words(command)


# --- deletion ---


def _deletion(session: Session, known: Known) -> list[Event] | None:
    """Return the events that delete it: a deletion accepted before, or the one asked for."""
    accepted, asked = known.deletion, known.bury.delete
    error = was_deleted(session.session_id)
    if accepted is not None:
        by = accepted.command_id
        erase = bool(accepted.arguments.get("erase", False))
        return [*_refusals(session, error, by), SessionDeleted(command_id=by, erase=erase)]
    if asked is None:
        return None
    by, erase = asked.command_id, bool(asked.arguments.get("erase", False))
    deleted = SessionDeleted(command_id=by, erase=erase)
    return [*_refusals(session, error), _acceptance(asked), deleted]


def _acceptance(command: Command) -> CommandAccepted:
    return CommandAccepted(
        command_id=command.command_id,
        verb=command.verb,
        digest=digest_of_words(command),
        arguments=command.arguments,
        by=command.by,
    )


def _deleted_by(session: Session) -> CommandId | None:
    for command_id, answer in session.life.answers.items():
        if answer.kind == "session_deleted":
            return command_id
    return None


# --- what was open ---


@dataclass(frozen=True, slots=True)
class Struck:
    """What a death strikes: it may have been the cause."""

    operation_id: OperationId | None = None
    command_ids: tuple[CommandId, ...] = ()
    calls: tuple[StruckCall, ...] = ()


def struck_by_death(session: Session, in_delivery: tuple[CommandId, ...]) -> Struck:
    """Return what was open; an operation that only waits for an approval is not struck.

    It only waits, too, where calls that are allowed stand behind the one that is asked about: they
    would start after it.
    """
    conversation = session.conversation
    commands = tuple(dict.fromkeys([*session.unanswered(), *in_delivery]))
    operation = conversation.operation
    if operation is None:
        return Struck(command_ids=commands)
    calls = [conversation.calls[call_id] for call_id in operation.open_calls]
    running = [call for call in calls if call.stage == "started"]
    is_asking = operation.model_call is not None
    stages = {call.stage for call in calls}
    waits = not is_asking and "waiting" in stages and stages <= {"waiting", "allowed"}
    return Struck(
        None if waits else operation.operation_id,
        commands,
        tuple(
            StruckCall(
                tool_call_id=c.tool_call_id, tool=c.tool, arguments_digest=c.arguments_digest
            )
            for c in running
        ),
    )


def has_work(session: Session) -> bool:
    """Whether something is undone that does not wait for an approval."""
    conversation = session.conversation
    if session.unanswered() or (conversation.queue and conversation.operation is None):
        return True
    return struck_by_death(session, ()).operation_id is not None


def left_its_work(session: Session) -> bool:
    """Whether a worker left behind what it could not stop, with work that the next one can do."""
    life = session.life
    return life.status == "suspended" and life.reason == AGENT_STUCK and has_work(session)


def _last_stage(bury: Bury, session: Session) -> str | None:
    if bury.last_stage is not None and bury.last_stage != "starting":
        return bury.last_stage
    return "working" if session.conversation.operation is not None else "resting"


def _last_line(words: str | None) -> str:
    lines = [line for line in (words or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""
