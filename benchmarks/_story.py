"""What a coding session writes, event by event, in the proportions and sizes of recorded ones.

Texts, arguments and ids are made ahead (:class:`Turn`); the events themselves are made by
:func:`told`, as the worker makes them: a prompt, then an answer with a call, its decision, intent
and result, and so on, and a last answer. 43 events a turn, 650 bytes of payload each (mean).
"""

import argparse
import inspect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from paddock.store.events import (
    ApprovalDecided,
    AssistantMessageAdded,
    AssistantPart,
    CommandAccepted,
    Event,
    FileChanged,
    ModelCallFinished,
    ModelCallStarted,
    OperationCompleted,
    OperationStarted,
    SessionConfig,
    SessionCreated,
    TextPart,
    ThinkingPart,
    ToolCallFinished,
    ToolCallPart,
    ToolCallRequested,
    ToolCallStarted,
    Usage,
    UserMessageAdded,
    WorkerStarted,
)
from paddock.store.ids import (
    CommandId,
    MessageId,
    ModelCallId,
    OperationId,
    SessionId,
    ToolCallId,
    uuid7,
)

CALLS_A_TURN = 5
EVENTS_A_TURN_AT_LEAST = 42
START_US = 1_790_000_000_000_000
"""A time in September 2026."""

# Characters at the 0th, 10th, 25th, 50th, 75th, 90th and 99th percentile of 71 recorded sessions of
# a coding agent: 1,094 calls, 636 texts between them, 499 signatures, 199 prompts.
PERCENTILES = (0, 10, 25, 50, 75, 90, 99)
PROMPT = (2, 9, 38, 104, 245, 850, 7163)
WORDS = (10, 50, 71, 117, 256, 799, 2449)
SIGNATURE = (200, 320, 388, 624, 1372, 3804, 17652)
ARGUMENTS = (20, 68, 96, 145, 461, 1276, 5044)
RESULT = (0, 44, 118, 418, 1858, 4684, 18418)
WITH_THOUGHTS = 0.45
WITH_WORDS = 0.58
TOOLS = {"bash": 0.45, "read_file": 0.3, "edit_file": 0.25}

CORPUS = inspect.getsource(argparse)
"""Code, as most of what tools give back: lines, quotes, indentation."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of a tool, and the answer that asks for it."""

    message_id: MessageId
    model_call_id: ModelCallId
    tool_call_id: ToolCallId
    provider_call_id: str
    words: str | None
    signature: str | None
    tool: str
    arguments: dict[str, JsonValue]
    arguments_digest: str
    command_head: str | None
    result: str
    tokens: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Turn:
    """All that one turn is made of."""

    command_id: CommandId
    operation_id: OperationId
    message_id: MessageId
    prompt: str
    asked: Sequence[Asked]
    last_message_id: MessageId
    last_model_call_id: ModelCallId
    last_words: str


class Author:
    """Makes up turns, always the same ones from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._at_us = START_US

    def turns(self, events: int) -> list[Turn]:
        """Return enough turns for at least so many events."""
        return [self._turn() for _ in range(-(-events // EVENTS_A_TURN_AT_LEAST))]

    def session_id(self) -> SessionId:
        """Return a new session's id."""
        return SessionId(self._id())

    def _id(self) -> str:
        self._at_us += 1_000
        return uuid7(self._at_us, self._random.randbytes(10))

    def _turn(self) -> Turn:
        return Turn(
            command_id=CommandId(self._id()),
            operation_id=OperationId(self._id()),
            message_id=MessageId(self._id()),
            prompt=self._text(PROMPT),
            asked=[self._asked() for _ in range(CALLS_A_TURN)],
            last_message_id=MessageId(self._id()),
            last_model_call_id=ModelCallId(self._id()),
            last_words=self._text(WORDS),
        )

    def _asked(self) -> Asked:
        chance = self._random
        (tool,) = chance.choices(list(TOOLS), list(TOOLS.values()))
        given = self._text(ARGUMENTS)
        arguments: dict[str, JsonValue]
        match tool:
            case "bash":
                arguments = {"command": f"pytest -q {given}"}
            case "read_file":
                arguments = {"path": f"/home/someone/repo/{given[:60]}", "offset": 1, "limit": 200}
            case _:
                half = len(given) // 2
                arguments = {"path": "src/main.py", "old": given[:half], "new": given[half:]}
        return Asked(
            message_id=MessageId(self._id()),
            model_call_id=ModelCallId(self._id()),
            tool_call_id=ToolCallId(self._id()),
            provider_call_id=f"toolu_{chance.randbytes(12).hex()}",
            words=self._text(WORDS) if chance.random() < WITH_WORDS else None,
            signature=self._signature() if chance.random() < WITH_THOUGHTS else None,
            tool=tool,
            arguments=arguments,
            arguments_digest=chance.randbytes(16).hex(),
            command_head="pytest" if tool == "bash" else None,
            result=self._text(RESULT),
            tokens=(chance.randrange(200), chance.randrange(60_000), chance.randrange(800)),
        )

    def _text(self, sizes: Sequence[int]) -> str:
        size = self._size(sizes)
        start = self._random.randrange(len(CORPUS) - size)
        return CORPUS[start : start + size]

    def _signature(self) -> str:
        return self._random.randbytes(self._size(SIGNATURE) // 2).hex()

    def _size(self, sizes: Sequence[int]) -> int:
        """Return a size whose percentiles are those given, straight lines between them."""
        at = self._random.random() * PERCENTILES[-1]
        place = next(i for i, percent in enumerate(PERCENTILES[1:]) if at <= percent)
        low, high = PERCENTILES[place], PERCENTILES[place + 1]
        part = (at - low) / (high - low)
        return round(sizes[place] + part * (sizes[place + 1] - sizes[place]))


def opening(config: SessionConfig | None = None) -> list[Event]:
    """Return what stands before the first turn."""
    config = config or SessionConfig(workspace="/home/someone/repo", model="script:a.json")
    return [
        SessionCreated(config=config),
        WorkerStarted(
            pid=4711, start_ticks=1, boot_id="b", agent="builtin", paddock_version="0.1.0"
        ),
    ]


def told(turns: Sequence[Turn]) -> Iterator[Event]:
    """Yield the events of these turns, each made at that moment."""
    head: MessageId | None = None
    for turn in turns:
        operation_id = turn.operation_id
        yield CommandAccepted(
            command_id=turn.command_id, verb="send_input", digest="d" * 32, by="cli"
        )
        yield OperationStarted(
            operation_id=operation_id, command_id=turn.command_id, input_ids=(turn.command_id,)
        )
        yield UserMessageAdded(
            message_id=turn.message_id,
            operation_id=operation_id,
            parent_message_id=head,
            parts=(TextPart(text=turn.prompt),),
        )
        head = turn.message_id
        for asked in turn.asked:
            yield from _told_call(operation_id, asked, head)
            head = asked.message_id
        yield ModelCallStarted(
            operation_id=operation_id,
            message_id=turn.last_message_id,
            model_call_id=turn.last_model_call_id,
        )
        yield _answered(
            operation_id, turn.last_message_id, turn.last_model_call_id, (12, 40_000, 300)
        )
        yield AssistantMessageAdded(
            operation_id=operation_id,
            message_id=turn.last_message_id,
            parent_message_id=head,
            parts=(TextPart(text=turn.last_words),),
            model="claude-sonnet-4-5",
            provider="anthropic",
            finish_reason="stop",
        )
        head = turn.last_message_id
        yield OperationCompleted(operation_id=operation_id, final_message_id=head)


def _answered(
    operation_id: OperationId,
    message_id: MessageId,
    model_call_id: ModelCallId,
    tokens: tuple[int, int, int],
) -> ModelCallFinished:
    fresh, cached, output = tokens
    return ModelCallFinished(
        operation_id=operation_id,
        message_id=message_id,
        model_call_id=model_call_id,
        usage=Usage(input_tokens=fresh + cached, cache_read_tokens=cached, output_tokens=output),
        cost_usd=0.0123,
        duration_ms=2345.678,
        ttft_ms=812.345,
        context_tokens=fresh + cached,
        http_status=200,
        finish_reason="tool_call",
    )


def _told_call(operation_id: OperationId, asked: Asked, head: MessageId) -> Iterator[Event]:
    call_id = asked.tool_call_id
    yield ModelCallStarted(
        operation_id=operation_id,
        message_id=asked.message_id,
        model_call_id=asked.model_call_id,
    )
    yield _answered(operation_id, asked.message_id, asked.model_call_id, asked.tokens)
    parts: list[AssistantPart] = []
    if asked.signature is not None:
        parts.append(ThinkingPart(text="", signature=asked.signature, provider="anthropic"))
    if asked.words is not None:
        parts.append(TextPart(text=asked.words))
    parts.append(
        ToolCallPart(
            tool_call_id=call_id,
            provider_call_id=asked.provider_call_id,
            tool=asked.tool,
            arguments=asked.arguments,
        )
    )
    yield AssistantMessageAdded(
        operation_id=operation_id,
        message_id=asked.message_id,
        parent_message_id=head,
        parts=tuple(parts),
        model="claude-sonnet-4-5",
        provider="anthropic",
        finish_reason="tool_call",
    )
    yield ToolCallRequested(
        operation_id=operation_id,
        message_id=asked.message_id,
        tool_call_id=call_id,
        tool=asked.tool,
        arguments=asked.arguments,
        arguments_digest=asked.arguments_digest,
        effects="none" if asked.tool == "read_file" else "write",
        command_head=asked.command_head,
    )
    yield ApprovalDecided(
        operation_id=operation_id,
        tool_call_id=call_id,
        decision="allowed",
        rule="default",
        door="rule",
    )
    yield ToolCallStarted(operation_id=operation_id, tool_call_id=call_id)
    yield ToolCallFinished(
        operation_id=operation_id,
        tool_call_id=call_id,
        status="ok",
        text=asked.result,
        exit_code=0 if asked.tool == "bash" else None,
        output_bytes=len(asked.result),
        duration_ms=123.456,
        wait_ms=1.234,
    )
    if asked.tool == "edit_file":
        yield FileChanged(
            operation_id=operation_id,
            tool_call_id=call_id,
            path="src/main.py",
            change="modified",
            lines_added=3,
            lines_removed=2,
            before_sha256="b" * 64,
            after_sha256="a" * 64,
        )
