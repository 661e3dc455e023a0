"""A recorded session's script, its file tools done by hand, leads to the files it led to then."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from paddock.session_worker.models.script import parse_script
from paddock.session_worker.toolbox.claude_code import map_claude_code_call
from paddock.store.importers.claude_code import read_transcript
from paddock.store.importers.transcript import to_script
from tests.house import shared

pytestmark = [pytest.mark.real_data, shared.NEEDS_DATA]


def self_contained() -> list[dict[str, Any]]:
    if not shared.DATA.is_dir():
        return []
    sessions = json.loads((shared.DATA / "replay.json").read_text())["sessions"]
    return [
        session
        for session in sessions
        if session["tier"].startswith("A") and session["file"].startswith("claude_code/")
    ]


def do(name: str, arguments: dict[str, Any]) -> None:
    """Do what a file tool does, as plainly as can be; the other tools change nothing here."""
    if name == "write_file":
        path = Path(arguments["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(arguments["content"])
    elif name == "edit_file":
        path = Path(arguments["path"])
        before = path.read_text()
        # Each test names these fields as the tool's schema does.
        old, new = arguments["old_string"], arguments["new_string"]
        assert old in before
        path.write_text(before.replace(old, new, 1))


@pytest.mark.parametrize("session", self_contained(), ids=lambda session: session["test"])
def test_a_self_contained_session_ends_with_the_files_it_ended_with_then(
    tmp_path: Path, session: dict[str, Any]
) -> None:
    for name, content in session["initial_files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    transcript = read_transcript((shared.DATA / session["file"]).read_bytes())
    _, turns = to_script(
        transcript,
        recorded_cwd=session["recorded_cwd"],
        cwd=str(tmp_path),
        map_call=map_claude_code_call,
    )
    calls = [call for turn in parse_script(json.dumps(turns), "recorded") for call in turn.calls]
    assert len(calls) == session["calls"]
    for call in calls:
        assert session["recorded_cwd"] not in json.dumps(call.arguments)
        if call.observed is None:
            do(call.name, call.arguments)
    found = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in session["expected_final_sha256"]
    }
    assert found == session["expected_final_sha256"]


def test_every_recorded_session_of_the_collection_becomes_a_valid_script() -> None:
    for path in sorted((shared.DATA / "claude_code").rglob("*.jsonl")):
        transcript = read_transcript(path.read_bytes())
        _, turns = to_script(
            transcript,
            recorded_cwd=transcript.cwd or "/",
            cwd="/somewhere",
            map_call=map_claude_code_call,
        )
        assert len(parse_script(json.dumps(turns), path.name)) == len(turns)
