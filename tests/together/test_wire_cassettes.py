"""Recorded traffic of real providers, served to their real libraries, ends as it should."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from paddock.session_worker.model import (
    AssistantWords,
    Called,
    DeltaKind,
    Item,
    ModelAnswer,
    ModelFailed,
    ModelRequest,
    ToolDescription,
    ToolResult,
    UserWords,
)
from paddock.session_worker.models.catalog import resolve
from paddock.session_worker.models.provider import Patience, ProviderModel
from paddock.store.events import AssistantPart, TextPart, ThinkingPart, ToolCallPart, Usage
from paddock.store.ids import MessageId, ToolCallId
from tests.house import shared

pytestmark = [pytest.mark.real_data, shared.NEEDS_DATA]

ANTHROPIC = "anthropic:claude-sonnet-5-5"
CHAT = "openai:gpt-4o"
RESPONSES = "openai-responses:gpt-5.5"

THINKING = "anthropic/test_anthropic_model_thinking_part_stream"
REDACTED = "anthropic/test_anthropic_model_thinking_part_redacted_stream"
TOOLS_CHAT = "openai_chat/test_run_stream_sync_streams_real_model"
TOOLS_RESPONSES = "openai_responses/test_openai_responses_phase_streamed_on_part_start"


class Talk:
    """A conversation with a provider whose answers were recorded."""

    def __init__(self, model: ProviderModel, url: str) -> None:
        self.model = model
        self.url = url
        self.deltas: list[tuple[DeltaKind, str]] = []
        self.items: list[Item] = [UserWords(MessageId("u"), (TextPart(text="hello"),))]

    async def ask(self) -> ModelAnswer:
        tool = ToolDescription("get_capital", "Names a capital.", {"type": "object"})
        request = ModelRequest(self.model.name, tuple(self.items), tools=(tool,))
        answer = await self.model.answer(request, lambda *delta: self.deltas.append(delta))
        self.items += recorded(answer)
        return answer

    def streamed(self, kind: DeltaKind) -> str:
        return "".join(text for its, text in self.deltas if its == kind)

    def bodies(self) -> list[Any]:
        with urllib.request.urlopen(f"{self.url}/__log", timeout=30) as log:
            return [entry["body"] for entry in json.load(log) if entry["body"]]


def recorded(answer: ModelAnswer) -> list[Item]:
    """Return an answer as the log gives it back (through JSON), and results for its calls."""
    parts: list[AssistantPart] = []
    results: list[Item] = []
    for part in answer.parts:
        if isinstance(part, Called):
            call_id = ToolCallId(f"ours-{part.provider_call_id}")
            call = ToolCallPart(
                tool_call_id=call_id,
                provider_call_id=part.provider_call_id,
                tool=part.tool,
                arguments=part.arguments,
            )
            parts.append(ToolCallPart.model_validate_json(call.model_dump_json()))
            results.append(
                ToolResult(
                    call_id, part.provider_call_id, part.tool, part.arguments, "ok", "London"
                )
            )
        else:
            parts.append(type(part).model_validate_json(part.model_dump_json()))
    state = json.loads(json.dumps(answer.model_state))
    words = AssistantWords(MessageId("a"), tuple(parts), answer.model, answer.provider, state)
    return [words, *results]


@asynccontextmanager
async def talking(
    name: str, cassette: str, *faults: str, silence_seconds: float = 20
) -> AsyncIterator[Talk]:
    file = shared.DATA / "cassettes" / f"{cassette}.json"
    command = [sys.executable, str(shared.TOOLS / "cassette_server.py"), str(file)]
    command += [part for fault in faults for part in ("--fault", fault)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: ASYNC220 - a test's own
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().split()[1]}"
            place = resolve(f"{name}@{url}{'' if name == ANTHROPIC else '/v1'}", {})
            patience = Patience(silence_seconds=silence_seconds, answer_seconds=60)
            model = ProviderModel(place, "key", patience)
            try:
                yield Talk(model, url)
            finally:
                await model.close()
        finally:
            server.kill()


def sent(cassette: str) -> list[Any]:
    """Return the recorded events of a cassette's first answer."""
    file = shared.DATA / "cassettes" / f"{cassette}.json"
    stream = json.loads(file.read_text())["interactions"][0]["response"]["body"]["string"]
    return [
        json.loads(line.removeprefix("data: "))
        for line in stream.splitlines()
        if line.startswith("data: {")
    ]


# --- answers as they were given -------------------------------------------------------------------


async def test_v4_anthropic_streams_thinking_and_text_and_both_go_back_as_they_came() -> None:
    events = [event["delta"] for event in sent(THINKING) if event["type"] == "content_block_delta"]
    thinking = "".join(delta.get("thinking", "") for delta in events)
    text = "".join(delta.get("text", "") for delta in events)
    signature = "".join(delta.get("signature", "") for delta in events)
    async with talking(ANTHROPIC, THINKING) as talk:
        answer = await talk.ask()
        thought, said = answer.parts
        assert isinstance(thought, ThinkingPart)
        assert (thought.text, thought.signature) == (thinking, signature)
        assert said == TextPart(text=text)
        assert (talk.streamed("thinking"), talk.streamed("text")) == (thinking, text)
        assert answer.usage.input_tokens == 43
        assert answer.usage.output_tokens == 282
        assert answer.finish_reason == "stop"
        talk.items.append(UserWords(MessageId("u2"), (TextPart(text="and then?"),)))
        with pytest.raises(
            ModelFailed
        ):  # the cassette is at its end; what was asked is what counts
            await talk.ask()
        again = talk.bodies()[1]["messages"][1]
    assert [
        (block["type"], block.get("thinking"), block.get("signature"), block.get("text"))
        for block in again["content"]
    ] == [("thinking", thinking, signature, None), ("text", None, None, text)]


async def test_v4_thinking_that_anthropic_redacted_goes_back_unread() -> None:
    blocks = [
        event["content_block"]["data"]
        for event in sent(REDACTED)
        if event["type"] == "content_block_start"
        and event["content_block"]["type"] == "redacted_thinking"
    ]
    assert blocks
    async with talking(ANTHROPIC, REDACTED) as talk:
        answer = await talk.ask()
        thoughts = [part for part in answer.parts if isinstance(part, ThinkingPart)]
        assert [part.signature for part in thoughts] == blocks
        assert {part.text for part in thoughts} == {""}
        talk.items.append(UserWords(MessageId("u2"), (TextPart(text="and then?"),)))
        with pytest.raises(ModelFailed):
            await talk.ask()
        again = talk.bodies()[1]["messages"][1]["content"]
    redacted = [block["data"] for block in again if block["type"] == "redacted_thinking"]
    assert redacted == blocks


async def test_v4_openai_chat_calls_a_tool_and_gets_its_result_under_the_same_id() -> None:
    async with talking(CHAT, TOOLS_CHAT) as talk:
        answer = await talk.ask()
        (call,) = answer.calls
        assert (call.tool, call.arguments) == ("get_capital", {"country": "UK"})
        assert answer.usage == Usage(
            input_tokens=53,
            cache_read_tokens=0,
            cache_write_tokens=0,
            output_tokens=15,
            reasoning_tokens=0,
        )
        last = await talk.ask()
        assert last.text == talk.streamed("text") == "The capital of the UK is London."
        *_, asked, answered = talk.bodies()[1]["messages"]
    assert asked["tool_calls"][0]["id"] == call.provider_call_id
    assert (answered["role"], answered["tool_call_id"]) == ("tool", call.provider_call_id)


async def test_v4_openai_responses_gets_its_reasoning_back_with_its_own_ids() -> None:
    async with talking(RESPONSES, TOOLS_RESPONSES) as talk:
        answer = await talk.ask()
        (call,) = answer.calls
        assert (call.tool, call.arguments) == ("get_capital", {"country": "PotatoLand"})
        assert answer.usage.reasoning_tokens == 26
        thought = answer.parts[0]
        assert isinstance(thought, ThinkingPart)
        last = await talk.ask()
        assert last.text == "The capital of PotatoLand is **Potato City**."
        inputs = talk.bodies()[1]["input"]
    reasoning = next(entry for entry in inputs if entry.get("type") == "reasoning")
    assert reasoning["encrypted_content"] == thought.signature
    assert reasoning["id"].startswith("rs_")
    function = next(entry for entry in inputs if entry.get("type") == "function_call")
    assert (function["call_id"], function["id"][:3]) == (call.provider_call_id, "fc_")


async def test_a_server_of_ones_own_may_stream_reasoning_beside_its_words() -> None:
    async with talking(
        "openrouter:openai/o3", "openai_chat/test_openrouter_stream_with_reasoning"
    ) as talk:
        answer = await talk.ask()
    assert answer.text == talk.streamed("text")
    assert answer.provider == "openrouter"
    assert any(isinstance(part, ThinkingPart) and part.signature for part in answer.parts)


@pytest.mark.parametrize(
    ("name", "cassette", "turns"),
    [
        (ANTHROPIC, "anthropic/test_anthropic_tool_with_thinking", 2),
        (ANTHROPIC, "anthropic/test_multiple_parallel_tool_calls", 2),
        (CHAT, "openai_chat/test_complex_agent_run_in_workflow", 3),
        (RESPONSES, "openai_responses/test_openai_responses_stream", 2),
    ],
)
async def test_v4_a_conversation_that_was_recorded_whole_or_streamed_goes_to_its_end(
    name: str, cassette: str, turns: int
) -> None:
    """Some were recorded of a client that asked for no streams: nothing was found in those."""
    async with talking(name, cassette) as talk:
        answers = [await talk.ask() for _ in range(turns)]
        assert all(answer.calls for answer in answers[:-1])
        assert all(answer.usage.output_tokens for answer in answers)
        assert len(talk.bodies()) == turns


# --- failures as they were recorded ---------------------------------------------------------------


async def test_v1_a_recorded_429_is_a_rate_limit_that_passes() -> None:
    async with talking(CHAT, "openai_chat/test_openrouter_errors_raised") as talk:
        for _ in range(3):
            with pytest.raises(ModelFailed, match="Provider returned error") as hit:
                await talk.ask()
            assert (hit.value.kind, hit.value.http_status) == ("rate_limited", 429)
            assert hit.value.retryable


async def test_v2_a_recorded_error_inside_a_stream_voids_what_had_come() -> None:
    async with talking(CHAT, "openai_chat/test_openrouter_stream_error") as talk:
        with pytest.raises(ModelFailed, match="Token limit reached") as hit:
            await talk.ask()
        assert hit.value.http_status == 200
        assert talk.deltas[-1] == ("reset", "")


async def test_v1_a_recorded_400_is_told_in_the_providers_words_and_not_asked_again() -> None:
    async with talking(
        RESPONSES, "openai_responses/test_openai_responses_model_http_error"
    ) as talk:
        with pytest.raises(ModelFailed, match="decimal below minimum value") as hit:
            await talk.ask()
        assert (hit.value.kind, hit.value.http_status) == ("invalid_request", 400)
        assert not hit.value.retryable


# --- faults in the middle of them -----------------------------------------------------------------

WIRES = [(ANTHROPIC, THINKING), (CHAT, TOOLS_CHAT), (RESPONSES, TOOLS_RESPONSES)]


@pytest.mark.parametrize(("name", "cassette"), WIRES)
@pytest.mark.parametrize(
    ("fault", "kind", "http_status", "retry_after_ms"),
    [
        ("0:429:7", "rate_limited", 429, 7000),
        ("0:429", "rate_limited", 429, None),
        ("0:500", "server", 500, None),
        ("0:529", "overloaded", 529, None),
        ("0:cut@5", "stream_cut", 200, None),
        ("0:sse_error@4", "overloaded", 200, None),
    ],
)
async def test_v1_v2_a_fault_is_typed_worth_another_try_and_the_next_answer_is_whole(
    name: str,
    cassette: str,
    fault: str,
    kind: str,
    http_status: int,
    retry_after_ms: float | None,
) -> None:
    async with talking(name, cassette, fault) as talk:
        with pytest.raises(ModelFailed) as hit:
            await talk.ask()
        failed = hit.value
        assert (failed.kind, failed.http_status, failed.retry_after_ms) == (
            kind,
            http_status,
            retry_after_ms,
        )
        assert failed.retryable
        assert not talk.deltas or talk.deltas[-1] == ("reset", "")
        if http_status != 200:  # a stream that was begun has used up its place in the cassette
            answer = await talk.ask()
            assert answer.parts
            assert answer.finish_reason is not None


@pytest.mark.parametrize(("name", "cassette"), WIRES)
async def test_p11_a_stream_that_stalls_is_waited_for_no_longer_than_was_said(
    name: str, cassette: str
) -> None:
    async with talking(name, cassette, "0:stall@5:60", silence_seconds=0.5) as talk:
        with pytest.raises(ModelFailed, match="did not answer in time") as hit:
            await talk.ask()
        assert (hit.value.kind, hit.value.retryable) == ("timeout", True)
