"""The built-in agent: what comes next in a conversation, read from the session alone.

There is no program counter. :func:`advance` looks at the folded session and at what this process is
doing at the moment, and says which events to append and which effects to begin; after a death it
looks at the same log and says the same. One turn goes::

    input -> message -> [model call -> answer -> calls: check, decide, start, finish]* -> completed
                          ^     |failed: later again        |
                          +-----+---------------------------+ all answered
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from paddock.session_worker.approvals import Toolkit
from paddock.session_worker.commands import take_from_queue
from paddock.session_worker.ledger import (
    Moment,
    decide_call,
    fail,
    open_calls,
    refuse_call,
    request_call,
    result,
    startable,
)
from paddock.session_worker.model import (
    AssistantWords,
    Called,
    Item,
    ModelAnswer,
    Named,
    Naming,
    ToolResult,
    UserWords,
    unnamed,
)
from paddock.store.events import (
    ApprovalDecided,
    AssistantMessageAdded,
    AssistantPart,
    BudgetExceeded,
    Event,
    Limits,
    ModelCallFailed,
    ModelCallFinished,
    ModelCallStarted,
    OperationCompleted,
    TextPart,
    ToolCallFinished,
    ToolCallPart,
)
from paddock.store.ids import MessageId, ModelCallId, OperationId, ToolCallId
from paddock.store.session import Call, Message, ModelCall, Operation, Session, results_of, thread

DEFAULT_MODEL_CALLS = 500
"""A turn that asked so often without an end is a loop (``docs/OPERATIONS.md``)."""


# --- what this process does at the moment, and what it is to do ---


@dataclass(frozen=True, slots=True)
class InFlight:
    """What runs in this process now; nothing of it survives the process."""

    calls: frozenset[ToolCallId] = frozenset()
    """Calls that are being checked, prepared or run."""
    model_call: ModelCallId | None = None
    retry: Literal["none", "waiting", "due"] = "none"
    agent: OperationId | None = None
    """The operation that a function agent is running for."""
    stopping: bool = False
    """Nothing new is begun: the session is being suspended, or its operation cancelled."""
    needs_credentials: bool = False


@dataclass(frozen=True, slots=True)
class PrepareCall:
    """Check the arguments of a call and read what its intent needs."""

    tool_call_id: ToolCallId


@dataclass(frozen=True, slots=True)
class AskModel:
    """Send the conversation to the model."""

    model_call_id: ModelCallId
    message_id: MessageId
    attempt: int


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Ask the model again after a while."""

    delay_ms: float


@dataclass(frozen=True, slots=True)
class RunAgent:
    """Run a function agent for an operation, new or re-entered."""

    operation_id: OperationId


@dataclass(frozen=True, slots=True)
class RequestTitle:
    """Find a title for the session from the first words of its user; may fail without effect."""

    text: str


type Effect = PrepareCall | AskModel | RetryLater | RunAgent | RequestTitle


@dataclass(frozen=True, slots=True)
class Step:
    """Events to append in one commit, and effects to begin once they are durable."""

    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


# --- what comes next ---


def advance(
    session: Session,
    in_flight: InFlight,
    toolkit: Toolkit,
    now: Moment,
    named: Naming = unnamed,
) -> Step:
    """Return the next step of a built-in agent; an empty one when there is nothing to do but wait.

    The caller appends and evolves the events, notes the effects in ``in_flight``, and calls again
    until the step is empty.
    """
    operation = session.conversation.operation
    if operation is None:
        return Step() if in_flight.stopping else Step(take_from_queue(session, now))
    calls = advance_calls(session, in_flight, toolkit)
    if calls.effects or calls.events or open_calls(session) or in_flight.stopping:
        return calls
    if operation.operation == "shell":
        return Step([OperationCompleted(operation_id=operation.operation_id)])
    return _advance_turn(session, operation, in_flight, now, named)


def advance_calls(session: Session, in_flight: InFlight, toolkit: Toolkit) -> Step:
    """Return what is to be done about open calls: of any agent, built-in or not."""
    step = Step()
    if in_flight.stopping:
        return step
    may_start = set(startable(session, _running(session, in_flight), toolkit))
    for call in open_calls(session):
        if call.tool_call_id in in_flight.calls:
            continue
        if call.stage == "requested" and call.tool not in toolkit:
            step.events.extend(
                refuse_call(call, "unknown_tool", f"There is no tool {call.tool!r}.")
            )
        elif call.stage == "requested" or call.tool_call_id in may_start:
            step.effects.append(PrepareCall(call.tool_call_id))
    return step


def _running(session: Session, in_flight: InFlight) -> list[ToolCallId]:
    calls = session.conversation.calls
    return [
        call_id
        for call_id in in_flight.calls
        if call_id in calls and calls[call_id].stage in {"allowed", "started"}
    ]


def _advance_turn(
    session: Session, operation: Operation, in_flight: InFlight, now: Moment, named: Naming
) -> Step:
    conversation = session.conversation
    if operation.model_call is not None:
        step = _await_model(session, operation, operation.model_call, in_flight, now)
        if step is not None:
            return step
        failed = operation.model_call
        return _ask(operation, failed.attempt + 1, failed.message_id, now, named(session.model()))
    head = conversation.messages[conversation.head] if conversation.head else None
    if head is None or head.operation_id != operation.operation_id:
        return Step(fail(session, operation, "no_input", "the operation has no words to work on"))
    if head.role == "assistant" and not head.calls():
        return Step(
            [
                OperationCompleted(
                    operation_id=operation.operation_id, final_message_id=head.message_id
                )
            ]
        )
    exceeded = _exceeded(session, operation, now)
    if exceeded is not None:  # only where more would be asked for: an answer that ends it, ends it
        return _over(session, operation, exceeded)
    step = _ask(operation, 1, MessageId(now.mint()), now, named(session.model()))
    if session.life.title is None and operation.model_calls == 0:
        step.effects.append(RequestTitle(_text_of(head)))
    return step


def _await_model(
    session: Session, operation: Operation, call: ModelCall, in_flight: InFlight, now: Moment
) -> Step | None:
    """Return what follows from the call that is open; None when it is to be made again."""
    if not call.failed or in_flight.needs_credentials or in_flight.retry == "waiting":
        return Step()
    if call.retry_in_ms is None:
        kind, error = call.error_kind or "model_failed", call.error or "the model gave no answer"
        return Step(fail(session, operation, kind, error))
    wait_ms = call.retry_in_ms if in_flight.retry == "none" else 0.0
    late = _too_late(session, operation, now.at_us + int(wait_ms * 1000))
    if late is not None:  # known before the wait
        text = (
            f"{call.error}; to ask again {late.reached:g} s after it began is beyond its"
            f" operation_seconds ({late.maximum:g})"
        )
        return Step(fail(session, operation, "budget_exceeded", text))
    if call.retry_in_ms > 0 and in_flight.retry == "none":
        return Step(effects=[RetryLater(call.retry_in_ms)])
    return None


def _ask(
    operation: Operation, attempt: int, message_id: MessageId, now: Moment, asked: Named
) -> Step:
    model_call_id = ModelCallId(now.mint())
    started = ModelCallStarted(
        operation_id=operation.operation_id,
        message_id=message_id,
        model_call_id=model_call_id,
        provider=asked.provider,
        model=asked.model,
        context_limit=asked.context_limit,
        attempt=attempt,
    )
    return Step([started], [AskModel(model_call_id, message_id, attempt)])


def _exceeded(session: Session, operation: Operation, now: Moment) -> BudgetExceeded | None:
    limits = _limits_of(session)
    reached: Sequence[tuple[str, float, float | None]] = (
        (
            "model_calls",
            operation.model_calls,
            limits.model_calls or DEFAULT_MODEL_CALLS,
        ),
        ("tokens", operation.tokens, limits.tokens),
        ("cost_usd", operation.cost_usd, limits.cost_usd),
    )
    for name, value, maximum in reached:
        if maximum is not None and value >= maximum:
            return BudgetExceeded(
                operation_id=operation.operation_id, limit=name, maximum=maximum, reached=value
            )
    return _too_late(session, operation, now.at_us)


def _too_late(session: Session, operation: Operation, at_us: int) -> BudgetExceeded | None:
    maximum = _limits_of(session).operation_seconds
    seconds = (at_us - operation.started_at) / 1e6
    if maximum is None or seconds < maximum:
        return None
    return BudgetExceeded(
        operation_id=operation.operation_id,
        limit="operation_seconds",
        maximum=maximum,
        reached=seconds,
    )


def _limits_of(session: Session) -> Limits:
    return session.life.config.limits if session.life.config else Limits()


def _over(session: Session, operation: Operation, exceeded: BudgetExceeded) -> Step:
    text = f"{exceeded.limit} reached {exceeded.reached:g} of {exceeded.maximum:g}"
    return Step([exceeded, *fail(session, operation, "budget_exceeded", text)])


def _text_of(message: Message) -> str:
    parts = (*message.user_parts, *message.assistant_parts)
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))


# --- what came back ---


def on_prepared(
    session: Session,
    toolkit: Toolkit,
    tool_call_id: ToolCallId,
    error: str | None,
    now: Moment,
) -> list[Event]:
    """Take in that a call was checked: refuse it, or decide it if that is still to be done.

    Whether it starts now is for the caller to see: its stage is ``allowed`` then, and
    :func:`~paddock.session_worker.ledger.startable` names it.
    """
    call = session.conversation.calls.get(tool_call_id)
    if call is None or call.stage not in {"requested", "allowed"}:
        return []  # cancelled meanwhile (T8, T9)
    if error is not None:
        if call.stage == "requested":
            return refuse_call(call, "bad_call", error)
        return [result(call, "error", error, error_kind="bad_call", error=error)]
    if call.stage == "requested":
        return decide_call(session, call, toolkit, now)
    return []


def may_start(session: Session, in_flight: InFlight, toolkit: Toolkit, call_id: ToolCallId) -> bool:
    """Return whether a prepared call is to start at once, beside the others that run."""
    others = replace(in_flight, calls=in_flight.calls - {call_id})
    return call_id in startable(session, _running(session, others), toolkit)


def on_answer(
    session: Session,
    toolkit: Toolkit,
    model_call_id: ModelCallId,
    answer: ModelAnswer,
    duration_ms: float,
    now: Moment,
) -> list[Event]:
    """Take in a model's answer: the message, and a request for each call, in one commit.

    An answer to a request that was closed meanwhile changes nothing (T8, T9).
    """
    operation = session.conversation.operation
    call = operation.model_call if operation is not None else None
    if operation is None or call is None or call.model_call_id != model_call_id or call.failed:
        return []
    parts, requests = _taken(operation, call.message_id, answer, toolkit, now)
    return [
        ModelCallFinished(
            operation_id=operation.operation_id,
            message_id=call.message_id,
            model_call_id=model_call_id,
            usage=answer.usage,
            cost_usd=answer.cost_usd,
            duration_ms=duration_ms,
            ttft_ms=answer.ttft_ms,
            context_tokens=answer.usage.input_tokens,
            context_limit=answer.context_limit,
            http_status=answer.http_status,
            finish_reason=answer.finish_reason,
        ),
        AssistantMessageAdded(
            operation_id=operation.operation_id,
            message_id=call.message_id,
            parent_message_id=session.conversation.head,
            parts=tuple(parts),
            model=answer.model,
            provider=answer.provider,
            finish_reason=answer.finish_reason,
            model_state=answer.model_state,
        ),
        *requests,
    ]


def _taken(
    operation: Operation,
    message_id: MessageId,
    answer: ModelAnswer,
    toolkit: Toolkit,
    now: Moment,
) -> tuple[list[AssistantPart], list[Event]]:
    """Give each call of an answer an id of ours, and its request."""
    malformed = {bad.provider_call_id: bad for bad in answer.malformed}
    parts: list[AssistantPart] = []
    events: list[Event] = []
    for part in answer.parts:
        if not isinstance(part, Called):
            parts.append(part)
            continue
        call_id = ToolCallId(now.mint())
        parts.append(
            ToolCallPart(
                tool_call_id=call_id,
                provider_call_id=part.provider_call_id,
                tool=part.tool,
                arguments=part.arguments,
            )
        )
        request = request_call(
            operation.operation_id,
            message_id,
            call_id,
            part.tool,
            part.arguments,
            toolkit.get(part.tool),
            custody="observed" if part.observed else "executed",
        )
        events.append(request)
        bad = malformed.get(part.provider_call_id)
        if part.observed is not None:
            events += _observed(operation.operation_id, call_id, part)
        elif bad is not None:
            events += _refused(operation.operation_id, call_id, bad.reason)
    return parts, events


def _observed(operation_id: OperationId, call_id: ToolCallId, called: Called) -> list[Event]:
    observed = called.observed
    if observed is None:
        return []
    return [
        ApprovalDecided(
            operation_id=operation_id,
            tool_call_id=call_id,
            decision="allowed",
            rule="observed: recorded elsewhere, not run here",
            door="policy",
        ),
        ToolCallFinished(
            operation_id=operation_id,
            tool_call_id=call_id,
            status="error" if observed.is_error else "ok",
            text=observed.text,
            output_bytes=len(observed.text.encode("utf-8", "replace")),
            error_kind="recorded" if observed.is_error else None,
            error=observed.text[:1000] if observed.is_error else None,
        ),
    ]


def _refused(operation_id: OperationId, call_id: ToolCallId, reason: str) -> list[Event]:
    return [
        ApprovalDecided(
            operation_id=operation_id,
            tool_call_id=call_id,
            decision="denied",
            rule="bad_call",
            door="policy",
            note=reason,
        ),
        ToolCallFinished(
            operation_id=operation_id,
            tool_call_id=call_id,
            status="error",
            text=reason,
            error_kind="bad_call",
            error=reason,
        ),
    ]


def on_model_failure(
    session: Session,
    model_call_id: ModelCallId,
    *,
    error_kind: str,
    error: str,
    http_status: int | None,
    retry_after_ms: float | None,
    retry_in_ms: float | None,
    duration_ms: float,
) -> list[Event]:
    """Take in that a model gave no answer; with ``retry_in_ms`` it is asked again."""
    operation = session.conversation.operation
    call = operation.model_call if operation is not None else None
    if operation is None or call is None or call.model_call_id != model_call_id or call.failed:
        return []
    return [
        ModelCallFailed(
            operation_id=operation.operation_id,
            message_id=call.message_id,
            model_call_id=model_call_id,
            error_kind=error_kind,
            error=error,
            http_status=http_status,
            retry_after_ms=retry_after_ms,
            retry_in_ms=retry_in_ms,
            duration_ms=duration_ms,
        )
    ]


# --- what the model is asked ---


def model_items(session: Session) -> tuple[Item, ...]:
    """Return the active thread as a model is told it: every call followed by its result (P5).

    After a compaction the summary stands for all up to its message (R3).
    """
    conversation = session.conversation
    messages = thread(conversation)
    items: list[Item] = []
    compaction = conversation.compaction
    if compaction is not None:
        ids = [message.message_id for message in messages]
        if compaction.message_id in ids:
            messages = messages[ids.index(compaction.message_id) + 1 :]
            summary = TextPart(text=compaction.summary)
            items.append(UserWords(compaction.message_id, (summary,)))
    for message in messages:
        items += _items_of(session, message)
    return tuple(items)


def _items_of(session: Session, message: Message) -> list[Item]:
    if message.role == "user":
        return [UserWords(message.message_id, message.user_parts)]
    answered = {
        call.tool_call_id: call
        for call in results_of(session.conversation, message)
        if call.stage == "finished"
    }
    items: list[Item] = [
        AssistantWords(
            message.message_id,
            message.assistant_parts,
            message.model,
            message.provider,
            message.model_state,
        )
    ]
    items += [_result_item(part, answered.get(part.tool_call_id)) for part in message.calls()]
    return items


def _result_item(part: ToolCallPart, call: Call | None) -> ToolResult:
    """Return the result of a call; one that never came to be is told as interrupted."""
    if call is None or call.status is None:
        text = f"The call of {part.tool} was interrupted before it ran."
        return ToolResult(
            part.tool_call_id,
            part.provider_call_id,
            part.tool,
            part.arguments,
            "interrupted",
            text,
            happened=False,
        )
    return ToolResult(
        part.tool_call_id,
        part.provider_call_id,
        part.tool,
        part.arguments,
        call.status,
        call.text,
        happened=call.happened,
    )
