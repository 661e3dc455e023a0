"""The providers themselves: a client of each, one request to it, its answer and what it cost.

Loaded with the providers' libraries, never before (it imports pydantic-ai, openai and anthropic).
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from math import isfinite
from typing import Any, assert_never

import httpx2
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from genai_prices import calc_price
from openai import AsyncOpenAI
from pydantic_ai import messages as wire
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import AgentRunError, UserError
from pydantic_ai.models import Model, StreamedResponse
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.models.openrouter import OpenRouterModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.providers.openrouter import OpenRouterProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from paddock.session_worker.model import ModelAnswer, ModelFailed, ModelRequest, OnDelta
from paddock.session_worker.models.catalog import Place
from paddock.session_worker.models.chat import ChatModel
from paddock.session_worker.models.conversation import (
    answer_parts,
    messages_of,
    parameters_of,
    state_of,
)
from paddock.session_worker.models.failures import failure_of, one_line, unasked, unreadable
from paddock.session_worker.models.provider import Patience
from paddock.session_worker.sizes import PART_LIMIT_BYTES
from paddock.store.events import MOST_TOKENS, Usage
from paddock.store.text import whole

# A stream that ends without its final message is an error, wherever it is from (V2).
_STRICT: OpenAIModelProfile = {"openai_chat_streaming_requires_finish_reason": True}


_JSON = "application/json"
_PAGE = "text/html"
_EVENTS = {"content-type": "text/event-stream"}


class Carrier(DefaultAsyncHttpxClient):
    """What carries requests; keeps an answer that came in one piece, where a stream was asked for.

    Some servers stream nothing, or nothing where there are tools. In such an answer those who read
    streams find nothing at all; it is given again, once, to the next request: that of
    :func:`_whole`, for which nothing is sent.
    """

    kept: bytes | None = None

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        """Send a request, or give what was kept."""
        if self.kept is not None:
            kept, self.kept = self.kept, None
            headers = {"content-type": _JSON}
            return httpx2.Response(HTTPStatus.OK, headers=headers, content=kept, request=request)
        response = await super().send(request, **how)
        told = response.headers.get("content-type", "")
        if response.status_code != HTTPStatus.OK or not told.startswith((_JSON, _PAGE)):
            return response
        content = await _read(response)
        error = _error_in(content)
        if error:  # told as inside a stream, it is read as what it is, of whatever provider
            event = f"event: error\ndata: {error}\n\n".encode()
            return httpx2.Response(HTTPStatus.OK, headers=_EVENTS, content=event, request=request)
        self.kept = content
        headers = {"content-type": told}
        return httpx2.Response(HTTPStatus.OK, headers=headers, content=content, request=request)


async def _read(response: httpx2.Response) -> bytes:
    """Return what came; of more than an event could hold the beginning, which is no answer."""
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > PART_LIMIT_BYTES:
            break
    await response.aclose()
    return bytes(content)


def _error_in(content: bytes) -> str | None:
    """Return, as JSON in one line, an answer that is nothing but an error."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    is_error = isinstance(answer, dict) and bool(answer.get("error")) and "output" not in answer
    return json.dumps(answer) if is_error else None


@dataclass(frozen=True, slots=True)
class Connection:
    """A provider's client with one key, and the model asked through it."""

    place: Place
    client: AsyncAnthropic | AsyncOpenAI
    carrier: Carrier
    model: Model
    patience: Patience

    @property
    def context_limit(self) -> int | None:
        """Tokens that the model can take in and give out together, where it is known."""
        return self.model.profile.get("context_window")

    async def close(self) -> None:
        """Close the client's connections."""
        await self.client.close()


def connect(place: Place, key: str, patience: Patience) -> Connection:
    """Return a client for a place; nothing is sent yet.

    Raises:
        ModelFailed: The library finds that there can be no such model or place.
    """
    try:
        return _connect(place, key, patience)
    except Exception as error:
        raise unasked(error, place) from error


def _connect(place: Place, key: str, patience: Patience) -> Connection:
    timeout = httpx2.Timeout(patience.silence_seconds, connect=patience.connect_seconds)
    carrier = Carrier(timeout=timeout)
    model: Model
    match place.provider.wire:
        case "anthropic":
            claude = AsyncAnthropic(
                api_key=key,
                base_url=place.base_url,
                max_retries=0,
                timeout=timeout,
                http_client=carrier,
            )
            model = AnthropicModel(place.model, provider=AnthropicProvider(anthropic_client=claude))
            return Connection(place, claude, carrier, model, patience)
        case "openai-responses":
            client = _openai(place, key, carrier)
            model = OpenAIResponsesModel(place.model, provider=OpenAIProvider(openai_client=client))
        case "openrouter":  # the older form, with reasoning that round-trips
            client = _openai(place, key, carrier)
            model = OpenRouterModel(
                place.model, provider=OpenRouterProvider(openai_client=client), profile=_STRICT
            )
        case "openai":
            client = _openai(place, key, carrier)
            model = ChatModel(
                place.model,
                provider=OpenAIProvider(openai_client=client)
                if place.provider.prices == "openai" and place.is_home
                else OpenAICompatibleProvider(place.provider.name, openai_client=client),
                profile=_STRICT,
            )
        case _ as never:
            assert_never(never)
    return Connection(place, client, carrier, model, patience)


def _openai(place: Place, key: str, carrier: Carrier) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key=key,
        base_url=place.base_url,
        max_retries=0,
        timeout=carrier.timeout,
        http_client=carrier,
    )


# --- one request ----------------------------------------------------------------------------------


async def ask(connection: Connection, request: ModelRequest, on_delta: OnDelta) -> ModelAnswer:
    """Return the provider's answer.

    Raises:
        ModelFailed: There is none; the error of the library is translated here and nowhere else.
    """
    began = time.monotonic()
    first: float | None = None
    taken = 0
    is_open = False
    place = connection.place
    tells_errors = place.provider.wire == "anthropic"
    messages = messages_of(request, connection.model.system, tells_errors=tells_errors)
    try:
        try:
            async with _stream(connection, request, messages) as stream:
                is_open = True
                async for event in stream:
                    if first is None:
                        first = (time.monotonic() - began) * 1000
                    taken += _characters(event)
                    if taken > PART_LIMIT_BYTES:
                        raise _endless(place)
                    _tell(event, on_delta)
                response = stream.get()
        except AgentRunError:
            if connection.carrier.kept is None:
                raise
            response = await _whole(connection, request, messages)
            first = (time.monotonic() - began) * 1000
            for index, part in enumerate(response.parts):
                _tell(wire.PartStartEvent(index=index, part=part), on_delta)
        _check(response, place)
        return _answer(response, connection, first)
    except ModelFailed:
        raise
    except (AgentRunError, UserError) as error:
        raise failure_of(error, place, is_open=is_open) from error
    except Exception as error:
        # The libraries take an answer's form on trust and stumble over another one, in any way.
        raise unreadable(error, place) from error


@asynccontextmanager
async def _stream(
    connection: Connection, request: ModelRequest, messages: list[wire.ModelMessage]
) -> AsyncIterator[StreamedResponse]:
    connection.carrier.kept = None
    async with model_request_stream(
        connection.model,
        messages,
        model_settings=_settings(connection, request),
        model_request_parameters=parameters_of(request),
        instrument=False,
    ) as stream:
        yield stream


async def _whole(
    connection: Connection, request: ModelRequest, messages: list[wire.ModelMessage]
) -> wire.ModelResponse:
    """Return the answer that came in one piece and was kept; nothing is sent.

    Raises:
        ModelFailed: It is none: a page to log in at, say, or another program's JSON; or an error.
    """
    kept = connection.carrier.kept or b""
    settings = _settings(connection, request)
    settings["max_tokens"] = 1000  # of more, Anthropic's library makes a stream, unasked
    try:
        return await model_request(
            connection.model,
            messages,
            model_settings=settings,
            model_request_parameters=parameters_of(request),
            instrument=False,
        )
    except Exception as error:  # the libraries look for what an answer has, and stumble
        if isinstance(error, AgentRunError):
            failed = failure_of(error, connection.place, is_open=True)
            if failed.kind != "bad_answer":
                raise failed from error
        what = one_line(kept.decode("utf-8", "replace"))
        message = f"{connection.place.provider.name} gave no usable answer: it sent {what!r}"
        raise ModelFailed("bad_answer", message, http_status=HTTPStatus.OK) from error


def _settings(connection: Connection, request: ModelRequest) -> ModelSettings:
    settings: ModelSettings = {
        "cache": True,
        "request_timeout": connection.patience.answer_seconds,
    }
    if request.max_output_tokens is not None:
        settings["max_tokens"] = request.max_output_tokens
    return settings


def _tell(event: wire.ModelResponseStreamEvent, on_delta: OnDelta) -> None:
    match event:
        case wire.PartStartEvent(part=wire.TextPart(content=text)) if text:
            on_delta("text", whole(text))
        case wire.PartStartEvent(part=wire.ThinkingPart(content=text)) if text:
            on_delta("thinking", whole(text))
        case wire.PartDeltaEvent(delta=wire.TextPartDelta(content_delta=text)) if text:
            on_delta("text", whole(text))
        case wire.PartDeltaEvent(delta=wire.ThinkingPartDelta(content_delta=text)) if text:
            on_delta("thinking", whole(text))
        case _:
            pass  # calls are told of when they are whole


def _characters(event: wire.ModelResponseStreamEvent) -> int:
    """Return how much an event adds to its answer."""
    match event:
        case wire.PartStartEvent(
            part=wire.TextPart(content=str(text))
            | wire.ThinkingPart(content=str(text))
            | wire.ToolCallPart(args=str(text))
        ):
            return len(text)
        case wire.PartDeltaEvent(
            delta=wire.TextPartDelta(content_delta=str(text))
            | wire.ThinkingPartDelta(content_delta=str(text))
            | wire.ToolCallPartDelta(args_delta=str(text))
        ):
            return len(text)
        case _:
            return 0


def _endless(place: Place) -> ModelFailed:
    """Return why no more is taken of an answer: no event could hold it, but memory would."""
    message = (
        f"{place.provider.name} gave no usable answer: it goes on beyond {PART_LIMIT_BYTES:,}"
        " characters; ask for less at once"
    )
    return ModelFailed("bad_answer", message, http_status=200)


def _check(response: wire.ModelResponse, place: Place) -> None:
    """Refuse what is no answer: a stream without its end, or one that a filter emptied."""
    if _end_of(response) is None or response.state == "incomplete":
        message = f"{place.provider.name} broke off its answer: the stream ended before its end"
        raise ModelFailed("stream_cut", message, http_status=200)
    if _end_of(response) == "error":  # of some servers pydantic-ai takes it for no known reason
        message = f"{place.provider.name} failed: it ended its answer with an error"
        raise ModelFailed("server", message, http_status=200)
    has_call = any(isinstance(part, wire.ToolCallPart) for part in response.parts)
    if response.finish_reason == "tool_call" and not has_call and not response.text:
        message = f"{place.provider.name} gave no usable answer: it ends for calls and names none"
        raise ModelFailed("bad_answer", message, http_status=200)
    if response.finish_reason == "content_filter" and not response.parts:
        refusal = (response.provider_details or {}).get("refusal")
        why = one_line(str(refusal)) if refusal else "nothing of it is left"
        message = f"{place.provider.name} filtered the answer: {why}"
        raise ModelFailed("content_filter", message, http_status=200)


def _end_of(response: wire.ModelResponse) -> str | None:
    """Return why an answer ended; a reason that pydantic-ai does not know, in the provider's word.

    None: its stream ended before its end.
    """
    told = (response.provider_details or {}).get("finish_reason")
    return response.finish_reason or (told if isinstance(told, str) and told else None)


def _answer(
    response: wire.ModelResponse, connection: Connection, ttft_ms: float | None
) -> ModelAnswer:
    parts, malformed = answer_parts(response)
    return ModelAnswer(
        parts=parts,
        provider=connection.place.provider.name,
        model=response.model_name or connection.place.model,
        usage=usage_of(response.usage),
        cost_usd=cost_of(response, connection.place),
        finish_reason=_end_of(response),
        http_status=200,  # whatever else comes is an error, and a redirect is followed
        ttft_ms=ttft_ms,
        model_state=state_of(response),
        malformed=malformed,
    )


# --- what it used and what it cost ----------------------------------------------------------------


def usage_of(usage: RequestUsage) -> Usage:
    """Return what a provider counted, as far as it can be.

    A provider that told nothing is not taken to mean zero, nor one whose counts pydantic-ai leaves
    aside (null, say): no request is without tokens.
    """
    if usage.unmeasured_requests or not (usage.input_tokens or usage.output_tokens):
        return Usage()
    reasoning = usage.output_reasoning_tokens or usage.details.get("reasoning_tokens", 0)
    return Usage(
        input_tokens=_possible(usage.input_tokens),
        cache_read_tokens=_possible(usage.cache_read_tokens),
        cache_write_tokens=_possible(usage.cache_write_tokens),
        output_tokens=_possible(usage.output_tokens),
        reasoning_tokens=_possible(reasoning),
    )


def _possible(tokens: int) -> int | None:
    return tokens if type(tokens) is int and 0 <= tokens <= MOST_TOKENS else None


def cost_of(response: wire.ModelResponse, place: Place) -> float | None:
    """Return the list price of an answer in US dollars; None where there is none."""
    counted = usage_of(response.usage)
    if counted.input_tokens is None or counted.output_tokens is None:
        return None
    if place.is_local or place.provider.prices is None:
        return None
    if response.usage.cost is not None:
        cost = float(response.usage.cost)
        return cost if isfinite(cost) else None
    try:
        price = calc_price(
            response.usage,
            response.model_name or place.model,
            provider_id=place.provider.prices,
            genai_request_timestamp=response.timestamp,
        )
    except (LookupError, ValueError):  # no such model, or counts that cannot be together
        return None
    return float(price.total_price)
