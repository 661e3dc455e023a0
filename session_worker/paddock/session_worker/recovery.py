"""After a death: what a dead worker left open is closed, and what kills is quarantined. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from paddock.session_worker.ledger import close_model_call, open_calls, request_call, result
from paddock.store.events import (
    CommandQuarantined,
    Event,
    FileChanged,
    ModelCallFailed,
    OperationInterrupted,
    StepFinished,
    ToolCallFinished,
)
from paddock.store.ids import CommandId, ToolCallId
from paddock.store.session import Call, Operation, Session

STRIKES = 2
"""What kills its worker this often without progress is quarantined (P14)."""


def recover(session: Session, happened: Mapping[ToolCallId, bool | None]) -> list[Event]:
    """Close what a dead worker left open; the first commit of the next one.

    Every intent without a result becomes an ``interrupted`` result that the model sees; nothing is
    run again (P6). ``happened`` tells of calls whose intent lets the world say whether they were
    done. Open approvals and queued inputs stay. What was struck twice is quarantined (P14).
    """
    events: list[Event] = [quarantine_of(each) for each in quarantined_commands(session)]
    operation = session.conversation.operation
    if operation is None:
        return events
    if is_quarantined(session, operation):
        return [
            *events,
            *_close_calls(open_calls(session), happened),
            *close_model_call(operation, "interrupted"),
            OperationInterrupted(
                operation_id=operation.operation_id, reason=_struck_text("this operation")
            ),
        ]
    events += _missing_requests(session, operation)
    started = [call for call in open_calls(session) if call.stage == "started"]
    events += _close_calls(started, happened)
    events += [
        StepFinished(
            operation_id=operation.operation_id,
            step_key=step.step_key,
            status="interrupted",
            error="the worker died while the step ran",
        )
        for step in operation.steps.values()
        if step.status == "started"
    ]
    model_call = operation.model_call
    if model_call is not None and not model_call.failed:
        events.append(
            ModelCallFailed(
                operation_id=operation.operation_id,
                message_id=model_call.message_id,
                model_call_id=model_call.model_call_id,
                error_kind="interrupted",
                error="the worker died while the model answered",
                retry_in_ms=0.0,
            )
        )
    return events


def _missing_requests(session: Session, operation: Operation) -> list[Event]:
    """Request the calls of the newest answer that were never requested.

    A commit holds an answer and its requests together; a log that was cut by hand may not.
    """
    conversation = session.conversation
    head = conversation.messages.get(conversation.head) if conversation.head else None
    if head is None or head.operation_id != operation.operation_id:
        return []
    return [
        request_call(
            operation.operation_id,
            head.message_id,
            part.tool_call_id,
            part.tool,
            part.arguments,
            None,
        )
        for part in head.calls()
        if part.tool_call_id not in conversation.calls
    ]


def _close_calls(
    calls: Sequence[Call], happened: Mapping[ToolCallId, bool | None]
) -> Iterator[Event]:
    for call in calls:
        is_done = happened.get(call.tool_call_id)
        if is_done:
            yield from _changed(call)
        yield _interrupted(call, is_done)


def _changed(call: Call) -> list[Event]:
    """Tell the change of a file that is known to have been made; its intent holds what it is."""
    intent = call.intent or {}
    change = intent.get("change")
    if not isinstance(change, dict):
        return []  # an intent of another kind, or of an older version
    return [
        FileChanged.model_validate(
            {
                **change,
                "operation_id": call.operation_id,
                "tool_call_id": call.tool_call_id,
                "before_sha256": intent.get("before_sha256"),
                "after_sha256": intent.get("after_sha256"),
            }
        )
    ]


def _interrupted(call: Call, happened: bool | None) -> ToolCallFinished:  # noqa: FBT001 - a tri-state
    told = {
        True: "It is known to have been done.",
        False: "It is known not to have been done.",
        None: "Whether it was done is not known: look before you do it again.",
    }[happened]
    text = f"The call of {call.tool} was interrupted: its worker died while it ran. {told}"
    return result(call, "interrupted", text, happened=happened, error_kind="interrupted")


def _struck_text(what: str) -> str:
    return f"{what} killed its worker {STRIKES} times without progress and is not tried again"


def is_struck(session: Session) -> bool:
    """Return whether the last death struck what is still open: nothing new is taken then."""
    operation = session.conversation.operation
    progress = session.conversation.progress_sequence
    return any(
        exit_.sequence > progress
        and operation is not None
        and exit_.struck_operation_id == operation.operation_id
        for exit_ in session.life.exits
    )


def is_quarantined(session: Session, operation: Operation) -> bool:
    """Return whether the operation killed its worker twice at the same thing without progress."""
    strikes: Counter[tuple[str, str]] = Counter()
    for exit_ in session.life.exits:
        if (
            exit_.sequence
            <= max(session.conversation.progress_sequence, session.life.reset_sequence)
            or exit_.struck_operation_id != operation.operation_id
        ):
            continue
        struck = {(call.tool, call.arguments_digest) for call in exit_.struck_calls}
        strikes.update(struck or {("", "")})
    return any(count >= STRIKES for count in strikes.values())


def quarantined_commands(session: Session) -> list[CommandId]:
    """Return the accepted, unanswered commands that killed their worker twice."""
    return [command_id for command_id in session.unanswered() if is_poison(session, command_id)]


def is_poison(session: Session, command_id: CommandId) -> bool:
    """Return whether a command killed its worker twice, accepted or still on its way in."""
    strikes = sum(
        command_id in exit_.struck_command_ids
        for exit_ in session.life.exits
        if exit_.sequence > session.life.reset_sequence
    )
    return strikes >= STRIKES


def quarantine_of(command_id: CommandId) -> CommandQuarantined:
    """Return the answer to a command that killed its worker twice."""
    return CommandQuarantined(command_id=command_id, reason=_struck_text("this command"))
