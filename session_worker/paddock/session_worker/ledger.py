"""The ledger: operations, calls and approvals of *any* agent, so that P4-P7 hold.

Pure functions from a session and a request to the events that grant it. Time and new ids come in as
a :class:`Moment`. The worker's loop appends what comes back in one commit, then does what is
outward. An agent, built-in or a user's function, is only ever a user of these functions. What users
ask for is ``commands``'; what a death leaves behind is closed by ``recovery``.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from paddock.session_worker.approvals import Ruling, ToolFacts, Toolkit, rule_on
from paddock.session_worker.errors import NothingToInterrupt
from paddock.store.events import (
    ApprovalDecided,
    ApprovalRequested,
    CallStatus,
    Custody,
    Event,
    ModelCallFailed,
    OperationCancelled,
    OperationFailed,
    ToolCallFinished,
    ToolCallRequested,
    ToolCallStarted,
)
from paddock.store.ids import ApprovalId, CommandId, MessageId, OperationId, ToolCallId
from paddock.store.session import Call, Operation, Session


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, and where new ids come from."""

    at_us: int
    mint: Callable[[], str]


def digest_of(value: object) -> str:
    """Return a digest of a JSON value that does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


# --- calls: request, decision, intent, result ---


def command_head(tool: str, arguments: Mapping[str, JsonValue]) -> str | None:
    """Return the first word of a shell command that is no assignment, or None for other tools."""
    command = arguments.get("command")
    if tool != "bash" or not isinstance(command, str):
        return None
    words = [word for word in command.split() if "=" not in word.split("/", 1)[0]]
    return words[0][:100] if words else None


def request_call(
    operation_id: OperationId,
    message_id: MessageId | None,
    tool_call_id: ToolCallId,
    tool: str,
    arguments: dict[str, JsonValue],
    facts: ToolFacts | None,
    *,
    custody: Custody = "executed",
    call_key: str | None = None,
) -> ToolCallRequested:
    """Return the request of a call; a tool that is not known is requested too, and refused."""
    return ToolCallRequested(
        operation_id=operation_id,
        message_id=message_id,
        tool_call_id=tool_call_id,
        tool=tool,
        arguments=arguments,
        arguments_digest=digest_of(arguments),
        effects=facts.effects if facts else "write",
        custody=custody,
        mcp_server=facts.mcp_server if facts else None,
        command_head=command_head(tool, arguments),
        call_key=call_key,
    )


def refuse_call(call: Call, error_kind: str, error: str) -> list[Event]:
    """Close a call that is malformed, or of an unknown tool: never prompted, never run (A7, A8)."""
    return [
        ApprovalDecided(
            operation_id=call.operation_id,
            tool_call_id=call.tool_call_id,
            decision="denied",
            rule=error_kind,
            door="policy",
            note=error,
        ),
        result(call, "error", error, error_kind=error_kind, error=error),
    ]


def decide_call(session: Session, call: Call, toolkit: Toolkit, now: Moment) -> list[Event]:
    """Decide a well-formed call that was requested: by rule, or by asking."""
    facts = toolkit.get(call.tool)
    if facts is None:
        return refuse_call(call, "unknown_tool", f"there is no tool {call.tool!r}")
    ruling = rule_on(session, call.tool, call.arguments, facts)
    if ruling.outcome == "ask":
        return [
            ApprovalRequested(
                operation_id=call.operation_id,
                tool_call_id=call.tool_call_id,
                approval_id=ApprovalId(now.mint()),
            )
        ]
    return _ruled(call, ruling)


def _ruled(call: Call, ruling: Ruling) -> list[Event]:
    decided = ApprovalDecided(
        operation_id=call.operation_id,
        tool_call_id=call.tool_call_id,
        approval_id=call.approval_id,
        decision="allowed" if ruling.outcome == "allowed" else "denied",
        rule=ruling.rule,
        door="rule" if ruling.rule.startswith(("approvals", "pattern", "always")) else "policy",
    )
    if ruling.outcome == "allowed":
        return [decided]
    text = f"The call of {call.tool} was denied ({ruling.rule})."
    return [decided, result(call, "denied", text, error_kind="denied", error=ruling.rule)]


def cascade(session: Session, toolkit: Toolkit) -> list[Event]:
    """Decide waiting calls that a rule covers by now (A4, A5, A14)."""
    events: list[Event] = []
    for waiting in session.conversation.approvals.values():
        call = session.conversation.calls[waiting.tool_call_id]
        facts = toolkit.get(call.tool)
        if facts is not None:
            ruling = rule_on(session, call.tool, call.arguments, facts)
            if ruling.outcome != "ask":
                events += _ruled(call, ruling)
    return events


def start_call(call: Call, intent: dict[str, JsonValue] | None) -> ToolCallStarted:
    """Return the intent of a call: durable before its effect (P6).

    Raises:
        ValueError: The call was not allowed, or was started before. The loop's fault.
    """
    if call.stage != "allowed":
        message = f"call {call.tool_call_id} cannot start: it is {call.stage}"
        raise ValueError(message)
    return ToolCallStarted(
        operation_id=call.operation_id, tool_call_id=call.tool_call_id, intent=intent
    )


def result(  # noqa: PLR0913 - a result's facts
    call: Call,
    status: CallStatus,
    text: str,
    *,
    now_us: int | None = None,
    happened: bool | None = None,
    exit_code: int | None = None,
    error_kind: str | None = None,
    error: str | None = None,
    output_bytes: int | None = None,
    output_blob: str | None = None,
    value: JsonValue = None,
) -> ToolCallFinished:
    """Return the one result of a call."""
    duration = wait = None
    if now_us is not None and call.started_at is not None:
        duration = (now_us - call.started_at) / 1000
    if call.started_at is not None:
        wait = (call.started_at - call.requested_at) / 1000
    return ToolCallFinished(
        operation_id=call.operation_id,
        tool_call_id=call.tool_call_id,
        status=status,
        text=text,
        exit_code=exit_code,
        error_kind=error_kind,
        error=error,
        output_bytes=len(text.encode("utf-8", "replace")) if output_bytes is None else output_bytes,
        output_blob=output_blob,
        duration_ms=duration,
        wait_ms=wait,
        happened=happened,
        value=value,
    )


def open_calls(session: Session) -> list[Call]:
    """Return the calls of the open operation that have no result, in the order of request."""
    operation = session.conversation.operation
    if operation is None:
        return []
    return [session.conversation.calls[call_id] for call_id in operation.open_calls]


def startable(
    session: Session, running: Iterable[ToolCallId], toolkit: Toolkit
) -> list[ToolCallId]:
    """Return the allowed calls that may start beside those that run.

    An exclusive call runs alone, and none overtakes an earlier exclusive one that still waits, so
    that calls of one answer take effect in their order (T12).
    """
    calls = session.conversation.calls
    active = list(running)
    chosen: list[ToolCallId] = []
    for call in open_calls(session):
        exclusive = _is_exclusive(call, toolkit)
        if call.tool_call_id in active:
            if exclusive:
                break
            continue
        others = [*active, *chosen]
        if exclusive and others:
            break
        if any(_is_exclusive(calls[other], toolkit) for other in others):
            break
        if call.stage == "allowed":
            chosen.append(call.tool_call_id)
        if exclusive:
            break
    return chosen


def _is_exclusive(call: Call, toolkit: Toolkit) -> bool:
    facts = toolkit.get(call.tool)
    return facts is None or facts.exclusive


# --- the ends of operations ---


def cancel(
    session: Session, command_id: CommandId | None, operation_id: OperationId | None
) -> list[Event]:
    """End the operation at work: each open call gets one ``cancelled`` result (C1, C2).

    Raises:
        NothingToInterrupt: None is at work, or another than the one that was named.
    """
    operation = operation_to_end(session, operation_id)
    return [
        *close_calls(session, "cancelled", "was cancelled"),
        *close_model_call(operation, "cancelled"),
        OperationCancelled(command_id=command_id, operation_id=operation.operation_id),
    ]


def operation_to_end(session: Session, operation_id: OperationId | None) -> Operation:
    """Return the operation at work, if it is the one that is named (or none is).

    Raises:
        NothingToInterrupt: None is at work, or another than the one that was named.
    """
    operation = session.conversation.operation
    if operation is None:
        message = "no operation is at work"
        raise NothingToInterrupt(message)
    if operation_id is not None and operation.operation_id != operation_id:
        message = f"operation {operation_id!r} is not at work; {operation.operation_id!r} is"
        raise NothingToInterrupt(message, operation_id=operation.operation_id)
    return operation


def fail(session: Session, operation: Operation, error_kind: str, error: str) -> list[Event]:
    """End the operation with an error; open calls are cancelled first."""
    return [
        *close_calls(session, "cancelled", "was cancelled: its operation failed"),
        OperationFailed(operation_id=operation.operation_id, error_kind=error_kind, error=error),
    ]


def close_calls(
    session: Session, status: Literal["cancelled", "interrupted"], words: str
) -> list[Event]:
    """Give every open call of the operation its one result."""
    return [
        result(call, status, f"The call of {call.tool} {words}.", error_kind=status)
        for call in open_calls(session)
    ]


def close_model_call(operation: Operation, why: str) -> list[Event]:
    """End the request to the model that has no answer; nothing if there is none."""
    model_call = operation.model_call
    if model_call is None or model_call.failed:
        return []
    return [
        ModelCallFailed(
            operation_id=operation.operation_id,
            message_id=model_call.message_id,
            model_call_id=model_call.model_call_id,
            error_kind=why,
            error=f"the request was {why}",
        )
    ]
