"""The worker's loop: wait for stimuli, let the engine decide, commit, carry out what is outward.

It decides nothing. What arrived together is taken together and committed in one transaction; only
then are its acts carried out and its events shown (P2).
"""

import asyncio
import contextlib
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError

import msgpack

from paddock.session_worker import __version__
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
from paddock.session_worker.commands import digest_of_words
from paddock.session_worker.drivers.function import FunctionDriver
from paddock.session_worker.ends import ending_word, ends_with, interpretation
from paddock.session_worker.engine import Checkpoint, Engine
from paddock.session_worker.errors import BadArgument
from paddock.session_worker.journal import Journal
from paddock.session_worker.ledger import Moment, open_calls
from paddock.session_worker.link import Link
from paddock.session_worker.model import ModelFailed
from paddock.session_worker.protocol import (
    Accepted,
    Beat,
    Bye,
    Command,
    Credentials,
    Deliver,
    Durable,
    Fault,
    FromWorker,
    Hello,
    NotAccepted,
    Refuse,
    Stage,
    StartOrders,
    Suspend,
    ToWorker,
    Welcome,
)
from paddock.session_worker.recovery import recover
from paddock.session_worker.sizes import flaw_in, too_large
from paddock.session_worker.stimuli import (
    CredentialsCame,
    DeadlinePassed,
    Delivered,
    NotAnswered,
    Orphaned,
    Prepared,
    Stimulus,
    SuspendAsked,
    TitleFound,
    Unwanted,
)
from paddock.session_worker.turn import (
    AskModel,
    PrepareCall,
    RequestTitle,
    RetryLater,
    RunAgent,
)
from paddock.session_worker.world import World
from paddock.store.errors import BlobNotFound, StoreError, TooLarge
from paddock.store.events import (
    OPERATION_ENDS,
    CommandAccepted,
    Event,
    WorkerExited,
    payload_of,
    stored_of,
)
from paddock.store.ids import uuid7

STIMULI_AT_ONCE = 200
"""Taken together into one commit; more would only make the first of them wait."""

IN_A_FILE = "put them into a file and name that"

DISK_RETRY_SECONDS = 0.5
"""Between two tries to write while the disk refuses."""

ROWS_LIMIT_BYTES = 1024 * 1024
"""Larger batches are not sent along: who wants them reads the file."""

BEAT_WORKING_SECONDS = 1.0

LOST_ARGUMENTS = (
    "the arguments held a secret, which is kept in no log and died with the worker: ask again"
)
NO_MODEL = "the session has no model: give one with --model, or set default_model"


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
        engine: Engine,
        world_of: Callable[["SessionLoop"], World],
        agent: FunctionDriver | None,
    ) -> None:
        self.engine = engine
        self._orders = orders
        self._journal = journal
        self._world = world_of(self)
        self._agent = agent
        self._stimuli: deque[Stimulus] = deque()
        self._arrival = asyncio.Event()
        self._stage_told: Stage = "starting"
        self._link: Link | None = None
        self._lag_ms = 0.0
        self._fault: Fault | None = None
        self._is_welcome = False
        self._is_ahead = False
        """Whether the state has what is not durable yet: nobody is told of that (P2)."""
        self._beat_told: Beat | None = None

    # --- the loop ---

    async def begin(self, first: Sequence[Event]) -> None:
        """Commit the start of this generation with all that a death left open."""
        engine, now = self.engine, self._now()
        happened = {
            call.tool_call_id: self._world.happened(call)
            for call in open_calls(engine.session)
            if call.stage == "started"
        }
        engine.emit(first, now)
        engine.emit(recover(engine.session, happened), now)
        events, _ = engine.taken_out()
        await self._journal.append(events, engine.generation, now.at_us)
        self._beat_told = self._beat_now()
        await self._resume_unanswered()

    async def run(self, link: Link) -> str:
        """Live until the session is suspended, deleted or unwanted; return which."""
        self._link = link
        helpers = [
            asyncio.create_task(link.run(), name="link"),
            asyncio.create_task(self._beat(), name="beat"),
        ]
        for helper in helpers:
            helper.add_done_callback(_report)
        try:
            while self.engine.ending is None:
                await self._take_together()
                if not self._stimuli and self.engine.ending is None:
                    self._arrival.clear()
                    await self._arrival.wait()
            return await self._leave(self.engine.ending)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    def arrive(self, stimulus: Stimulus) -> None:
        """Hand a stimulus in; from the loop's own thread."""
        self._stimuli.append(stimulus)
        self._arrival.set()

    def heard(self, word: ToWorker) -> None:
        """Hand a word of the supervisor in."""
        match word:
            case Deliver(command=command):
                self._hear_command(command)
            case Suspend():
                self.arrive(SuspendAsked(word))
            case Credentials():
                self.arrive(CredentialsCame(word.values))
            case Refuse():
                self.arrive(Unwanted(word.code, word.reason))
            case Welcome():
                self._say_beat()
                self._is_welcome = True
                self._arrival.set()
            case _:
                pass  # a word of a newer supervisor

    def _hear_command(self, command: Command) -> None:
        """Take a command in, or refuse at once what no event could hold, or names what is not."""
        code, reason = BadArgument.code, flaw_in(command.arguments)
        if reason is not None:
            reason = f"the command {reason}"
        else:
            code, reason = TooLarge.code, too_large("the command", command.arguments, IN_A_FILE)
        if reason is None:
            code, reason = BlobNotFound.code, self._missing_image(command)
        if reason is None:
            self.arrive(Delivered(command))
        else:
            self._say(NotAccepted(command_id=command.command_id, code=code, reason=reason))

    def _missing_image(self, command: Command) -> str | None:
        """Return why no image of a command can be shown: its session has no such blob (S15)."""
        parts = command.arguments.get("parts")
        for part in parts if isinstance(parts, list) else ():
            blob = part.get("blob") if isinstance(part, dict) else None
            try:
                is_missing = isinstance(blob, str) and not self._journal.has_blob(blob)
            except StoreError:
                return None  # that the disk fails is told by the commit of this command
            if is_missing:
                return (
                    f"there is no blob {blob!r} in this session: its calls' outputs are its blobs"
                )
        return None

    def _now(self) -> Moment:
        return Moment(now_us(), mint)

    async def _take_together(self) -> None:
        count = min(len(self._stimuli), STIMULI_AT_ONCE)
        batch = [self._stimuli.popleft() for _ in range(count)]
        checkpoint, now = self.engine.checkpoint(), self._now()
        self.engine.take(batch, now)
        events, acts = self.engine.taken_out()
        if events:
            self._is_ahead = True
            try:
                first = await self._journal.append(events, self.engine.generation, now.at_us)
            except StoreError as error:
                await self._take_back(batch, checkpoint, error)
                return
            finally:
                self._is_ahead = False
            self._end_fault()
            # First what somebody waits for; the rows are for those who follow.
            accepted, acts = _apart(acts)
            for act in accepted:
                self._carry_out(act)
            if self.engine.stage() != self._stage_told:
                # Who reads that an operation has ended may want the room of its session at once.
                self._say_beat(first - 1)
            self._say(durable(first, self.engine.generation, now.at_us, events))
            if any(event.kind in OPERATION_ENDS for event in events):
                self._world.look_at_workspace()
        for act in acts:
            self._carry_out(act)
        if self.engine.stage() != self._stage_told:
            self._say_beat()
        await self._keep_snapshot()

    async def _take_back(
        self, batch: Sequence[Stimulus], checkpoint: Checkpoint, error: StoreError
    ) -> None:
        """After a failed commit: believe the file, refuse commands, take facts in again later."""
        self._stimuli.extendleft(reversed(batch))
        while True:
            self._fault = Fault(code=error.code, reason=error.message)
            self._say_beat()
            self._refuse_commands(error)
            await asyncio.sleep(DISK_RETRY_SECONDS)
            try:
                session = await self._journal.refold()
            except StoreError as again:
                error = again
            else:
                break
        self.engine.roll_back(session, checkpoint)
        self._arrival.set()
        if not self._stimuli:
            self._end_fault()  # nothing is to be written: the next command finds out

    def _end_fault(self) -> None:
        """Tell that it can be written again, as far as is known."""
        if self._fault is not None:
            self._fault = None
            self._say_beat()

    def _refuse_commands(self, error: StoreError) -> None:
        """Tell those who wait to be accepted that the disk does not take them."""
        facts = [one for one in self._stimuli if not isinstance(one, Delivered)]
        for stimulus in self._stimuli:
            if isinstance(stimulus, Delivered):
                command = stimulus.command
                self._say(
                    NotAccepted(
                        command_id=command.command_id,
                        code=error.code,
                        reason=error.message,
                        digest=digest_of_words(command),
                    )
                )
        self._stimuli = deque(facts)

    async def _resume_unanswered(self) -> None:
        """Carry out what a worker that died had accepted and not answered."""
        session = self.engine.session
        for command_id in session.unanswered():
            row = await self._journal.row(session.life.accepted[command_id].sequence)
            accepted = stored_of(session.session_id, row).event
            assert isinstance(accepted, CommandAccepted), "the fold names the event of acceptance"
            self.arrive(interpretation(accepted))

    async def _keep_snapshot(self) -> None:
        if not self._is_welcome:
            return  # whoever started it waits for its greeting, and not for a cache
        try:
            is_at_rest = self.engine.operation_id() is None
            await self._journal.keep_snapshot(self.engine.session, is_at_rest=is_at_rest)
        except StoreError:
            return  # a cache that could not be written is only missed

    async def _leave(self, ending: str) -> str:
        """Write the last commit and give the file up."""
        await self._world.close()
        if ending != "unwanted":
            while True:
                engine, now = self.engine, self._now()
                reason = engine.suspend.reason if engine.suspend else ending
                engine.emit(self._last_events(ending, reason), now)
                events, _ = engine.taken_out()
                try:
                    first = await self._journal.append(events, engine.generation, now.at_us)
                    break
                except StoreError as error:
                    await self._take_back([], engine.checkpoint(), error)
            self._say(durable(first, engine.generation, now.at_us, events))
            await self._journal.keep_snapshot(engine.session, now=True)
        await self._journal.close(clean=True)
        self._say(Bye(reason=ending, head=self.engine.session.sequence))
        return ending

    def _last_events(self, ending: str, reason: str) -> list[Event]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        exited = WorkerExited(
            worker_generation=self.engine.generation,
            ending=ending_word(ending),
            reason=reason,
            exit_code=0,
            last_stage=self._stage_told,
            pid=os.getpid(),
            operation_id=self.engine.operation_id(),
            peak_rss_bytes=usage.ru_maxrss * 1024,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
        )
        return ends_with(exited)

    # --- what is outward ---

    def _carry_out(self, act: Act) -> None:  # noqa: C901 - one arm an act
        match act:
            case Say():
                self._say(act.word)
            case Continue():
                self.arrive(act.stimulus)
            case PrepareCall():
                self._prepare(act)
            case RunCall():
                self._world.run_call(act.tool_call_id, act.plan)
            case AskModel():
                self._ask(act)
            case RetryLater():
                self._world.retry_later(act.delay_ms)
            case RequestTitle():
                if act.text.strip():
                    self.arrive(TitleFound(act.text))
            case RunAgent():
                assert self._agent is not None, "only a function agent's driver says so"
                self._agent.run(self.engine.session, act.operation_id, self.arrive)
            case Stop():
                self._world.stop(act.prefix)
            case StopAgent():
                if self._agent is not None:
                    self._agent.stop()
            case Alarm():
                passed = DeadlinePassed(act.number)
                asyncio.get_running_loop().call_later(act.seconds, self.arrive, passed)
            case Renew():
                self._world.renew(act.values)
            case Reply():
                with contextlib.suppress(InvalidStateError):  # its thread waits for it no more
                    act.caller.set_result(act.value)

    def _prepare(self, act: PrepareCall) -> None:
        call = self.engine.session.conversation.calls[act.tool_call_id]
        arguments = self.engine.arguments_of(call)
        if arguments is None:
            self.arrive(Prepared(act.tool_call_id, None, LOST_ARGUMENTS, is_lost=True))
        else:
            self._world.prepare_call(call, arguments)

    def _ask(self, act: AskModel) -> None:
        model = self.engine.session.model() or self._orders.default_model
        if model is None:
            failure = ModelFailed("unknown_model", NO_MODEL)
            self.arrive(NotAnswered(act.model_call_id, act.attempt, failure, 0.0))
        else:
            self._world.ask_model(self.engine.session, act, model)

    def _say(self, word: FromWorker) -> None:
        if self._link is not None:
            self._link.say(word)

    def preview(self, word: FromWorker) -> None:
        """Show a piece of an event in the making; lost when nobody listens."""
        self._say(word)

    def hello(self) -> Hello:
        """Return the greeting for a supervisor."""
        session = self.engine.session
        return Hello(
            session_id=session.session_id,
            generation=self.engine.generation,
            pid=os.getpid(),
            head=self._journal.file.head,
            stage=self.engine.stage(),
            start_id=self._orders.start_id,
            token=self._orders.token,
            epoch=self._link.epoch if self._link else self._orders.epoch,
            paddock_version=__version__,
            operation_id=self.engine.operation_id(),
            unanswered=tuple(session.unanswered()),
        )

    # --- beats ---

    def _say_beat(self, head: int | None = None) -> None:
        """Tell how it fares; ``head`` where the rows above it are told next, not to be read."""
        if not self._is_ahead or self._beat_told is None:
            self._beat_told = self._beat_now()
        self._stage_told = self._beat_told.stage
        self._say(
            self._beat_told.model_copy(
                update={
                    "head": self._beat_told.head if head is None else head,
                    "lag_ms": self._lag_ms,
                    "rss_bytes": resident_bytes(),
                    "fault": self._fault,
                }
            )
        )

    def _beat_now(self) -> Beat:
        conversation = self.engine.session.conversation
        operation = conversation.operation
        return Beat(
            stage=self.engine.stage(),
            head=self._journal.file.head,
            operation_id=self.engine.operation_id(),
            open_tool_call_ids=tuple(operation.open_calls if operation else ()),
            approval_ids=tuple(conversation.approvals),
            queued=len(conversation.queue),
            lag_ms=self._lag_ms,
            rss_bytes=resident_bytes(),
        )

    async def _beat(self) -> None:
        """Tell regularly that the loop runs, and how late it is; leave when nobody is told."""
        clock = asyncio.get_running_loop().time
        while True:
            is_resting = self._stage_told in {"resting", "waiting"}
            seconds = self._orders.beat_seconds
            if not is_resting:
                seconds = min(seconds, BEAT_WORKING_SECONDS)
            due = clock() + seconds
            await asyncio.sleep(seconds)
            self._lag_ms = max(0.0, (clock() - due) * 1000)
            lost_at = self._link.lost_at if self._link else None
            if lost_at is None:
                self._say_beat()
            elif clock() - lost_at > self._orders.orphan_grace_seconds:
                self.arrive(Orphaned())


def _apart(acts: Sequence[Act]) -> tuple[list[Act], list[Act]]:
    """Return the acts that say that a command is accepted, and the others."""
    accepted: list[Act] = []
    others: list[Act] = []
    for act in acts:
        is_accepted = isinstance(act, Say) and isinstance(act.word, Accepted)
        (accepted if is_accepted else others).append(act)
    return accepted, others


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


def _report(helper: "asyncio.Task[None]") -> None:
    """Let the worker die of a fault in its line or its beat, with the story, not as a hang."""
    if not helper.cancelled() and (error := helper.exception()) is not None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"the {helper.get_name()} broke", "exception": error}
        )


def resident_bytes() -> int:
    """Return the resident memory of this process (0 where the system does not tell)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - each second
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
