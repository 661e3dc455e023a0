"""What a provider's errors mean: whose fault, and whether to ask again.

Loaded with the providers' libraries, never before (it imports pydantic-ai).
"""

from pydantic_ai import exceptions

from paddock.session_worker.model import FailureKind, ModelFailed
from paddock.store.text import whole

MESSAGE_LIMIT = 500
"""Characters of a provider's own words that are passed on: some send pages of HTML."""

# From the special to the general: the first that fits is it.
_KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (exceptions.ModelRateLimitError, "rate_limited"),
    (exceptions.ModelQuotaExceededError, "quota"),
    (exceptions.ModelUnavailableError, "overloaded"),
    (exceptions.ModelServerError, "server"),
    (exceptions.ModelTimeoutError, "timeout"),
    (exceptions.ModelRequestTimeout, "timeout"),
    (exceptions.ModelConnectionError, "connection"),
    (exceptions.ModelContextWindowExceededError, "context_overflow"),
    (exceptions.ModelAuthenticationError, "auth"),
    (exceptions.ModelNotFoundError, "unknown_model"),
    (exceptions.ModelRequestRejectedError, "invalid_request"),
    (exceptions.ContentFilterError, "content_filter"),
    (exceptions.UserError, "invalid_request"),
    (exceptions.AgentRunError, "bad_answer"),
)

_ENDED_EARLY = "without a `finish_reason`"
"""How pydantic-ai words a chat stream that ended without its final message."""

# A request that is too large for the wire is too large for the model as well: compacting helps.
_TOO_LARGE = 413
_REQUEST_TIMEOUT = 408
_CONFLICT = 409


def failure_of(error: Exception, provider: str, *, is_open: bool) -> ModelFailed:
    """Return an error of pydantic-ai as ours; ``is_open``: the answer had begun to come."""
    status = getattr(error, "status_code", None)
    kind = _kind(error, status, is_open=is_open)
    seconds = getattr(error, "retry_after", None)
    # An error inside a stream tells the status it would have had; what came was a 200.
    came = 200 if is_open or getattr(error, "in_stream", False) else status
    return ModelFailed(
        kind,
        f"{provider} {_HOW[kind]}: {_words(error)}",
        http_status=came,
        retry_after_ms=None if seconds is None else seconds * 1000,
    )


def _kind(error: Exception, status: int | None, *, is_open: bool) -> FailureKind:
    if status == _TOO_LARGE:
        return "context_overflow"
    if status in (_REQUEST_TIMEOUT, _CONFLICT):
        return "server"
    kinds = (kind for cause, kind in _KINDS if isinstance(error, cause))
    kind: FailureKind = next(kinds, "bad_answer")
    if kind == "connection" and is_open:
        return "stream_cut"
    if kind == "bad_answer" and _ENDED_EARLY in str(error):
        return "stream_cut"
    return kind


_HOW: dict[FailureKind, str] = {
    "rate_limited": "has a rate limit",
    "overloaded": "is overloaded",
    "server": "failed",
    "connection": "cannot be reached",
    "timeout": "did not answer in time",
    "stream_cut": "broke off its answer",
    "auth": "refused the key",
    "invalid_request": "refused the request",
    "context_overflow": "finds the conversation too long",
    "content_filter": "filtered the answer",
    "quota": "wants to be paid",
    "bad_answer": "gave no usable answer",
    "unknown_model": "does not know the model",
}


def _words(error: Exception) -> str:
    """Return what the provider itself said, in one line."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error", body)
        said = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(said, str) and said:
            return _line(said)
    return _line(str(error) or type(error).__name__)


def _line(text: str) -> str:
    line = " ".join(whole(text).split())
    return line if len(line) <= MESSAGE_LIMIT else f"{line[:MESSAGE_LIMIT]}…"
