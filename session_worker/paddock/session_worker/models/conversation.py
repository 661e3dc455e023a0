"""A conversation as pydantic-ai takes it, and its answers as we keep them.

What a message of ours cannot hold (a provider's ids of its parts, its own details, parts of kinds
that we do not know) is kept in ``model_state`` beside it, part by part, and goes back unchanged.
The words themselves are kept once, in the message: what was redacted there stays redacted.

Loaded with the providers' libraries, never before (it imports pydantic-ai).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_ai import messages as wire
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

from paddock.session_worker.model import (
    AnswerPart,
    AssistantWords,
    Called,
    Item,
    Malformed,
    ModelRequest,
    ToolResult,
    UserWords,
)
from paddock.session_worker.sizes import flaw_in
from paddock.store.events import (
    AssistantPart,
    ImagePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from paddock.store.ids import ToolCallId
from paddock.store.text import whole, whole_object

STATE = "response"
"""The key of ``model_state`` that is ours."""

_PART: TypeAdapter[wire.ModelResponsePart] = TypeAdapter(wire.ModelResponsePart)
_RESPONSE = TypeAdapter(wire.ModelResponse)

_SHOWN = {
    "text": ("content", "part_kind"),
    "thinking": ("content", "signature", "part_kind", "provider_name", "provider_details"),
    "tool-call": ("tool_name", "args", "tool_call_id", "part_kind"),
}
"""The fields of each kind of part that our own parts hold."""

_KEPT = (
    "model_name",
    "provider_name",
    "provider_url",
    "provider_details",
    "provider_response_id",
    "canonical_system",
    "finish_reason",
)


# --- to pydantic-ai -------------------------------------------------------------------------------


def parameters_of(request: ModelRequest) -> ModelRequestParameters:
    """Return the tools of a request."""
    return ModelRequestParameters(
        function_tools=[
            ToolDefinition(
                name=tool.name,
                description=tool.description,
                parameters_json_schema=dict(tool.parameters),
            )
            for tool in request.tools
        ]
    )


def messages_of(
    request: ModelRequest, provider: str, *, tells_errors: bool
) -> list[wire.ModelMessage]:
    """Return the conversation of a request; ``tells_errors``: results have an error flag there.

    ``provider`` is who is asked, by the name that pydantic-ai has for it.
    """
    messages: list[wire.ModelMessage] = []
    asked: list[wire.ModelRequestPart] = []
    for item in _told_apart(request.items):
        if isinstance(item, AssistantWords):
            _flush(messages, asked)
            asked = []
            response = _response_of(item)
            response.parts = [part for part in response.parts if _is_for(provider, part)]
            if response.parts:
                messages.append(response)
        else:
            asked.append(_asked(item, request.images, tells_errors=tells_errors))
    _flush(messages, asked)
    if request.system_prompt and messages and isinstance(messages[-1], wire.ModelRequest):
        messages[-1].instructions = request.system_prompt
    return messages


def _told_apart(items: Sequence[Item]) -> Iterator[Item]:
    """Give each call of a conversation an id of its own, and its result the same.

    Some servers begin anew to number calls with each answer; others, to which the conversation is
    brought later, refuse one id twice.
    """
    ids: set[str] = set()
    given: dict[ToolCallId, str] = {}
    for item in items:
        if isinstance(item, AssistantWords):
            for call in item.parts:
                if isinstance(call, ToolCallPart):
                    is_taken = call.provider_call_id in ids
                    given[call.tool_call_id] = (
                        call.tool_call_id if is_taken else call.provider_call_id
                    )
                    ids.add(call.provider_call_id)
            yield replace(item, parts=tuple(_under(part, given) for part in item.parts))
        elif isinstance(item, ToolResult):
            call_id = given.get(item.tool_call_id, item.provider_call_id)
            yield replace(item, provider_call_id=call_id)
        else:
            yield item


def _under(part: AssistantPart, given: Mapping[ToolCallId, str]) -> AssistantPart:
    if not isinstance(part, ToolCallPart) or given[part.tool_call_id] == part.provider_call_id:
        return part
    return part.model_copy(update={"provider_call_id": given[part.tool_call_id]})


def _flush(messages: list[wire.ModelMessage], asked: list[wire.ModelRequestPart]) -> None:
    if asked:
        messages.append(wire.ModelRequest(parts=asked))


def _asked(
    item: UserWords | ToolResult, images: Mapping[str, bytes], *, tells_errors: bool
) -> wire.ModelRequestPart:
    if isinstance(item, UserWords):
        content: list[wire.UserContent] = [_said(part, images) for part in item.parts]
        only = content[0] if len(content) == 1 else None
        return wire.UserPromptPart(content=only if isinstance(only, str) else content)
    return wire.ToolReturnPart(
        tool_name=item.tool,
        # Some providers refuse an empty result.
        content=item.text or f"({item.status}, no output)",
        tool_call_id=item.provider_call_id,
        outcome=_outcome(item, tells_errors=tells_errors),
    )


def _said(part: TextPart | ImagePart, images: Mapping[str, bytes]) -> wire.UserContent:
    if isinstance(part, TextPart):
        return part.text
    data = images.get(part.blob)
    if data is None:
        return f"[an image that is no longer here: {part.media_type}]"
    return wire.BinaryContent(data=data, media_type=part.media_type)


def _outcome(
    item: ToolResult, *, tells_errors: bool
) -> Literal["success", "failed", "denied", "interrupted"]:
    match item.status:
        case "denied":
            return "denied"
        case "cancelled" | "interrupted":
            return "interrupted"
        case "error" | "timed_out" | "limit_exceeded" if tells_errors:
            # Without an error flag it would be wrapped in JSON: the text says it well enough.
            return "failed"
        case _:
            return "success"


def _response_of(item: AssistantWords) -> wire.ModelResponse:
    state = (item.model_state or {}).get(STATE)
    restored = _restored(item.parts, state) if isinstance(state, dict) else None
    return restored or wire.ModelResponse(
        parts=[_plain(part, item.provider) for part in item.parts if _says_anything(part)],
        model_name=item.model,
        provider_name=item.provider,
    )


def _is_for(provider: str, part: wire.ModelResponsePart) -> bool:
    """Whether a part is to be sent: a thought that is sealed is empty to all but who sealed it."""
    return (
        not isinstance(part, wire.ThinkingPart)
        or bool(part.content)
        or part.provider_name == provider
    )


def _says_anything(part: AssistantPart) -> bool:
    return not isinstance(part, TextPart) or bool(part.text)


def _plain(part: AssistantPart, provider: str | None) -> wire.ModelResponsePart:
    match part:
        case TextPart():
            return wire.TextPart(part.text)
        case ThinkingPart():
            return wire.ThinkingPart(
                part.text,
                signature=part.signature,
                provider_name=part.provider or provider,
                provider_details=part.details,
            )
        case ToolCallPart():
            return wire.ToolCallPart(
                tool_name=part.tool, args=part.arguments, tool_call_id=part.provider_call_id
            )


def _restored(
    parts: Sequence[AssistantPart], state: dict[str, JsonValue]
) -> wire.ModelResponse | None:
    """Return the response as it came; ours and what was kept beside it are put together again.

    None where they do not fit (another version kept it): the words alone will do.
    """
    kept = state.get("parts")
    beside = [entry for entry in kept if isinstance(entry, dict)] if isinstance(kept, list) else []
    if sum("part_kind" not in entry for entry in beside) != len(parts):
        return None
    ours = iter(parts)
    try:
        restored = [
            _PART.validate_python(
                entry if "part_kind" in entry else _dumped(_plain(next(ours), None)) | entry
            )
            for entry in beside
        ]
        fields = {key: state[key] for key in _KEPT if key in state}
        response = _RESPONSE.validate_python({"parts": [], **fields})
    except ValidationError:
        return None
    response.parts = restored
    return response


def _dumped(part: wire.ModelResponsePart) -> dict[str, JsonValue]:
    dumped: dict[str, JsonValue] = _PART.dump_python(part, mode="json")
    return dumped


# --- from pydantic-ai -----------------------------------------------------------------------------


def state_of(response: wire.ModelResponse) -> dict[str, JsonValue]:
    """Return what of a response its message will not hold, to be given back with it."""
    whole_response: dict[str, JsonValue] = _RESPONSE.dump_python(response, mode="json")
    state: dict[str, JsonValue] = {
        key: value for key in _KEPT if (value := whole_response.get(key)) is not None
    }
    parts: list[JsonValue] = []
    dumped = whole_response["parts"]
    for part in dumped if isinstance(dumped, list) else []:
        if not isinstance(part, dict):
            continue
        shown = _SHOWN.get(str(part.get("part_kind")), ())
        parts.append(
            {key: one for key, one in part.items() if key not in shown and one is not None}
        )
    return {STATE: whole_object(state | {"parts": parts})}


def answer_parts(
    response: wire.ModelResponse,
) -> tuple[tuple[AnswerPart, ...], tuple[Malformed, ...]]:
    """Return the parts of a response that we know, and which of its calls are malformed."""
    parts: list[AnswerPart] = []
    malformed: list[Malformed] = []
    ids: set[str] = set()
    for part in response.parts:
        match part:
            case wire.TextPart():
                parts.append(TextPart(text=whole(part.content)))
            case wire.ThinkingPart():
                parts.append(
                    ThinkingPart(
                        text=whole(part.content),
                        signature=part.signature,
                        provider=part.provider_name,
                        details=part.provider_details,
                    )
                )
            case wire.ToolCallPart():
                arguments, wrong = _arguments(part, is_cut=response.finish_reason == "length")
                tool = whole(part.tool_name)
                call_id = _unlike(whole(part.tool_call_id), ids)
                parts.append(Called(call_id, tool, arguments))
                if wrong:
                    text = whole(part.args_as_json_str())
                    malformed.append(Malformed(call_id, tool, text, wrong))
            case _:
                pass  # a provider's own tools and the like: kept in the state, shown nowhere
    return tuple(parts), tuple(malformed)


def _unlike(call_id: str, others: set[str]) -> str:
    """Return a call's id, changed where another call of the answer has it, and note it.

    Some servers number the calls of each tool. A conversation with one id twice is refused by
    others, and by their rules no result could be told from the other.
    """
    found, number = call_id, 1
    while found in others:
        number += 1
        found = f"{call_id}-{number}"
    others.add(found)
    return found


def _arguments(part: wire.ToolCallPart, *, is_cut: bool) -> tuple[dict[str, JsonValue], str]:
    """Return a call's arguments and, if it cannot be made, what is wrong with it."""
    if not part.tool_name:
        return {}, "the call names no tool"
    value: object = part.args
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}, ""  # how a call without arguments comes
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            if is_cut:
                return {}, "the answer was cut at its token limit, in the middle of the arguments"
            return {}, f"the arguments are not JSON ({error})"
    if not isinstance(value, dict):
        return {}, f"the arguments are {type(value).__name__}, not an object"
    flaw = flaw_in(value)
    if flaw is not None:
        return {}, f"the arguments cannot be taken: what was given {flaw}"
    return whole_object(value), ""
