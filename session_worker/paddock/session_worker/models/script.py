"""``script:FILE``: a model that says what a file of turns tells it to; its calls are really run.

A script is a JSON list of turns ``{"text"?, "thinking"?, "tool_calls"?: [{"name", "arguments",
"observed"?: {"text", "is_error"}}], "delay_ms"?, "usage"?, "prompt"?}``. Which turn is next follows
from the request alone (each answer carries its turn in ``model_state``), so a script goes on after
any crash. A call that came back ``interrupted``, and is not known to have happened, is asked again
under a new id before the script goes on. With ``prompt`` (in all turns or in none) a turn answers
only that user message, counted from 0.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pydantic import JsonValue

from paddock.session_worker.errors import UnknownModel
from paddock.session_worker.model import (
    AnswerPart,
    AssistantWords,
    Called,
    DeltaKind,
    Item,
    ModelAnswer,
    ModelFailed,
    ModelRequest,
    Observed,
    OnDelta,
    ToolResult,
    UserWords,
)
from paddock.session_worker.sizes import LARGEST_COUNT, flaw_in
from paddock.store.events import TextPart, ThinkingPart, Usage
from paddock.store.text import whole_value

CHUNKS = 4
"""Into how many deltas a turn's words are cut at most: enough to see that they stream."""

END_OF_SCRIPT = "end_of_script"
NOTHING = Usage(input_tokens=0, output_tokens=0)
"""What an answer took that stands in no script: a session's sum is that of its script."""


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A call of a turn; with ``observed`` its result is told and nothing is run."""

    name: str
    arguments: dict[str, JsonValue]
    observed: Observed | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of a script; ``prompt`` is the user message it belongs to, from 0."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ScriptCall, ...] = ()
    delay_ms: int = 0
    usage: Usage = field(default_factory=Usage)
    prompt: int | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """What comes next: the turn of that number."""

    turn: int


@dataclass(frozen=True, slots=True)
class AskAgain:
    """What comes next: the calls of that turn that came back interrupted, once more."""

    turn: int
    results: tuple[ToolResult, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """What comes next: nothing more on this prompt; ``turn`` is the last one said, -1 for none."""

    turn: int


type Step = Say | AskAgain | Close


def open_script(path: str) -> "ScriptModel":
    """Return the model of a script's file.

    Raises:
        UnknownModel: The file cannot be read or is no script; one line says where and why.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        message = f"script {path!r} cannot be read: {error.strerror or error}; name a file"
        raise UnknownModel(message, path=path) from error
    except UnicodeDecodeError as error:
        message = f"script {path!r} is not UTF-8 text (byte {error.start}); write it as JSON"
        raise UnknownModel(message, path=path) from error
    return ScriptModel(path, parse_script(text, path))


class ScriptModel:
    """A model whose answers stand in a file."""

    provider = "script"
    context_limit: int | None = None

    def __init__(self, name: str, turns: Sequence[Turn]) -> None:
        self.name = name
        self._turns = tuple(turns)

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> ModelAnswer:
        """Return the next turn, streamed in a few pieces after its delay.

        Raises:
            ModelFailed: ``script_exhausted``: new words came and no turn is left for them.
        """
        began = time.monotonic()
        step = next_step(self._turns, request.items)
        if step is None:
            message = (
                f"the script {self.name!r} has no turn left for this message (it has "
                f"{len(self._turns)}); add turns, or start a new session"
            )
            raise ModelFailed("script_exhausted", message)
        if isinstance(step, Say):
            await asyncio.sleep(self._turns[step.turn].delay_ms / 1000)
        waited_ms = (time.monotonic() - began) * 1000
        answer = answer_of(self._turns, step, self.name, waited_ms)
        await _stream(answer, on_delta)
        return answer

    async def close(self) -> None:
        """Do nothing: a script holds nothing open."""


# --- which turn is next ---------------------------------------------------------------------------


def next_step(turns: Sequence[Turn], items: Sequence[Item]) -> Step | None:
    """Return what a script says to a request; None when new words find no turn left."""
    said = _last_said(items)
    results = _newest_results(items)
    lost = tuple(
        result
        for result in results
        if result.status == "interrupted" and result.happened is not True
    )
    if lost:
        return AskAgain(said, lost)
    by_prompt = any(turn.prompt is not None for turn in turns)
    prompt = sum(isinstance(item, UserWords) for item in items) - 1 if by_prompt else None
    # An answer to an earlier prompt may have been cut short: what is left of it stays unsaid.
    for number in range(said + 1, len(turns)):
        if turns[number].prompt == prompt:
            return Say(number)
    is_told_of = prompt is not None and any((turn.prompt or 0) >= prompt for turn in turns)
    return Close(said) if results or is_told_of else None


def _last_said(items: Sequence[Item]) -> int:
    for item in reversed(items):
        if isinstance(item, AssistantWords) and item.model_state is not None:
            number = item.model_state.get("script_turn")
            if isinstance(number, int):
                return number
    return -1


def _newest_results(items: Sequence[Item]) -> list[ToolResult]:
    results: list[ToolResult] = []
    for item in reversed(items):
        if not isinstance(item, ToolResult):
            break
        results.append(item)
    return results[::-1]


# --- what it says ---------------------------------------------------------------------------------


def answer_of(turns: Sequence[Turn], step: Step, name: str, waited_ms: float) -> ModelAnswer:
    """Return the answer that a step stands for."""
    state: dict[str, JsonValue] = {"script_turn": step.turn}
    if isinstance(step, Close):
        return ModelAnswer(
            (),
            "script",
            name,
            usage=NOTHING,
            cost_usd=0.0,
            finish_reason=END_OF_SCRIPT,
            model_state=state,
        )
    if isinstance(step, AskAgain):
        state["again_for"] = [result.provider_call_id for result in step.results]
        again = tuple(_again(turns, result) for result in step.results)
        return ModelAnswer(
            again,
            "script",
            name,
            usage=NOTHING,
            cost_usd=0.0,
            finish_reason="tool_call",
            model_state=state,
        )
    turn = turns[step.turn]
    parts: list[AnswerPart] = []
    if turn.thinking:
        parts.append(ThinkingPart(text=turn.thinking))
    if turn.text:
        parts.append(TextPart(text=turn.text))
    parts += [
        Called(_call_id(step.turn, place, 0), call.name, dict(call.arguments), call.observed)
        for place, call in enumerate(turn.calls)
    ]
    return ModelAnswer(
        tuple(parts),
        "script",
        name,
        usage=turn.usage,
        cost_usd=0.0,  # nobody was paid
        finish_reason="tool_call" if turn.calls else "stop",
        ttft_ms=waited_ms,
        model_state=state,
    )


def _call_id(turn: int, place: int, attempt: int) -> str:
    return f"script-{turn}-{place}-{attempt}"


_CALL_ID = re.compile(r"script-(\d+)-(\d+)-(\d+)")


def _again(turns: Sequence[Turn], result: ToolResult) -> Called:
    """Return the same call under a new id."""
    arguments = dict(result.arguments)
    ours = _CALL_ID.fullmatch(result.provider_call_id)
    if ours is None:  # another model asked for it, before this one took over
        return Called(f"{result.provider_call_id}-again", result.tool, arguments)
    turn, place, attempt = map(int, ours.groups())
    observed = None
    if turn < len(turns) and place < len(turns[turn].calls):
        call = turns[turn].calls[place]
        observed = call.observed
        if call.name == result.tool:  # the log has what was asked for without its secrets
            arguments = dict(call.arguments)
    return Called(_call_id(turn, place, attempt + 1), result.tool, arguments, observed)


async def _stream(answer: ModelAnswer, on_delta: OnDelta) -> None:
    for part in answer.parts:
        kind: DeltaKind
        match part:
            case TextPart():
                kind = "text"
            case ThinkingPart():
                kind = "thinking"
            case Called():
                continue
        for chunk in chunks_of(part.text):
            on_delta(kind, chunk)
            await asyncio.sleep(0)  # so that it can be cancelled between pieces


def chunks_of(text: str) -> list[str]:
    """Return the text in at most ``CHUNKS`` pieces that add up to it."""
    size = max(1, -(-len(text) // CHUNKS))
    return [text[start : start + size] for start in range(0, len(text), size)]


# --- what a script is -----------------------------------------------------------------------------

_TURN_KEYS = ("text", "thinking", "tool_calls", "delay_ms", "usage", "prompt")
_CALL_KEYS = ("name", "arguments", "observed")


class _Wrong(Exception):
    """What is wrong, to be told with its file and turn."""


def parse_script(text: str, path: str) -> tuple[Turn, ...]:
    """Return the turns of a script.

    Raises:
        UnknownModel: It is no script; one line names the file, the turn and what is wrong.
    """
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"script {path!r} is not JSON: {error}"
        raise UnknownModel(message, path=path) from error
    if "\\u" in text:
        value = whole_value(value)
    if not isinstance(value, list):
        message = f"script {path!r} holds {_kind(value)}; it must be a list of turns"
        raise UnknownModel(message, path=path)
    turns: list[Turn] = []
    for number, turn in enumerate(value):
        try:
            turns.append(_turn(turn))
            if (turns[-1].prompt is None) != (turns[0].prompt is None):
                _wrong("'prompt' must stand in all turns or in none")
        except _Wrong as wrong:
            message = f"script {path!r}, turn {number} (from 0): {wrong}"
            raise UnknownModel(message, path=path, turn=number) from wrong
    return tuple(turns)


def _turn(value: object) -> Turn:
    fields = _object(value, "the turn", _TURN_KEYS)
    calls = fields.get("tool_calls", [])
    if not isinstance(calls, list):
        _wrong(f"'tool_calls' must be a list, not {_kind(calls)}")
    return Turn(
        text=_text(fields, "text"),
        thinking=_text(fields, "thinking"),
        calls=tuple(_call(call, place) for place, call in enumerate(calls)),
        delay_ms=_count(fields, "delay_ms") or 0,
        usage=_usage(fields.get("usage")),
        prompt=_count(fields, "prompt"),
    )


def _call(value: object, place: int) -> ScriptCall:
    where = f"tool call {place}"
    fields = _object(value, where, _CALL_KEYS)
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        _wrong(f"{where} needs a 'name'")
    arguments = fields.get("arguments")
    if not isinstance(arguments, dict):
        _wrong(f"'arguments' of {where} ({name}) must be an object, not {_kind(arguments)}")
    flaw = flaw_in(arguments)
    if flaw is not None:
        _wrong(f"'arguments' of {where} ({name}): it {flaw}")
    return ScriptCall(name, arguments, _observed(fields.get("observed"), where))


def _observed(value: object, where: str) -> Observed | None:
    if value is None:
        return None
    fields = _object(value, f"'observed' of {where}", ("text", "is_error"))
    text, is_error = fields.get("text"), fields.get("is_error", False)
    if not isinstance(text, str) or not isinstance(is_error, bool):
        _wrong(f"'observed' of {where} needs 'text' (a string) and 'is_error' (true or false)")
    return Observed(text, is_error)


def _usage(value: object) -> Usage:
    if value is None:
        return Usage()
    fields = _object(value, "'usage'", tuple(Usage.model_fields))
    return Usage(**{key: _count(fields, key) for key in fields})


def _object(value: object, what: str, keys: Sequence[str]) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        _wrong(f"{what} must be an object, not {_kind(value)}")
    unknown = sorted(value.keys() - set(keys))
    if unknown:
        _wrong(f"{what} has no field {unknown[0]!r}; there are {', '.join(keys)}")
    return value


def _text(fields: Mapping[str, JsonValue], key: str) -> str:
    value = fields.get(key) or ""
    if not isinstance(value, str):
        _wrong(f"{key!r} must be a string, not {_kind(value)}")
    return value


def _count(fields: Mapping[str, JsonValue], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
        _wrong(f"{key!r} must be a whole number from 0 to 2**63-1, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "nothing"}
    return kinds.get(type(value), repr(value))


def _wrong(what: str) -> NoReturn:
    raise _Wrong(what)
