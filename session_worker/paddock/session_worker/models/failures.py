"""What a provider's errors mean: whose fault, and whether to ask again.

Loaded with the providers' libraries, never before (it imports pydantic-ai).
"""

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic_ai import exceptions

from paddock.session_worker.model import FailureKind, ModelFailed
from paddock.session_worker.models.catalog import Place
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


def failure_of(error: Exception, place: Place, *, is_open: bool) -> ModelFailed:
    """Return an error of pydantic-ai as ours; ``is_open``: the answer had begun to come."""
    status = getattr(error, "status_code", None)
    kind = _kind(error, status, is_open=is_open)
    seconds = getattr(error, "retry_after", None)
    # An error inside a stream tells the status it would have had; what came was a 200.
    came = 200 if is_open or getattr(error, "in_stream", False) else status
    words = _words(error) if kind != "connection" else f"{_way_to(place)}: {_cause(error)}"
    how = _HOW[kind]
    if kind == "unknown_model" and not place.is_home and "model" not in _said(error).lower():
        how = "has nothing at that address, which often ends in /v1"  # a page, or a router's word
    return ModelFailed(
        kind,
        f"{place.provider.name} {how}: {words}",
        http_status=came,
        retry_after_ms=None if seconds is None else seconds * 1000,
    )


def unreadable(error: Exception, place: Place) -> ModelFailed:
    """Return what a library stumbled over in an answer, as ours."""
    what = one_line(f"it is in no form that is known ({type(error).__name__}: {error})")
    message = f"{place.provider.name} {_HOW['bad_answer']}: {what}"
    return ModelFailed("bad_answer", message, http_status=200)


def unasked(error: Exception, place: Place) -> ModelFailed:
    """Return why a library makes no request of a name or an address, as ours."""
    message = f"{place.name} cannot be asked: {one_line(str(error))}"
    return ModelFailed("invalid_request", message)


def _way_to(place: Place) -> str:
    """Return the server that was to be reached, and the proxy that stands before it, if one does.

    One that the environment names and that is not there was told as if the server were not.
    """
    parts = urlsplit(place.base_url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return place.host
    shown = urlsplit(proxy if "://" in proxy else f"//{proxy}").netloc.rpartition("@")[2]
    return f"{place.host} (by the proxy {shown} of the environment)"


def _cause(error: BaseException) -> str:
    """Return what was in the way of a connection: the first thing told by what lies beneath.

    That it was a "Connection error" is all that the providers' libraries say.
    """
    said, beneath = str(error), error
    while (below := beneath.__cause__ or beneath.__context__) is not None:
        beneath = below
        if isinstance(beneath, ConnectionError | TimeoutError) and beneath.errno:
            return os.strerror(beneath.errno)
        if isinstance(beneath, OSError) and beneath.strerror:
            return one_line(beneath.strerror)
        said = str(beneath) or said
    return one_line(said)


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
    if kind == "bad_answer" and status is not None and not is_open:
        return "invalid_request"  # 405, say: it is no answer at all
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
    is_inside = getattr(error, "in_stream", False) or getattr(error, "status_code", None) is None
    said = _said(error)
    if said and (is_inside or not isinstance(getattr(error, "body", None), str)):
        return one_line(said)
    return one_line(str(error) or type(error).__name__)


def _said(error: Exception) -> str:
    """Return the provider's own words as they stand in what it sent, which may be nothing else."""
    body = getattr(error, "body", None)
    if isinstance(body, list) and body:  # Google's, of its form for OpenAI's clients
        body = body[0]
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message") if isinstance(inner, dict) else inner
    return body if isinstance(body, str) else ""


def one_line(text: str) -> str:
    """Return others' words in one line, the rest of long ones left out."""
    line = " ".join(whole(text).split())
    return line if len(line) <= MESSAGE_LIMIT else f"{line[:MESSAGE_LIMIT]}…"
