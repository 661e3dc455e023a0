"""All that a worker decides: stimuli in, events to commit and acts to carry out afterwards.

Pure. The loop around it commits the events of a batch in one transaction and carries the acts out
only then (P2). When the commit fails it rolls the engine back to its checkpoint, gives it the
session as the file has it, and lets it take the same facts again; so nothing here may be lost or
done twice by being taken twice.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from pydantic import JsonValue

from paddock.session_worker.acts import (
    Act,
    Alarm,
    Continue,
    Renew,
    Reply,
    RunCall,
    Say,
    Stop,
    StopAgent,
)
from paddock.session_worker.answers import (
    answer_in,
    lost,
    read_command,
    result_of,
    settled,
    stopped,
)
from paddock.session_worker.approvals import Toolkit
from paddock.session_worker.commands import (
    accepted_deletion,
    digest_of_words,
    known_answer,
    obey,
    title_of,
)
from paddock.session_worker.drivers.driver import Driver
from paddock.session_worker.drivers.steps import (
    agent_ended,
    begin_step,
    end_step,
    reply,
    want_call,
)
from paddock.session_worker.errors import BadArgument
from paddock.session_worker.ledger import (
    Moment,
    cancel,
    cascade,
    operation_to_end,
    start_call,
)
from paddock.session_worker.model import retry_delay_ms
from paddock.session_worker.protocol import (
    PASSING_BY,
    Accepted,
    BusyNow,
    Command,
    Decide,
    Delete,
    Interrupt,
    NotAccepted,
    SetMode,
    SetModel,
    Stage,
    Suspend,
)
from paddock.session_worker.recovery import is_poison, is_struck, quarantine_of
from paddock.session_worker.redaction import holds_mark, storable, without_secrets
from paddock.session_worker.stimuli import (
    AgentEnded,
    Answered,
    CallEnded,
    CallWanted,
    CredentialsCame,
    DeadlinePassed,
    Delivered,
    FromAgent,
    Interpret,
    LacksCredentials,
    NotAnswered,
    Orphaned,
    Prepared,
    Replied,
    RetryDue,
    StateKept,
    StepBegun,
    StepEnded,
    Stimulus,
    SuspendAsked,
    TitleFound,
    Unwanted,
    WorkspaceSeen,
)
from paddock.session_worker.toolbox.contract import Plan
from paddock.session_worker.turn import (
    AskModel,
    Effect,
    InFlight,
    PrepareCall,
    RequestTitle,
    RetryLater,
    RunAgent,
    may_start,
    on_answer,
    on_model_failure,
    on_prepared,
)
from paddock.store.errors import Refused, SessionNotFound
from paddock.store.events import (
    ApprovalDecided,
    CommandAccepted,
    CommandRejected,
    Event,
    FileChanged,
    SessionDeleted,
    SessionTitled,
    StateSaved,
    Stored,
    ToolCallFinished,
    ToolCallRequested,
    WorkspaceChanged,
)
from paddock.store.fold import evolve, would_forget
from paddock.store.ids import CommandId, ModelCallId, OperationId, ToolCallId
from paddock.store.session import Call, Session

STOP_SECONDS = 8.0
"""How long what is cancelled may take to end before its worker goes on without it."""


def workspace_news(session: Session, seen: WorkspaceChanged) -> list[Event]:
    """Return what is seen of the workspace's repository, if the session does not know it yet.

    The repository's own name, where the session was made with one, stands for its folder.
    """
    config, known = session.life.config, session.conversation.workspace
    if seen.repo is not None and config is not None and config.repo is not None:
        seen = seen.model_copy(update={"repo": config.repo})
    return [seen] if seen != known and (known is not None or seen.repo is not None) else []


_NOT_BEGUN = frozenset({"requested", "allowed"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the engine goes back to when a commit fails."""

    in_flight: InFlight
    held: tuple[Delivered, ...]
    stopping_for: tuple[Interpret, ...]
    callers: dict[ToolCallId, tuple[Future[object], ...]]
    suspend: Suspend | None
    ending: str | None


class Engine:
    """One session's decisions, from its first commit to its last."""

    def __init__(
        self,
        session: Session,
        generation: int,
        driver: Driver,
        toolkit: Toolkit,
        secrets: Sequence[str] = (),
    ) -> None:
        self.session = session
        self.generation = generation
        self.in_flight = InFlight()
        self.pending: list[Event] = []
        """Folded already, to be committed with this batch."""
        self.acts: list[Act] = []
        self.suspend: Suspend | None = None
        self.ending: str | None = None
        """Why the process leaves, once it does."""
        self._driver = driver
        self._toolkit = toolkit
        self._secrets = tuple(secrets)
        self._held: tuple[Delivered, ...] = ()
        self._stopping_for: tuple[Interpret, ...] = ()
        self._callers: dict[ToolCallId, tuple[Future[object], ...]] = {}
        self._alarms = 0
        self._unredacted: dict[ToolCallId, dict[str, JsonValue]] = {}

    # --- the cycle: checkpoint, take, (commit), taken_out or roll_back ---

    def checkpoint(self) -> Checkpoint:
        """Return what to go back to when the commit of what is taken next fails."""
        return Checkpoint(
            self.in_flight,
            self._held,
            self._stopping_for,
            dict(self._callers),
            self.suspend,
            self.ending,
        )

    def roll_back(self, session: Session, to: Checkpoint) -> None:
        """Go back: nothing was committed, and the file holds this session."""
        self.session = session
        self.pending, self.acts = [], []
        self.in_flight, self._held, self._stopping_for = to.in_flight, to.held, to.stopping_for
        self._callers, self.suspend, self.ending = to.callers, to.suspend, to.ending

    def take(self, batch: Iterable[Stimulus], now: Moment) -> None:
        """Take stimuli in their order, then let the driver say what comes next."""
        for stimulus in batch:
            self._take(stimulus, now)
        self._settle(now)
        self._take_held(now)

    def taken_out(self) -> tuple[list[Event], list[Act]]:
        """Return, once, the events to commit and the acts for afterwards."""
        events, acts = self.pending, self.acts
        self.pending, self.acts = [], []
        return events, acts

    def emit(self, events: Iterable[Event], now: Moment) -> None:
        """Fold events, secrets taken out, and put them down for the commit of this batch."""
        for event in map(storable, events):
            clean = without_secrets(event, self._secrets)
            sequence = self.session.sequence + 1
            evolve(
                self.session,
                Stored(self.session.session_id, sequence, self.generation, now.at_us, clean),
            )
            self.pending.append(clean)
            if isinstance(event, ToolCallRequested) and clean is not event:
                self._unredacted[event.tool_call_id] = event.arguments
            self._tell(clean, sequence)

    def _tell(self, event: Event, sequence: int) -> None:
        """Answer, after the commit, whoever waits for this event."""
        if event.command_id is not None and not isinstance(event, CommandAccepted):
            accepted = self.session.life.accepted.get(event.command_id)
            digest = "" if accepted is None else accepted.digest
            self.acts.append(Say(settled(event.command_id, answer_in(event, sequence), digest)))
        if isinstance(event, ToolCallFinished):
            self._unredacted.pop(event.tool_call_id, None)
            call = self.session.conversation.calls[event.tool_call_id]
            for caller in self._callers.pop(event.tool_call_id, ()):
                self.acts.append(Reply(caller, call))
            if event.tool_call_id in self.in_flight.calls:
                # Its operation ended before it did: what was told to be over is to be over.
                one = event.tool_call_id
                self.acts += [Stop(f"prepare:{one}"), Stop(f"call:{one}")]

    def _settle(self, now: Moment) -> None:
        """Let the driver say what comes next until it has nothing more to say."""
        while not self.in_flight.stopping:
            step = self._driver.advance(self.session, self.in_flight, self._toolkit, now)
            if not step.events and not step.effects:
                break
            self.emit(step.events, now)
            for effect in step.effects:
                self._note(effect)
        self._finish_stopping(now)

    def _note(self, effect: Effect) -> None:
        """Count an effect as in flight from the moment it is decided."""
        flight = self.in_flight
        match effect:
            case PrepareCall():
                self.in_flight = replace(flight, calls=flight.calls | {effect.tool_call_id})
            case AskModel():
                self.in_flight = replace(
                    flight,
                    model_call=effect.model_call_id,
                    retry="none",
                    needs_credentials=False,  # until this request, too, is found to lack them
                )
            case RetryLater():
                self.in_flight = replace(flight, retry="waiting")
            case RunAgent():
                self.in_flight = replace(flight, agent=effect.operation_id)
            case RequestTitle():
                pass
        self.acts.append(effect)

    # --- what befalls it ---

    def _take(self, stimulus: Stimulus, now: Moment) -> None:  # noqa: C901, PLR0912 - one arm each
        match stimulus:
            case Delivered():
                self._take_command(stimulus, now)
            case Interpret():
                self._interpret(stimulus, now)
            case Prepared():
                self._take_prepared(stimulus, now)
            case CallEnded():
                self._take_call(stimulus, now)
            case Answered():
                self._take_answer(stimulus, now)
            case NotAnswered():
                self._take_failure(stimulus, now)
            case LacksCredentials():
                self._take_lack(stimulus, now)
            case RetryDue():
                self.in_flight = replace(self.in_flight, retry="due")
            case TitleFound():
                if self.session.life.title is None:
                    self.emit([SessionTitled(title=title_of(stimulus.title))], now)
            case WorkspaceSeen():
                self.emit(workspace_news(self.session, stimulus.seen), now)
            case CredentialsCame():
                self._secrets = (*self._secrets, *stimulus.values.values())
                self.in_flight = replace(self.in_flight, needs_credentials=False)
                self.acts.append(Renew(stimulus.values))
            case SuspendAsked():
                self._take_suspend(stimulus.words)
            case DeadlinePassed():
                self._take_deadline(stimulus.number)
            case Unwanted():
                self.ending = "unwanted"
            case Orphaned():
                if self.is_at_rest():
                    self._take_suspend(Suspend(reason="orphaned", deadline_seconds=0.0))
            case _:
                self._take_agent(stimulus, now)

    # --- commands ---

    def _take_command(self, delivered: Delivered, now: Moment) -> None:
        """Take a command in: durable before it is interpreted."""
        command = delivered.command
        if self.suspend is not None or self.session.life.status == "deleted":
            return  # the next generation gets it
        must_wait = self._held or is_struck(self.session)
        if must_wait and command.verb not in PASSING_BY:
            self._held = (*self._held, delivered)
            return
        self._take_in(delivered, now)

    def _take_in(self, delivered: Delivered, now: Moment) -> None:
        command = delivered.command
        digest = digest_of_words(command)
        try:
            known = known_answer(self.session, command.command_id, digest)
            if known is None and accepted_deletion(self.session) is not None:
                raise _is_going(self.session)
        except Refused as refused:
            told = NotAccepted(
                command_id=command.command_id,
                code=refused.code,
                reason=refused.message,
                digest=digest,
            )
            self.acts.append(Say(told))
            return
        if known is not None:
            self._repeat(command.command_id)
        elif would_forget(self.session):
            self._held = (*self._held, delivered)
        else:
            self._accept(command, digest, now)

    def _accept(self, command: Command, digest: str, now: Moment) -> None:
        accepted = CommandAccepted(
            command_id=command.command_id,
            verb=command.verb,
            digest=digest,
            arguments=command.arguments,
            by=command.by,
        )
        self.emit([accepted], now)
        sequence = self.session.sequence
        told = Accepted(command_id=command.command_id, sequence=sequence, digest=digest)
        self.acts.append(Say(told))
        if is_poison(self.session, command.command_id):
            # It killed two workers before either could take it in; this one only writes it down.
            self.emit([quarantine_of(command.command_id)], now)
            return
        try:
            words = read_command(command)
        except BadArgument as bad:
            self._reject(command.command_id, bad, now)
            return
        self.acts.append(Continue(Interpret(command.command_id, words, command.by)))

    def _repeat(self, command_id: CommandId) -> None:
        """Tell a client again what became of its command."""
        accepted = self.session.life.accepted[command_id]
        sequence, digest = accepted.sequence, accepted.digest
        self.acts.append(Say(Accepted(command_id=command_id, sequence=sequence, digest=digest)))
        answer = self.session.answer_to(command_id)
        if answer is not None:
            self.acts.append(Say(settled(command_id, answer, digest)))

    def _reject(self, command_id: CommandId, refused: Refused, now: Moment) -> None:
        rejected = CommandRejected(command_id=command_id, code=refused.code, reason=refused.message)
        self.emit([rejected], now)

    def _take_held(self, now: Moment) -> None:
        """Take what was held back: the struck operation has moved on, or there is room (P14).

        One that waits for an approval has moved on: until somebody answers, nothing of it can kill
        again, and whoever commands would wait for that answer.
        """
        if self._held and (not is_struck(self.session) or self.stage() == "waiting"):
            held, self._held = self._held, ()
            if self.suspend is not None or self.session.life.status == "deleted":
                return  # the next generation gets them
            for delivered in held:
                self._take_in(delivered, now)

    def _interpret(self, stimulus: Interpret, now: Moment) -> None:
        """Carry out a command; its answer is in the same commit as everything it starts."""
        words, command_id = stimulus.words, stimulus.command_id
        if self.session.answer_to(command_id) is not None:
            return
        if isinstance(words, Interrupt):
            try:  # before anything is stopped: what is at work may be another operation by now
                operation_to_end(self.session, words.operation_id)
            except Refused as refused:
                self._reject(command_id, refused, now)
                return
        if isinstance(words, Interrupt | Delete):
            self._stopping_for = (*self._stopping_for, stimulus)
            self._stop_work()
            return
        try:
            self.emit(obey(self.session, command_id, words, now, by=stimulus.by), now)
        except Refused as refused:
            self._reject(command_id, refused, now)
            return
        if isinstance(words, SetModel):  # which may need no secrets, or others, and asks no wait
            is_waiting = self.in_flight.retry == "waiting"
            retry = "due" if is_waiting else self.in_flight.retry
            self.in_flight = replace(self.in_flight, needs_credentials=False, retry=retry)
            self.acts += [Stop("retry")] if is_waiting else []
        if isinstance(words, Decide | SetMode):
            self.emit(cascade(self.session, self._toolkit), now)

    # --- stopping: an interrupt, a deletion, a suspension ---

    def _stop_work(self) -> None:
        self.in_flight = replace(self.in_flight, stopping=True)
        self.acts += [Stop(), StopAgent()]
        self._set_alarm(STOP_SECONDS)

    def _take_suspend(self, words: Suspend) -> None:
        if self.suspend is not None or self.ending is not None:
            return
        if not words.force and not self.is_at_rest():
            self.acts.append(Say(BusyNow(reason=self.stage())))
            return
        self.suspend = words
        self.in_flight = replace(self.in_flight, stopping=True)
        # What has no effect is ended at once; a running tool has until the deadline.
        self.acts += [Stop("model"), Stop("retry"), Stop("prepare:"), StopAgent()]
        self._set_alarm(words.deadline_seconds)

    def _set_alarm(self, seconds: float) -> None:
        """Set the deadline of what is being stopped; it replaces an earlier one."""
        self._alarms += 1
        self.acts.append(Alarm(seconds, self._alarms))

    def _take_deadline(self, number: int) -> None:
        """End what did not end by itself; an agent that cannot be stopped is left behind."""
        if not self.in_flight.stopping or number != self._alarms:
            return
        self.acts.append(Stop())
        if self.in_flight.agent is not None:
            # Its thread may run the user's code for ever: only the end of the process ends it.
            self.in_flight = replace(self.in_flight, agent=None)
            if self.suspend is None:
                self.suspend = Suspend(reason="agent_stuck", deadline_seconds=0.0)

    def _finish_stopping(self, now: Moment) -> None:
        """When nothing runs any more, do what the work was stopped for."""
        flight = self.in_flight
        if not flight.stopping or flight.calls or flight.model_call or flight.agent:
            return
        asked, self._stopping_for = self._stopping_for, ()
        for stimulus in asked:
            self._answer_stop(stimulus, now)
        if self.ending is not None:
            return
        if self.suspend is not None:
            self.ending = "suspended"
            return
        self.in_flight = replace(flight, stopping=False, retry="none")
        self._settle(now)

    def _answer_stop(self, asked: Interpret, now: Moment) -> None:
        words, command_id = asked.words, asked.command_id
        if isinstance(words, Delete):
            if self.session.conversation.operation is not None:
                self.emit(cancel(self.session, None, None), now)
            self.emit([SessionDeleted(command_id=command_id, erase=words.erase)], now)
            self.ending = "deleted"
            return
        try:
            operation_id = words.operation_id if isinstance(words, Interrupt) else None
            self.emit(cancel(self.session, command_id, operation_id), now)
        except Refused as refused:
            self._reject(command_id, refused, now)

    # --- calls ---

    def _landed(self, call_id: ToolCallId) -> None:
        self.in_flight = replace(self.in_flight, calls=self.in_flight.calls - {call_id})

    def _take_prepared(self, stimulus: Prepared, now: Moment) -> None:
        self._landed(stimulus.tool_call_id)
        call = self.session.conversation.calls.get(stimulus.tool_call_id)
        plan = stimulus.plan
        if call is None or self.in_flight.stopping or (plan is None and stimulus.error is None):
            return  # stopped; it is prepared again when the work goes on
        if plan is not None and plan.foregone is not None and call.stage in _NOT_BEGUN:
            ended = CallEnded(call.tool_call_id, plan.foregone)
            self._close_undone(call, result_of(call, ended, now), now)
            return
        if stimulus.is_lost and call.stage in _NOT_BEGUN:
            self._close_undone(call, lost(call, stimulus.error), now)
            return
        events = on_prepared(self.session, self._toolkit, call.tool_call_id, stimulus.error, now)
        self.emit(events, now)
        if plan is not None and call.stage == "allowed":
            self._start(call, plan, now)

    def _start(self, call: Call, plan: Plan, now: Moment) -> None:
        """Record the intent of an allowed call and run it, if nothing that runs conflicts."""
        if not may_start(self.session, self.in_flight, self._toolkit, call.tool_call_id):
            return  # prepared again when its turn comes: a plan ages
        intent: dict[str, JsonValue] | None = None
        if plan.intent is not None:
            intent = dict(plan.intent)  # type: ignore[arg-type]  # JSON-able by contract
        self.emit([start_call(call, intent)], now)
        self.in_flight = replace(self.in_flight, calls=self.in_flight.calls | {call.tool_call_id})
        self.acts.append(RunCall(call.tool_call_id, plan))

    def _close_undone(self, call: Call, closing: ToolCallFinished, now: Moment) -> None:
        """A call whose outcome is known without an effect needs neither approval nor intent."""
        decided = ApprovalDecided(
            operation_id=call.operation_id,
            tool_call_id=call.tool_call_id,
            decision="allowed",
            rule="nothing is done by it",
            door="policy",
        )
        if call.stage == "requested":
            self.emit([decided], now)
        self.emit([closing], now)

    def _take_call(self, stimulus: CallEnded, now: Moment) -> None:
        self._landed(stimulus.tool_call_id)
        call = self.session.conversation.calls[stimulus.tool_call_id]
        if call.stage != "started":
            return  # closed meanwhile (T8, T9)
        outcome = stimulus.outcome
        if outcome is None:
            if not self._stopping_for:  # else the cancellation closes it
                self.emit([stopped(call, stimulus, now)], now)
            return
        changes = [
            FileChanged(
                operation_id=call.operation_id,
                tool_call_id=call.tool_call_id,
                path=change.path,
                change=change.change,
                lines_added=change.lines_added,
                lines_removed=change.lines_removed,
                before_sha256=change.before_sha256,
                after_sha256=change.after_sha256,
            )
            for change in outcome.file_changes
        ]
        self.emit([*changes, result_of(call, stimulus, now)], now)

    # --- the model ---

    def _take_answer(self, stimulus: Answered, now: Moment) -> None:
        self.in_flight = replace(self.in_flight, model_call=None)
        self.emit(
            on_answer(
                self.session,
                self._toolkit,
                stimulus.model_call_id,
                stimulus.answer,
                stimulus.duration_ms,
                now,
            ),
            now,
        )

    def _take_failure(self, stimulus: NotAnswered, now: Moment) -> None:
        self.in_flight = replace(self.in_flight, model_call=None)
        failure = stimulus.failure
        if failure is not None:
            self.emit(
                on_model_failure(
                    self.session,
                    stimulus.model_call_id,
                    error_kind=failure.kind,
                    error=failure.message,
                    http_status=failure.http_status,
                    retry_after_ms=failure.retry_after_ms,
                    retry_in_ms=retry_delay_ms(failure, stimulus.attempt, stimulus.jitter),
                    duration_ms=stimulus.duration_ms,
                ),
                now,
            )
        elif not self._stopping_for:  # else the cancellation closes it
            why = "the session was suspended while the model answered"
            self._ask_again(stimulus.model_call_id, "suspended", why, stimulus.duration_ms, now)

    def _take_lack(self, stimulus: LacksCredentials, now: Moment) -> None:
        self.in_flight = replace(self.in_flight, model_call=None, needs_credentials=True)
        self._ask_again(
            stimulus.model_call_id,
            "needs_credentials",
            stimulus.error,
            stimulus.duration_ms,
            now,
        )

    def _ask_again(
        self,
        model_call_id: ModelCallId,
        error_kind: str,
        error: str,
        duration_ms: float,
        now: Moment,
    ) -> None:
        """Close a request that was not refused by its model: it is sent again at once, later."""
        self.emit(
            on_model_failure(
                self.session,
                model_call_id,
                error_kind=error_kind,
                error=error,
                http_status=None,
                retry_after_ms=None,
                retry_in_ms=0.0,
                duration_ms=duration_ms,
            ),
            now,
        )

    # --- a function agent ---

    def _take_agent(self, stimulus: FromAgent, now: Moment) -> None:
        """Let the ledger answer what a function agent asks."""
        match stimulus:
            case StepBegun():
                step, events = begin_step(self.session, stimulus)
                self.emit(events, now)
                self.acts.append(Reply(stimulus.answer, step))
            case StepEnded():
                self.emit(end_step(self.session, stimulus), now)
                self.acts.append(Reply(stimulus.answer, None))
            case CallWanted():
                self._take_call_wanted(stimulus, now)
            case Replied():
                self.emit(reply(self.session, stimulus, now), now)
                self._agent_rests(stimulus.operation_id)
                self.acts.append(Reply(stimulus.answer, None))
            case StateKept():
                self.emit([StateSaved(state=stimulus.state)], now)
                self.acts.append(Reply(stimulus.answer, None))
            case AgentEnded():
                self.emit(agent_ended(self.session, stimulus), now)
                self._agent_rests(stimulus.operation_id)
                self._agent_rests(stimulus.untaken)

    def _agent_rests(self, operation_id: OperationId | None) -> None:
        if operation_id is not None and self.in_flight.agent == operation_id:
            self.in_flight = replace(self.in_flight, agent=None)

    def _take_call_wanted(self, wanted: CallWanted, now: Moment) -> None:
        call, events = want_call(self.session, wanted, self._toolkit, now)
        self.emit(events, now)
        if call is None or call.stage == "finished":
            self.acts.append(Reply(wanted.answer, call))
        else:
            waiting = self._callers.get(call.tool_call_id, ())
            self._callers[call.tool_call_id] = (*waiting, wanted.answer)

    def arguments_of(self, call: Call) -> dict[str, JsonValue] | None:
        """Return what a call is to be run with: as the agent asked, secrets included.

        The log has them without their secrets. None: they came from the log, and something that was
        taken out is missing; running what is left would do something else than was asked.
        """
        kept = self._unredacted.get(call.tool_call_id)
        if kept is not None:
            return kept
        return None if holds_mark(call.arguments) else call.arguments

    # --- what it is at ---

    def stage(self) -> Stage:
        """Return what the session is at: the word that beats tell."""
        conversation, flight = self.session.conversation, self.in_flight
        if self.suspend is not None:
            return "suspending"
        if flight.needs_credentials:
            return "needs_credentials"
        is_busy = bool(flight.calls or flight.model_call or flight.retry != "none")
        if conversation.operation is not None:
            return "waiting" if conversation.approvals and not is_busy else "working"
        return "working" if conversation.queue or self._held else "resting"

    def is_at_rest(self) -> bool:
        """Return whether nothing would be interrupted by leaving now."""
        unanswered = bool(self.session.unanswered())
        return self.stage() in {"resting", "waiting", "needs_credentials"} and not unanswered

    def operation_id(self) -> OperationId | None:
        """Return the open operation."""
        operation = self.session.conversation.operation
        return operation.operation_id if operation else None


def _is_going(session: Session) -> SessionNotFound:
    """Return why a session takes no command any more: a deletion of it was accepted."""
    message = f"session {session.session_id!r} is being deleted; `paddock ls` shows others"
    return SessionNotFound(message, session_id=session.session_id)
