"""The ledger: operations, inputs, calls and approvals of *any* agent, so that P4-P7 hold.

Pure functions from a session and a request to the events that grant it. Time and new ids come in as
a :class:`Moment`. The worker's loop appends what comes back in one commit, then does what is
outward. An agent, built-in or a user's function, is only ever a user of these functions; and after
a death :func:`recover` closes what the dead worker left open before anything else happens.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from paddock.session_worker.approvals import Ruling, ToolFacts, Toolkit, rule_on
from paddock.session_worker.errors import (
    Busy,
    InputNotFound,
    MessageNotFound,
    NothingToDecide,
    NothingToInterrupt,
)
from paddock.session_worker.protocol import (
    Annotate,
    Arguments,
    CheckOut,
    Configure,
    Decide,
    Delete,
    DequeueInput,
    EditMessage,
    Interrupt,
    RunShell,
    SendInput,
    SetMode,
    SetModel,
)
from paddock.store.errors import AlreadyExists, Forgotten
from paddock.store.events import (
    ApprovalDecided,
    ApprovalRequested,
    CallStatus,
    CommandQuarantined,
    ConversationHeadChanged,
    Custody,
    Event,
    InputDequeued,
    InputQueued,
    ModeChanged,
    ModelCallFailed,
    ModelChanged,
    OperationCancelled,
    OperationFailed,
    OperationInterrupted,
    OperationStarted,
    SessionAnnotated,
    SessionConfigured,
    SessionDeleted,
    SessionTitled,
    StepFinished,
    TextPart,
    ToolCallFinished,
    ToolCallRequested,
    ToolCallStarted,
    UserMessageAdded,
    UserPart,
)
from paddock.store.ids import (
    ApprovalId,
    CommandId,
    MessageId,
    OperationId,
    ToolCallId,
)
from paddock.store.session import Call, CommandAnswer, Operation, Session

STRIKES = 2
"""What kills its worker this often without progress is quarantined (P14)."""

TITLE_CHARACTERS = 80


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


# --- commands ---


def known_answer(
    session: Session, command_id: CommandId, digest: str
) -> CommandAnswer | Literal["accepted"] | None:
    """Return what a command that came before was answered; "accepted" if it was not yet.

    None means that it is new.

    Raises:
        AlreadyExists: The id is known with another payload.
        Forgotten: The id is older than all that is remembered; it may have run.
    """
    accepted = session.life.accepted.get(command_id)
    if accepted is None:
        forgotten = session.life.newest_forgotten
        if forgotten is not None and command_id <= forgotten:
            message = f"command {command_id!r} is older than all remembered ones: it may have run"
            raise Forgotten(message, command_id=command_id)
        return None
    if accepted.digest != digest:
        message = f"command {command_id!r} is known with another payload; use a new id"
        raise AlreadyExists(message, command_id=command_id)
    return session.answer_to(command_id) or "accepted"


def accepted_deletion(session: Session) -> int | None:
    """Return where in the log a deletion was accepted that nobody carried out, or None."""
    return session.life.deletion


def obey(session: Session, command_id: CommandId, words: Arguments, now: Moment) -> list[Event]:
    """Return the events that answer a command, the answer among them (it carries the id).

    ``Interrupt`` and ``RunShell`` while calls run are the loop's: it ends what runs first.

    Raises:
        Refused: It cannot be granted; the loop records ``command_rejected``.
    """
    match words:
        case SendInput():
            return take_input(session, command_id, "turn", words.parts, now)
        case RunShell():
            return take_input(session, command_id, "shell", (TextPart(text=words.command),), now)
        case EditMessage():
            return _edit(session, command_id, words, now)
        case CheckOut():
            return _check_out(session, command_id, words)
        case Decide():
            return _decided(session, command_id, words)
        case Interrupt():
            return cancel(session, command_id, words.operation_id)
        case DequeueInput():
            return _dequeue(session, command_id, words)
        case SetModel():
            return [ModelChanged(command_id=command_id, model=words.model)]
        case SetMode():
            return [ModeChanged(command_id=command_id, mode=words.mode)]
        case Configure():
            return _configure(command_id, words)
        case Annotate():
            return [
                SessionAnnotated(
                    command_id=command_id,
                    operation_id=words.operation_id,
                    key=words.key,
                    value=words.value,
                )
            ]
        case Delete():
            return [SessionDeleted(command_id=command_id, erase=words.erase)]
        case _:
            message = f"{type(words).__name__} is no command of the ledger"
            raise TypeError(message)


def take_input(
    session: Session,
    command_id: CommandId,
    kind: Literal["turn", "shell"],
    parts: tuple[UserPart, ...],
    now: Moment,
) -> list[Event]:
    """Start an operation with the words, or queue them while one is at work (Q1)."""
    if session.conversation.operation is not None or session.conversation.queue:
        return [InputQueued(command_id=command_id, operation=kind, parts=parts)]
    operation_id = OperationId(now.mint())
    started = OperationStarted(
        command_id=command_id,
        operation_id=operation_id,
        operation=kind,
        input_ids=(command_id,),
    )
    return [started, *_first_words(session, operation_id, kind, parts, now)]


def take_from_queue(session: Session, now: Moment) -> list[Event]:
    """Start the next queued input, if nothing is at work; consecutive texts become one (Q2-Q4)."""
    queue = list(session.conversation.queue.values())
    if session.conversation.operation is not None or not queue:
        return []
    kind = queue[0].operation
    taken = queue[:1]
    if kind == "turn":
        for waiting in queue[1:]:
            if waiting.operation != "turn":
                break
            taken.append(waiting)
    operation_id = OperationId(now.mint())
    parts = _coalesced([waiting.parts for waiting in taken])
    return [
        OperationStarted(
            operation_id=operation_id,
            operation=kind,
            input_ids=tuple(waiting.input_id for waiting in taken),
        ),
        *(
            InputDequeued(operation_id=operation_id, input_id=waiting.input_id, reason="started")
            for waiting in taken
        ),
        *_first_words(session, operation_id, kind, parts, now),
    ]


def _coalesced(inputs: Sequence[tuple[UserPart, ...]]) -> tuple[UserPart, ...]:
    """Join texts with a blank line; other parts stay where they are."""
    joined: list[UserPart] = []
    for parts in inputs:
        for index, part in enumerate(parts):
            last = joined[-1] if joined else None
            if index == 0 and isinstance(part, TextPart) and isinstance(last, TextPart):
                joined[-1] = TextPart(text=f"{last.text}\n\n{part.text}")
            else:
                joined.append(part)
    return tuple(joined)


def _first_words(
    session: Session,
    operation_id: OperationId,
    kind: Literal["turn", "shell"],
    parts: tuple[UserPart, ...],
    now: Moment,
) -> list[Event]:
    if kind == "shell":
        command = "".join(part.text for part in parts if isinstance(part, TextPart))
        arguments: dict[str, JsonValue] = {"command": command}
        call_id = ToolCallId(now.mint())
        return [
            ToolCallRequested(
                operation_id=operation_id,
                tool_call_id=call_id,
                tool="bash",
                arguments=arguments,
                arguments_digest=digest_of(arguments),
                effects="write",
                command_head=command_head("bash", arguments),
            ),
            # The user's own command is its own approval.
            ApprovalDecided(
                operation_id=operation_id,
                tool_call_id=call_id,
                decision="allowed",
                rule="the user's own command",
                door="client",
            ),
        ]
    return [
        UserMessageAdded(
            operation_id=operation_id,
            message_id=MessageId(now.mint()),
            parent_message_id=session.conversation.head,
            parts=parts,
        )
    ]


def _edit(session: Session, command_id: CommandId, words: EditMessage, now: Moment) -> list[Event]:
    if session.conversation.operation is not None:
        message = "an operation is at work; interrupt it, or wait, before editing a message"
        raise Busy(message, operation_id=session.conversation.operation.operation_id)
    old = session.conversation.messages.get(words.message_id)
    if old is None or old.role != "user":
        message = f"no user message {words.message_id!r}; 'paddock show' lists them"
        raise MessageNotFound(message, message_id=words.message_id)
    operation_id = OperationId(now.mint())
    return [
        OperationStarted(command_id=command_id, operation_id=operation_id, input_ids=(command_id,)),
        UserMessageAdded(
            operation_id=operation_id,
            message_id=MessageId(now.mint()),
            parent_message_id=old.parent_message_id,
            parts=words.parts,
        ),
    ]


def _check_out(session: Session, command_id: CommandId, words: CheckOut) -> list[Event]:
    if session.conversation.operation is not None:
        message = "an operation is at work; interrupt it, or wait, before changing the branch"
        raise Busy(message, operation_id=session.conversation.operation.operation_id)
    if words.message_id not in session.conversation.messages:
        message = f"no message {words.message_id!r}; 'paddock show' lists them"
        raise MessageNotFound(message, message_id=words.message_id)
    return [ConversationHeadChanged(command_id=command_id, message_id=words.message_id)]


def _dequeue(session: Session, command_id: CommandId, words: DequeueInput) -> list[Event]:
    if words.input_id not in session.conversation.queue:
        message = f"no waiting input {words.input_id!r}"
        raise InputNotFound(message, input_id=words.input_id)
    return [InputDequeued(command_id=command_id, input_id=words.input_id, reason="removed")]


def _configure(command_id: CommandId, words: Configure) -> list[Event]:
    events: list[Event] = [
        SessionConfigured(
            command_id=command_id,
            name=words.name,
            labels=words.labels,
            project=words.project,
            owner=words.owner,
        )
    ]
    if words.title is not None:
        events.append(SessionTitled(title=title_of(words.title)))
    return events


def title_of(text: str) -> str:
    """Return a title of at most 80 characters: the first words, on one line (T2)."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARACTERS else line[: TITLE_CHARACTERS - 1].rstrip() + "…"


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


def _decided(session: Session, command_id: CommandId, words: Decide) -> list[Event]:
    """Answer an open approval; "always" cascades to the other waiting calls that it covers (A4)."""
    conversation = session.conversation
    open_approval = conversation.approvals.get(words.approval_id)
    if open_approval is None:
        message = (
            f"approval {words.approval_id!r} is not open: decided before, or its operation ended"
        )
        raise NothingToDecide(message, approval_id=words.approval_id)
    call = conversation.calls[open_approval.tool_call_id]
    pattern = words.pattern if words.scope == "pattern" else None
    events: list[Event] = [
        ApprovalDecided(
            command_id=command_id,
            operation_id=call.operation_id,
            tool_call_id=call.tool_call_id,
            approval_id=words.approval_id,
            decision=words.decision,
            scope=words.scope,
            pattern=pattern,
            door=words.door,
            note=words.note,
        )
    ]
    if words.decision == "denied":
        why = f": {words.note}" if words.note else ""
        text = f"The user denied the call of {call.tool}{why}."
        events.append(result(call, "denied", text, error_kind="denied", error=words.note))
    return events


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
        *_close_model_call(operation, "cancelled"),
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


def _close_model_call(operation: Operation, why: str) -> list[Event]:
    model_call = operation.model_call
    if model_call is None or model_call.failed:
        return []
    return [
        ModelCallFailed(
            operation_id=operation.operation_id,
            message_id=model_call.message_id,
            model_call_id=model_call.model_call_id,
            error_kind=why,
            error=f"the request {why}",
        )
    ]


# --- after a death ---


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
            *(_interrupted(call, happened.get(call.tool_call_id)) for call in open_calls(session)),
            *_close_model_call(operation, "interrupted"),
            OperationInterrupted(
                operation_id=operation.operation_id, reason=_struck_text("this operation")
            ),
        ]
    events += _missing_requests(session, operation)
    events += [
        _interrupted(call, happened.get(call.tool_call_id))
        for call in open_calls(session)
        if call.stage == "started"
    ]
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
