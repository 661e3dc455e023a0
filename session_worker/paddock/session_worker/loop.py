"""The worker's loop: take a stimulus, let the pure parts decide, commit, then do what is outward.

It decides nothing itself. Stimuli that arrived together are taken together: the events they lead to
are folded at once and committed in one transaction, and only after that commit are effects begun,
answers given and events shown (P2). When a commit fails, the state is folded anew from the file,
commands of the batch are refused and facts of the batch are taken in again.
"""

import asyncio
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import msgpack
from pydantic import ValidationError

from paddock.session_worker import __version__
from paddock.session_worker.approvals import ToolFacts, Toolkit
from paddock.session_worker.drivers.driver import Driver
from paddock.session_worker.drivers.function import FunctionDriver
from paddock.session_worker.drivers.steps import (
    agent_ended,
    begin_step,
    end_step,
    reply,
    want_call,
)
from paddock.session_worker.errors import BadArgument
from paddock.session_worker.journal import Journal, stored_as
from paddock.session_worker.ledger import (
    Moment,
    cancel,
    cascade,
    digest_of,
    is_struck,
    known_answer,
    obey,
    open_calls,
    result,
    start_call,
    title_of,
)
from paddock.session_worker.link import Link
from paddock.session_worker.model import ModelFailed, retry_delay_ms
from paddock.session_worker.protocol import (
    COMMANDS,
    PASSING_BY,
    Accepted,
    Arguments,
    Beat,
    BusyNow,
    Bye,
    Command,
    Credentials,
    Decide,
    Delete,
    Deliver,
    Durable,
    FromWorker,
    Hello,
    Interrupt,
    NotAccepted,
    Refuse,
    SetMode,
    Settled,
    Stage,
    StartOrders,
    Suspend,
    ToWorker,
    Welcome,
)
from paddock.session_worker.redaction import without_secrets
from paddock.session_worker.stimuli import (
    AgentEnded,
    Answered,
    CallEnded,
    CallWanted,
    CredentialsCame,
    DeadlinePassed,
    Delivered,
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
)
from paddock.session_worker.tools import Plan
from paddock.session_worker.turn import (
    AskModel,
    Effect,
    InFlight,
    PrepareCall,
    RequestTitle,
    RetryLater,
    RunAgent,
    RunCall,
    may_start,
    on_answer,
    on_model_failure,
    on_prepared,
)
from paddock.session_worker.world import World
from paddock.store.errors import Refused, StoreError
from paddock.store.events import (
    ApprovalDecided,
    CommandAccepted,
    CommandQuarantined,
    CommandRejected,
    Event,
    FileChanged,
    SessionDeleted,
    SessionSuspended,
    SessionTitled,
    StateSaved,
    ToolCallFinished,
    WorkerExited,
    payload_of,
    stored_of,
)
from paddock.store.ids import CommandId, OperationId, ToolCallId, uuid7
from paddock.store.session import Call, Session, evolve

STIMULI_AT_ONCE = 200
"""Taken together into one commit; more would only make the first of them wait."""

DISK_RETRY_SECONDS = 0.5
"""Between two tries to write while the disk refuses."""

ROWS_LIMIT_BYTES = 1024 * 1024
"""Larger batches are not sent along: who wants them reads the file."""

BEAT_WORKING_SECONDS = 1.0
BEAT_RESTING_SECONDS = 5.0

STOP_SECONDS = 8.0
"""How long a cancelled call may take to end before its worker goes without it."""


def now_us() -> int:
    """Return the time, UTC microseconds."""
    return time.time_ns() // 1000


def mint() -> str:
    """Return a new id."""
    return uuid7(now_us(), os.urandom(10))


class SessionLoop:
    """One session's life in this process, from the first commit to the last."""

    def __init__(
        self,
        orders: StartOrders,
        journal: Journal,
        session: Session,
        generation: int,
        world_of: Callable[["SessionLoop"], World],
        driver: Driver,
    ) -> None:
        self.orders = orders
        self.session = session
        self.generation = generation
        self.in_flight = InFlight()
        self._journal = journal
        self._world = world_of(self)
        self._driver = driver
        self._stimuli: deque[Stimulus] = deque()
        self._arrival = asyncio.Event()
        self._pending: list[Event] = []
        self._effects: list[Effect] = []
        self._afterwards: list[Callable[[], object]] = []
        self._plans: dict[ToolCallId, Plan] = {}
        self._held: deque[Delivered] = deque()
        self._cancelling: deque[Interpret] = deque()
        self._suspend: Suspend | None = None
        self._ending: str | None = None
        """Why the process leaves, once it does."""
        self._callers: dict[ToolCallId, list[Future[object]]] = {}
        self._stage_told: Stage = "starting"
        self._link: Link | None = None
        self._lag_ms = 0.0

    # --- the loop ---

    async def run(self, link: Link) -> str:
        """Live until the session is suspended, deleted or unwanted; return which."""
        self._link = link
        helpers = [
            asyncio.create_task(link.run(), name="link"),
            asyncio.create_task(self._beat(), name="beat"),
        ]
        try:
            await self._resume_unanswered()
            self._settle(self._now())
            await self._commit([])
            while self._ending is None:
                await self._arrival.wait()
                self._arrival.clear()
                while self._stimuli and self._ending is None:
                    await self._take_together()
            await self._leave()
            return self._ending
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    def what_happened(self) -> dict[ToolCallId, bool | None]:
        """Return of each call that a death interrupted whether it is known to have been done."""
        return {
            call.tool_call_id: self._world.happened(call)
            for call in open_calls(self.session)
            if call.stage == "started"
        }

    def arrive(self, stimulus: Stimulus) -> None:
        """Hand a stimulus in; from the loop's own thread."""
        self._stimuli.append(stimulus)
        self._arrival.set()

    def heard(self, word: ToWorker) -> None:
        """Hand a word of the supervisor in."""
        match word:
            case Deliver():
                self.arrive(Delivered(word.command))
            case Suspend():
                self.arrive(SuspendAsked(word))
            case Credentials():
                self.arrive(CredentialsCame(word.values))
            case Refuse():
                self.arrive(Unwanted(word.code, word.reason))
            case Welcome():
                self._say_beat()
            case _:
                pass  # a word of a newer supervisor

    async def _take_together(self) -> None:
        before = self.in_flight
        now = self._now()
        batch: list[Stimulus] = []
        while self._stimuli and len(batch) < STIMULI_AT_ONCE:
            stimulus = self._stimuli.popleft()
            batch.append(stimulus)
            self._take(stimulus, now)
        self._settle(now)
        self._take_held(now)
        if not await self._commit(batch):
            self.in_flight = before

    def _now(self) -> Moment:
        return Moment(now_us(), mint)

    def _emit(self, events: Iterable[Event], now: Moment) -> None:
        """Fold events at once; they are written with the commit of this batch."""
        secrets = tuple(self._world.credentials.values())
        for event in events:
            clean = without_secrets(event, secrets)
            evolve(self.session, stored_as(self.session, clean, self.generation, now.at_us))
            self._pending.append(clean)

    def _settle(self, now: Moment) -> None:
        """Let the driver say what comes next until it has nothing more to say."""
        while True:
            if self.in_flight.stopping:
                break
            step = self._driver.advance(self.session, self.in_flight, self._toolkit(), now)
            if not step.events and not step.effects:
                break
            self._emit(step.events, now)
            for effect in step.effects:
                self._note(effect)
                self._effects.append(effect)
        self._finish_stopping(now)

    def _note(self, effect: Effect) -> None:
        """Count an effect as in flight from the moment it is decided."""
        flight = self.in_flight
        match effect:
            case PrepareCall() | RunCall():
                self.in_flight = replace(flight, calls=flight.calls | {effect.tool_call_id})
            case AskModel():
                self.in_flight = replace(flight, model_call=effect.model_call_id, retry="none")
            case RetryLater():
                self.in_flight = replace(flight, retry="waiting")
            case RunAgent():
                self.in_flight = replace(flight, agent=effect.operation_id)
            case RequestTitle():
                pass

    async def _commit(self, batch: Sequence[Stimulus]) -> bool:
        """Write what was folded, then do what waited for it; return whether it is on disk."""
        events, self._pending = self._pending, []
        effects, self._effects = self._effects, []
        afterwards, self._afterwards = self._afterwards, []
        if events:
            at = self.session.last_at
            try:
                first = await self._journal.append(events, self.generation, at)
            except StoreError as error:
                await self._take_back(batch, error)
                return False
            self._tell(first, events, at)
        for effect in effects:
            self._begin(effect)
        for act in afterwards:
            act()
        self._tell_stage()
        if not self.session.conversation.operation:
            await self._keep_snapshot()
        return True

    async def _resume_unanswered(self) -> None:
        """Carry out what was accepted and not answered: by this worker or by one that died."""
        for command_id in self.session.unanswered():
            row = await self._journal.row(self.session.life.accepted[command_id].sequence)
            accepted = stored_of(self.session.session_id, row).event
            assert isinstance(accepted, CommandAccepted), "the fold names the event of acceptance"
            command = Command(
                command_id=command_id, verb=accepted.verb, arguments=accepted.arguments
            )
            self.arrive(Interpret(command_id, read_command(command)))

    async def _keep_snapshot(self) -> None:
        try:
            await self._journal.keep_snapshot(self.session)
        except StoreError:
            return  # a cache that could not be written is only missed

    async def _take_back(self, batch: Sequence[Stimulus], error: StoreError) -> None:
        """After a failed commit: believe the file, refuse commands, take facts in again later."""
        if self._ending != "unwanted":
            self._ending = None
        self._cancelling.clear()
        again: list[Stimulus] = []
        for stimulus in batch:
            if isinstance(stimulus, Delivered):
                command_id = stimulus.command.command_id
                self._say(NotAccepted(command_id=command_id, code=error.code, reason=error.message))
            elif not isinstance(stimulus, Interpret):
                again.append(stimulus)
        self._stimuli.extendleft(reversed(again))
        self._arrival.set()
        while True:
            await asyncio.sleep(DISK_RETRY_SECONDS)
            try:
                self.session = await self._journal.refold()
            except StoreError:
                self._refuse_waiting(error)
            else:
                await self._resume_unanswered()
                return

    def _refuse_waiting(self, error: StoreError) -> None:
        for stimulus in [one for one in self._stimuli if isinstance(one, Delivered)]:
            self._stimuli.remove(stimulus)
            self._say(
                NotAccepted(
                    command_id=stimulus.command.command_id, code=error.code, reason=error.message
                )
            )

    # --- what befalls it ---

    def _take(self, stimulus: Stimulus, now: Moment) -> None:  # noqa: C901, PLR0912 - one arm a stimulus
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
                self.in_flight = replace(self.in_flight, model_call=None)
                self._emit(
                    on_answer(
                        self.session,
                        self._toolkit(),
                        stimulus.model_call_id,
                        stimulus.answer,
                        stimulus.duration_ms,
                        now,
                    ),
                    now,
                )
            case NotAnswered():
                self._take_failure(stimulus, now)
            case LacksCredentials():
                self.in_flight = replace(self.in_flight, model_call=None, needs_credentials=True)
                self._fail_model_call(
                    stimulus.model_call_id,
                    "needs_credentials",
                    stimulus.error,
                    0.0,
                    stimulus.duration_ms,
                    now,
                )
            case RetryDue():
                self.in_flight = replace(self.in_flight, retry="due")
            case TitleFound():
                if self.session.life.title is None:
                    self._emit([SessionTitled(title=title_of(stimulus.title))], now)
            case CredentialsCame():
                self._world.renew(stimulus.values)
                self.in_flight = replace(self.in_flight, needs_credentials=False)
            case SuspendAsked():
                self._take_suspend(stimulus.words)
            case DeadlinePassed():
                self._take_deadline()
            case Unwanted():
                self._ending = "unwanted"
            case Orphaned():
                if self._is_at_rest():
                    self._take_suspend(
                        Suspend(reason="orphaned", deadline_seconds=0.0, force=False)
                    )
            case _:
                self._take_agent(stimulus, now)

    def _take_command(self, delivered: Delivered, now: Moment) -> None:
        """Take a command in: durable before it is interpreted."""
        command = delivered.command
        if self._suspend is not None or self.session.life.status == "deleted":
            return  # the next generation gets it
        if is_struck(self.session) and command.verb not in PASSING_BY:
            self._held.append(delivered)
            return
        digest = digest_of([command.verb, command.arguments])
        try:
            known = known_answer(self.session, command.command_id, digest)
        except Refused as refused:
            self._after(
                NotAccepted(
                    command_id=command.command_id, code=refused.code, reason=refused.message
                )
            )
            return
        if known is not None:
            self._repeat(command.command_id)
            return
        self._emit(
            [
                CommandAccepted(
                    command_id=command.command_id,
                    verb=command.verb,
                    digest=digest,
                    arguments=command.arguments,
                    by=command.by,
                )
            ],
            now,
        )
        self._after(Accepted(command_id=command.command_id, sequence=self.session.sequence))
        try:
            words = read_command(command)
        except BadArgument as bad:
            self._reject(command.command_id, bad, now)
            return
        self._afterwards.append(lambda: self.arrive(Interpret(command.command_id, words)))

    def _repeat(self, command_id: CommandId) -> None:
        """Tell a client again what became of its command."""
        accepted = self.session.life.accepted[command_id]
        self._after(Accepted(command_id=command_id, sequence=accepted.sequence))
        answer = self.session.answer_to(command_id)
        if answer is not None:
            self._after(
                Settled(
                    command_id=command_id,
                    sequence=answer.sequence,
                    kind=answer.kind,
                    operation_id=answer.operation_id,
                    code=answer.code,
                    reason=answer.reason,
                )
            )

    def _reject(self, command_id: CommandId, refused: Refused, now: Moment) -> None:
        self._emit(
            [CommandRejected(command_id=command_id, code=refused.code, reason=refused.message)],
            now,
        )

    def _interpret(self, stimulus: Interpret, now: Moment) -> None:
        """Carry out a command; its answer is in the same commit as everything it starts."""
        words, command_id = stimulus.words, stimulus.command_id
        if self.session.answer_to(command_id) is not None:
            return
        if isinstance(words, Interrupt | Delete):
            self._cancelling.append(stimulus)
            self._stop_work()
            return
        try:
            self._emit(obey(self.session, command_id, words, now), now)
        except Refused as refused:
            self._reject(command_id, refused, now)
            return
        if isinstance(words, Decide | SetMode):
            self._emit(cascade(self.session, self._toolkit()), now)

    def _stop_work(self) -> None:
        self.in_flight = replace(self.in_flight, stopping=True)
        self._afterwards.append(self._world.stop)
        self._afterwards.append(self._stop_agent)
        asyncio.get_running_loop().call_later(STOP_SECONDS, self.arrive, DeadlinePassed())

    def _take_deadline(self) -> None:
        """End what did not end by itself; an agent that cannot be stopped is left behind."""
        if not self.in_flight.stopping:
            return
        self._world.stop()
        if self.in_flight.agent is not None:
            # Its thread may run the user's code for ever: only the end of the process ends it.
            self.in_flight = replace(self.in_flight, agent=None)
            if self._suspend is None:
                self._suspend = Suspend(reason="agent_stuck", deadline_seconds=0.0)

    def _finish_stopping(self, now: Moment) -> None:
        """When nothing runs any more, do what the work was stopped for."""
        flight = self.in_flight
        if not flight.stopping or flight.calls or flight.model_call or flight.agent:
            return
        while self._cancelling:
            asked = self._cancelling.popleft()
            self._answer_stop(asked, now)
        if self._suspend is None and self._ending is None:
            self.in_flight = replace(flight, stopping=False, retry="none")
            self._settle(now)
        elif self._ending is None:
            self._ending = "suspended"

    def _answer_stop(self, asked: Interpret, now: Moment) -> None:
        words, command_id = asked.words, asked.command_id
        if isinstance(words, Delete):
            if self.session.conversation.operation is not None:
                self._emit(cancel(self.session, None, None), now)
            self._emit([SessionDeleted(command_id=command_id, erase=words.erase)], now)
            self._ending = "deleted"
            return
        try:
            operation_id = words.operation_id if isinstance(words, Interrupt) else None
            self._emit(cancel(self.session, command_id, operation_id), now)
        except Refused as refused:
            self._reject(command_id, refused, now)

    def _take_prepared(self, stimulus: Prepared, now: Moment) -> None:
        call_id = stimulus.tool_call_id
        self.in_flight = replace(self.in_flight, calls=self.in_flight.calls - {call_id})
        call = self.session.conversation.calls.get(call_id)
        if call is None or self.in_flight.stopping:
            return
        plan = stimulus.plan
        if plan is None and stimulus.error is None:
            return  # stopped; it is prepared again when the work goes on
        if (
            plan is not None
            and plan.foregone is not None
            and call.stage in {"requested", "allowed"}
        ):
            self._close_foregone(call, CallEnded(call_id, plan.foregone), now)
            return
        toolkit = self._toolkit()
        self._emit(on_prepared(self.session, toolkit, call_id, stimulus.error, now), now)
        if plan is None or call.stage != "allowed":
            return
        if may_start(self.session, self.in_flight, toolkit, call_id):
            intent = dict(plan.intent) if plan.intent is not None else None
            self._emit([start_call(call, intent)], now)  # type: ignore[arg-type]  # JSON-able by contract
            self._plans[call_id] = plan
            self._note(RunCall(call_id))
            self._effects.append(RunCall(call_id))

    def _close_foregone(self, call: Call, ended: CallEnded, now: Moment) -> None:
        """A call whose outcome is known without an effect needs neither approval nor intent."""
        if call.stage == "requested":
            self._emit(
                [
                    ApprovalDecided(
                        operation_id=call.operation_id,
                        tool_call_id=call.tool_call_id,
                        decision="allowed",
                        rule="nothing is done by it",
                        door="policy",
                    )
                ],
                now,
            )
        self._emit([_result_of(call, ended, now)], now)

    def _take_call(self, stimulus: CallEnded, now: Moment) -> None:
        call_id = stimulus.tool_call_id
        self.in_flight = replace(self.in_flight, calls=self.in_flight.calls - {call_id})
        self._plans.pop(call_id, None)
        call = self.session.conversation.calls[call_id]
        if call.stage != "started":
            return  # closed meanwhile (T8, T9)
        if stimulus.outcome is None:
            if self._cancelling:
                return  # the cancellation closes it
            text = f"The call of {call.tool} was interrupted: its session was suspended."
            self._emit(
                [
                    result(
                        call,
                        "interrupted",
                        text,
                        now_us=now.at_us,
                        happened=stimulus.happened,
                        error_kind="suspended",
                    )
                ],
                now,
            )
            return
        self._emit(
            [
                FileChanged(
                    operation_id=call.operation_id,
                    tool_call_id=call_id,
                    path=change.path,
                    change=change.change,
                    lines_added=change.lines_added,
                    lines_removed=change.lines_removed,
                    before_sha256=change.before_sha256,
                    after_sha256=change.after_sha256,
                )
                for change in stimulus.outcome.file_changes
            ],
            now,
        )
        self._emit([_result_of(call, stimulus, now)], now)

    def _take_failure(self, stimulus: NotAnswered, now: Moment) -> None:
        self.in_flight = replace(self.in_flight, model_call=None)
        failure = stimulus.failure
        if failure is None:
            if not self._cancelling:
                self._fail_model_call(
                    stimulus.model_call_id,
                    "suspended",
                    "the session was suspended while the model answered",
                    0.0,
                    stimulus.duration_ms,
                    now,
                )
            return
        jitter = int.from_bytes(os.urandom(4)) / 2**32
        self._fail_model_call(
            stimulus.model_call_id,
            failure.kind,
            failure.message,
            retry_delay_ms(failure, stimulus.attempt, jitter),
            stimulus.duration_ms,
            now,
            http_status=failure.http_status,
            retry_after_ms=failure.retry_after_ms,
        )

    def _fail_model_call(
        self,
        model_call_id: str,
        error_kind: str,
        error: str,
        retry_in_ms: float | None,
        duration_ms: float,
        now: Moment,
        *,
        http_status: int | None = None,
        retry_after_ms: float | None = None,
    ) -> None:
        self._emit(
            on_model_failure(
                self.session,
                model_call_id,  # type: ignore[arg-type]  # a ModelCallId
                error_kind=error_kind,
                error=error,
                http_status=http_status,
                retry_after_ms=retry_after_ms,
                retry_in_ms=retry_in_ms,
                duration_ms=duration_ms,
            ),
            now,
        )

    # --- suspending and leaving ---

    def _take_suspend(self, words: Suspend) -> None:
        if self._suspend is not None or self._ending is not None:
            return
        if not words.force and not self._is_at_rest():
            self._after(BusyNow(reason=self._stage()))
            return
        self._suspend = words
        self.in_flight = replace(self.in_flight, stopping=True)
        # What has no effect is ended at once; a running tool has until the deadline.
        for prefix in ("model", "retry", "prepare:"):
            self._world.stop(prefix)
        self._stop_agent()
        asyncio.get_running_loop().call_later(words.deadline_seconds, self.arrive, DeadlinePassed())

    def _is_at_rest(self) -> bool:
        """Return whether nothing would be interrupted by leaving now."""
        return self._stage() in {"resting", "waiting", "needs_credentials"} and not self._stimuli

    async def _leave(self) -> None:
        """Write the last commit and give the file up."""
        await self._world.close()
        ending = self._ending or "finished"
        now = self._now()
        if ending != "unwanted":
            usage = resource.getrusage(resource.RUSAGE_SELF)
            reason = self._suspend.reason if self._suspend else ending
            if ending == "suspended":
                self._emit([SessionSuspended(reason=reason)], now)
            self._emit(
                [
                    WorkerExited(
                        worker_generation=self.generation,
                        ending="suspended" if ending == "suspended" else "finished",
                        reason=reason,
                        exit_code=0,
                        last_stage=self._stage_told,
                        pid=os.getpid(),
                        operation_id=self._operation_id(),
                        peak_rss_bytes=usage.ru_maxrss * 1024,
                        cpu_seconds=usage.ru_utime + usage.ru_stime,
                    )
                ],
                now,
            )
            await self._commit_last()
        self._say(Bye(reason=ending, head=self.session.sequence))

    async def _commit_last(self) -> None:
        while not await self._commit([]):
            # The disk refused; the state was folded anew, so say goodbye anew.
            now = self._now()
            reason = self._suspend.reason if self._suspend else "finished"
            self._emit(
                [
                    SessionSuspended(reason=reason),
                    WorkerExited(
                        worker_generation=self.generation,
                        ending="suspended",
                        reason=reason,
                        exit_code=0,
                        pid=os.getpid(),
                    ),
                ],
                now,
            )
        await self._journal.keep_snapshot(self.session, now=True)
        await self._journal.close(clean=True)

    # --- what is outward: effects, words, waiting agents ---

    def _begin(self, effect: Effect) -> None:
        """Begin an effect whose events are durable."""
        match effect:
            case PrepareCall():
                self._world.prepare_call(self.session.conversation.calls[effect.tool_call_id])
            case RunCall():
                self._world.run_call(effect.tool_call_id, self._plans[effect.tool_call_id])
            case AskModel():
                model = self.session.model() or self.orders.default_model
                if model is None:
                    failure = ModelFailed("unknown_model", NO_MODEL)
                    self.arrive(NotAnswered(effect.model_call_id, effect.attempt, failure, 0.0))
                else:
                    self._world.ask_model(self.session, effect, model)
            case RetryLater():
                self._world.retry_later(effect.delay_ms)
            case RequestTitle():
                if effect.text.strip():
                    self.arrive(TitleFound(effect.text))
            case RunAgent():
                assert isinstance(self._driver, FunctionDriver), "only it asks for this"
                self._driver.run(self.session, effect.operation_id, self.arrive)

    def _tell(self, first: int, events: Sequence[Event], at_us: int) -> None:
        """Show durable events: to the supervisor, to whoever sent a command, to a waiting agent."""
        self._say(durable(first, self.generation, at_us, events))
        for sequence, event in enumerate(events, first):
            if event.command_id is not None and not isinstance(event, CommandAccepted):
                self._say(settled(event, sequence))
            if isinstance(event, ToolCallFinished):
                call = self.session.conversation.calls.get(event.tool_call_id)
                for caller in self._callers.pop(event.tool_call_id, ()):
                    answer_with(caller, call)

    def _after(self, word: FromWorker) -> None:
        self._afterwards.append(lambda: self._say(word))

    def _say(self, word: FromWorker) -> None:
        if self._link is not None:
            self._link.say(word)

    def preview(self, word: FromWorker) -> None:
        """Show a piece of an event in the making; lost when nobody listens."""
        self._say(word)

    def hello(self) -> Hello:
        """Return the greeting for a supervisor."""
        return Hello(
            session_id=self.session.session_id,
            generation=self.generation,
            pid=os.getpid(),
            head=self._durable_head(),
            stage=self._stage(),
            start_id=self.orders.start_id,
            token=self.orders.token,
            epoch=self._link.epoch if self._link else self.orders.epoch,
            paddock_version=__version__,
            operation_id=self._operation_id(),
            unanswered=tuple(self.session.unanswered()),
        )

    def _durable_head(self) -> int:
        return self.session.sequence - len(self._pending)

    def _operation_id(self) -> OperationId | None:
        operation = self.session.conversation.operation
        return operation.operation_id if operation else None

    # --- beats ---

    def _stage(self) -> Stage:
        conversation = self.session.conversation
        flight = self.in_flight
        if self._suspend is not None:
            return "suspending"
        if flight.needs_credentials:
            return "needs_credentials"
        busy = bool(flight.calls or flight.model_call or flight.retry != "none")
        if conversation.operation is not None:
            return "waiting" if conversation.approvals and not busy else "working"
        return "working" if conversation.queue or self._stimuli or self._held else "resting"

    def _tell_stage(self) -> None:
        if self._stage() != self._stage_told:
            self._say_beat()

    def _say_beat(self) -> None:
        conversation = self.session.conversation
        self._stage_told = self._stage()
        self._say(
            Beat(
                stage=self._stage_told,
                head=self._durable_head(),
                operation_id=self._operation_id(),
                open_tool_call_ids=tuple(
                    conversation.operation.open_calls if conversation.operation else ()
                ),
                approval_ids=tuple(conversation.approvals),
                queued=len(conversation.queue),
                lag_ms=self._lag_ms,
                rss_bytes=resident_bytes(),
            )
        )

    async def _beat(self) -> None:
        """Tell regularly that the loop runs, and how late it is; leave when nobody is told."""
        clock = asyncio.get_running_loop().time
        while True:
            resting = self._stage_told in {"resting", "waiting"}
            seconds = BEAT_RESTING_SECONDS if resting else BEAT_WORKING_SECONDS
            due = clock() + seconds
            await asyncio.sleep(seconds)
            self._lag_ms = max(0.0, (clock() - due) * 1000)
            lost_at = self._link.lost_at if self._link else None
            if lost_at is None:
                self._say_beat()
            elif clock() - lost_at > self.orders.orphan_grace_seconds:
                self.arrive(Orphaned())

    # --- tools, held commands ---

    def _toolkit(self) -> Toolkit:
        return {
            name: ToolFacts(tool.spec.effects, tool.spec.approval, tool.spec.exclusive)
            for name, tool in self._world.tools.items()
        }

    def _take_held(self, now: Moment) -> None:
        """Take what was held back once the struck operation has moved on (P14)."""
        if self._held and not is_struck(self.session):
            held, self._held = self._held, deque()
            for delivered in held:
                self._take_command(delivered, now)

    # --- a function agent ---

    def _stop_agent(self) -> None:
        if isinstance(self._driver, FunctionDriver):
            self._driver.stop()

    def _take_agent(self, stimulus: Stimulus, now: Moment) -> None:
        """Let the ledger answer what a function agent asks."""
        match stimulus:
            case StepBegun():
                step, events = begin_step(self.session, stimulus)
                self._emit(events, now)
                self._afterwards.append(lambda: answer_with(stimulus.answer, step))
            case StepEnded():
                self._emit(end_step(self.session, stimulus), now)
                self._afterwards.append(lambda: answer_with(stimulus.answer, None))
            case CallWanted():
                self._take_call_wanted(stimulus, now)
            case Replied():
                self._emit(reply(self.session, stimulus, now), now)
                self.in_flight = replace(self.in_flight, agent=None)
                self._afterwards.append(lambda: answer_with(stimulus.answer, None))
            case StateKept():
                self._emit([StateSaved(state=stimulus.state)], now)
                self._afterwards.append(lambda: answer_with(stimulus.answer, None))
            case AgentEnded():
                self._emit(agent_ended(self.session, stimulus), now)
                if self.in_flight.agent == stimulus.operation_id:
                    self.in_flight = replace(self.in_flight, agent=None)
            case _:
                message = f"nobody takes {type(stimulus).__name__}"
                raise TypeError(message)

    def _take_call_wanted(self, wanted: CallWanted, now: Moment) -> None:
        call, events = want_call(self.session, wanted, self._toolkit(), now)
        self._emit(events, now)
        if call is None:
            self._afterwards.append(lambda: answer_with(wanted.answer, None))
        elif call.stage == "finished":
            self._afterwards.append(lambda: answer_with(wanted.answer, call))
        else:
            self._callers.setdefault(call.tool_call_id, []).append(wanted.answer)


NO_MODEL = "the session has no model; give one with --model, or 'paddock config' a default_model"


def read_command(command: Command) -> Arguments:
    """Return a command's words.

    Raises:
        BadArgument: The verb is unknown, or an argument is missing, unknown or of the wrong form.
    """
    kind = COMMANDS.get(command.verb)
    if kind is None:
        message = f"there is no command {command.verb!r}; known are {', '.join(sorted(COMMANDS))}"
        raise BadArgument(message, verb=command.verb)
    try:
        return kind.model_validate(command.arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{command.verb}: {where}: {first['msg']}"
        raise BadArgument(message, verb=command.verb, argument=where) from error


def durable(first: int, generation: int, at_us: int, events: Sequence[Event]) -> Durable:
    """Return the word that shows events that are on disk, with their rows unless they are large."""
    rows: list[tuple[object, ...]] = []
    size = 0
    for sequence, event in enumerate(events, first):
        payload = payload_of(event)
        size += len(payload)
        if size > ROWS_LIMIT_BYTES:
            return Durable(first=first, count=len(events))
        rows.append(
            (
                sequence,
                generation,
                at_us,
                event.kind,
                event.operation_id,
                event.message_id,
                event.tool_call_id,
                event.command_id,
                payload,
            )
        )
    return Durable(first=first, count=len(events), rows=msgpack.packb(rows))


def settled(event: Event, sequence: int) -> Settled:
    """Return the word that tells a command's answer."""
    assert event.command_id is not None, "only answers are told"
    refusal = event if isinstance(event, CommandRejected | CommandQuarantined) else None
    return Settled(
        command_id=event.command_id,
        sequence=sequence,
        kind=event.kind,
        operation_id=event.operation_id,
        code=getattr(refusal, "code", "quarantined") if refusal else None,
        reason=refusal.reason if refusal else None,
    )


def answer_with(caller: Future[object], value: object) -> None:
    """Answer a waiting agent, unless it was stopped meanwhile."""
    if not caller.done():
        caller.set_result(value)


def resident_bytes() -> int:
    """Return the resident memory of this process (0 where the system does not tell)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - each second
            return int(statm.read().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


PAGE_BYTES = resource.getpagesize()


def _result_of(call: Call, ended: CallEnded, now: Moment) -> ToolCallFinished:
    outcome = ended.outcome
    assert outcome is not None, "a call without an outcome has no result of its own"
    return result(
        call,
        outcome.status,
        outcome.text,
        now_us=now.at_us,
        exit_code=outcome.exit_code,
        error_kind=outcome.error_kind,
        error=outcome.error,
        output_bytes=outcome.output_bytes,
        output_blob=ended.blob,
        value=outcome.value,  # type: ignore[arg-type]  # JSON-able by contract
    )
