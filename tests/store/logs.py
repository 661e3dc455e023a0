"""Realistic logs for tests and benchmarks: what a session's worker and supervisor would write.

A :class:`Story` is a session being told: each method appends the events of one thing that
happens, with times that go on, and ids that are made from a seed. ``write`` puts it into a real
session file.
"""

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from paddock.store import events as e
from paddock.store.events import EventBase, Row, payload_of
from paddock.store.ids import (
    ApprovalId,
    CommandId,
    MessageId,
    ModelCallId,
    OperationId,
    SessionId,
    ToolCallId,
    uuid7,
)
from paddock.store.session_file import SessionFile, folder_of, host_place

START_US = 1_790_000_000_000_000
"""A time in September 2026."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event, when it was, and which generation wrote it."""

    at_us: int
    generation: int
    event: EventBase


@dataclass(slots=True)
class Story:
    """A session being told. ``now_us`` is the time of the next event."""

    seed: int = 1
    now_us: int = START_US
    generation: int = 0
    happened: list[Happened] = field(default_factory=list)
    head: MessageId | None = None
    operation: OperationId | None = None
    session_id: SessionId = field(init=False)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.session_id = SessionId(self.new_id())

    def new_id(self) -> str:
        return uuid7(self.now_us, self._random.randbytes(10))

    def add(self, *events: EventBase, after_ms: float = 1.0) -> None:
        """Append events that happen at once, ``after_ms`` after what was before."""
        self.now_us += int(after_ms * 1000)
        self.happened += [Happened(self.now_us, self.generation, event) for event in events]

    # --- lifecycle ---

    def create(self, **config: object) -> "Story":
        given = {"workspace": "/home/someone/repo", "model": "script:fix.json", **config}
        self.add(
            e.SessionCreated(
                command_id=CommandId(self.session_id),
                config=e.SessionConfig.model_validate(given),
            )
        )
        return self

    def start(self, *, after_ms: float = 15.0, pid: int = 4711) -> "Story":
        self.generation += 1
        self.add(
            e.WorkerStarted(
                pid=pid + self.generation,
                start_ticks=1,
                boot_id="b",
                agent="builtin",
                paddock_version="0.1.0",
                memory_limit_bytes=2**31,
                ready_ms=after_ms,
            ),
            after_ms=after_ms,
        )
        return self

    def exit(
        self, *, ending: e.Ending = "suspended", reason: str = "asked", **facts: object
    ) -> "Story":
        self.add(
            e.WorkerExited.model_validate(
                {
                    "worker_generation": self.generation,
                    "ending": ending,
                    "reason": reason,
                    "peak_rss_bytes": 12_000_000,
                    "operation_id": self.operation,
                    **facts,
                }
            )
        )
        if ending == "suspended":
            self.add(e.SessionSuspended(reason=reason), after_ms=0)
        return self

    def crash(self, calls: Sequence[ToolCallId] = (), *, back_after_ms: float = 40.0) -> "Story":
        """Kill -9 with these calls open; the next worker is there after ``back_after_ms``."""
        self.exit(
            ending="crashed",
            reason="signal",
            signal=9,
            action="restarted",
            open_tool_call_ids=tuple(calls),
            tools_killed=len(calls),
        )
        self.start(after_ms=back_after_ms)
        for call in calls:
            self.finish(call, "interrupted", text="The host lost its worker.")
        return self

    def fail(self) -> "Story":
        self.add(e.SessionFailed(reason="4 crashes without progress", error_kind="crash_loop"))
        self.operation = None
        return self

    def delete(self) -> "Story":
        self.add(e.SessionDeleted(command_id=CommandId(self.new_id())))
        self.operation = None
        return self

    # --- conversation ---

    def ask(self, text: str, *, parent: MessageId | str | None = "head") -> MessageId:
        """A user's words arrive and start an operation; return the message's id."""
        command, self.operation = CommandId(self.new_id()), OperationId(self.new_id())
        message = MessageId(self.new_id())
        self.add(e.CommandAccepted(command_id=command, verb="send_input", digest="d"))
        self.add(
            e.OperationStarted(
                operation_id=self.operation, command_id=command, input_ids=(command,)
            ),
            e.UserMessageAdded(
                message_id=message,
                operation_id=self.at_work(),
                parent_message_id=self.head
                if parent == "head"
                else MessageId(parent or "") or None,
                parts=(e.TextPart(text=text),),
            ),
        )
        self.head = message
        return message

    def at_work(self) -> OperationId:
        """Return the operation at work."""
        assert self.operation is not None
        return self.operation

    def think(
        self,
        *,
        model: str | None = "script",
        cost: float | None = None,
        tokens: tuple[int | None, int | None] = (100, 20),
        took_ms: float = 900.0,
        retries: int = 0,
    ) -> MessageId:
        """A model is asked and answers; return the id of the answer, to be given to ``say``."""
        message, at_work = MessageId(self.new_id()), self.at_work()
        for attempt in range(1, retries + 2):
            call = ModelCallId(self.new_id())
            self.add(
                e.ModelCallStarted(
                    operation_id=at_work,
                    message_id=message,
                    model_call_id=call,
                    provider="test",
                    model=model,
                    attempt=attempt,
                    context_limit=200_000,
                )
            )
            if attempt <= retries:
                self.add(
                    e.ModelCallFailed(
                        operation_id=at_work,
                        message_id=message,
                        model_call_id=call,
                        error_kind="rate_limited",
                        error="429 Too Many Requests",
                        http_status=429,
                        retry_after_ms=1_000,
                        retry_in_ms=1_000,
                        duration_ms=50,
                    ),
                    after_ms=50,
                )
                self.now_us += 1_000_000
                continue
            self.add(
                e.ModelCallFinished(
                    operation_id=at_work,
                    message_id=message,
                    model_call_id=call,
                    usage=e.Usage(input_tokens=tokens[0], output_tokens=tokens[1]),
                    cost_usd=cost,
                    duration_ms=took_ms,
                    ttft_ms=took_ms / 3,
                    context_tokens=tokens[0],
                    http_status=200,
                ),
                after_ms=took_ms,
            )
        return message

    def say(
        self, message: MessageId, text: str, calls: Sequence[ToolCallId] = (), tool: str = "bash"
    ) -> None:
        """The answer joins the conversation."""
        parts: list[e.AssistantPart] = [e.TextPart(text=text)]
        parts += [
            e.ToolCallPart(tool_call_id=call, provider_call_id=call, tool=tool, arguments={})
            for call in calls
        ]
        self.add(
            e.AssistantMessageAdded(
                message_id=message,
                operation_id=self.at_work(),
                parent_message_id=self.head,
                parts=tuple(parts),
                model="script",
                provider="test",
            ),
            after_ms=0.1,
        )
        self.head = message

    def call(
        self,
        message: MessageId | None,
        *,
        tool: str = "bash",
        arguments: dict[str, JsonValue] | None = None,
        effects: e.Effects = "write",
        custody: e.Custody = "executed",
    ) -> ToolCallId:
        """A tool is asked for; return the call's id."""
        call = ToolCallId(self.new_id())
        given: dict[str, JsonValue] = arguments or {"command": "pytest -q"}
        command = given.get("command")
        self.add(
            e.ToolCallRequested(
                operation_id=self.at_work(),
                message_id=message,
                tool_call_id=call,
                tool=tool,
                arguments=given,
                arguments_digest="a" * 32,
                effects=effects,
                custody=custody,
                command_head=command.split()[0] if isinstance(command, str) else None,
            ),
            after_ms=0.1,
        )
        return call

    def ask_leave(self, call: ToolCallId) -> ApprovalId:
        approval = ApprovalId(self.new_id())
        self.add(
            e.ApprovalRequested(
                operation_id=self.at_work(), tool_call_id=call, approval_id=approval
            )
        )
        return approval

    def decide(
        self,
        call: ToolCallId,
        approval: ApprovalId | None = None,
        *,
        decision: str = "allowed",
        after_ms: float = 0.1,
        **how: object,
    ) -> None:
        given = {"door": "rule" if approval is None else "cli", "rule": "default", **how}
        self.add(
            e.ApprovalDecided.model_validate(
                {
                    "operation_id": self.at_work(),
                    "tool_call_id": call,
                    "approval_id": approval,
                    "decision": decision,
                    **given,
                }
            ),
            after_ms=after_ms,
        )

    def run(self, call: ToolCallId) -> None:
        self.add(e.ToolCallStarted(operation_id=self.at_work(), tool_call_id=call), after_ms=0.1)

    def finish(
        self,
        call: ToolCallId,
        status: e.CallStatus = "ok",
        *,
        took_ms: float = 20.0,
        text: str = "3 passed",
        **facts: object,
    ) -> None:
        self.add(
            e.ToolCallFinished.model_validate(
                {
                    "operation_id": self.at_work(),
                    "tool_call_id": call,
                    "status": status,
                    "text": text,
                    "output_bytes": len(text.encode()),
                    "duration_ms": None if status == "interrupted" else took_ms,
                    **facts,
                }
            ),
            after_ms=took_ms,
        )

    def change(self, call: ToolCallId, path: str, *, added: int = 1, removed: int = 1) -> None:
        self.add(
            e.FileChanged(
                operation_id=self.at_work(),
                tool_call_id=call,
                path=path,
                change="modified",
                lines_added=added,
                lines_removed=removed,
            ),
            after_ms=0.1,
        )

    def end(self, status: str = "completed") -> OperationId:
        """The operation ends; return its id."""
        assert self.operation is not None
        ended, self.operation = self.operation, None
        match status:
            case "completed":
                self.add(e.OperationCompleted(operation_id=ended, final_message_id=self.head))
            case "failed":
                self.add(e.OperationFailed(operation_id=ended, error_kind="model", error="gone"))
            case "cancelled":
                self.add(e.OperationCancelled(operation_id=ended))
            case _:
                self.add(e.OperationInterrupted(operation_id=ended, reason="struck twice"))
        return ended

    def turn(self, text: str = "Fix the test.", *, calls: int = 2) -> OperationId:
        """A whole turn: words, an answer with calls, their results, a last answer."""
        self.ask(text)
        for number in range(calls):
            answer = self.think(took_ms=200 + self._random.random() * 1_500)
            call = self.call(answer, arguments={"command": f"pytest -q tests/test_{number}.py"})
            self.say(answer, f"I run the tests again ({number}).", [call])
            self.decide(call)
            self.run(call)
            took = self._random.lognormvariate(4, 1)
            if self._random.random() < 0.1:
                self.finish(call, "error", took_ms=took, exit_code=1, text="E assert 1 == 2")
            else:
                self.finish(call, took_ms=took, exit_code=0)
        answer = self.think()
        self.say(answer, "Done: all tests pass.")
        return self.end()

    # --- as a log ---

    def rows(self) -> list[Row]:
        """Return the log's rows, with made-up hashes."""
        return list(rows_of(self.happened))

    def write(self, data: Path) -> SessionId:
        """Put all of it into a session file of its own; return the session's id."""
        file = SessionFile.create(
            folder_of(data, self.session_id), self.session_id, at_us=self.happened[0].at_us
        )
        append(file, self.happened)
        file.close(clean=True)
        return self.session_id

    def write_more(self, data: Path, already: int) -> None:
        """Append what happened after the first ``already`` events to the file that is there."""
        file = SessionFile.own(folder_of(data, self.session_id), self.session_id, wait_seconds=5)
        append(file, self.happened[already:])
        file.close(clean=True)


def append(file: SessionFile, happened: Iterable[Happened]) -> None:
    """Append events to a file that one owns, those of one moment in one transaction."""
    together: list[Happened] = []
    for one in happened:
        if together and (one.at_us, one.generation) != (together[0].at_us, together[0].generation):
            _append(file, together)
            together = []
        together.append(one)
    if together:
        _append(file, together)


def _append(file: SessionFile, together: Sequence[Happened]) -> None:
    first = together[0]
    file.append([one.event for one in together], generation=first.generation, at_us=first.at_us)


def rows_of(happened: Iterable[Happened]) -> Iterator[Row]:
    """Yield events as rows of a log, with hashes that are only different from each other."""
    for sequence, one in enumerate(happened, start=1):
        event = one.event
        yield Row(
            sequence,
            one.generation,
            one.at_us,
            event.kind,
            event.operation_id,
            event.message_id,
            event.tool_call_id,
            event.command_id,
            payload_of(event),
            sequence.to_bytes(16),
        )


def a_day(seed: int = 1, *, turns: int = 5, **config: object) -> Story:
    """Return a plain session: created, live, some turns, suspended."""
    story = Story(seed).create(**config).start()
    for number in range(turns):
        story.turn(f"Task {number}: repair what is broken.")
    return story.exit()


def host_log(data: Path, *epochs: int) -> None:
    """Write the supervisor's own file, an event an epoch."""
    with closing(sqlite3.connect(host_place(data).database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS host_events (number INTEGER PRIMARY KEY, epoch INTEGER, "
            "at INTEGER, kind TEXT, subject TEXT, detail TEXT)"
        )
        for epoch in epochs:
            values = (epoch, START_US + epoch, "died", "store", '{"signal": 9}')
            connection.execute(
                "INSERT INTO host_events (epoch, at, kind, subject, detail) VALUES (?, ?, ?, ?, ?)",
                values,
            )
        connection.commit()


def tombstone(data: Path, session_id: SessionId, *, erase: bool = True) -> None:
    """Write into the supervisor's own file that a session was deleted."""
    with closing(sqlite3.connect(host_place(data).database)) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS tombstones (session_id TEXT PRIMARY KEY, erase INTEGER)"
        )
        connection.execute("INSERT INTO tombstones VALUES (?, ?)", (session_id, erase))
        connection.commit()
