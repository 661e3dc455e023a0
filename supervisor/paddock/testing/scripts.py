"""Writing scripts: what a model says, turn by turn; its tool calls are really run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

type Call = Mapping[str, Any]
type Turn = Mapping[str, Any]


def call(name: str, **arguments: Any) -> Call:
    """Return a tool call of a turn."""
    return {"name": name, "arguments": arguments}


def turn(*said: str | Call, delay_ms: int = 0, prompt: int | None = None) -> Turn:
    """Return a turn: its words and its calls, in the order they are given."""
    words = [one for one in said if isinstance(one, str)]
    calls = [dict(one) for one in said if not isinstance(one, str)]
    told: dict[str, Any] = {}
    if words:
        told["text"] = "".join(words)
    if calls:
        told["tool_calls"] = calls
    if delay_ms:
        told["delay_ms"] = delay_ms
    if prompt is not None:
        told["prompt"] = prompt
    return told


def write_script(file: Path, turns: Sequence[Turn]) -> str:
    """Write turns to a file and return the name of the model that says them."""
    file.write_text(json.dumps(list(turns)), encoding="utf-8")
    return f"script:{file}"
