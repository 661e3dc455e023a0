"""What providers do wrong, over real sockets and the real libraries, ends as it should."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
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
    retry_delay_ms,
)
from paddock.session_worker.models.catalog import resolve
from paddock.session_worker.models.opening import open_model
from paddock.session_worker.models.provider import Patience, ProviderModel
from paddock.store.events import ImagePart, TextPart, ThinkingPart, ToolCallPart, Usage
from paddock.store.ids import MessageId, ToolCallId
from tests.house.provider_server import Provider, Reply, chat, claude, error, serve, sse

CLAUDE = "anthropic:claude-sonnet-5-5"
CHAT = "openai:local-model"
HELLO = UserWords(MessageId("m1"), (TextPart(text="hello"),))
TOOL = ToolDescription("bash", "Runs a command.", {"type": "object", "properties": {}})


class Asker:
    """A model of a provider, and the deltas that came."""

    def __init__(self, model: ProviderModel, provider: Provider) -> None:
        self.model = model
        self.provider = provider
        self.deltas: list[tuple[DeltaKind, str]] = []

    async def ask(self, *items: Item, key: str = "") -> ModelAnswer:
        environment = {"ANTHROPIC_API_KEY": key} if key else {}
        request = ModelRequest(
            self.model.name,
            items or (HELLO,),
            system_prompt="Be brief.",
            tools=(TOOL,),
            environment=environment,
            images={"b1": b"\x89PNG"},
        )
        return await self.model.answer(request, lambda *delta: self.deltas.append(delta))

    async def fail(self) -> ModelFailed:
        with pytest.raises(ModelFailed) as hit:
            await self.ask()
        return hit.value


@asynccontextmanager
async def asking(name: str, *replies: Reply) -> AsyncIterator[Asker]:
    with serve(*replies) as provider:
        base = provider.url if name == CLAUDE else f"{provider.url}/v1"
        patience = Patience(connect_seconds=5, silence_seconds=20, answer_seconds=30)
        model = ProviderModel(resolve(f"{name}@{base}", {}), "key-1", patience)
        try:
            yield Asker(model, provider)
        finally:
            await model.close()


# --- what can be asked again, and what cannot -----------------------------------------------------


@pytest.mark.parametrize("name", [CLAUDE, CHAT])
async def test_v1_what_passes_by_itself_is_asked_again_on_the_same_model(name: str) -> None:
    good = claude({"text": "hi"}) if name == CLAUDE else chat({"content": "hi"})
    overloaded = error(529, "busy", type="overloaded_error")
    limited = Reply(error(429, "slow").body, 429, "application/json", {"retry-after": "3"})
    async with asking(name, limited, overloaded, error(503, "later"), good) as asker:
        kinds = []
        for attempt in (1, 2, 3):
            failed = await asker.fail()
            kinds.append((failed.kind, failed.http_status))
            assert retry_delay_ms(failed, attempt, 0.5) is not None
        assert kinds == [("rate_limited", 429), ("overloaded", 529), ("overloaded", 503)]
        assert (await asker.ask()).text == "hi"
        # Retries are ours alone: the libraries made none of their own.
        assert len(asker.provider.requests) == 4


@pytest.mark.parametrize("name", [CLAUDE, CHAT])
async def test_v1_a_server_that_is_not_there_is_worth_another_try(name: str) -> None:
    with serve() as gone:
        url = gone.url
    model = ProviderModel(resolve(f"{name}@{url}", {}), "key-1")
    with pytest.raises(ModelFailed, match="cannot be reached") as hit:
        await model.answer(ModelRequest(model.name, (HELLO,)), lambda *_: None)
    assert (hit.value.kind, hit.value.retryable) == ("connection", True)
    await model.close()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:{port}/v1", "127.0.0.1:{port}: Connection refused"),
        ("https://me:word@127.0.0.1:{tls}/v1", r"127.0.0.1:{tls}: .*SSL"),
        ("http://nowhere.invalid/v1", "nowhere.invalid: "),
    ],
)
async def test_v2_who_cannot_be_reached_is_named_with_what_stood_in_the_way(
    address: str, why: str
) -> None:
    """A refused connection, a server without TLS and a mistyped host were all told alike."""
    with serve() as gone:
        port = gone.url.rpartition(":")[2]
    with serve() as plain:
        ports = {"port": port, "tls": plain.url.rpartition(":")[2]}
        model = ProviderModel(resolve(f"openai:m@{address.format(**ports)}", {}), "key-1")
        with pytest.raises(ModelFailed, match=f"cannot be reached: {why.format(**ports)}") as hit:
            await model.answer(ModelRequest(model.name, (HELLO,)), lambda *_: None)
        await model.close()
    assert hit.value.kind == "connection"
    assert "Connection error" not in hit.value.message
    assert "word" not in hit.value.message


async def test_v2_a_proxy_that_stands_in_the_way_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve() as gone:
        proxy = gone.url.removeprefix("http://")
    monkeypatch.setenv("http_proxy", f"http://me:word@{proxy}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serve() as there:
        model = ProviderModel(resolve(f"openai:m@{there.url}/v1", {}), "key-1")
        with pytest.raises(ModelFailed, match="Connection refused") as hit:
            await model.answer(ModelRequest(model.name, (HELLO,)), lambda *_: None)
        await model.close()
    server = there.url.removeprefix("http://")
    assert f"{server} (by the proxy {proxy} of the environment)" in hit.value.message
    assert "word" not in hit.value.message


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(b"404 page not found", 404, "text/plain"), "has nothing at that address"),
        (Reply(b'{"detail": "Not Found"}', 404, "application/json"), "has nothing at that address"),
        (Reply(b'{"error": "model \'m\' not found"}', 404, "application/json"), "know the model"),
        (error(404, "The model `m` does not exist"), "does not know the model: The model `m`"),
    ],
)
async def test_v2_an_address_where_nothing_is_is_told_from_a_model_that_is_not(
    reply: Reply, why: str
) -> None:
    """Who left the /v1 out was told that the model is not known."""
    async with asking(CHAT, reply) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.retryable) == ("unknown_model", False)
    assert why in failed.message


async def test_v2_a_name_that_a_library_refuses_is_told_as_that() -> None:
    model = ProviderModel(resolve("openrouter:o3", {}), "key-1")
    with pytest.raises(ModelFailed, match="openrouter:o3 cannot be asked: ") as hit:
        await model.answer(ModelRequest(model.name, (HELLO,)), lambda *_: None)
    assert (hit.value.kind, hit.value.retryable) == ("invalid_request", False)
    await model.close()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error(400, "temperature is odd", type="invalid_request_error"), "invalid_request"),
        (error(401, "invalid x-api-key", type="authentication_error"), "auth"),
        (error(403, "not yours", type="permission_error"), "auth"),
        (error(404, "model: nobody", type="not_found_error"), "unknown_model"),
        (
            error(400, "prompt is too long: 9 tokens > 8 maximum", type="invalid_request_error"),
            "context_overflow",
        ),
        (error(413, "too large", type="request_too_large"), "context_overflow"),
        (error(400, "Your credit balance is too low", type="invalid_request_error"), "quota"),
    ],
)
async def test_v1_a_request_that_was_refused_is_not_asked_again(reply: Reply, kind: str) -> None:
    async with asking(CLAUDE, reply) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.http_status, failed.retryable) == (kind, reply.status, False)
    assert retry_delay_ms(failed, 1, 0) is None
    assert "\n" not in failed.message


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error(400, "too long", code="context_length_exceeded"), "context_overflow"),
        (error(429, "no money", code="insufficient_quota"), "quota"),
        (error(404, "no such model", code="model_not_found"), "unknown_model"),
        (Reply(b"<html>\nBad\ngateway</html>", 502, "text/html"), "server"),
        (Reply(b"hello", 200, "text/plain"), "bad_answer"),
        (Reply(b'{"detail": "Method Not Allowed"}', 405, "application/json"), "invalid_request"),
        (
            Reply(b'[{"error": {"message": "not valid"}}]', 400, "application/json"),
            "invalid_request",
        ),
    ],
)
async def test_v2_errors_of_openai_and_of_what_stands_before_it_are_told_apart(
    reply: Reply, kind: str
) -> None:
    async with asking(CHAT, reply) as asker:
        failed = await asker.fail()
    assert failed.kind == kind
    assert "\n" not in failed.message


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        (CLAUDE, claude({"text": "Half a"}, stop_reason=None)),
        (CHAT, chat({"content": "Half a"}, finish_reason=None)),
    ],
)
async def test_v2_a_stream_without_its_final_message_is_an_error(name: str, reply: Reply) -> None:
    async with asking(name, reply) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.http_status, failed.retryable) == ("stream_cut", 200, True)
    assert asker.deltas[-1] == ("reset", "")


@pytest.mark.parametrize(
    ("name", "whole"), [(CLAUDE, claude({"text": "All"})), (CHAT, chat({"content": "All"}))]
)
async def test_v5_a_stream_that_is_cut_voids_its_deltas_and_the_next_one_is_whole(
    name: str, whole: Reply
) -> None:
    half = Reply(whole.body[: whole.body.index(b"All") + 20], is_cut=True)
    async with asking(name, half, half, whole) as asker:
        failed = await asker.fail()
        assert (failed.kind, failed.retryable) in (("stream_cut", True), ("connection", True))
        has_begun = bool(asker.deltas)
        assert not has_begun or asker.deltas[-1] == ("reset", "")
        await asker.fail()
        asker.deltas.clear()
        assert (await asker.ask()).text == "All"
        assert asker.deltas == [("text", "All")]


STARTED = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


@pytest.mark.parametrize(
    ("name", "events"),
    [
        (CHAT, [[1]]),
        (CHAT, [5]),
        (CHAT, [STARTED | {"created": "yesterday", "choices": []}]),
        (CLAUDE, [{"type": "message_delta", "delta": {}, "usage": {}}]),
        (CLAUDE, [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}}]),
        (CLAUDE, [{"type": "message_start", "message": {"id": "m", "usage": None}}]),
    ],
)
async def test_v2_an_answer_of_no_known_form_fails_and_ends_nobody(
    name: str, events: list[Any]
) -> None:
    """The libraries stumble over one, each in its own way: the worker died of that, and again."""
    async with asking(name, Reply(sse(*events))) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.http_status, failed.retryable) == ("bad_answer", 200, False)
    assert "in no form that is known" in failed.message


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        (CLAUDE, claude({"text": "hi"}, stop_reason="of_next_year")),
        (CHAT, chat({"content": "hi"}, finish_reason="of_next_year")),
    ],
)
async def test_v2_an_end_for_a_reason_that_is_not_known_is_an_end(name: str, reply: Reply) -> None:
    """It was taken for a stream that was cut, and asked again for a minute."""
    async with asking(name, reply) as asker:
        answer = await asker.ask()
    assert (answer.text, answer.finish_reason) == ("hi", "of_next_year")


async def test_v2_an_answer_that_ends_with_an_error_is_none() -> None:
    async with asking(CHAT, chat({"content": "Half a"}, finish_reason="error")) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.retryable) == ("server", True)
    assert asker.deltas[-1] == ("reset", "")


async def test_a7_an_answer_that_ends_for_calls_and_names_none_is_told() -> None:
    """The library leaves a call without a name out; the turn ended as if all were said."""
    nameless = {"index": 0, "id": "c1", "type": "function", "function": {"arguments": "{}"}}
    reply = chat({"tool_calls": [nameless]}, finish_reason="tool_calls")
    async with asking(CHAT, reply) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.retryable) == ("bad_answer", False)
    assert failed.message.endswith("gave no usable answer: it ends for calls and names none")


async def test_v2_a_model_that_refuses_is_told_in_its_own_words() -> None:
    async with asking(CHAT, chat({"refusal": "I will "}, {"refusal": "not."})) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.retryable) == ("content_filter", False)
    assert failed.message.endswith("filtered the answer: I will not.")


async def test_v2_an_error_inside_a_stream_is_typed_as_it_would_be_before_it() -> None:
    begun = claude({"text": "Half a"}, stop_reason=None).body
    broken = sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    async with asking(CLAUDE, Reply(begun + broken)) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.http_status) == ("overloaded", 200)
    assert asker.deltas == [("text", "Half a"), ("reset", "")]


@pytest.mark.parametrize("is_call", [True, False])
async def test_p11_an_answer_without_an_end_is_taken_as_far_as_an_event_holds_it(
    is_call: bool,
) -> None:
    """It was taken until its time was over, half an hour, or the memory was."""
    much = "x" * (1 << 20)
    call = {"index": 0, "id": "c1", "type": "function"}
    function = {"name": "bash", "arguments": much}
    delta = {"tool_calls": [call | {"function": function}]} if is_call else {"content": much}
    endless = Reply(chat(*[delta] * 31, finish_reason=None).body, is_held=True)
    async with asking(CHAT, endless) as asker, asyncio.timeout(60):
        failed = await asker.fail()
    assert (failed.kind, failed.retryable) == ("bad_answer", False)
    assert "goes on beyond" in failed.message


@pytest.mark.parametrize("form", ["application/json", "text/html"])
async def test_p11_what_comes_in_one_piece_without_an_end_is_taken_as_far(form: str) -> None:
    endless = Reply(b'{"choices": "' + b"x" * (32 << 20), content_type=form, is_held=True)
    async with asking(CHAT, endless) as asker, asyncio.timeout(60):
        failed = await asker.fail()
    assert failed.kind == "bad_answer"


async def test_v2_an_error_inside_a_stream_may_be_nothing_but_its_words() -> None:
    """As Ollama tells them; what was told was that there was one."""
    begun = chat({"content": "Half a"}, finish_reason=None).body
    async with asking(CHAT, Reply(begun + sse({"error": "the runner stopped"}))) as asker:
        failed = await asker.fail()
    assert failed.message.endswith(": the runner stopped")


async def test_c5_an_answer_that_is_no_longer_wanted_is_cancelled_and_the_model_goes_on() -> None:
    endless = Reply(claude({"text": "Half a"}, stop_reason=None).body, is_held=True)
    has_begun = asyncio.Event()
    async with asking(CLAUDE, endless, claude({"text": "hi"})) as asker, asyncio.timeout(30):
        request = ModelRequest(asker.model.name, (HELLO,))
        task = asyncio.create_task(asker.model.answer(request, lambda *_: has_begun.set()))
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await asker.ask()).text == "hi"


# --- what servers of one's own stream otherwise --------------------------------------------------


def piece(index: int, call_id: str | None, name: str | None, text: str) -> dict[str, Any]:
    """Return a piece of a call, as a delta holds it."""
    call = {"index": index, "id": call_id, "type": "function"}
    return call | {"function": {"name": name, "arguments": text}}


async def test_v4_tokens_that_are_told_with_every_piece_are_counted_once() -> None:
    """They are told as they stand at that piece; in the log was their sum."""
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def so_far(output: int, delta: dict[str, str], end: str | None = None) -> dict[str, Any]:
        usage = {"prompt_tokens": 7, "completion_tokens": output, "total_tokens": 7 + output}
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        return frame | {"choices": [choice], "usage": usage}

    pieces = [so_far(1, {"content": "a"}), so_far(2, {"content": "b"}), so_far(3, {}, "stop")]
    last = frame | {"choices": [], "usage": None}
    async with asking(CHAT, Reply(sse(*pieces, last, "[DONE]"))) as asker:
        answer = await asker.ask()
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)


@pytest.mark.parametrize("is_together", [True, False])
async def test_a7_calls_that_are_all_numbered_0_are_told_apart_by_their_ids(
    is_together: bool,
) -> None:
    """They came as one call of a tool `bashbash`, with arguments that are no JSON."""
    pieces = [
        piece(0, "c1", "bash", '{"command": "ls"}'),
        piece(0, "c2", "bash", '{"command": '),
        piece(0, None, None, '"pwd"}'),
    ]
    deltas = [pieces] if is_together else [[each] for each in pieces]
    reply = chat(*({"tool_calls": each} for each in deltas), finish_reason="tool_calls")
    async with asking(CHAT, reply) as asker:
        answer = await asker.ask()
    assert answer.calls == (
        Called("c1", "bash", {"command": "ls"}),
        Called("c2", "bash", {"command": "pwd"}),
    )


async def test_a7_a_call_whose_name_comes_with_every_piece_has_it_once() -> None:
    pieces = [piece(0, "c1", "bash", '{"comm'), piece(0, "c1", "bash", 'and": "ls"}')]
    reply = chat(*({"tool_calls": [each]} for each in pieces), finish_reason="tool_calls")
    async with asking(CHAT, reply) as asker:
        answer = await asker.ask()
    assert answer.calls == (Called("c1", "bash", {"command": "ls"}),)


# --- answers in one piece -------------------------------------------------------------------------

RESPONSES = "openai-responses:gpt-5.5"
ARGUMENTS = '{"command": "ls"}'
IN_ONE_PIECE: dict[str, dict[str, Any]] = {
    CLAUDE: {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "signed"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "c1", "name": "bash", "input": {"command": "ls"}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 7, "output_tokens": 3},
    },
    CHAT: {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "local-model",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "reasoning_content": "hm",
                    "content": "I look.",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "bash", "arguments": ARGUMENTS},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    },
    RESPONSES: {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "gpt-5.5",
        "status": "completed",
        "error": None,
        "output": [
            {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]},
            {
                "type": "message",
                "id": "msg",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
            },
            {
                "type": "function_call",
                "id": "fc",
                "call_id": "c1",
                "name": "bash",
                "arguments": ARGUMENTS,
            },
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 7,
            "output_tokens": 3,
            "total_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    },
}


@pytest.mark.parametrize("name", IN_ONE_PIECE)
async def test_v4_an_answer_that_came_in_one_piece_is_an_answer(name: str) -> None:
    """Some servers do not stream, whatever they are asked for: nothing was found in what came."""
    body = json.dumps(IN_ONE_PIECE[name], indent=1).encode()
    whole = Reply(body, 200, "application/json; charset=utf-8")
    streamed = {CLAUDE: claude({"text": "hi"}), CHAT: chat({"content": "hi"})}.get(name, whole)
    async with asking(name, whole, streamed) as asker:
        answer = await asker.ask()
        assert answer.text == "I look."
        assert answer.calls == (Called("c1", "bash", {"command": "ls"}),)
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
        assert answer.finish_reason is not None
        assert asker.deltas == [("thinking", "hm"), ("text", "I look.")]
        assert len(asker.provider.requests) == 1
        again = await asker.ask()
        assert again.text == ("I look." if streamed is whole else "hi")
        assert len(asker.provider.requests) == 2


@pytest.mark.parametrize(
    ("name", "error_kind", "kind"),
    [
        (CLAUDE, "overloaded_error", "overloaded"),
        (CHAT, "server_error", "server"),
        (RESPONSES, "server_error", "server"),
    ],
)
async def test_v2_an_error_that_came_as_if_it_were_an_answer_is_told_as_that(
    name: str, error_kind: str, kind: str
) -> None:
    reply = Reply(error(200, "Come\nback", type=error_kind).body, 200, "application/json")
    async with asking(name, reply) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.http_status, failed.retryable) == (kind, 200, True)
    assert failed.message.endswith(": Come back")


@pytest.mark.parametrize("name", IN_ONE_PIECE)
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>\n<p>Log in</html>", "text/html; charset=utf-8"),
        (b'{"message": "no route"}', "application/json"),
        (b'{"message": "no ro', "application/json"),
        (b"[1]", "application/json"),
    ],
)
async def test_v2_what_came_instead_of_an_answer_is_told(
    name: str, body: bytes, content_type: str
) -> None:
    """All that was said is that there was no content."""
    async with asking(name, Reply(body, 200, content_type)) as asker:
        failed = await asker.fail()
    assert (failed.kind, failed.http_status, failed.retryable) == ("bad_answer", 200, False)
    assert repr(" ".join(body.decode().split())) in failed.message


# --- keys -----------------------------------------------------------------------------------------


async def test_v3_a_key_that_was_refused_is_dropped_and_the_next_request_brings_its_own() -> None:
    refused = error(401, "invalid x-api-key", type="authentication_error")
    async with asking(CLAUDE, refused, claude({"text": "hi"}), claude({"text": "again"})) as asker:
        assert (await asker.fail()).kind == "auth"
        assert (await asker.ask(key="key-2")).text == "hi"
        assert (await asker.ask()).text == "again"
        keys = [headers["authorization"] for _, headers, _ in asker.provider.requests]
    assert keys == ["Bearer key-1", "Bearer key-2", "Bearer key-2"]


# --- answers --------------------------------------------------------------------------------------


async def test_v4_usage_counts_what_was_cached_and_a_local_server_has_no_price() -> None:
    async with asking(CLAUDE, claude({"text": "hi"})) as asker:
        answer = await asker.ask()
    assert answer.usage == Usage(
        input_tokens=125,
        cache_read_tokens=100,
        cache_write_tokens=20,
        output_tokens=30,
        reasoning_tokens=0,
    )
    assert answer.cost_usd is None
    assert (answer.provider, answer.model) == ("anthropic", "claude-sonnet-5-5")
    assert answer.ttft_ms is not None


async def test_a7_a_call_whose_arguments_are_no_object_keeps_its_place_and_is_told_of() -> None:
    reply = claude(
        {"call": "toolu_1", "name": "bash", "json": '{"command": "ls"}'},
        {"call": "toolu_2", "name": "bash", "json": "[1, 2]"},
        {"call": "toolu_3", "name": "bash", "json": ""},
        {"call": "toolu_4", "name": "bash", "json": '{"command": "l'},
        stop_reason="max_tokens",
    )
    async with asking(CLAUDE, reply) as asker:
        answer = await asker.ask()
    assert answer.calls == (
        Called("toolu_1", "bash", {"command": "ls"}),
        Called("toolu_2", "bash", {}),
        Called("toolu_3", "bash", {}),
        Called("toolu_4", "bash", {}),
    )
    assert [(wrong.provider_call_id, wrong.reason) for wrong in answer.malformed] == [
        ("toolu_2", "the arguments are list, not an object"),
        ("toolu_4", "the answer was cut at its token limit, in the middle of the arguments"),
    ]


async def test_p5_calls_that_came_under_one_id_are_told_apart() -> None:
    """The flaw of one was taken for the other's, and the next request held one id twice."""
    reply = claude(
        {"call": "call_0", "name": "bash", "json": '{"command": "ls"}'},
        {"call": "call_0", "name": "bash", "json": "[1, 2]"},
        {"call": "call_0", "name": "bash", "json": '{"command": "pwd"}'},
        stop_reason="tool_use",
    )
    async with asking(CLAUDE, reply) as asker:
        answer = await asker.ask()
    assert [(call.provider_call_id, call.arguments) for call in answer.calls] == [
        ("call_0", {"command": "ls"}),
        ("call_0-2", {}),
        ("call_0-3", {"command": "pwd"}),
    ]
    assert [wrong.provider_call_id for wrong in answer.malformed] == ["call_0-2"]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('{"a": NaN}', "holds nan, which is no number"),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", "is nested more than 100 levels deep"),
    ],
)
async def test_a7_arguments_that_no_log_can_hold_are_told_to_the_model(
    written: str, reason: str
) -> None:
    """They ended the operation, which the model could have gone on with."""
    reply = claude({"call": "c1", "name": "bash", "json": written}, stop_reason="tool_use")
    async with asking(CLAUDE, reply) as asker:
        answer = await asker.ask()
    assert answer.calls == (Called("c1", "bash", {}),)
    assert reason in answer.malformed[0].reason


def called(provider_call_id: str, tool: str = "bash") -> ToolCallPart:
    return ToolCallPart(
        tool_call_id=ToolCallId(f"ours-{provider_call_id}"),
        provider_call_id=provider_call_id,
        tool=tool,
        arguments={"command": "ls"},
    )


def result(provider_call_id: str, **fields: object) -> ToolResult:
    told: dict[str, object] = {"status": "ok", "text": "fine", **fields}
    return ToolResult(
        ToolCallId(f"ours-{provider_call_id}"),
        provider_call_id,
        "bash",
        {"command": "ls"},
        **told,  # type: ignore[arg-type]  # a few fields, by name
    )


THREAD: tuple[Item, ...] = (
    UserWords(
        MessageId("m1"),
        (
            TextPart(text="look"),
            ImagePart(blob="b1", media_type="image/png", size_bytes=4),
            ImagePart(blob="gone", media_type="image/png", size_bytes=4),
        ),
    ),
    AssistantWords(MessageId("m2"), (TextPart(text="I do."), called("c1"), called("c2"))),
    result("c1"),
    result("c2", status="error", text=""),
    AssistantWords(MessageId("m3"), ()),  # a script's closing answer: nobody is sent it
    UserWords(MessageId("m4"), (TextPart(text="go on"),)),
)


async def test_a_conversation_reaches_anthropic_with_its_results_in_order() -> None:
    async with asking(CLAUDE, claude({"text": "hi"})) as asker:
        await asker.ask(*THREAD)
        path, _, body = asker.provider.requests[0]
    assert path.startswith("/v1/messages")
    first, second, *rest = body["messages"]
    assert [block["type"] for block in first["content"]] == ["text", "image", "text"]
    assert [block.get("id") for block in second["content"]] == [None, "c1", "c2"]
    said = [block for message in rest for block in message["content"]]
    results = [block for block in said if block["type"] == "tool_result"]
    assert [(block["tool_use_id"], block["is_error"]) for block in results] == [
        ("c1", False),
        ("c2", True),
    ]
    assert "(error, no output)" in str(results[1])
    assert said[-1]["text"] == "go on"
    assert "Be brief." in str(body["system"])
    assert body["tools"][0]["name"] == "bash"


async def test_a_thought_that_is_sealed_is_sent_to_nobody_but_who_sealed_it() -> None:
    """Others were sent a thought of nothing, `<think></think>`, as the model's own words."""
    sealed = ThinkingPart(
        text="", signature="sealed", provider="anthropic", details={"redacted": True}
    )
    words = AssistantWords(
        MessageId("m2"), (sealed, TextPart(text="Well.")), "claude-sonnet-5-5", "anthropic"
    )
    thread: tuple[Item, ...] = (HELLO, words, UserWords(MessageId("m3"), (TextPart(text="so?"),)))
    async with asking(CHAT, chat({"content": "hi"})) as asker:
        await asker.ask(*thread)
        assert asker.provider.requests[0][2]["messages"][2]["content"] == "Well."
    async with asking(CLAUDE, claude({"text": "hi"})) as asker:
        await asker.ask(*thread)
        assert "sealed" in json.dumps(asker.provider.requests[0][2]["messages"][1])


async def test_a_conversation_reaches_a_server_of_ones_own_as_plain_chat() -> None:
    async with asking(CHAT, chat({"content": "hi"})) as asker:
        answer = await asker.ask(*THREAD)
        path, headers, body = asker.provider.requests[0]
    assert answer.text == "hi"
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer key-1"
    assert [message["role"] for message in body["messages"]] == [
        *("system", "user", "assistant", "tool", "tool", "user"),
    ]
    assert body["messages"][3]["content"] == "fine"
    assert body["stream"] is True


async def test_p5_calls_of_several_answers_that_came_under_one_id_are_told_apart() -> None:
    """A server that numbers each answer's calls anew; another one refused all that followed."""
    again = ToolCallPart(
        tool_call_id=ToolCallId("ours-later"),
        provider_call_id="call_0",
        tool="bash",
        arguments={"command": "pwd"},
    )
    thread: tuple[Item, ...] = (
        HELLO,
        AssistantWords(MessageId("m2"), (called("call_0"),), "local-model", "openai-chat"),
        result("call_0"),
        AssistantWords(MessageId("m3"), (again,), "local-model", "openai-chat"),
        ToolResult(again.tool_call_id, "call_0", "bash", again.arguments, "ok", "here"),
    )
    async with asking(CLAUDE, claude({"text": "hi"})) as asker:
        await asker.ask(*thread)
        blocks = [
            block for said in asker.provider.requests[0][2]["messages"] for block in said["content"]
        ]
    asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
    answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert asked == answered == ["call_0", "ours-later"]


async def test_f16_half_a_character_from_a_model_is_replaced_visibly() -> None:
    async with asking(CHAT, chat({"content": "cut \ud83d here"})) as asker:
        answer = await asker.ask()
    assert answer.text == "cut \N{REPLACEMENT CHARACTER} here"
    assert asker.deltas == [("text", answer.text)]


# --- loading --------------------------------------------------------------------------------------


@contextmanager
def python(code: str) -> Iterator[str]:
    yield subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


def test_a_session_with_a_script_never_loads_what_providers_need(ground: object) -> None:
    code = (
        "import sys, pathlib\n"
        "from paddock.session_worker.models.opening import open_model\n"
        "path = pathlib.Path('s.json'); path.write_text('[]')\n"
        "open_model('script:s.json', {})\n"
        "print([name for name in ('pydantic_ai', 'openai', 'anthropic', 'genai_prices')\n"
        "       if name in sys.modules])"
    )
    with python(code) as loaded:
        assert loaded == "[]"


async def test_a_providers_library_that_is_missing_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paddock.session_worker.models.provider.BACKEND", "nowhere.to_be_found")
    model = open_model("anthropic:claude-sonnet-5-5", {"ANTHROPIC_API_KEY": "k"})
    with pytest.raises(ModelFailed, match=r"not installed \(nowhere\): install paddock\[agent\]"):
        await model.answer(ModelRequest(model.name, (HELLO,)), lambda *_: None)
    await model.close()
