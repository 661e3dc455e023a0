"""What an answer costs, and how it goes back when what was kept beside it is of no use."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_ai import messages as wire
from pydantic_ai.usage import RequestUsage

from paddock.session_worker.model import AssistantWords, ModelRequest, UserWords
from paddock.session_worker.models.backend import cost_of, usage_of
from paddock.session_worker.models.catalog import resolve
from paddock.session_worker.models.conversation import messages_of, state_of
from paddock.store.events import TextPart, ThinkingPart, Usage
from paddock.store.ids import MessageId


def answered(usage: RequestUsage, model: str = "claude-sonnet-4-5") -> wire.ModelResponse:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return wire.ModelResponse(parts=[], usage=usage, model_name=model, timestamp=at)


def test_v4_a_priced_answer_costs_its_list_price_and_cached_tokens_less() -> None:
    fresh = answered(RequestUsage(input_tokens=1_000_000, output_tokens=1000))
    cached = answered(
        RequestUsage(input_tokens=1_000_000, cache_read_tokens=1_000_000, output_tokens=1000)
    )
    place = resolve("anthropic:claude-sonnet-4-5", {})
    whole, less = cost_of(fresh, place), cost_of(cached, place)
    assert whole is not None
    assert less is not None
    assert 0 < less < whole


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("anthropic:claude-from-next-year", "claude-from-next-year"),
        ("anthropic:claude-sonnet-4-5@http://localhost:1", "claude-sonnet-4-5"),
    ],
)
def test_v4_what_has_no_price_has_none_instead_of_zero(name: str, model: str) -> None:
    usage = RequestUsage(input_tokens=10, output_tokens=10)
    assert cost_of(answered(usage, model), resolve(name, {})) is None


def test_v4_a_provider_that_told_nothing_is_not_taken_to_mean_zero() -> None:
    silent = RequestUsage(unmeasured_requests=1)
    assert usage_of(silent) == Usage()
    assert cost_of(answered(silent), resolve("anthropic:claude-sonnet-4-5", {})) is None


def test_v4_counts_that_could_not_be_read_are_not_taken_to_mean_zero() -> None:
    """Where one count is null the library gives them all up, as zeros."""
    assert usage_of(RequestUsage(details={"reasoning_tokens": 0})) == Usage()


def test_a_count_that_cannot_be_is_not_known_and_has_no_price() -> None:
    usage = RequestUsage(input_tokens=10**20, output_tokens=-1, cache_read_tokens=3)
    assert usage_of(usage) == Usage(cache_read_tokens=3, cache_write_tokens=0, reasoning_tokens=0)
    assert cost_of(answered(usage), resolve("anthropic:claude-sonnet-4-5", {})) is None


def test_counts_that_cannot_be_together_have_no_price() -> None:
    """Their price could not be reckoned, and the worker died of that."""
    more_cached = RequestUsage(input_tokens=10, cache_read_tokens=20, output_tokens=1)
    assert cost_of(answered(more_cached), resolve("anthropic:claude-sonnet-4-5", {})) is None


def sent_again(state: dict[str, Any] | None) -> list[wire.ModelResponsePart]:
    """Return what goes back of an answer of a thought and a word, kept with that state."""
    parts = (
        ThinkingPart(text="hm", signature="s", provider="anthropic"),
        TextPart(text="redacted"),
    )
    words = AssistantWords(MessageId("a"), parts, "m", "anthropic", state)
    user = UserWords(MessageId("u"), (TextPart(text="hello"),))
    request = ModelRequest("m", (user, words, user))
    _, response, _ = messages_of(request, "anthropic", tells_errors=True)
    assert isinstance(response, wire.ModelResponse)
    return list(response.parts)


def test_what_was_kept_beside_a_message_goes_back_with_the_words_that_the_log_has() -> None:
    theirs = wire.NativeToolCallPart(tool_name="web", args={}, tool_call_id="t", provider_name="x")
    response = wire.ModelResponse(
        parts=[
            wire.ThinkingPart("hm", id="r1", signature="s", provider_name="anthropic"),
            theirs,
            wire.TextPart("a secret", id="m1", provider_name="openai"),
        ],
        finish_reason="stop",
    )
    state = state_of(response)
    assert "a secret" not in str(state)
    thought, native, text = sent_again(state)
    assert isinstance(thought, wire.ThinkingPart)
    assert (thought.id, thought.content, thought.signature) == ("r1", "hm", "s")
    assert native == theirs
    assert isinstance(text, wire.TextPart)
    assert (text.id, text.content) == ("m1", "redacted")


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"script_turn": 3},
        {"response": {"parts": [{}]}},
        {"response": {"parts": [{}, {}, {}]}},
        {"response": {"parts": [{}, 5]}},
        {"response": {"parts": [{}, {}, {"part_kind": "of the future"}]}},
        {"response": {"parts": None}},
        {"response": {}},
    ],
)
def test_r6_a_state_that_does_not_fit_is_left_aside_and_the_words_go_back(
    state: dict[str, Any] | None,
) -> None:
    thought, text = sent_again(state)
    assert isinstance(thought, wire.ThinkingPart)
    assert (thought.signature, thought.provider_name) == ("s", "anthropic")
    assert text == wire.TextPart("redacted")
