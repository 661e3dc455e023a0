"""What the events of a session add up to, and the form in which a snapshot keeps it.

A session is (life, conversation), and ``fold.evolve`` is the only way it changes.
"""

from dataclasses import dataclass, field
from typing import Literal

import msgpack
from pydantic import JsonValue, TypeAdapter

from paddock.store.events import (
    AssistantPart,
    CallStatus,
    Custody,
    Effects,
    SessionConfig,
    StruckCall,
    ToolCallPart,
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
    """What is known of the usage of a whole session: a lower bound where calls did not tell."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    uncounted_input_calls: int = 0
    uncounted_output_calls: int = 0
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
