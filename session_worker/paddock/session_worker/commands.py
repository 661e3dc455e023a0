"""What each command does to a session, and what one that came before was answered. Pure.

As in the ledger, events come back; the answer to a command is the one that carries its id.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import JsonValue

from paddock.session_worker.approvals import matching_pattern
from paddock.session_worker.errors import (
    BadArgument,
    Busy,
    InputNotFound,
    MessageNotFound,
    NothingToDecide,
)
from paddock.session_worker.ledger import Moment, cancel, command_head, digest_of, result
from paddock.session_worker.protocol import (
    Annotate,
    Arguments,
    CheckOut,
    Command,
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
    ConversationHeadChanged,
    Event,
    InputDequeued,
    InputQueued,
    ModeChanged,
    ModelChanged,
    OperationStarted,
    SessionAnnotated,
    SessionConfigured,
    SessionDeleted,
    SessionTitled,
    TextPart,
    ToolCallRequested,
    UserMessageAdded,
    UserPart,
)
from paddock.store.ids import CommandId, MessageId, OperationId, ToolCallId
from paddock.store.session import Call, CommandAnswer, Session

TITLE_CHARACTERS = 80


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


def digest_of_words(command: Command) -> str:
    """Return the digest of what a command says: the same by the same id is the same command."""
    return digest_of([command.verb, command.arguments])


def accepted_deletion(session: Session) -> int | None:
    """Return where in the log a deletion was accepted that nobody carried out, or None."""
    return session.life.deletion


def obey(
    session: Session,
    command_id: CommandId,
    words: Arguments,
    now: Moment,
    *,
    by: str | None = None,
) -> list[Event]:
    """Return the events that answer a command, the answer among them (it carries the id).

    ``by`` is who gave it; decisions and remarks say so.
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
            return _decided(session, command_id, words, by)
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
                    by=by,
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


def _check_pattern(call: Call, pattern: str) -> None:
    """Raise BadArgument where a pattern would not have allowed the very call that is asked about.

    It is mistyped, or meant for another call: who gave it would be asked again, and wonder.
    """
    command = call.arguments.get("command")
    if call.tool != "bash" or not isinstance(command, str):
        message = f"a pattern is of shell commands, and this is a call of {call.tool}"
        raise BadArgument(message)
    if matching_pattern(command, [pattern]) is None:
        message = (
            f"the pattern {pattern!r} does not match {command[:200]!r}; each of its commands must"
            " match, and one that redirects or substitutes is matched by its exact text only"
        )
        raise BadArgument(message, pattern=pattern)


def _decided(session: Session, command_id: CommandId, words: Decide, by: str | None) -> list[Event]:
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
    if words.scope == "pattern" and words.decision == "allowed":
        _check_pattern(call, pattern or "")
    events: list[Event] = [
        ApprovalDecided(
            command_id=command_id,
            operation_id=call.operation_id,
            tool_call_id=call.tool_call_id,
            approval_id=words.approval_id,
            decision=words.decision,
            scope=words.scope,
            pattern=pattern,
            decided_by=by,
            door=words.door,
            note=words.note,
        )
    ]
    if words.decision == "denied":
        why = f": {words.note}" if words.note else ""
        text = f"The user denied the call of {call.tool}{why}."
        events.append(result(call, "denied", text, error_kind="denied", error=words.note))
    return events
