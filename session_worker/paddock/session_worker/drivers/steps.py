"""The ledger's side of a function agent: steps, calls and replies, recorded once (P4-P6).

Pure. A step or call is matched on re-entry by its key and the digest of its arguments; a different
one at the same place ends the operation as ``diverged`` and does not run.
"""

from typing import Literal

from paddock.session_worker.approvals import Toolkit
from paddock.session_worker.ledger import Moment, close_calls, digest_of, fail, request_call
from paddock.session_worker.stimuli import AgentEnded, CallWanted, Replied, StepBegun, StepEnded
from paddock.store.events import (
    AssistantMessageAdded,
    Event,
    OperationCompleted,
    StateSaved,
    StepFinished,
    StepStarted,
    TextPart,
)
from paddock.store.ids import MessageId, OperationId, ToolCallId
from paddock.store.session import Call, Operation, Session, Step

type Go = Literal["run", "gone"]
"""run: nothing is recorded, go ahead; gone: the operation ended, do nothing."""


def begin_step(session: Session, begun: StepBegun) -> tuple[Step | Go, list[Event]]:
    """Return the recorded step, or "run" and the event that must be durable before it runs.

    A step that was interrupted runs anew only if its effects allow it; one that writes is given
    back as ``interrupted``, for the agent to look.
    """
    operation = _open(session, begun.operation_id)
    if operation is None:
        return "gone", []
    step = operation.steps.get(begun.step_key)
    if step is not None and step.arguments_digest != begun.arguments_digest:
        return "gone", _diverged(session, operation, f"step {begun.step_key!r}")
    if step is not None and not (step.status == "interrupted" and begun.effects != "write"):
        return step, []
    return "run", [
        StepStarted(
            operation_id=begun.operation_id,
            step_key=begun.step_key,
            arguments_digest=begun.arguments_digest,
            effects=begun.effects,
            attempt=step.attempt + 1 if step is not None else 1,
        )
    ]


def end_step(session: Session, ended: StepEnded) -> list[Event]:
    """Record a step's value or error; nothing when its operation ended meanwhile."""
    operation = _open(session, ended.operation_id)
    step = operation.steps.get(ended.step_key) if operation else None
    if step is None or step.status != "started":
        return []
    return [
        StepFinished(
            operation_id=ended.operation_id,
            step_key=ended.step_key,
            status="ok" if ended.error is None else "error",
            value=ended.value,
            error=ended.error,
            duration_ms=ended.duration_ms,
        )
    ]


def want_call(
    session: Session, wanted: CallWanted, toolkit: Toolkit, now: Moment
) -> tuple[Call | None, list[Event]]:
    """Return the recorded call, or the request of a new one; None where its operation ended."""
    operation = _open(session, wanted.operation_id)
    if operation is None:
        return None, []
    known = operation.keyed_calls.get(wanted.call_key)
    if known is not None:
        call = session.conversation.calls[known]
        if (call.tool, call.arguments_digest) != (wanted.tool, digest_of(wanted.arguments)):
            return None, _diverged(session, operation, f"call {wanted.call_key!r}")
        return call, []
    call_id = ToolCallId(now.mint())
    request = request_call(
        wanted.operation_id,
        None,
        call_id,
        wanted.tool,
        wanted.arguments,
        toolkit.get(wanted.tool),
        call_key=wanted.call_key,
    )
    pending = Call(
        call_id,
        wanted.operation_id,
        None,
        wanted.tool,
        wanted.arguments,
        request.arguments_digest,
        request.effects,
        request.custody,
        now.at_us,
        call_key=wanted.call_key,
    )
    return pending, [request]


def reply(session: Session, replied: Replied, now: Moment) -> list[Event]:
    """Message, state and ``operation_completed`` together; a call still open is cancelled (P5)."""
    if _open(session, replied.operation_id) is None:
        return []
    events = _close_calls(session)
    message_id = None
    if replied.text is not None:
        message_id = MessageId(now.mint())
        events.append(
            AssistantMessageAdded(
                operation_id=replied.operation_id,
                message_id=message_id,
                parent_message_id=session.conversation.head,
                parts=(TextPart(text=replied.text),),
            )
        )
    if replied.state is not None:
        events.append(StateSaved(state=replied.state))
    events.append(
        OperationCompleted(operation_id=replied.operation_id, final_message_id=message_id)
    )
    return events


def agent_ended(session: Session, ended: AgentEnded) -> list[Event]:
    """End the agent's operation, if it left one open; not where it was stopped, by who ends it."""
    operation = _open(session, ended.operation_id) if ended.operation_id else None
    if operation is None or ended.error_kind == "stopped":
        return []
    if ended.error is None:
        return [*_close_calls(session), OperationCompleted(operation_id=operation.operation_id)]
    return fail(session, operation, ended.error_kind, ended.error)


def _close_calls(session: Session) -> list[Event]:
    return close_calls(session, "cancelled", "was cancelled: its operation ended before it did")


def _open(session: Session, operation_id: OperationId) -> Operation | None:
    operation = session.conversation.operation
    return operation if operation is not None and operation.operation_id == operation_id else None


def _diverged(session: Session, operation: Operation, what: str) -> list[Event]:
    error = f"{what} is not the one that was recorded there: the agent's code or input changed"
    return fail(session, operation, "diverged", error)
