"""What can befall a worker's loop; each is taken in turn, in the order of arrival."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from pydantic import JsonValue

from paddock.session_worker.model import ModelAnswer, ModelFailed
from paddock.session_worker.protocol import Arguments, Command, Suspend
from paddock.session_worker.toolbox.contract import Plan, ToolOutcome
from paddock.store.events import Effects, WorkspaceChanged
from paddock.store.ids import CommandId, ModelCallId, OperationId, ToolCallId


@dataclass(frozen=True, slots=True)
class Delivered:
    """The supervisor handed over a command."""

    command: Command


@dataclass(frozen=True, slots=True)
class Interpret:
    """A command whose acceptance is durable is to be carried out."""

    command_id: CommandId
    words: Arguments
    by: str | None = None
    """Who gave it, as the client said."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call was checked: a plan, or what is wrong with its arguments."""

    tool_call_id: ToolCallId
    plan: Plan | None
    error: str | None = None
    is_lost: bool = False
    """What it was to be run with died with the worker before; ``error`` says so."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call that ran ended; without an outcome it was stopped."""

    tool_call_id: ToolCallId
    outcome: ToolOutcome | None
    blob: str | None = None
    happened: bool | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The model answered."""

    model_call_id: ModelCallId
    answer: ModelAnswer
    duration_ms: float


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """The model gave no answer; without a failure the request was stopped."""

    model_call_id: ModelCallId
    attempt: int
    failure: ModelFailed | None
    duration_ms: float
    jitter: float = 0.0
    """In [0, 1): spreads the retries of many sessions."""


@dataclass(frozen=True, slots=True)
class LacksCredentials:
    """The model cannot be reached without secrets that are not here."""

    model_call_id: ModelCallId
    error: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class RetryDue:
    """The time to ask the model again has come."""


@dataclass(frozen=True, slots=True)
class TitleFound:
    """A title was found for the session."""

    title: str


@dataclass(frozen=True, slots=True)
class WorkspaceSeen:
    """The workspace was looked at."""

    seen: WorkspaceChanged


@dataclass(frozen=True, slots=True)
class CredentialsCame:
    """A client gave the secrets that the session needs."""

    values: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SuspendAsked:
    """The supervisor wants the session to rest."""

    words: Suspend


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """What is being stopped did not end in time; ``number`` is that of its alarm."""

    number: int


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The supervisor refused this worker."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Orphaned:
    """No supervisor came for as long as a worker at rest waits for one."""


# --- what a function agent asks of the ledger; the future is set once the answer is durable ---


@dataclass(frozen=True, slots=True)
class StepBegun:
    """The agent is about to run a step; the answer is a recorded ``Step``, or None: run it."""

    operation_id: OperationId
    step_key: str
    arguments_digest: str
    effects: Effects
    answer: Future[object]


@dataclass(frozen=True, slots=True)
class StepEnded:
    """The agent's step gave a value or an error."""

    operation_id: OperationId
    step_key: str
    value: JsonValue
    error: str | None
    duration_ms: float
    answer: Future[object]


@dataclass(frozen=True, slots=True)
class CallWanted:
    """The agent wants a tool called; the answer is the finished, perhaps recorded, ``Call``."""

    operation_id: OperationId
    call_key: str
    tool: str
    arguments: dict[str, JsonValue]
    answer: Future[object]


@dataclass(frozen=True, slots=True)
class Replied:
    """The agent ended its turn: words (or none), and its state if that changed."""

    operation_id: OperationId
    text: str | None
    state: dict[str, JsonValue] | None
    answer: Future[object]


@dataclass(frozen=True, slots=True)
class StateKept:
    """The agent's state changed in the middle of a turn."""

    state: dict[str, JsonValue]
    answer: Future[object]


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """The agent's function returned, or raised."""

    operation_id: OperationId | None
    """The last one it worked on."""
    error: str | None
    error_kind: str = "agent_error"
    untaken: OperationId | None = None
    """One that it was given and never looked at."""


type FromAgent = StepBegun | StepEnded | CallWanted | Replied | StateKept | AgentEnded
type Stimulus = (
    Delivered
    | Interpret
    | Prepared
    | CallEnded
    | Answered
    | NotAnswered
    | LacksCredentials
    | RetryDue
    | TitleFound
    | WorkspaceSeen
    | CredentialsCame
    | SuspendAsked
    | DeadlinePassed
    | Unwanted
    | Orphaned
    | FromAgent
)
