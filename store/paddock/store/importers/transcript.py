"""A recorded session of another agent, and how it becomes a script that runs its calls again."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from paddock.store.errors import Refused
from paddock.store.events import Usage

type MapCall = Callable[
    [str, Mapping[str, Any], str, str, str | None], tuple[str, Mapping[str, Any]] | None
]
"""(tool, arguments, recorded cwd, cwd, where it was asked) → our tool and its arguments, or None:
not one of ours."""

NOBODY_ASKED = Usage(input_tokens=0, output_tokens=0)
"""Of a turn that is added, which no model answered: the sum of a session stays known."""
NO_RESULT = "(no result was recorded)"


class NotATranscript(Refused):
    """The file is no recording of a known form; the text says what it looks like."""

    code = "not_a_transcript"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The recorded result of a call."""

    text: str
    is_error: bool
    at: int | None
    """UTC microseconds."""
    was_rejected: bool = False
    """The call never ran (a user, a hook or the agent's own guard refused it), or might as well
    not have: an edit that failed."""
    replaced: Mapping[str, JsonValue] | None = None
    """Of an edit: its arguments as they were carried out, where that is told."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that was recorded, and what came of it; ``outcome`` None: never answered."""

    call_id: str
    tool: str
    arguments: dict[str, JsonValue]
    at: int | None
    outcome: Outcome | None
    cwd: str | None = None
    """The folder that the agent was in when it asked: an earlier call may have gone there."""


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """One answer of the model: all blocks of one message."""

    message_id: str | None
    model: str | None
    text: str
    thinking: str
    calls: tuple[RecordedCall, ...]
    usage: Usage
    finish_reason: str | None
    at: int | None


@dataclass(frozen=True, slots=True)
class RecordedPrompt:
    """What was said to the agent, and its answers up to the next prompt."""

    text: str
    at: int | None
    is_meta: bool
    """Not typed by a person: a hook's feedback, say."""
    turns: tuple[RecordedTurn, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the file that is not as it should be; ``line`` counts from 1."""

    line: int | None
    what: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in the whole file, off the main chain too: what a plain reading of it counts."""

    messages: Mapping[str, int]
    """Records by role: user, assistant, system."""
    calls: tuple[RecordedCall, ...]
    usage: Mapping[str, Usage]
    """By message id, the last that was told; messages without an id by their place."""
    models: Mapping[str, int]
    """Assistant records by model."""
    orphan_results: int
    recovered_lines: int
    unparseable_lines: int


@dataclass(frozen=True, slots=True)
class Transcript:
    """A recorded session: its main chain as prompts and turns, and what the whole file holds."""

    session_id: str | None
    cwd: str | None
    branch: str | None
    agent_version: str | None
    model: str | None
    """The one that most turns of the main chain are from."""
    prompts: tuple[RecordedPrompt, ...]
    counts: Counts
    started_at: int | None
    ended_at: int | None
    problems: tuple[Problem, ...] = field(default=())

    @property
    def turns(self) -> tuple[RecordedTurn, ...]:
        """All turns of the main chain."""
        return tuple(turn for prompt in self.prompts for turn in prompt.turns)


# --- as a script ----------------------------------------------------------------------------------


def to_script(
    transcript: Transcript, *, recorded_cwd: str, cwd: str, map_call: MapCall
) -> tuple[list[str], list[dict[str, JsonValue]]]:
    """Return what to say to the session, and the turns of the script that answers it.

    One operation per prompt: each turn names its prompt, and the last of each prompt asks for
    nothing, so that the operation ends there. Calls keep their order. A tool that is not ours, and
    a call that never ran or was never answered, carries its recorded result instead of being run.
    """
    turns: list[dict[str, JsonValue]] = []
    for number, prompt in enumerate(transcript.prompts):
        for turn in _merged(prompt.turns):
            told: dict[str, JsonValue] = {"prompt": number}
            if turn.thinking:
                told["thinking"] = turn.thinking
            if turn.text:
                told["text"] = turn.text
            if turn.calls:
                told["tool_calls"] = [
                    _scripted(call, recorded_cwd, cwd, map_call) for call in turn.calls
                ]
            usage = turn.usage.model_dump(exclude_none=True)
            if usage:
                told["usage"] = usage
            turns.append(told)
    return [prompt.text for prompt in transcript.prompts], turns


def _merged(turns: Iterable[RecordedTurn]) -> list[RecordedTurn]:
    """Return the turns so that only the last one asks for no tool.

    An answer without calls ends an operation of ours; where the recorded agent went on regardless
    (after a cut answer, say), what it said next belongs to the same turn.
    """
    merged: list[RecordedTurn] = []
    for turn in turns:
        if merged and not merged[-1].calls:
            merged[-1] = _joined(merged[-1], turn)
        else:
            merged.append(turn)
    if not merged or merged[-1].calls:
        merged.append(RecordedTurn(None, None, "", "", (), NOBODY_ASKED, None, None))
    return merged


def _joined(first: RecordedTurn, second: RecordedTurn) -> RecordedTurn:
    return RecordedTurn(
        message_id=second.message_id,
        model=second.model or first.model,
        text="\n\n".join(filter(None, (first.text, second.text))),
        thinking="\n\n".join(filter(None, (first.thinking, second.thinking))),
        calls=second.calls,
        usage=sum_of((first.usage, second.usage)),
        finish_reason=second.finish_reason,
        at=second.at,
    )


def sum_of(usages: Iterable[Usage]) -> Usage:
    """Return the usages added up; what none of them tells stays None."""
    totals: dict[str, int] = {}
    for usage in usages:
        for name, count in usage.model_dump(exclude_none=True).items():
            totals[name] = totals.get(name, 0) + count
    return Usage(**totals)


def _scripted(call: RecordedCall, recorded_cwd: str, cwd: str, map_call: MapCall) -> JsonValue:
    mapped = map_call(call.tool, call.arguments, recorded_cwd, cwd, call.cwd)
    name, arguments = mapped or (call.tool, call.arguments)
    told: dict[str, JsonValue] = {"name": name, "arguments": dict(arguments)}
    if call.outcome is None:
        told["observed"] = {"text": NO_RESULT, "is_error": True}
    elif mapped is None or call.outcome.was_rejected:
        told["observed"] = {"text": call.outcome.text, "is_error": call.outcome.is_error}
    return told
