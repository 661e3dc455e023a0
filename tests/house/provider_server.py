"""A provider on loopback: answers in the real wire formats, as it is told to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``is_cut``: the connection breaks after the body; ``is_held``: it stays open."""

    body: bytes
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False
    is_held: bool = False


@dataclass(slots=True)
class Provider:
    """What it was asked, and what it will say."""

    url: str
    replies: list[Reply]
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    """Path, headers and decoded body of each request."""
    release: Event = field(default_factory=Event)
    """Set when what is held may go."""


@contextmanager
def serve(*replies: Reply) -> Iterator[Provider]:
    """Serve the replies, one a request, then 500s."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the name that http.server calls
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {key.lower(): value for key, value in self.headers.items()}
            provider.requests.append((self.path, headers, json.loads(body)))
            reply = provider.replies.pop(0) if provider.replies else error(500, "no reply left")
            self.send_response(reply.status)
            self.send_header("content-type", reply.content_type)
            for key, value in reply.headers.items():
                self.send_header(key, value)
            has_end = not (reply.is_cut or reply.is_held)
            size = len(reply.body) + (0 if has_end else 100)
            self.send_header("content-length", str(size))
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.is_held:
                provider.release.wait(60)
            self.close_connection = self.close_connection or not has_end

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            pass  # a test's output is its own

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(f"http://127.0.0.1:{server.server_address[1]}", list(replies))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        provider.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def error(status: int, message: str, **fields: str) -> Reply:
    """Return an error as both families of providers write it."""
    body = {"type": "error", "error": {"message": message, **fields}}
    return Reply(json.dumps(body).encode(), status, "application/json")


def sse(*events: dict[str, Any] | str) -> bytes:
    """Return events as a stream; those with a ``type`` are named by it, as Anthropic's are."""
    lines: list[str] = []
    for event in events:
        if isinstance(event, dict) and isinstance(event.get("type"), str):
            lines.append(f"event: {event['type']}\n")
        data = event if isinstance(event, str) else json.dumps(event)
        lines.append(f"data: {data}\n\n")
    return "".join(lines).encode()


# --- Anthropic's messages -------------------------------------------------------------------------


def claude(*blocks: dict[str, Any], stop_reason: str | None = "end_turn") -> Reply:
    """Return a streamed message; with no ``stop_reason`` it ends before its end.

    A block is ``{"text"}`` or ``{"call", "name", "json"}``.
    """
    usage = {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    start: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage | {"output_tokens": 1},
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        if "text" in block:
            begun: dict[str, Any] = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": block["text"]}
        else:
            begun = {
                "type": "tool_use",
                "id": block["call"],
                "name": block["name"],
                "input": {},
            }
            delta = {"type": "input_json_delta", "partial_json": block["json"]}
        events += [
            {"type": "content_block_start", "index": index, "content_block": begun},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    if stop_reason is not None:
        end = {"stop_reason": stop_reason, "stop_sequence": None}
        events += [
            {"type": "message_delta", "delta": end, "usage": {"output_tokens": 30}},
            {"type": "message_stop"},
        ]
    return Reply(sse(*events))


# --- OpenAI's chat completions --------------------------------------------------------------------


def chat(*deltas: dict[str, Any], finish_reason: str | None = "stop") -> Reply:
    """Return a streamed completion; with no ``finish_reason`` it ends before its end."""
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "local-model"}
    events: list[dict[str, Any] | str] = [
        frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    if finish_reason is not None:
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        end = {"index": 0, "delta": {}, "finish_reason": finish_reason}
        events += [frame | {"choices": [end], "usage": usage}, "[DONE]"]
    return Reply(sse(*events))
