"""What the events of a session add up to; :func:`evolve` is the only way it changes.

A session is (life, conversation). Lifecycle events change only the first, all others only the
second, and the two commute: each keeps the sequence of what it saw where order matters. Live state
equals the fold of the log at every prefix (P1), so nothing here may depend on anything but events.
"""

from dataclasses import dataclass, field
from typing import Literal

import msgpack
from pydantic import JsonValue, TypeAdapter

from paddock.store.events import (
    LIFECYCLE_KINDS,
    ApprovalDecided,
    AssistantPart,
    CallStatus,
    CommandAccepted,
    Custody,
    Effects,
    Event,
    SessionConfig,
    SessionConfigured,
    Stored,
    StruckCall,
    ToolCallFinished,
    ToolCallPart,
    ToolCallRequested,
    Usage,
    UserPart,
    WorkspaceChanged,
)
from paddock.store.ids import (
    ApprovalId,
    CommandId,
    MessageId,
    ModelCallId,
    OperationId,
    SessionId,
    ToolCallId,
)
from paddock.store.shelf import Shelf, packed

FOLD_VERSION = 3
"""Raised with every change of what the fold gives, so that older snapshots are thrown away."""

_NO_ANSWERS = frozenset({"command_accepted", "session_created"})
"""Kinds that carry the id of a command which they take in, and do not answer."""

REMEMBERED_COMMANDS = 1000
"""By count, not by clock; an unknown id older than the newest forgotten one may have run."""

REMEMBERED_EXITS = 50
"""More than twice the restarts allowed an hour."""

REMEMBERED_CANCELLED = 100
"""C8."""


@dataclass(slots=True)
class Acceptance:
    """A command that was taken in; its arguments are read from the log at ``sequence``."""

    sequence: int
    verb: str
    digest: str


@dataclass(slots=True)
class CommandAnswer:
    """How a command was answered."""

    sequence: int
    kind: str
    operation_id: OperationId | None = None
    code: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class Worker:
    """The process that owns the session, or owned it and has no certificate yet."""

    generation: int
    pid: int
    start_ticks: int
    boot_id: str
    started_at: int
    paddock_version: str


@dataclass(slots=True)
class Exit:
    """The end of one worker, as far as restarting and poison need it."""

    sequence: int
    occurred_at: int
    generation: int
    ending: str
    reason: str
    struck_operation_id: OperationId | None = None
    struck_command_ids: tuple[CommandId, ...] = ()
    struck_calls: tuple[StruckCall, ...] = ()
    last_stage: str | None = None


type Status = Literal["new", "live", "suspended", "down", "failed", "deleted"]
"""down: its worker died and the next is not there yet."""


@dataclass(slots=True)
class Life:
    """Who it is, whether it lives, what it was told and what killed it."""

    status: Status = "new"
    config: SessionConfig | None = None
    digest: str = ""
    created_at: int = 0
    title: str | None = None
    generation: int = 0
    worker: Worker | None = None
    accepted: dict[CommandId, Acceptance] = field(default_factory=dict)
    answers: dict[CommandId, CommandAnswer] = field(default_factory=dict)
    newest_forgotten: CommandId | None = None
    exits: list[Exit] = field(default_factory=list)
    reset_sequence: int = 0
    """Exits before it do not count any more (``resume --reset``)."""
    reason: str | None = None
    """Why it is suspended or failed."""
    deletion: int | None = None
    """Where a deletion was accepted that nobody carried out yet."""
    erase: bool = False


@dataclass(slots=True)
class Message:
    """A user's or an agent's message; tool results stand in ``Conversation.calls``."""

    message_id: MessageId
    parent_message_id: MessageId | None
    operation_id: OperationId
    role: Literal["user", "assistant"]
    sequence: int
    created_at: int
    user_parts: tuple[UserPart, ...] = ()
    assistant_parts: tuple[AssistantPart, ...] = ()
    model: str | None = None
    provider: str | None = None
    model_state: dict[str, JsonValue] | None = None

    def calls(self) -> list[ToolCallPart]:
        """Return the calls that it asks for, in order."""
        return [part for part in self.assistant_parts if isinstance(part, ToolCallPart)]


type CallStage = Literal["requested", "waiting", "allowed", "denied", "started", "finished"]


@dataclass(slots=True)
class Call:
    """One tool call: request, decision, intent, result (P5)."""

    tool_call_id: ToolCallId
    operation_id: OperationId
    message_id: MessageId | None
    tool: str
    arguments: dict[str, JsonValue]
    arguments_digest: str
    effects: Effects
    custody: Custody
    requested_at: int
    stage: CallStage = "requested"
    call_key: str | None = None
    approval_id: ApprovalId | None = None
    denial: str | None = None
    decided_at: int | None = None
    started_at: int | None = None
    intent: dict[str, JsonValue] | None = None
    status: CallStatus | None = None
    text: str = ""
    happened: bool | None = None
    value: JsonValue = None
    finished_at: int | None = None
    finished_sequence: int = 0
    error_kind: str | None = None
    error: str | None = None


@dataclass(slots=True)
class Step:
    """A step of a function agent: run once, its value kept."""

    step_key: str
    arguments_digest: str
    effects: Effects
    status: Literal["started", "ok", "error", "interrupted"] = "started"
    attempt: int = 1
    value: JsonValue = None
    error: str | None = None


@dataclass(slots=True)
class ModelCall:
    """A request to a model that has no answer yet, or whose failure waits to be tried again."""

    model_call_id: ModelCallId
    message_id: MessageId
    attempt: int
    started_at: int
    failed: bool = False
    retry_in_ms: float | None = None
    error_kind: str | None = None
    error: str | None = None


@dataclass(slots=True)
class Operation:
    """The operation at work."""

    operation_id: OperationId
    operation: Literal["turn", "shell", "compaction"]
    started_at: int
    input_ids: tuple[CommandId, ...] = ()
    model_call: ModelCall | None = None
    model_calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    open_calls: list[ToolCallId] = field(default_factory=list)
    calls: list[ToolCallId] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    keyed_calls: dict[str, ToolCallId] = field(default_factory=dict)
    budget_exceeded: str | None = None


@dataclass(slots=True)
class EndedOperation:
    """How the latest operation ended."""

    operation_id: OperationId
    status: Literal["completed", "failed", "cancelled", "interrupted"]
    final_message_id: MessageId | None = None
    error_kind: str | None = None
    error: str | None = None


@dataclass(slots=True)
class QueuedInput:
    """Words that wait for the operation at work to end."""

    input_id: CommandId
    operation: Literal["turn", "shell"]
    parts: tuple[UserPart, ...]
    queued_at: int


@dataclass(slots=True)
class OpenApproval:
    """A question that nobody has answered."""

    approval_id: ApprovalId
    tool_call_id: ToolCallId
    operation_id: OperationId
    requested_at: int


@dataclass(slots=True)
class Totals:
    """Usage of the whole session; a cost of None means that some of it is not known."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0


@dataclass(slots=True)
class McpServer:
    """What is known of a tool server."""

    state: str
    error: str | None = None
    tools: tuple[str, ...] = ()


@dataclass(slots=True)
class Compaction:
    """All up to ``message_id`` is told to the model as ``summary``."""

    message_id: MessageId
    summary: str


@dataclass(slots=True)
class Conversation:
    """What was said and done, and what is being done."""

    messages: dict[MessageId, Message] = field(default_factory=dict)
    head: MessageId | None = None
    calls: dict[ToolCallId, Call] = field(default_factory=dict)
    operation: Operation | None = None
    ended: EndedOperation | None = None
    cancelled: list[OperationId] = field(default_factory=list)
    queue: dict[CommandId, QueuedInput] = field(default_factory=dict)
    approvals: dict[ApprovalId, OpenApproval] = field(default_factory=dict)
    allowed_tools: list[str] = field(default_factory=list)
    allowed_patterns: list[str] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    compaction: Compaction | None = None
    model: str | None = None
    mode: Literal["normal", "plan", "yolo"] | None = None
    state: dict[str, JsonValue] = field(default_factory=dict)
    mcp_servers: dict[str, McpServer] = field(default_factory=dict)
    todos: tuple[dict[str, JsonValue], ...] = ()
    answers: dict[CommandId, CommandAnswer] = field(default_factory=dict)
    message_count: int = 0
    progress_sequence: int = 0
    """Of the last event that was real progress: a strike or a restart before it counts no more."""
    workspace: WorkspaceChanged | None = None


@dataclass(slots=True)
class Session:
    """A session as its log tells it, up to ``sequence``."""

    session_id: SessionId
    sequence: int = 0
    last_at: int = 0
    """When the last event occurred, UTC microseconds."""
    life: Life = field(default_factory=Life)
    conversation: Conversation = field(default_factory=Conversation)

    def answer_to(self, command_id: CommandId) -> CommandAnswer | None:
        """Return how a command was answered, or None if it was not (or is forgotten)."""
        return self.life.answers.get(command_id) or self.conversation.answers.get(command_id)

    def unanswered(self) -> list[CommandId]:
        """Return the commands that were accepted and not answered yet, oldest first."""
        return [
            command_id for command_id in self.life.accepted if self.answer_to(command_id) is None
        ]

    def model(self) -> str | None:
        """Return the model that is asked next, if one was named."""
        config = self.life.config
        return self.conversation.model or (config.model if config else None)

    def mode(self) -> Literal["normal", "plan", "yolo"]:
        """Return the mode of the moment."""
        config = self.life.config
        return self.conversation.mode or (config.mode if config else "normal")


def thread(conversation: Conversation) -> list[Message]:
    """Return the active thread, oldest first: the walk from head to root, turned round.

    Tool results follow the message that asked for them; see :func:`results_of`.
    """
    messages: list[Message] = []
    at = conversation.head
    while at is not None:
        message = conversation.messages[at]
        messages.append(message)
        at = message.parent_message_id
    messages.reverse()
    return messages


def results_of(conversation: Conversation, message: Message) -> list[Call]:
    """Return the calls of a message in call order, whatever order they ended in (T12)."""
    return [
        conversation.calls[part.tool_call_id]
        for part in message.calls()
        if part.tool_call_id in conversation.calls
    ]


# --- the fold ---
#
# Kinds are told apart by their word: a comparison of two texts. To ask ``isinstance`` of a pydantic
# class is a call into Python for each class that it is not, and took two thirds of the fold's time.


def evolve(session: Session, stored: Stored) -> None:
    """Take one event in. The caller gives them in order, each once.

    Raises:
        ValueError: The event is not the next one. The caller's fault.
    """
    if stored.sequence != session.sequence + 1:
        message = f"event {stored.sequence} does not follow {session.sequence}"
        raise ValueError(message)
    session.sequence = stored.sequence
    session.last_at = stored.occurred_at
    event = stored.event
    if event.kind in LIFECYCLE_KINDS:
        _evolve_life(session.life, stored, event)
    else:
        _evolve_conversation(session.conversation, stored, event)


def _evolve_life(life: Life, stored: Stored, event: Event) -> None:
    at, sequence = stored.occurred_at, stored.sequence
    match event.kind:
        case "session_created":
            life.config = event.config
            life.digest = event.digest
            life.created_at = at
            life.title = event.config.title
        case "worker_started":
            life.status = "live"
            life.generation = stored.generation
            life.reason = None
            life.worker = Worker(
                stored.generation,
                event.pid,
                event.start_ticks,
                event.boot_id,
                at,
                event.paddock_version,
            )
        case "worker_exited":
            life.generation = max(life.generation, event.worker_generation)
            life.worker = None
            if life.status == "live":
                life.status = "down"
            life.exits.append(
                Exit(
                    sequence,
                    at,
                    event.worker_generation,
                    event.ending,
                    event.reason,
                    event.struck_operation_id,
                    event.struck_command_ids,
                    event.struck_calls,
                    event.last_stage,
                )
            )
            del life.exits[:-REMEMBERED_EXITS]
        case "session_suspended":
            life.status = "suspended"
            life.reason = event.reason
        case "session_resumed":
            if event.reset:
                life.reset_sequence = sequence
            if life.status in {"suspended", "failed"}:
                life.status = "down"
            life.reason = None
        case "session_failed":
            life.status = "failed"
            life.reason = event.reason
        case "session_deleted":
            life.status = "deleted"
            life.erase = event.erase
        case "session_configured":
            _configure(life, event)
        case "session_titled":
            life.title = event.title
        case "command_accepted":
            _remember(life, event, sequence)
        case _:
            pass  # remarks, forks, rejections: nothing of the folded state but their answer
    if event.command_id is not None and event.kind not in _NO_ANSWERS:
        _answer_in_life(life, event, sequence)


def _configure(life: Life, event: SessionConfigured) -> None:
    if life.config is None:
        return
    changes = {
        name: getattr(event, name)
        for name in ("name", "labels", "project", "owner", "approvals", "limits")
        if getattr(event, name) is not None
    }
    life.config = life.config.model_copy(update=changes)


def _remember(life: Life, event: CommandAccepted, sequence: int) -> None:
    life.accepted[event.command_id] = Acceptance(sequence, event.verb, event.digest)
    if event.verb == "delete" and life.deletion is None:
        life.deletion = sequence
    while len(life.accepted) > REMEMBERED_COMMANDS:
        oldest = next(iter(life.accepted))
        del life.accepted[oldest]
        life.newest_forgotten = max(life.newest_forgotten or oldest, oldest)


def _answer_in_life(life: Life, event: Event, sequence: int) -> None:
    """Keep a command's answer; a deletion that has one is no longer open."""
    _answer(life.answers, event, sequence)
    accepted = life.accepted.get(event.command_id) if event.command_id else None
    if accepted is not None and accepted.sequence == life.deletion:
        life.deletion = None


def _answer(answers: dict[CommandId, CommandAnswer], event: Event, sequence: int) -> None:
    """Keep the first event that carries a command's id as its answer."""
    command_id = event.command_id
    if command_id is None or command_id in answers:
        return
    code = reason = None
    if event.kind == "command_rejected":
        code, reason = event.code, event.reason
    elif event.kind == "command_quarantined":
        code, reason = "quarantined", event.reason
    answers[command_id] = CommandAnswer(sequence, event.kind, event.operation_id, code, reason)
    # Twice as many as commands are remembered, so that no remembered command loses its answer.
    while len(answers) > 2 * REMEMBERED_COMMANDS:
        del answers[next(iter(answers))]


def _evolve_conversation(  # noqa: C901, PLR0912, PLR0915 - one arm a kind
    conversation: Conversation, stored: Stored, event: Event
) -> None:
    at, sequence = stored.occurred_at, stored.sequence
    match event.kind:
        case "user_message_added":
            _add_message(
                conversation,
                Message(
                    event.message_id,
                    event.parent_message_id,
                    event.operation_id,
                    "user",
                    sequence,
                    at,
                    user_parts=event.parts,
                ),
            )
            conversation.progress_sequence = sequence
        case "assistant_message_added":
            _add_message(
                conversation,
                Message(
                    event.message_id,
                    event.parent_message_id,
                    event.operation_id,
                    "assistant",
                    sequence,
                    at,
                    assistant_parts=event.parts,
                    model=event.model,
                    provider=event.provider,
                    model_state=event.model_state,
                ),
            )
            if not any(part.type == "tool_call" for part in event.parts):
                conversation.progress_sequence = sequence
        case "operation_started":
            conversation.operation = Operation(
                event.operation_id, event.operation, at, event.input_ids
            )
        case "operation_completed":
            _end(conversation, "completed", event.operation_id, sequence, event.final_message_id)
        case "operation_failed":
            _end(conversation, "failed", event.operation_id, sequence)
            if conversation.ended is not None:
                conversation.ended.error_kind = event.error_kind
                conversation.ended.error = event.error
        case "operation_cancelled":
            _end(conversation, "cancelled", event.operation_id, sequence)
            conversation.cancelled.append(event.operation_id)
            del conversation.cancelled[:-REMEMBERED_CANCELLED]
        case "operation_interrupted":
            _end(conversation, "interrupted", event.operation_id, sequence)
            if conversation.ended is not None:
                conversation.ended.error_kind = event.error_kind
                conversation.ended.error = event.reason
        case "input_queued":
            conversation.queue[event.command_id] = QueuedInput(
                event.command_id, event.operation, event.parts, at
            )
        case "input_dequeued":
            conversation.queue.pop(event.input_id, None)
        case "model_call_started":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                operation.model_calls += 1
                operation.model_call = ModelCall(
                    event.model_call_id, event.message_id, event.attempt, at
                )
        case "model_call_finished":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                operation.model_call = None
            _count(conversation, operation, event.usage, event.cost_usd)
        case "model_call_failed":
            operation = _open(conversation, event.operation_id)
            if operation is not None and operation.model_call is not None:
                operation.model_call.failed = True
                operation.model_call.retry_in_ms = event.retry_in_ms
                operation.model_call.error_kind = event.error_kind
                operation.model_call.error = event.error
        case "tool_call_requested":
            _request(conversation, event, at)
        case "approval_requested":
            call = conversation.calls[event.tool_call_id]
            call.stage = "waiting"
            call.approval_id = event.approval_id
            conversation.approvals[event.approval_id] = OpenApproval(
                event.approval_id, event.tool_call_id, event.operation_id, at
            )
        case "approval_decided":
            _decide(conversation, event, at)
        case "tool_call_started":
            call = conversation.calls[event.tool_call_id]
            call.stage = "started"
            call.started_at = at
            call.intent = event.intent
        case "tool_call_finished":
            _finish(conversation, event, at, sequence)
        case "step_started":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                operation.steps[event.step_key] = Step(
                    event.step_key, event.arguments_digest, event.effects, attempt=event.attempt
                )
        case "step_finished":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                step = operation.steps[event.step_key]
                step.status, step.value, step.error = event.status, event.value, event.error
            if event.status != "interrupted":
                conversation.progress_sequence = sequence
        case "conversation_head_changed":
            conversation.head = event.message_id
        case "conversation_compacted":
            conversation.compaction = Compaction(event.message_id, event.summary)
        case "model_changed":
            conversation.model = event.model
        case "mode_changed":
            conversation.mode = event.mode
        case "state_saved":
            conversation.state = event.state
        case "todos_updated":
            conversation.todos = event.todos
        case "mcp_server_changed":
            conversation.mcp_servers[event.server] = McpServer(
                event.state, event.error, event.tools
            )
        case "workspace_changed":
            conversation.workspace = event
        case _:
            _note_budget(conversation, event)
    if event.command_id is not None:
        _answer(conversation.answers, event, sequence)


def _note_budget(conversation: Conversation, event: Event) -> None:
    operation = _open(conversation, event.operation_id) if event.operation_id else None
    if event.kind == "budget_exceeded" and operation is not None:
        operation.budget_exceeded = getattr(event, "limit", None)


def _open(conversation: Conversation, operation_id: OperationId) -> Operation | None:
    """Return the open operation if it is that one; an older one changes nothing (T7)."""
    operation = conversation.operation
    return operation if operation is not None and operation.operation_id == operation_id else None


def _add_message(conversation: Conversation, message: Message) -> None:
    conversation.messages[message.message_id] = message
    conversation.head = message.message_id
    conversation.message_count += 1


def _end(
    conversation: Conversation,
    status: Literal["completed", "failed", "cancelled", "interrupted"],
    operation_id: OperationId,
    sequence: int,
    final_message_id: MessageId | None = None,
) -> None:
    if _open(conversation, operation_id) is None:
        return
    conversation.operation = None
    conversation.ended = EndedOperation(operation_id, status, final_message_id)
    conversation.progress_sequence = sequence
    # A request dies with its operation (P7).
    conversation.approvals = {
        approval_id: approval
        for approval_id, approval in conversation.approvals.items()
        if approval.operation_id != operation_id
    }


def _count(
    conversation: Conversation, operation: Operation | None, usage: Usage, cost_usd: float | None
) -> None:
    totals = conversation.totals
    totals.input_tokens += usage.input_tokens or 0
    totals.cache_read_tokens += usage.cache_read_tokens or 0
    totals.cache_write_tokens += usage.cache_write_tokens or 0
    totals.output_tokens += usage.output_tokens or 0
    totals.reasoning_tokens += usage.reasoning_tokens or 0
    totals.cost_usd += cost_usd or 0.0
    totals.unpriced_calls += cost_usd is None
    if operation is not None:
        operation.tokens += (usage.input_tokens or 0) + (usage.output_tokens or 0)
        operation.cost_usd += cost_usd or 0.0


def _request(conversation: Conversation, event: ToolCallRequested, at: int) -> None:
    conversation.calls[event.tool_call_id] = Call(
        event.tool_call_id,
        event.operation_id,
        event.message_id,
        event.tool,
        event.arguments,
        event.arguments_digest,
        event.effects,
        event.custody,
        at,
        call_key=event.call_key,
    )
    operation = _open(conversation, event.operation_id)
    if operation is not None:
        operation.open_calls.append(event.tool_call_id)
        operation.calls.append(event.tool_call_id)
        if event.call_key is not None:
            operation.keyed_calls[event.call_key] = event.tool_call_id


def _decide(conversation: Conversation, event: ApprovalDecided, at: int) -> None:
    call = conversation.calls[event.tool_call_id]
    call.stage = event.decision
    call.decided_at = at
    if event.decision == "denied":
        call.denial = event.note or event.rule or "denied"
    if event.approval_id is not None:
        conversation.approvals.pop(event.approval_id, None)
    if event.decision == "allowed" and event.door in {"cli", "client"}:
        if event.scope == "tool" and call.tool not in conversation.allowed_tools:
            conversation.allowed_tools.append(call.tool)
        if (
            event.scope == "pattern"
            and event.pattern
            and event.pattern not in conversation.allowed_patterns
        ):
            conversation.allowed_patterns.append(event.pattern)


def _finish(conversation: Conversation, event: ToolCallFinished, at: int, sequence: int) -> None:
    call = conversation.calls[event.tool_call_id]
    call.stage = "finished"
    call.status, call.text, call.happened = event.status, event.text, event.happened
    call.value, call.error_kind, call.error = event.value, event.error_kind, event.error
    call.finished_at, call.finished_sequence = at, sequence
    conversation.message_count += 1
    if call.approval_id is not None:
        conversation.approvals.pop(call.approval_id, None)
    operation = _open(conversation, event.operation_id)
    if operation is not None and event.tool_call_id in operation.open_calls:
        operation.open_calls.remove(event.tool_call_id)
    if event.status not in {"interrupted", "cancelled"}:
        conversation.progress_sequence = sequence


# --- the snapshot ---

_SESSION = TypeAdapter(Session)
_MESSAGE = TypeAdapter(Message)
_CALL = TypeAdapter(Call)
_ON_SHELVES = {"conversation": {"messages": True, "calls": True}}


def dump(session: Session) -> bytes:
    """Return the folded state for the snapshot: JSON, its messages and calls each by itself."""
    conversation = session.conversation
    rest = _SESSION.dump_json(session, exclude=_ON_SHELVES)
    shelves = [packed(_MESSAGE, conversation.messages), packed(_CALL, conversation.calls)]
    state: bytes = msgpack.packb([rest, *shelves])
    return state


def load(state: bytes) -> Session:
    """Return the folded state of a snapshot made by the same ``FOLD_VERSION``.

    Raises:
        ValueError: It is none; throw the snapshot away and fold the log.
    """
    try:
        rest, messages, calls = msgpack.unpackb(state)
    except (msgpack.UnpackException, TypeError) as error:
        message = f"the state of a snapshot cannot be read: {error!r}"
        raise ValueError(message) from error
    session = _SESSION.validate_json(rest)
    session.conversation.messages = Shelf(_MESSAGE, messages)
    session.conversation.calls = Shelf(_CALL, calls)
    return session
