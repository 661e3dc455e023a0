"""A session played with values: the real engine, a log that is a list, and a world of choices.

Nothing here starts a process or knows the time. What the engine wants done waits in ``open`` until
the player says how it ended; ``crash`` forgets everything but the log.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from paddock.session_worker.acts import Act, Alarm, Continue, RunCall, Say, Stop
from paddock.session_worker.approvals import ToolFacts
from paddock.session_worker.drivers.driver import BuiltinDriver, Driver
from paddock.session_worker.ends import interpretation
from paddock.session_worker.engine import Engine
from paddock.session_worker.ledger import Moment
from paddock.session_worker.model import Called, Item, ModelAnswer, ModelFailed, Observed
from paddock.session_worker.protocol import Command, FromWorker, Settled
from paddock.session_worker.recovery import recover
from paddock.session_worker.stimuli import (
    Answered,
    CallEnded,
    Delivered,
    NotAnswered,
    Prepared,
    RetryDue,
    Stimulus,
    TitleFound,
)
from paddock.session_worker.toolbox.contract import Plan, ToolOutcome
from paddock.session_worker.turn import (
    AskModel,
    PrepareCall,
    RequestTitle,
    RetryLater,
    model_items,
)
from paddock.store.events import (
    CommandAccepted,
    Event,
    Row,
    SessionConfig,
    SessionCreated,
    Stored,
    TextPart,
    WorkerExited,
    WorkerStarted,
    payload_of,
    stored_of,
)
from paddock.store.fold import evolve
from paddock.store.ids import CommandId, SessionId, ToolCallId, uuid7
from paddock.store.session import Session

TOOLKIT: Mapping[str, ToolFacts] = {
    "bash": ToolFacts("write", "ask", exclusive=True),
    "write_file": ToolFacts("write", "ask", exclusive=True),
    "read_file": ToolFacts("none", "allow", exclusive=False),
    "grep": ToolFacts("none", "allow", exclusive=False),
}
SESSION = SessionId("01890000-0000-7000-8000-000000000001")


def row_of(stored: Stored) -> Row:
    """Return the event as the log keeps it."""
    event = stored.event
    return Row(
        stored.sequence,
        stored.generation,
        stored.occurred_at,
        event.kind,
        event.operation_id,
        event.message_id,
        event.tool_call_id,
        event.command_id,
        payload_of(event),
        b"",
    )


def fold(rows: Iterable[Row]) -> Session:
    """Return the fold of rows, read as from a file."""
    session = Session(SESSION)
    for row in rows:
        evolve(session, stored_of(SESSION, row))
    return session


def call(tool: str, **arguments: JsonValue) -> Called:
    """Return a call that a model asks for."""
    return Called(f"p-{tool}-{len(arguments)}", tool, dict(arguments))


def observed(tool: str, text: str) -> Called:
    """Return a call that was recorded elsewhere."""
    return Called(f"o-{tool}", tool, {}, Observed(text, is_error=False))


def answer(*parts: str | Called) -> ModelAnswer:
    """Return a model's answer of words and calls."""
    made = tuple(TextPart(text=part) if isinstance(part, str) else part for part in parts)
    return ModelAnswer(made, "script", "script")


@dataclass
class Play:
    """One session, its log, and what its worker waits for."""

    config: Mapping[str, object] = field(default_factory=dict)
    driver_of: Callable[[], Driver] = BuiltinDriver
    log: list[Row] = field(default_factory=list)
    open: list[Act] = field(default_factory=list)
    said: list[FromWorker] = field(default_factory=list)
    clock: int = 1_700_000_000_000_000
    minted: int = 0
    generation: int = 0
    toolkit: Mapping[str, ToolFacts] = field(default_factory=lambda: dict(TOOLKIT))

    def __post_init__(self) -> None:
        if not self.log:
            config = SessionConfig.model_validate({"workspace": "/w", **self.config})
            self._write([SessionCreated(config=config)])
        self.start()

    # --- lives and deaths ---

    def start(self, happened: Mapping[ToolCallId, bool | None] | None = None) -> None:
        """Start a worker on the log as it is."""
        session = fold(self.log)
        self.generation = max((row.generation for row in self.log), default=0) + 1
        self.engine = Engine(session, self.generation, self.driver_of(), self.toolkit)
        self.open, started = (
            [],
            WorkerStarted(pid=1, start_ticks=1, boot_id="b", agent="builtin", paddock_version="0"),
        )
        now = self.now()
        self.engine.emit([started], now)
        self.engine.emit(recover(self.engine.session, happened or {}), now)
        self._commit()
        for command_id in self.engine.session.unanswered():
            accepted = self.log[self.engine.session.life.accepted[command_id].sequence - 1]
            event = stored_of(SESSION, accepted).event
            assert isinstance(event, CommandAccepted)
            self.take(interpretation(event))
        self.take()

    def crash(self, cut: int | None = None, **facts: object) -> None:
        """Kill the worker: only the log (or its first ``cut`` events) is left; certify it."""
        if cut is not None:
            del self.log[cut:]
        session = fold(self.log)
        if session.life.worker is None:
            return
        operation = session.conversation.operation
        struck = [
            {"tool_call_id": c, "tool": call_.tool, "arguments_digest": call_.arguments_digest}
            for c in (operation.open_calls if operation else ())
            if (call_ := session.conversation.calls[c]).stage == "started"
        ]
        at_work = operation is not None and not session.conversation.approvals
        died = WorkerExited.model_validate(
            {
                "worker_generation": session.life.generation,
                "ending": "crashed",
                "reason": "signal",
                "signal": 9,
                "struck_operation_id": operation.operation_id if operation and at_work else None,
                "struck_calls": struck,
                **facts,
            }
        )
        self.generation += 1
        self._write([died])

    def _write(self, events: Iterable[Event]) -> None:
        for event in events:
            stored = Stored(SESSION, len(self.log) + 1, self.generation, self.clock, event)
            self.log.append(row_of(stored))

    # --- stimuli ---

    def now(self) -> Moment:
        self.clock += 1000
        return Moment(self.clock, self.mint)

    def mint(self) -> str:
        self.minted += 1
        return uuid7(self.clock, self.minted.to_bytes(10, "big"))

    def take(self, *stimuli: Stimulus) -> None:
        """Hand stimuli in, commit, and carry out what is done at once."""
        waiting = list(stimuli)
        first = True
        while waiting or first:
            first = False
            self.engine.take(waiting, self.now())
            waiting = self._commit()

    def _commit(self) -> list[Stimulus]:
        events, acts = self.engine.taken_out()
        self._write(events)
        again: list[Stimulus] = []
        for act in acts:
            match act:
                case Say():
                    self.said.append(act.word)
                case Continue():
                    again.append(act.stimulus)
                case RequestTitle():
                    if act.text.strip():
                        again.append(TitleFound(act.text))
                case Stop():
                    again += self._stopped(act.prefix)
                case Alarm():
                    pass
                case _:
                    self.open.append(act)
        return again

    def _stopped(self, prefix: str) -> list[Stimulus]:
        """End what runs, as cancelled tasks end."""
        ended: list[Stimulus] = []
        for act in list(self.open):
            match act:
                case RunCall() if not prefix:
                    ended.append(CallEnded(act.tool_call_id, None))
                case PrepareCall() if prefix in {"", "prepare:"}:
                    ended.append(Prepared(act.tool_call_id, None))
                case AskModel() if prefix in {"", "model"}:
                    ended.append(NotAnswered(act.model_call_id, act.attempt, None, 1.0))
                case RetryLater() if prefix in {"", "retry"}:
                    pass
                case _:
                    continue
            self.open.remove(act)
        return ended

    def command(self, verb: str, command_id: str | None = None, **arguments: object) -> Settled:
        """Deliver a command; return what it was answered."""
        made = self.deliver(verb, command_id, **arguments)
        settled = [word for word in self.said if isinstance(word, Settled)]
        return next(word for word in reversed(settled) if word.command_id == made)

    def deliver(self, verb: str, command_id: str | None = None, **arguments: object) -> CommandId:
        """Deliver a command that may be held back for a while, or never be answered."""
        made = CommandId(command_id or self.mint())
        words = Command.model_validate({"command_id": made, "verb": verb, "arguments": arguments})
        self.take(Delivered(words))
        return made

    def send(self, text: str) -> Settled:
        """Say something to the agent."""
        return self.command("send_input", parts=[{"type": "text", "text": text}])

    # --- what the world answers ---

    def one[A](self, kind: type[A]) -> A:
        """Return the one act of a kind that is open, and take it off."""
        found = [act for act in self.open if isinstance(act, kind)]
        assert len(found) == 1, f"{len(found)} open acts of {kind.__name__}: {self.open}"
        self.open.remove(found[0])
        return found[0]

    def has(self, kind: type) -> bool:
        """Return whether an act of a kind is open."""
        return any(isinstance(act, kind) for act in self.open)

    def model_says(self, *parts: str | Called) -> None:
        """Let the model answer."""
        asked = self.one(AskModel)
        self.take(Answered(asked.model_call_id, answer(*parts), 5.0))

    def model_fails(self, failure: ModelFailed) -> None:
        """Let the model fail."""
        asked = self.one(AskModel)
        self.take(NotAnswered(asked.model_call_id, asked.attempt, failure, 5.0))

    def retry(self) -> None:
        """Let the time to ask again come."""
        self.one(RetryLater)
        self.take(RetryDue())

    def prepare(self, which: int = 0, error: str | None = None) -> PrepareCall:
        """Let a call be checked."""
        found = [act for act in self.open if isinstance(act, PrepareCall)][which]
        self.open.remove(found)
        plan = None if error else self.plan(found.tool_call_id)
        self.take(Prepared(found.tool_call_id, plan, error))
        return found

    def one_prepared(self) -> ToolCallId:
        """Return the first call that is to be checked, and take it off."""
        found = next(act for act in self.open if isinstance(act, PrepareCall))
        self.open.remove(found)
        return found.tool_call_id

    def plan(self, call_id: ToolCallId) -> Plan:
        of_call = self.session.conversation.calls[call_id]
        return Plan(of_call.tool, of_call.arguments, {"n": 1}, call_id)

    def prepare_all(self) -> None:
        """Let every call be checked that waits for it."""
        while self.has(PrepareCall):
            self.prepare()

    def finish(self, which: int = 0, text: str = "fine", status: str = "ok") -> ToolCallId:
        """Let a running call end."""
        found = [act for act in self.open if isinstance(act, RunCall)][which]
        self.open.remove(found)
        self.take(CallEnded(found.tool_call_id, ToolOutcome(status, text)))  # type: ignore[arg-type]
        return found.tool_call_id

    # --- what can be seen ---

    @property
    def session(self) -> Session:
        return self.engine.session

    @property
    def kinds(self) -> list[str]:
        return [row.kind for row in self.log]

    def count(self, kind: str) -> int:
        return self.kinds.count(kind)

    def items(self) -> tuple[Item, ...]:
        return model_items(self.session)

    def statuses(self) -> list[str | None]:
        return [one.status for one in self.session.conversation.calls.values()]
