"""Recorded Claude Code sessions, run again for real: undisturbed, and killed in every call."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paddock.store.events import (
    Stored,
    ToolCallFinished,
    ToolCallRequested,
    WorkerExited,
)
from paddock.store.ids import SessionId
from paddock.store.session_file import SessionReader, events_of, folder_of
from paddock.testing import HostForTests, wait_until
from tests.house.shared import DATA, NEEDS_DATA
from tests.together.cli import DEADLINE_SECONDS, paddock
from tests.together.gated_worker import GATE_SUFFIX, HELD_SUFFIX

pytestmark = [NEEDS_DATA, pytest.mark.real_data]
MANY = 100_000


def recordings() -> list[dict[str, Any]]:
    if not DATA.is_dir():
        return []
    listed = json.loads((DATA / "replay.json").read_text())["sessions"]
    return [
        one
        for one in listed
        if one["tier"].startswith("A") and one["file"].startswith("claude_code/")
    ]


def name_of(recording: dict[str, Any]) -> str:
    return Path(recording["file"]).stem.partition("__")[2]


EACH = pytest.mark.parametrize("recording", recordings(), ids=name_of)
EACH_CALL = pytest.mark.parametrize(
    ("recording", "number"),
    [
        pytest.param(one, number, id=f"{name_of(one)}-{number}")
        for one in recordings()
        for number in range(1, one["calls"] + 1)
    ],
)


@pytest.fixture(scope="module")
def host() -> Iterator[HostForTests]:
    folder = Path(tempfile.mkdtemp(prefix="pd-replay-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        made = HostForTests(folder, "--worker", "tests.together.gated_worker:run_worker")
        made.start()
    yield made
    made.end()
    shutil.rmtree(folder)


def workspace_of(recording: dict[str, Any], folder: Path) -> Path:
    """Make the folder as it was when the recording began."""
    folder.mkdir()
    for name, text in recording["initial_files"].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if recording["git_init"]:
        git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
        subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
        subprocess.run([*git, "commit", "-q", "-m", "begin"], cwd=folder, check=True)
    return folder


def assert_final_files(recording: dict[str, Any], folder: Path) -> None:
    found = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in recording["expected_final_sha256"]
    }
    assert found == recording["expected_final_sha256"]


@EACH
def test_a_replay_ends_with_the_recorded_files(
    recording: dict[str, Any], host: HostForTests, ground: Path
) -> None:
    folder = workspace_of(recording, ground / "work")
    said = paddock(
        host.home,
        *("replay", str(DATA / recording["file"])),
        *("--cwd", str(folder), "--mode", "yolo", "--json"),
    )
    assert said.code == 0, said.err
    told = said.json
    assert told["status"] == "completed"
    assert {"session_id", "final_message", "operation_id", "usage", "duration_ms"} <= told.keys()
    assert_final_files(recording, folder)
    assert paddock(host.home, "suspend", told["session_id"]).code == 0


@dataclass(slots=True)
class Replayed:
    """A replay whose worker was killed in one call."""

    events: list[Stored]
    killed: str
    code: int
    told: dict[str, Any]

    def requests(self) -> dict[str, ToolCallRequested]:
        return {
            one.event.tool_call_id: one.event
            for one in self.events
            if isinstance(one.event, ToolCallRequested)
        }

    def results(self) -> dict[str, ToolCallFinished]:
        return {
            one.event.tool_call_id: one.event
            for one in self.events
            if isinstance(one.event, ToolCallFinished)
        }


def replay_and_kill(
    recording: dict[str, Any], number: int, host: HostForTests, folder: Path, name: str
) -> Replayed:
    """Replay a recording and kill its worker in its ``number``-th call.

    By turns this call did nothing yet, or all that it does: its result alone is not told.
    """
    gate = folder.with_name(folder.name + GATE_SUFFIX)
    gate.write_text(f"{number} {'before' if number % 2 else 'after'}")
    with ThreadPoolExecutor(1) as beside:
        killing = beside.submit(kill_in_call, gate)
        said = paddock(
            host.home,
            *("replay", str(DATA / recording["file"]), "--name", name),
            *("--cwd", str(folder), "--mode", "yolo", "--json"),
        )
    assert said.out, said.err
    assert paddock(host.home, "suspend", name).code == 0
    return Replayed(log_of(host, said.json["session_id"]), killing.result(), said.code, said.json)


def kill_in_call(gate: Path) -> str:
    """Kill the worker when its call is held; return the call."""
    held = gate.with_suffix(HELD_SUFFIX)
    wait_until(held.exists, DEADLINE_SECONDS, what="the call is held")
    told = json.loads(held.read_text())
    gate.unlink()  # the next worker has no such call
    os.kill(told["pid"], signal.SIGKILL)
    return str(told["call"])


def log_of(host: HostForTests, session_id: SessionId) -> list[Stored]:
    with SessionReader(folder_of(host.data, session_id), session_id) as reader:
        return list(events_of(session_id, reader.rows(0, MANY)))


@pytest.mark.slow
@EACH_CALL
def test_l26_a_replay_survives_a_kill_in_any_of_its_calls(
    recording: dict[str, Any], number: int, host: HostForTests, ground: Path
) -> None:
    folder = workspace_of(recording, ground / "work")
    replayed = replay_and_kill(recording, number, host, folder, f"{name_of(recording)}-{number}")
    assert replayed.results()[replayed.killed].status == "interrupted"
    assert_nothing_lost_or_done_twice(replayed)
    assert_final_files(recording, folder)
    assert_asked_again(replayed)


def assert_nothing_lost_or_done_twice(replayed: Replayed) -> None:
    """Each call has one request and one result, starts at most once, and none is poison."""
    assert replayed.code == 0
    assert replayed.told["status"] == "completed"
    kinds = Counter(stored.event.kind for stored in replayed.events)
    assert kinds["command_quarantined"] == kinds["operation_interrupted"] == 0
    assert [stored.sequence for stored in replayed.events] == list(
        range(1, len(replayed.events) + 1)
    )
    asked = [stored.event.tool_call_id for stored in replayed.events
             if stored.event.kind == "tool_call_requested"]  # fmt: skip
    begun = [stored.event.tool_call_id for stored in replayed.events
             if stored.event.kind == "tool_call_started"]  # fmt: skip
    done = [stored.event.tool_call_id for stored in replayed.events
            if stored.event.kind == "tool_call_finished"]  # fmt: skip
    assert len(asked) == len(set(asked))
    assert sorted(done) == sorted(asked)
    assert len(begun) == len(set(begun))
    deaths = [stored.event for stored in replayed.events
              if isinstance(stored.event, WorkerExited)
              and stored.event.ending == "crashed"]  # fmt: skip
    assert [death.signal for death in deaths] == [signal.SIGKILL]


def assert_asked_again(replayed: Replayed) -> None:
    """The killed call is asked again under a new id, unless it is known to have happened."""
    requests, results = replayed.requests(), replayed.results()
    call = requests[replayed.killed]
    after = list(requests)[list(requests).index(replayed.killed) + 1 :]
    again = [
        one
        for one in after
        if (requests[one].tool, requests[one].arguments) == (call.tool, call.arguments)
    ]
    if results[replayed.killed].happened is not True:
        assert again
        assert results[again[0]].status != "interrupted"
