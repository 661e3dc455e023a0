"""What a session says to a model, what it gets back, and how that can fail.

The worker's loop knows models by this module alone. A request is values and nothing else, so every
model can be asked again after any crash. Retries are the caller's, decided by
:func:`retry_delay_ms` and recorded. Those who answer stand in ``models/``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from pydantic import JsonValue

from paddock.store.errors import PeerBroke
from paddock.store.events import (
    AssistantPart,
    CallStatus,
    TextPart,
    ThinkingPart,
    Usage,
    UserPart,
)
from paddock.store.ids import MessageId, ToolCallId

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_IMAGES: Mapping[str, bytes] = MappingProxyType({})


# --- what a model is asked ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UserWords:
    """A user's message."""

    message_id: MessageId
    parts: tuple[UserPart, ...]


@dataclass(frozen=True, slots=True)
class AssistantWords:
    """An earlier answer, as it was recorded; ``model_state`` is what its model wanted back."""

    message_id: MessageId
    parts: tuple[AssistantPart, ...]
    model: str | None = None
    provider: str | None = None
    model_state: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The one result of a call of the answer before it."""

    tool_call_id: ToolCallId
    provider_call_id: str
    tool: str
    arguments: Mapping[str, JsonValue]
    status: CallStatus
    text: str
    happened: bool | None = None
    """Of an interrupted call: whether it is known to have been done."""


type Item = UserWords | AssistantWords | ToolResult


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """A tool as a model is told of it; ``parameters`` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The whole of one request.

    Results follow their answer in the order of its calls, and every call is answered (P5).
    ``images`` holds the bytes of the blobs that the items name. ``environment`` goes over what the
    model was opened with: credentials that were renewed since then, say.
    """

    model: str
    items: tuple[Item, ...]
    system_prompt: str | None = None
    tools: tuple[ToolDescription, ...] = ()
    max_output_tokens: int | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    images: Mapping[str, bytes] = field(default_factory=lambda: _NO_IMAGES, repr=False)


# --- what it answers ------------------------------------------------------------------------------


class Observed(NamedTuple):
    """A recorded result, for a call that is not ours to run (custody ``observed``)."""

    text: str
    is_error: bool


class Called(NamedTuple):
    """A call that the model asks for; with ``observed`` it is recorded and not run."""

    provider_call_id: str
    tool: str
    arguments: dict[str, JsonValue]
    observed: Observed | None = None


class Malformed(NamedTuple):
    """What was wrong with a call: ``text`` are its arguments as they came."""

    provider_call_id: str
    tool: str
    text: str
    reason: str


type AnswerPart = TextPart | ThinkingPart | Called


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A model's whole answer.

    ``model_state`` comes back to the model with this message. Each call of ``malformed`` (arguments
    that are no JSON object, or no name) also stands in ``parts``, with empty arguments, so that it
    has its place; it is to be answered with its reason and never run (A7).
    """

    parts: tuple[AnswerPart, ...]
    provider: str
    model: str
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    finish_reason: str | None = None
    http_status: int | None = None
    ttft_ms: float | None = None
    context_limit: int | None = None
    model_state: dict[str, JsonValue] | None = None
    malformed: tuple[Malformed, ...] = ()

    @property
    def calls(self) -> tuple[Called, ...]:
        """The calls of the answer, in its order."""
        return tuple(part for part in self.parts if isinstance(part, Called))

    @property
    def text(self) -> str:
        """The words of the answer, without its thinking."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


type DeltaKind = Literal["text", "thinking", "reset"]
type OnDelta = Callable[[DeltaKind, str], None]
"""Called with each piece as it comes; ``reset`` voids all pieces of this answer so far (V5)."""


class Model(Protocol):
    """Somebody who answers; one per session, asked for one answer at a time."""

    @property
    def provider(self) -> str:
        """Who serves it: ``script``, ``anthropic``, ``openai`` or another."""

    @property
    def name(self) -> str:
        """The model's name at its provider."""

    @property
    def context_limit(self) -> int | None:
        """How many tokens fit in a request and its answer; None is "not known (yet)"."""

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> ModelAnswer:
        """Return the answer; it can be cancelled at any await.

        Raises:
            ModelFailed: There is no answer; says why, and whether to ask again.
        """

    async def close(self) -> None:
        """Let go of connections; may be called more than once."""


# --- how it fails ---------------------------------------------------------------------------------

type FailureKind = Literal[
    "rate_limited",
    "overloaded",
    "server",
    "connection",
    "timeout",
    "stream_cut",
    "auth",
    "invalid_request",
    "context_overflow",
    "content_filter",
    "quota",
    "bad_answer",
    "script_exhausted",
    "unknown_model",
    "not_installed",
]

RETRYABLE: frozenset[FailureKind] = frozenset(
    {"rate_limited", "overloaded", "server", "connection", "timeout", "stream_cut"}
)
"""What may pass by itself: the others fail the same way again."""


class ModelFailed(PeerBroke):
    """A model gave no answer."""

    code = "model_failed"

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        http_status: int | None = None,
        retry_after_ms: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, kind=kind, http_status=http_status, retry_after_ms=retry_after_ms)
        self.kind: FailureKind = kind
        self.http_status = http_status
        self.retry_after_ms = retry_after_ms
        self.retryable = kind in RETRYABLE if retryable is None else retryable


MAX_ATTEMPTS = 6
"""With the delays below a provider that is down is asked for about a minute."""

FIRST_DELAY_MS = 1_000.0
MAX_DELAY_MS = 60_000.0
LONGEST_RETRY_AFTER_MS = 600_000.0
"""A provider that wants us away for longer than ten minutes ends the operation instead."""


def retry_delay_ms(failed: ModelFailed, attempt: int, jitter: float) -> float | None:
    """Return how long to wait before asking again after attempt number ``attempt`` (from 1).

    None means give up. Without a word from the provider the delay doubles from one second, less a
    random half; ``jitter`` is in [0, 1). A ``Retry-After`` is never undercut, and up to a second is
    added to it so that many sessions do not come back at once.
    """
    if not failed.retryable or attempt >= MAX_ATTEMPTS:
        return None
    if failed.retry_after_ms is not None:
        if failed.retry_after_ms > LONGEST_RETRY_AFTER_MS:
            return None
        return failed.retry_after_ms + FIRST_DELAY_MS * jitter
    longest: float = min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** (attempt - 1))
    return longest * (1 - jitter / 2)


# --- which one ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named:
    """Who is asked: told with the request, so that one that fails names its model too."""

    provider: str | None = None
    model: str | None = None
    context_limit: int | None = None


type Naming = Callable[[str | None], Named]
"""Who is asked where the session names that model, or none."""


def unnamed(_: str | None) -> Named:
    """Say that it is not known who is asked."""
    return Named()
