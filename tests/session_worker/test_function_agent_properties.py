"""What holds for every function agent: whatever was started is never started again (P5, P6).

Random programs of steps, calls, loops and gathered ones run in the real driver, its thread
included, against the real engine. Then the log is cut after each of its events, as by a death
there, and the agent is entered again. What is done is counted outside, by its label.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.agent import Context, StepFailed, StepInterrupted
from paddock.agent.declare import AgentSpec
from paddock.session_worker.acts import Reply, RunCall
from paddock.session_worker.approvals import ToolFacts
from paddock.session_worker.drivers.function import FunctionDriver, LoadedAgent
from paddock.session_worker.ledger import digest_of
from paddock.session_worker.stimuli import AgentEnded, CallEnded, Prepared, Stimulus
from paddock.session_worker.toolbox.contract import ToolOutcome
from paddock.session_worker.turn import PrepareCall, RunAgent
from paddock.store.events import (
    OperationCompleted,
    OperationFailed,
    OperationInterrupted,
    Row,
    StepFinished,
    StepStarted,
    ToolCallFinished,
    ToolCallRequested,
    ToolCallStarted,
    stored_of,
)
from tests.session_worker.play import SESSION, Play
from tests.session_worker.test_properties import check_log

DEADLINE_SECONDS = 20.0

type Effects = Literal["none", "idempotent", "write"]
EFFECTS: tuple[Effects, ...] = ("none", "idempotent", "write")
TOOLS: dict[str, ToolFacts] = {
    effects: ToolFacts(effects, "allow", exclusive=effects == "write") for effects in EFFECTS
}


@dataclass(frozen=True, slots=True)
class Do:
    """One step or call; its label is its argument."""

    kind: Literal["step", "call"]
    effects: Effects
    key: str = "do"
    is_async: bool = True
    fails: bool = False


@dataclass(frozen=True, slots=True)
class Gather:
    """Some at once."""

    inner: tuple[Do, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """Some again and again."""

    times: int
    inner: tuple[Do, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """A value of the state, made durable at once or with the reply."""

    key: str
    value: int
    is_saved: bool


type Op = Do | Gather | Loop | Keep


@dataclass(frozen=True, slots=True)
class Work:
    """What is done in one turn, and how that ends."""

    ops: tuple[Op, ...]
    ending: Literal["reply", "leave", "return"]


DO = st.builds(
    Do,
    st.sampled_from(["step", "call"]),
    st.sampled_from(EFFECTS),
    st.sampled_from(["do", "think"]),
    st.booleans(),
    st.booleans(),
)
OP = st.one_of(
    DO,
    st.builds(Gather, st.lists(DO, min_size=2, max_size=3).map(tuple)),
    st.builds(Loop, st.integers(1, 2), st.lists(DO, min_size=1, max_size=2).map(tuple)),
    st.builds(Keep, st.sampled_from("ab"), st.integers(0, 2), st.booleans()),
)
WORK = st.builds(
    Work,
    st.lists(OP, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["reply", "leave", "return"]),
)
PROGRAMS = st.lists(WORK, min_size=1, max_size=2)


@dataclass
class World:
    """Where what an agent does is counted; ``changed`` says the work whose labels are others."""

    program: Sequence[Work]
    changed: tuple[int, int] | None = None
    done: list[str] = field(default_factory=list)
    log: list[Row] = field(default_factory=list)

    def happen(self, label: str) -> None:
        """Count an effect, for which there must be an intent in the log."""
        assert label in started(self.log), f"{label} is done without an intent"
        self.done.append(label)

    async def agent(self, s: Context) -> None:
        async for turn in s.turns():
            number = int(turn.text)
            work = self.program[number]
            for place, op in enumerate(work.ops):
                other = "another " if self.changed == (number, place) else ""
                await self.perform(s, op, f"{other}{number}.{place}")
            if work.ending == "reply":
                await turn.reply(f"done {number}")
            if work.ending == "return":
                return

    async def perform(self, s: Context, op: Op, label: str) -> None:
        match op:
            case Do(kind="step"):
                function = self.soon if op.is_async else self.at_once
                with contextlib.suppress(StepFailed, StepInterrupted):
                    value = await s.step(op.key, function, label, op.fails, effects=op.effects)
                    assert value == f"{label} done"
            case Do():
                result = await s.call(op.effects, label=label)
                assert result.text == f"{label} done" or result.status == "interrupted"
            case Gather():
                await asyncio.gather(
                    *(self.perform(s, one, f"{label}.{n}") for n, one in enumerate(op.inner))
                )
            case Loop():
                for again in range(op.times):
                    for n, one in enumerate(op.inner):
                        await self.perform(s, one, f"{label}.{again}.{n}")
            case Keep():
                s.state[op.key] = op.value
                if op.is_saved:
                    await s.save()

    def at_once(self, label: str, fails: bool) -> str:
        self.happen(label)
        if fails:
            raise ValueError(label)
        return f"{label} done"

    async def soon(self, label: str, fails: bool) -> str:
        await asyncio.sleep(0)
        return self.at_once(label, fails)


class Bench:
    """One session: its log, and workers that live on it one after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.driver: FunctionDriver  # of the present worker
        self.play = Play(driver_of=self.next_driver, toolkit=TOOLS)
        self.commands = [self.play.mint() for _ in world.program]
        self.arrived: asyncio.Queue[Stimulus] = asyncio.Queue()
        self.is_entered = False

    def next_driver(self) -> FunctionDriver:
        """Return the driver of the next worker: nothing of the last one is there any more."""
        agent = LoadedAgent(AgentSpec("any", None, self.world.agent), ())
        self.driver = FunctionDriver(agent)
        return self.driver

    async def live(self) -> None:
        """Work until nothing is left; each message is sent again, as by a client in doubt."""
        self.world.log = self.play.log
        await self.rest()
        for number, command in enumerate(self.commands):
            parts = [{"type": "text", "text": str(number)}]
            self.play.deliver("send_input", command, parts=parts)
            await self.rest()
        await self.end()

    async def rest(self) -> None:
        """Carry out what the engine wants, until it wants nothing."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                self.carry_out()
                if (
                    self.play.engine.stage() == "resting"
                    and self.play.engine.in_flight.agent is None
                ):
                    return
                stimulus = await self.arrived.get()
                self.is_entered = self.is_entered and not isinstance(stimulus, AgentEnded)
                self.play.take(stimulus)

    def carry_out(self) -> None:
        acts, self.play.open = self.play.open, []
        for act in acts:
            match act:
                case RunAgent():
                    self.is_entered = True
                    self.driver.run(self.play.session, act.operation_id, self.arrived.put_nowait)
                case Reply():
                    act.caller.set_result(act.value)
                case PrepareCall():
                    plan = self.play.plan(act.tool_call_id)
                    self.arrived.put_nowait(Prepared(act.tool_call_id, plan))
                case RunCall():
                    label = str(act.plan.arguments["label"])
                    self.world.happen(label)
                    outcome = ToolOutcome("ok", f"{label} done")
                    self.arrived.put_nowait(CallEnded(act.tool_call_id, outcome))
                case _:
                    raise AssertionError(act)

    async def end(self) -> None:
        """Let the agent's thread end: in a death it would go with its process."""
        self.driver.stop()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.is_entered and not isinstance(await self.arrived.get(), AgentEnded):
                pass
        self.is_entered = False
        self.arrived = asyncio.Queue()

    def die(self, log: Iterable[Row], cut: int, world: World) -> None:
        """Let the last worker have died after an event, and start the next one."""
        self.world = world
        self.play.log = list(log)
        self.play.crash(cut)
        self.play.start()


# --- what a log says ---


def events(log: Iterable[Row]) -> Iterator[object]:
    return (stored_of(SESSION, row).event for row in log)


def requested(log: Iterable[Row]) -> dict[str, str]:
    """Return the labels of calls by their ids, and of steps by their digests."""
    return {
        event.tool_call_id: str(event.arguments["label"])
        for event in events(log)
        if isinstance(event, ToolCallRequested)
    }


def digests(program: Sequence[Work]) -> dict[str, str]:
    """Return the labels of all steps that a program may take, by the digests of their arguments."""
    found = {}
    for number, work in enumerate(program):
        for place, op in enumerate(work.ops):
            for other in ("", "another "):
                for label, one in labels(op, f"{other}{number}.{place}"):
                    found[digest_of([[label, one.fails], {}])] = label
    return found


def labels(op: Op, label: str) -> list[tuple[str, Do]]:
    match op:
        case Do():
            return [(label, op)]
        case Gather():
            return [(f"{label}.{n}", one) for n, one in enumerate(op.inner)]
        case Loop():
            rounds = range(op.times)
            return [(f"{label}.{r}.{n}", one) for r in rounds for n, one in enumerate(op.inner)]
        case Keep():
            return []


KNOWN: dict[str, str] = {}
"""The labels of the present program's steps by digest."""


def started(log: Iterable[Row]) -> set[str]:
    """Return the labels of what was begun."""
    log = list(log)
    calls = requested(log)
    return {
        KNOWN[event.arguments_digest]
        if isinstance(event, StepStarted)
        else calls[event.tool_call_id]
        for event in events(log)
        if isinstance(event, StepStarted | ToolCallStarted)
    }


def may_be_done_again(log: Iterable[Row]) -> set[str]:
    """Return the labels of steps that were cut off, and whose effects allow them once more."""
    open_: dict[tuple[str, str], StepStarted] = {}
    for event in events(log):
        if isinstance(event, StepStarted):
            open_[event.operation_id, event.step_key] = event
        if isinstance(event, StepFinished) and event.status != "interrupted":
            del open_[event.operation_id, event.step_key]
    return {KNOWN[step.arguments_digest] for step in open_.values() if step.effects != "write"}


def ends(log: Iterable[Row]) -> list[str]:
    """Return how the operations ended."""
    told = []
    for event in events(log):
        match event:
            case OperationCompleted():
                told.append("completed")
            case OperationInterrupted():
                told.append("interrupted")
            case OperationFailed():
                told.append(event.error_kind)
            case _:
                pass
    return told


def check(log: list[Row], before: list[Row], done: list[str]) -> None:
    """Nothing that was begun before is begun again; each call has one request and one result."""
    check_log(log)
    calls = {e.tool_call_id for e in events(log) if isinstance(e, ToolCallRequested)}
    assert calls == {e.tool_call_id for e in events(log) if isinstance(e, ToolCallFinished)}
    assert max(Counter(done).values(), default=1) == 1
    assert set(done) & started(before) <= may_be_done_again(before)


def lost_words(log: Sequence[Row], cut: int) -> bool:
    """Return whether an operation was cut off its words: no commit ends so, and it fails."""
    return log[cut - 1].kind == "operation_started"


# --- the properties ---


@settings(max_examples=30, deadline=None)
@given(PROGRAMS)
def test_p6_no_agent_s_step_or_call_that_was_started_is_started_again(
    program: list[Work],
) -> None:
    async def run() -> None:
        bench = await first_life(program)
        whole, state = bench.play.log, bench.play.session.conversation.state
        for cut in range(1, len(whole) + 1):
            world = World(program)
            bench.die(whole, cut, world)
            await bench.live()
            check(bench.play.log, whole[:cut], world.done)
            if lost_words(whole, cut):
                assert ends(bench.play.log).count("no_input") == 1
            else:
                assert ends(bench.play.log) == ["completed"] * len(program)
                assert bench.play.session.conversation.state == state

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(PROGRAMS, st.lists(st.integers(1, 200), min_size=2, max_size=4))
def test_p6_nor_is_it_after_death_upon_death(program: list[Work], cuts: list[int]) -> None:
    async def run() -> None:
        bench = await first_life(program)
        for cut in cuts:
            before = bench.play.log
            world = World(program)
            cut_at = 1 + cut % len(before)
            bench.die(before, cut_at, world)
            await bench.live()
            check(bench.play.log, before[:cut_at], world.done)
            # What kills its worker twice at the same thing is not tried again (P14).
            assert set(ends(bench.play.log)) <= {"completed", "interrupted", "no_input"}
            assert len(ends(bench.play.log)) == len(program)

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(PROGRAMS, st.integers(0, 1), st.integers(0, 2), st.integers(0, 200))
def test_an_agent_that_takes_another_way_than_was_recorded_ends_as_diverged(
    program: list[Work], turn: int, place: int, cut: int
) -> None:
    turn %= len(program)
    place %= len(program[turn].ops)

    async def run() -> None:
        bench = await first_life(program)
        whole = bench.play.log
        cut_at = 1 + cut % len(whole)
        world = World(program, (turn, place))
        bench.die(whole, cut_at, world)
        ended = ends(whole[:cut_at])
        await bench.live()
        check(bench.play.log, whole[:cut_at], world.done)
        begun = started(whole[:cut_at]) | set(requested(whole[:cut_at]).values())
        was_there = any(label.startswith(f"{turn}.{place}") for label in begun)
        expected = ["completed"] * len(program)
        if was_there and len(ended) == turn:
            expected[turn] = "diverged"
        if lost_words(whole, cut_at):
            expected[len(ended)] = "no_input"
        assert ends(bench.play.log) == expected

    asyncio.run(run())


async def first_life(program: Sequence[Work]) -> Bench:
    """Return a session in which a program ran, undisturbed."""
    KNOWN.clear()
    KNOWN.update(digests(program))
    bench = Bench(World(program))
    await bench.live()
    wanted = [
        label
        for number, work in enumerate(program)
        for place, op in enumerate(work.ops)
        for label, _ in labels(op, f"{number}.{place}")
    ]
    assert sorted(bench.world.done) == sorted(wanted)
    assert ends(bench.play.log) == ["completed"] * len(program)
    return bench
