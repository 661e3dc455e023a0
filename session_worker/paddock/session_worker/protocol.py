"""The words between a worker and its supervisor, and the commands that a session takes.

Worker to supervisor: Hello, Durable, Delta, Beat, Accepted, Settled, NotAccepted, BusyNow, Bye.
Supervisor to worker: Welcome, Deliver, Suspend. Correctness never depends on a message arriving:
whoever misses one reads the file. A dialogue runs like this::

    worker                          supervisor
      | Hello(generation, token)  ->  |      the file is owned, worker_started is durable
      | <- Welcome(epoch)             |      or Refuse(code): leave
      | <- Deliver(command)           |      one at a time; decisions and interrupts pass by
      | Accepted(command_id) ->       |      after the commit of command_accepted
      | Durable(first, count, rows)-> |      after each commit
      | Settled(command_id, ..) ->    |      after the commit of the answer
      | <- Suspend(deadline)          |
      | BusyNow | Bye ->              |      Bye: the file is closed; the process ends
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from paddock.session_worker.toolbox.contract import Confines
from paddock.session_worker.wire import PROTOCOL_VERSION, Vocabulary, Word
from paddock.store.events import Scope, UserPart
from paddock.store.ids import ApprovalId, CommandId, MessageId, OperationId, SessionId, ToolCallId

type Stage = Literal["starting", "resting", "working", "waiting", "suspending", "needs_credentials"]
"""waiting: an operation is open and only an approval can move it."""


# --- commands: what a client can ask of a session ---


class Arguments(BaseModel):
    """What a command takes; an unknown argument is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: ClassVar[str]


class SendInput(Arguments):
    """Words for the agent: an operation of their own, or queued while one is at work."""

    verb = "send_input"
    parts: Annotated[tuple[UserPart, ...], Field(min_length=1)]


class RunShell(Arguments):
    """A shell command of the user's own, run in the workspace as an operation of its own."""

    verb = "run_shell"
    command: Annotated[str, Field(min_length=1)]


class EditMessage(Arguments):
    """Say a user message anew: a sibling of the old one, and an operation on the new branch."""

    verb = "edit_message"
    message_id: MessageId
    parts: Annotated[tuple[UserPart, ...], Field(min_length=1)]


class CheckOut(Arguments):
    """Make another branch of the conversation the active one."""

    verb = "check_out"
    message_id: MessageId


class Decide(Arguments):
    """Answer an approval. ``scope`` says how long it holds; ``pattern`` for scope ``pattern``."""

    verb = "decide"
    approval_id: ApprovalId
    decision: Literal["allowed", "denied"]
    scope: Scope = "once"
    pattern: str | None = None
    note: str | None = None
    door: Literal["cli", "client"] = "client"


class Interrupt(Arguments):
    """End the operation at work (or the one named): its open calls are cancelled."""

    verb = "interrupt"
    operation_id: OperationId | None = None


class DequeueInput(Arguments):
    """Remove words that wait."""

    verb = "dequeue_input"
    input_id: CommandId


class SetModel(Arguments):
    """Ask another model from the next request on."""

    verb = "set_model"
    model: Annotated[str, Field(min_length=1)]


class SetMode(Arguments):
    """Change the mode of the session."""

    verb = "set_mode"
    mode: Literal["normal", "plan", "yolo"]


class Configure(Arguments):
    """Change labels and names; what is None stays as it is."""

    verb = "configure"
    name: str | None = None
    title: str | None = None
    labels: dict[str, str] | None = None
    project: str | None = None
    owner: str | None = None


class Annotate(Arguments):
    """Put a remark into the session's history."""

    verb = "annotate"
    key: Annotated[str, Field(min_length=1, max_length=200)]
    value: JsonValue = None
    operation_id: OperationId | None = None


class Delete(Arguments):
    """End the session: no other command is taken after this one."""

    verb = "delete"
    erase: bool = False


COMMANDS: dict[str, type[Arguments]] = {
    word.verb: word
    for word in (
        SendInput,
        RunShell,
        EditMessage,
        CheckOut,
        Decide,
        Interrupt,
        DequeueInput,
        SetModel,
        SetMode,
        Configure,
        Annotate,
        Delete,
    )
}
PASSING_BY = frozenset({"decide", "interrupt", "delete", "dequeue_input"})
"""Verbs that are handed over at once, also while another command is in delivery."""


class Command(BaseModel):
    """A client's command on its way to a session. The id is the client's own UUIDv7."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    command_id: CommandId
    verb: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    by: str | None = None
    """Who asks, as the supervisor knows it (``uid:1000``, or what the client says)."""


# --- worker to supervisor ---


class FromWorker(Word):
    """What a worker says."""


class Hello(FromWorker):
    """I own this session's file. The supervisor answers Welcome, or Refuse."""

    tag = "hello"
    session_id: SessionId
    generation: int
    pid: int
    head: int
    stage: Stage
    start_id: str
    token: bytes
    """HMAC-SHA256 of ``session_id`` and ``start_id`` under the host's secret."""
    epoch: int
    """The highest epoch this worker was welcomed by; a supervisor below it is refused."""
    paddock_version: str
    protocol_version: int = PROTOCOL_VERSION
    operation_id: OperationId | None = None
    unanswered: tuple[CommandId, ...] = ()


class Durable(FromWorker):
    """Events ``first`` to ``first + count - 1`` are on disk; ``rows`` may be left out when large.

    ``rows`` is msgpack of a list of rows ``[sequence, generation, occurred_at, kind, operation_id,
    message_id, tool_call_id, command_id, payload]`` and travels to subscribers as it is.
    """

    tag = "durable"
    first: int
    count: int
    rows: bytes | None = None


class Delta(FromWorker):
    """A piece of an event in the making: a preview, perhaps lost, never stored."""

    tag = "delta"
    message_id: str
    """The message, or the tool call, that it belongs to."""
    channel: Literal["text", "thinking", "output", "reset"]
    offset: int
    """Characters of this channel before ``text``."""
    text: str


class Fault(BaseModel):
    """Why nothing can be written: the disk is full, say. ``code`` is that of an error."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    code: str
    reason: str


class Beat(FromWorker):
    """I am alive: each second at work, each five at rest, and at once when the stage changes.

    With ``fault`` also at each try to write that fails: commands that wait behind an answer which
    cannot be written are refused by the supervisor.
    """

    tag = "beat"
    stage: Stage
    head: int
    operation_id: OperationId | None = None
    open_tool_call_ids: tuple[ToolCallId, ...] = ()
    approval_ids: tuple[ApprovalId, ...] = ()
    queued: int = 0
    lag_ms: float = 0.0
    rss_bytes: int = 0
    fault: Fault | None = None


class Accepted(FromWorker):
    """``command_accepted`` is durable at ``sequence``."""

    tag = "accepted"
    command_id: CommandId
    sequence: int
    digest: str = ""
    """Of the words that were accepted: others may have come by that id since. Empty: unknown."""


class Settled(FromWorker):
    """The command's answer is durable at ``sequence``: an event of ``kind``."""

    tag = "settled"
    command_id: CommandId
    sequence: int
    kind: str
    operation_id: OperationId | None = None
    code: str | None = None
    """Why it was rejected or quarantined."""
    reason: str | None = None
    digest: str = ""
    """Of the words that are answered, as in :class:`Accepted`."""


class NotAccepted(FromWorker):
    """The command was not taken in (the disk is full, say); nothing of it is stored."""

    tag = "not_accepted"
    command_id: CommandId
    code: str
    reason: str
    digest: str = ""
    """Of the words that were not taken in, as in :class:`Accepted`."""


class BusyNow(FromWorker):
    """The answer to a Suspend that may wait: there is work."""

    tag = "busy_now"
    reason: str


class Bye(FromWorker):
    """The file is closed and folded; the process ends now. ``head`` is the last event."""

    tag = "bye"
    reason: str
    head: int


# --- supervisor to worker ---


class ToWorker(Word):
    """What a supervisor says to a worker."""


class Welcome(ToWorker):
    """You are known. ``epoch`` and versions are this supervisor's."""

    tag = "welcome"
    epoch: int
    paddock_version: str | None = None
    protocol_version: int = PROTOCOL_VERSION


class Refuse(ToWorker):
    """You are not wanted (wrong token, wrong generation, deleted session): leave at once."""

    tag = "refuse"
    code: str
    reason: str


class GreetAgain(ToWorker):
    """This connection is not known here any more: greet on a new one.

    A version that does not know the word goes on as before.
    """

    tag = "greet_again"


class Deliver(ToWorker):
    """Take this command."""

    tag = "deliver"
    command: Command


class Suspend(ToWorker):
    """Come to rest and leave; with ``force`` False BusyNow is an answer.

    At the deadline tools are killed, and the operation stays open for the next wake.
    """

    tag = "suspend"
    reason: str
    deadline_seconds: float
    force: bool = True


class Credentials(ToWorker):
    """Secrets for the session, from a client that has them. Kept in memory alone."""

    tag = "credentials"
    values: dict[str, str]


FROM_WORKER: Vocabulary[FromWorker] = Vocabulary(
    (Hello, Durable, Delta, Beat, Accepted, Settled, NotAccepted, BusyNow, Bye)
)
TO_WORKER: Vocabulary[ToWorker] = Vocabulary(
    (Welcome, Refuse, GreetAgain, Deliver, Suspend, Credentials)
)


# --- the start of a worker ---


class StartOrders(BaseModel):
    """All that a new worker is told; passed by the zygote as msgpack, never stored."""

    model_config = ConfigDict(frozen=True)

    session_id: SessionId
    data: str
    """The data folder of the host."""
    runtime: str
    """The folder of sockets and of ``host.json`` (address and epoch of the present supervisor)."""
    address: str
    """The ipc address of the workers' door."""
    epoch: int
    start_id: str
    token: bytes
    asked_at_us: int
    """When the supervisor decided to start it: ``ready_ms`` counts from here."""
    resume_reason: str | None = None
    reset: bool = False
    supervisor_pid: int
    credentials: dict[str, str] = Field(default_factory=dict)
    default_model: str | None = None
    orphan_grace_seconds: float = 300.0
    beat_seconds: float = 5.0
    """Between two beats of a worker at rest; well below what counts as a hang."""
    owner_wait_seconds: float = 5.0
    memory_limit_bytes: int | None = None
    confines: Confines = Confines()
    """What keeps its tools in; ``group`` is the one of the host, above those of generations."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
