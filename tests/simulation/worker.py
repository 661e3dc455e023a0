"""A worker of the simulated world: the real engine, and around it as little as the loop does.

What stands here follows ``session_worker/loop.py`` and ``main.py`` line by line; what is decided is
decided by ``engine`` and ``ends``.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paddock.session_worker.acts import Act, Alarm, Continue, RunCall, Say, Stop
from paddock.session_worker.approvals import ToolFacts
from paddock.session_worker.commands import digest_of_words
from paddock.session_worker.drivers.driver import BuiltinDriver
from paddock.session_worker.ends import (
    begins_with,
    ending_word,
    ends_with,
    interpretation,
    may_begin,
)
from paddock.session_worker.engine import Checkpoint, Engine
from paddock.session_worker.ledger import Moment, open_calls
from paddock.session_worker.model import ModelFailed
from paddock.session_worker.protocol import (
    Annotate,
    Beat,
    Bye,
    Credentials,
    Deliver,
    Durable,
    Fault,
    FromWorker,
    Hello,
    NotAccepted,
    Refuse,
    Stage,
    Suspend,
    ToWorker,
    Welcome,
)
from paddock.session_worker.recovery import recover
from paddock.session_worker.stimuli import (
    Answered,
    CallEnded,
    CredentialsCame,
    DeadlinePassed,
    Delivered,
    Interpret,
    NotAnswered,
    Orphaned,
    Prepared,
    RetryDue,
    Stimulus,
    SuspendAsked,
    TitleFound,
    Unwanted,
)
from paddock.session_worker.toolbox.contract import Plan, ToolOutcome
from paddock.session_worker.turn import AskModel, PrepareCall, RequestTitle, RetryLater, model_items
from paddock.store.errors import AlreadyOwned, SessionNotFound, StoreError
from paddock.store.events import Event, WorkerExited, WorkerStarted
from paddock.store.ids import ToolCallId
from paddock.supervisor.restart import CONFIGURATION_EXIT_CODE
from tests.simulation.disk import File
from tests.simulation.lines import Line
from tests.simulation.script import answer_of
from tests.simulation.world import SIGKILL, Broken, Died, Process, World

if TYPE_CHECKING:
    from tests.simulation.house import House

TOOLKIT: Mapping[str, ToolFacts] = {
    "bash": ToolFacts("write", "ask", exclusive=True),
    "write_file": ToolFacts("write", "allow", exclusive=True),
    "read_file": ToolFacts("none", "allow", exclusive=False),
    "poison": ToolFacts("write", "allow", exclusive=True),
}
OWNER_WAIT_SECONDS = 5.0
DISK_RETRY_SECONDS = 0.5
BEAT_SECONDS = 5.0
BEAT_WORKING_SECONDS = 3.0
WELCOME_SECONDS = 5.0
ORPHAN_GRACE_SECONDS = 40.0
SLOW_STOPS = 0.2
"""Of all calls that are cancelled so many take a while until all that they started is gone."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a start is told."""

    start_id: str
    epoch: int
    reason: str
    reset: bool


@dataclass(eq=False, slots=True)
class Task:
    """An effect that is under way."""

    name: str
    process: Process | None = None
    told_when_stopped: Stimulus | None = None
    is_over: bool = False


class Worker:
    """One worker, from its fork to its death."""

    def __init__(self, house: "House", process: Process, file: File, orders: Orders) -> None:
        self.house = house
        self.world: World = house.world
        self.process = process
        self.file = file
        self.orders = orders
        self.generation = 0
        self.boot = self.world.boot
        self.engine: Engine | None = None
        self.line: Line | None = None
        self.epoch = orders.epoch
        self.is_welcome = False
        self.lost_at: float | None = None
        self._began_at = self.world.now
        self._stimuli: deque[Stimulus] = deque()
        self._is_due = False
        self._is_blocked = False
        self._fault: Fault | None = None
        self._is_leaving = False
        self._tasks: dict[str, Task] = {}
        self._stage_told: Stage = "starting"

    # --- the start ---

    def begin(self) -> None:
        """Own the file, close what a death left open, greet, live."""
        world, process, file = self.world, self.process, self.file
        world.point(process)
        try:
            file.own(process)
        except SessionNotFound:
            world.end(process, code=76)
            return
        except AlreadyOwned:
            if world.now - self._began_at > OWNER_WAIT_SECONDS:
                world.end(process, code=73)
            else:
                world.after(0.2, process, self.begin)
            return
        world.point(process)
        session = file.refold()
        host = self.house.announced
        is_of_former_host = host is not None and host.epoch > self.orders.epoch
        is_of_former_host = is_of_former_host and not world.is_mutated("late_start_begins")
        if not may_begin(session) or is_of_former_host:
            file.close(process, clean=True)
            world.end(process, code=75)
            return
        self.generation = file.last_generation + (not world.is_mutated("generation_not_raised"))
        self.engine = engine = Engine(session, self.generation, BuiltinDriver(), TOOLKIT)
        now = self._now()
        happened = {
            call.tool_call_id: self._happened(call.tool_call_id, call.tool)
            for call in open_calls(session)
            if call.stage == "started"
        }
        started = WorkerStarted(
            pid=process.pid,
            start_ticks=1,
            boot_id=f"boot-{world.boot}",
            agent="builtin",
            paddock_version="0",
        )
        engine.emit(
            begins_with(session, started, reason=self.orders.reason, reset=self.orders.reset), now
        )
        engine.emit(recover(engine.session, happened), now)
        events, _ = engine.taken_out()
        try:
            file.append(process, events, self.generation, now.at_us)
        except StoreError:
            world.end(process, code=74)
            return
        self.house.judge.owns(self)
        self._compare()
        for command_id in engine.session.unanswered():
            accepted = file.stored[engine.session.life.accepted[command_id].sequence - 1].event
            assert accepted.kind == "command_accepted"
            self._carry_out(Continue(interpretation(accepted)))
        self._take_soon()
        self.connect()
        world.after(BEAT_SECONDS, process, self._beat)

    def _happened(self, call_id: ToolCallId, tool: str) -> bool | None:
        """What the file system tells of an effect: of a shell command, nothing."""
        return self.house.effects.get(call_id, 0) > 0 if tool == "write_file" else None

    def _now(self) -> Moment:
        return Moment(self.world.now_us, self.world.mint)

    # --- the loop ---

    def arrive(self, stimulus: Stimulus) -> None:
        """Hand a stimulus in."""
        self._stimuli.append(stimulus)
        self._take_soon()

    def _take_soon(self) -> None:
        if not self._is_due and not self._is_blocked and not self._is_leaving:
            self._is_due = True
            self.world.soon(self.process, self._take_together)

    def _take_together(self) -> None:
        self._is_due = False
        if self._is_blocked or self._is_leaving:
            return
        engine, world = self.engine, self.world
        assert engine is not None
        batch = list(self._stimuli)
        self._stimuli.clear()
        checkpoint, now = engine.checkpoint(), self._now()
        engine.take(batch, now)
        self._fall_for_poison(batch)
        events, acts = engine.taken_out()
        if world.is_mutated("interpreted_before_durable"):
            early = [act.stimulus for act in acts if isinstance(act, Continue)]
            engine.take(early, now)
            self._fall_for_poison(early)
            more, others = engine.taken_out()
            events += more
            acts = [*(act for act in acts if not isinstance(act, Continue)), *others]
        if world.is_mutated("acts_before_commit"):
            self._carry_out_all(acts)
            acts = []
        if events:
            try:
                first = self._append(events, now.at_us)
            except StoreError as error:
                self._take_back(batch, checkpoint, error)
                return
            self._fault = None
            self._compare()
            self._say(self._durable(first, len(events)))
        self._carry_out_all(acts)
        if engine.stage() != self._stage_told:
            self._say_beat()
        if engine.ending is not None:
            self._leave(engine.ending)

    def _append(self, events: list[Event], at_us: int) -> int:
        if not self.world.is_mutated("answer_apart"):
            return self.file.append(self.process, events, self.generation, at_us)
        firsts = [
            self.file.append(self.process, [event], self.generation, at_us) for event in events
        ]
        return firsts[0]

    def _carry_out_all(self, acts: Sequence[Act]) -> None:
        for act in acts:
            self.world.point(self.process)
            if self.house.finds_itself_misconfigured():
                self.world.end(self.process, code=CONFIGURATION_EXIT_CODE)
                raise Died
            self._carry_out(act)

    def _fall_for_poison(self, batch: Sequence[Stimulus]) -> None:
        """A command that kills whoever carries it out."""
        for stimulus in batch:
            words = stimulus.words if isinstance(stimulus, Interpret) else None
            if isinstance(words, Annotate) and words.key == "poison":
                self.world.end(self.process, signal=11)
                raise Died

    def _compare(self) -> None:
        """P1: what lives is what the file, read back, adds up to."""
        assert self.engine is not None
        if self.engine.session != self.file.live:
            raise Broken("P1", f"the live session differs from its log at {self.file.head}")

    def _take_back(
        self, batch: Sequence[Stimulus], checkpoint: Checkpoint, error: StoreError
    ) -> None:
        self._stimuli.extendleft(reversed(batch))
        self._is_blocked = True
        self._fault = Fault(code=error.code, reason="disk")
        self._say_beat()
        for stimulus in self._stimuli:
            if isinstance(stimulus, Delivered):
                command = stimulus.command
                self._say(
                    NotAccepted(
                        command_id=command.command_id,
                        code=error.code,
                        reason="disk",
                        digest=digest_of_words(command),
                    )
                )
        self._stimuli = deque(one for one in self._stimuli if not isinstance(one, Delivered))
        self.world.after(DISK_RETRY_SECONDS, self.process, self._go_back, checkpoint)

    def _go_back(self, checkpoint: Checkpoint) -> None:
        assert self.engine is not None
        session = self.file.reopen()
        if self.world.is_mutated("engine_not_rolled_back"):
            self.engine.session = session
        else:
            self.engine.roll_back(session, checkpoint)
        self._is_blocked = False
        self._take_soon()

    # --- the end ---

    def _leave(self, ending: str) -> None:
        self._is_leaving = True
        for task in list(self._tasks.values()):
            self._end_task(task)
        self._last_commit(ending)

    def _last_commit(self, ending: str) -> None:
        engine, world, file = self.engine, self.world, self.file
        assert engine is not None
        self.house.judge.leaves(self)
        if ending != "unwanted":
            now = self._now()
            exited = WorkerExited(
                worker_generation=self.generation,
                ending=ending_word(ending),
                reason=engine.suspend.reason if engine.suspend else ending,
                exit_code=0,
                last_stage=self._stage_told,
                pid=self.process.pid,
                operation_id=engine.operation_id(),
            )
            engine.emit(ends_with(exited), now)
            events, _ = engine.taken_out()
            try:
                first = file.append(self.process, events, self.generation, now.at_us)
            except StoreError:
                session = file.reopen()
                engine.roll_back(session, engine.checkpoint())
                world.after(DISK_RETRY_SECONDS, self.process, self._last_commit, ending)
                return
            self._compare()
            self._say(self._durable(first, len(events)))
        world.point(self.process)
        file.close(self.process, clean=True)
        self._say(Bye(reason=ending, head=file.head))
        world.point(self.process)
        world.after(0.01, self.process, self._exit)

    def _exit(self) -> None:
        self.world.end(self.process, code=0)

    # --- what is outward ---

    def _carry_out(self, act: Act) -> None:
        world, process = self.world, self.process
        match act:
            case Say():
                self._say(act.word)
            case Continue():
                if world.is_mutated("carried_out_late"):
                    world.after(3.0 * world.chance() ** 3, process, self.arrive, act.stimulus)
                else:
                    self.arrive(act.stimulus)
            case PrepareCall():
                task = self._begin(f"prepare:{act.tool_call_id}")
                task.told_when_stopped = Prepared(act.tool_call_id, None)
                world.soon(process, self._prepared, task, act.tool_call_id)
            case RunCall():
                self._run(act)
            case AskModel():
                self._ask(act)
            case RetryLater():
                task = self._begin("retry")
                world.after(act.delay_ms / 1000, process, self._retry, task)
            case RequestTitle():
                if act.text.strip():
                    self.arrive(TitleFound(act.text))
            case Stop():
                self._stop(act.prefix)
            case Alarm():
                world.after(act.seconds, process, self.arrive, DeadlinePassed(act.number))
            case _:
                pass  # of function agents, and secrets

    def _begin(self, name: str, child: Process | None = None) -> Task:
        task = self._tasks[name] = Task(name, child)
        return task

    def _over(self, task: Task) -> bool:
        """Count a task as ended; False if it was before."""
        if task.is_over:
            return False
        task.is_over = True
        if self._tasks.get(task.name) is task:
            del self._tasks[task.name]
        return True

    def _prepared(self, task: Task, call_id: ToolCallId) -> None:
        if not self._over(task):
            return
        assert self.engine is not None
        if self.world.chance() < 0.05:
            self.arrive(Prepared(call_id, None, "bad arguments"))
            return
        call = self.engine.session.conversation.calls[call_id]
        self.arrive(Prepared(call_id, Plan(call.tool, call.arguments, {"n": 1}, call_id)))

    def _run(self, act: RunCall) -> None:
        world = self.world
        tool = world.fork("tool", mark=f"{self.file.session_id}.{self.generation}")
        self.house.judge.tool_starts(self, act.tool_call_id)
        if self.house.tools_inherit:
            self.file.inherit(tool)
        task = self._begin(f"call:{act.tool_call_id}", tool)
        seconds = 0.002 + world.chance() ** 4 * 30.0
        if act.plan.tool != "read_file":
            world.after(
                seconds * world.chance(), tool, self.house.judge.effect, self.file, act.tool_call_id
            )
        world.after(seconds, tool, self._tool_ends, task, act)
        world.watch(tool, self.process, lambda: self._tool_died(task, tool, act.tool_call_id))

    def _tool_ends(self, task: Task, act: RunCall) -> None:
        assert task.process is not None
        if act.plan.tool == "poison":
            self.world.end(self.process, signal=11)
        self.world.end(task.process, code=0)
        self.world.soon(self.process, self._ran, task, act.tool_call_id)

    def _tool_died(self, task: Task, tool: Process, call_id: ToolCallId) -> None:
        if tool.signal is not None and self._over(task):
            self.arrive(CallEnded(call_id, ToolOutcome("error", "it was killed")))

    def _ran(self, task: Task, call_id: ToolCallId) -> None:
        if self._over(task):
            status = "ok" if self.world.chance() < 0.8 else "error"
            self.arrive(CallEnded(call_id, ToolOutcome(status, "fine")))  # type: ignore[arg-type]

    def _ask(self, act: AskModel) -> None:
        assert self.engine is not None
        session = self.engine.session
        self.house.judge.asks(self, act, model_items(session))
        task = self._begin("model")
        task.told_when_stopped = NotAnswered(act.model_call_id, act.attempt, None, 5.0)
        seconds = 0.005 + self.world.chance() ** 4 * 20.0
        self.world.after(seconds, self.process, self._answered, task, act)

    def _answered(self, task: Task, act: AskModel) -> None:
        if not self._over(task):
            return
        assert self.engine is not None
        chance = self.world.chance()
        if chance < 0.1:
            kind = "overloaded" if chance < 0.08 else "auth"
            failure = ModelFailed(kind, "no")  # type: ignore[arg-type]
            self.arrive(NotAnswered(act.model_call_id, act.attempt, failure, 5.0))
            return
        said = answer_of(self.house, model_items(self.engine.session))
        self.arrive(Answered(act.model_call_id, said, 5.0))

    def _retry(self, task: Task) -> None:
        if self._over(task):
            self.arrive(RetryDue())

    def _stop(self, prefix: str) -> None:
        for name, task in list(self._tasks.items()):
            if name.startswith(prefix):
                self._end_task(task)

    def _end_task(self, task: Task) -> None:
        """Cancel an effect: what it started is gone before it reports what came of it."""
        if not self._over(task):
            return
        kind, _, rest = task.name.partition(":")
        if task.process is not None:
            self.world.end(task.process, signal=SIGKILL)
        if self._is_leaving:
            return
        if kind == "call":
            call_id = ToolCallId(rest)
            assert self.engine is not None
            tool = self.engine.session.conversation.calls[call_id].tool
            ended = CallEnded(call_id, None, happened=self._happened(call_id, tool))
            seconds = 4.0 * self.world.chance() if self.world.chance() < SLOW_STOPS else 0.01
            self.world.after(seconds, self.process, self.arrive, ended)
        elif task.told_when_stopped is not None:
            self.world.soon(self.process, self.arrive, task.told_when_stopped)

    # --- the line to the supervisor ---

    def connect(self) -> None:
        """Greet the supervisor of the moment, if there is one."""
        world, host = self.world, self.house.host
        self.line, self.is_welcome = None, False
        announced = self.house.announced
        if host is None or not host.process.is_alive or announced is not host:
            if self.lost_at is None:
                self.lost_at = world.now
            return  # the next one is found when it announces itself
        self.line = Line(world, self, host, is_full=self.house.is_full)
        world.watch(host.process, self.process, self._host_gone)
        self._say(self._hello())
        world.after(WELCOME_SECONDS, self.process, self._welcome_late, self.line)

    def _welcome_late(self, line: Line) -> None:
        if self.line is line and not self.is_welcome and not self._is_leaving:
            line.cut()

    def find_host(self) -> None:
        """Another supervisor than the one that went away says where it is."""
        if self.line is None and not self._is_leaving:
            self.connect()

    def _host_gone(self) -> None:
        line = self.line
        if line is None or not line.host.process.is_alive:
            self.line = None
            if self.lost_at is None:
                self.lost_at = self.world.now
            if not self._is_leaving:
                self.connect()

    def line_lost(self, line: Line) -> None:
        """The connection ended while its supervisor lives: make another."""
        if self.line is line and not self._is_leaving:
            self.connect()

    def heard(self, line: Line, word: ToWorker) -> None:
        """Take a word of the supervisor in."""
        if line is not self.line or self._is_leaving:
            return
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
                if word.epoch >= self.epoch or self.world.is_mutated("lower_epoch_welcome"):
                    self.epoch = word.epoch
                    self.is_welcome, self.lost_at = True, None
                    self._say_beat()
            case _:
                pass

    def _say(self, word: FromWorker) -> None:
        if self.line is not None:
            self.line.up(word)

    def _hello(self) -> Hello:
        assert self.engine is not None
        session = self.engine.session
        unanswered = (
            () if self.world.is_mutated("hello_hides_unanswered") else tuple(session.unanswered())
        )
        return Hello(
            session_id=session.session_id,
            generation=self.generation,
            pid=self.process.pid,
            head=self.file.believed,
            stage=self.engine.stage(),
            start_id=self.orders.start_id,
            token=b"",
            epoch=self.epoch,
            paddock_version="0",
            operation_id=self.engine.operation_id(),
            unanswered=unanswered,
        )

    def _durable(self, first: int, count: int) -> Durable:
        # The rows themselves stand for their bytes: nothing on the way looks into them.
        rows = tuple(self.file.rows[first - 1 : first - 1 + count])
        return Durable.model_construct(first=first, count=count, rows=rows)  # type: ignore[arg-type]

    # --- beats ---

    def _say_beat(self) -> None:
        assert self.engine is not None
        self._stage_told = self.engine.stage()
        if self.line is not None:
            self._say(
                Beat(
                    stage=self._stage_told,
                    head=self.file.believed,
                    operation_id=self.engine.operation_id(),
                    rss_bytes=1,
                    fault=self._fault,
                )
            )

    def _beat(self) -> None:
        if self._is_leaving:
            return
        if self.lost_at is None:
            self._say_beat()
        elif self.world.now - self.lost_at > ORPHAN_GRACE_SECONDS:
            self.house.judge.is_alone(self)
            if not self.world.is_mutated("orphans_stay"):
                self.arrive(Orphaned())
        self.world.after(BEAT_SECONDS, self.process, self._beat)
