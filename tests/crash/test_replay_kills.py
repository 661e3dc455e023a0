"""Recorded sessions, run again with their worker killed at each point of each of their calls."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.store.events import Stored, ToolCallFinished, ToolCallRequested, WorkerExited
from paddock.supervisor.cli.main import answer
from paddock.testing import HostForTests
from tests.conftest import SHORT
from tests.crash import judge
from tests.crash.fatal_worker import FATAL_SUFFIX, STRUCK_SUFFIX
from tests.house.shared import DATA, NEEDS_DATA

pytestmark = [NEEDS_DATA, pytest.mark.real_data]
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "t"), ("EMAIL", "t@example.org"))
}
FILE_TOOLS = frozenset({"write_file", "edit_file", "multi_edit_file"})


def recordings() -> list[dict[str, Any]]:
    """Return the sessions of Claude Code that can be run from what the data holds itself."""
    if not DATA.is_dir():
        return []
    return [
        one
        for one in json.loads((DATA / "replay.json").read_text())["sessions"]
        if one["tier"].startswith("A") and one["file"].startswith("claude_code/")
    ]


def name_of(recording: dict[str, Any]) -> str:
    return Path(recording["file"]).stem.partition("__")[2]


EACH = pytest.mark.parametrize("recording", recordings(), ids=name_of)
POINTS = ("before", "during", "after")
LONG = 5
"""Of a session with more calls each is killed at one point, in turn; at all with more rounds."""
ROUNDS = int(os.environ.get("PADDOCK_CRASH_ROUNDS", "1"))
EACH_CALL_AT_EACH_POINT = pytest.mark.parametrize(
    ("recording", "number", "at"),
    [
        pytest.param(one, number, at, id=f"{name_of(one)}-{number}-{at}")
        for one in recordings()
        for number in range(1, one["calls"] + 1)
        for place, at in enumerate(POINTS)
        if one["calls"] <= LONG or ROUNDS > 1 or number % len(POINTS) == place
    ],
)


@pytest.fixture(scope="module")
def made() -> Iterator[HostForTests]:
    """Give one host to all tests of this module; its workers die where they are told."""
    folder = Path(tempfile.mkdtemp(prefix="pd-fatal-", dir=SHORT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        made = HostForTests(folder, "--worker", "tests.crash.fatal_worker:run_worker")
        made.start()
    yield made
    made.end()
    shutil.rmtree(folder)


@pytest.fixture
def replay(
    made: HostForTests,
    ground: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> "Replay":
    monkeypatch.setenv("PADDOCK_HOME", str(made.home))
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    return Replay(made, ground / "work", capsys)


class Replay:
    """``paddock replay`` of a recording in a workspace as it was when the recording began."""

    def __init__(
        self, made: HostForTests, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self.told: dict[str, Any] = {}
        self.log: list[Stored] = []
        self._made = made
        self._capsys = capsys

    def run(self, recording: dict[str, Any], fatal: dict[str, Any] | None = None) -> None:
        """Run it to its end and read its log."""
        self._lay_out(recording)
        if fatal is not None:
            self.fatal.write_text(json.dumps(fatal))
        words = ["replay", str(DATA / recording["file"]), "--cwd", str(self.folder)]
        code = answer([*words, "--mode", "yolo", "--json"])
        said = self._capsys.readouterr()
        assert code == 0, said.err
        self.told = json.loads(said.out)
        self.log = judge.read_log(self._made.data, self.told["session_id"])

    @property
    def fatal(self) -> Path:
        """The file that tells the worker where to die."""
        return self.folder.with_name(self.folder.name + FATAL_SUFFIX)

    @property
    def struck(self) -> str:
        """The call in which the worker died."""
        file = self.fatal.with_suffix(STRUCK_SUFFIX)
        assert file.exists(), "that call was never run"
        return file.read_text()

    def _lay_out(self, recording: dict[str, Any]) -> None:
        self.folder.mkdir()
        for name, text in recording["initial_files"].items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if recording["git_init"]:
            for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "begin")):
                subprocess.run([*GIT, *words], cwd=self.folder, check=True)

    # --- what came of it ---

    def hashes(self, names: dict[str, str]) -> dict[str, str]:
        """Return what the files hold now."""
        return {
            name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in names
        }

    def requests(self) -> dict[str, ToolCallRequested]:
        """Return the calls in the order in which they were asked for."""
        return {
            stored.event.tool_call_id: stored.event
            for stored in self.log
            if isinstance(stored.event, ToolCallRequested)
        }

    def results(self) -> dict[str, ToolCallFinished]:
        """Return the calls' results."""
        return {
            stored.event.tool_call_id: stored.event
            for stored in self.log
            if isinstance(stored.event, ToolCallFinished)
        }

    def deaths(self) -> list[WorkerExited]:
        """Return the certificates of those who did not leave in good order."""
        return [
            stored.event
            for stored in self.log
            if isinstance(stored.event, WorkerExited) and stored.event.ending == "crashed"
        ]

    def asked_again(self, call_id: str) -> list[str]:
        """Return the calls after a call that ask for the same."""
        requests = self.requests()
        call = requests[call_id]
        return [
            one
            for one in list(requests)[list(requests).index(call_id) + 1 :]
            if (requests[one].tool, requests[one].arguments) == (call.tool, call.arguments)
        ]


def assert_whole(replay: Replay, recording: dict[str, Any]) -> None:
    """The recorded files are there, and the log keeps every promise."""
    expected = recording["expected_final_sha256"]
    assert replay.hashes(expected) == expected
    assert replay.told["status"] == "completed"
    assert judge.faults_of(replay.log, is_live=True) == []
    kinds = {stored.event.kind for stored in replay.log}
    assert not kinds & {"command_quarantined", "operation_interrupted", "session_failed"}


@EACH
def test_a_replay_ends_with_the_files_that_were_recorded(
    recording: dict[str, Any], replay: Replay
) -> None:
    replay.run(recording)
    assert_whole(replay, recording)
    assert replay.deaths() == []
    assert len(replay.requests()) >= recording["calls"]


@pytest.mark.slow
@EACH_CALL_AT_EACH_POINT
def test_l26_a_replay_killed_in_any_of_its_calls_ends_as_if_nothing_had_been(
    recording: dict[str, Any], number: int, at: str, replay: Replay
) -> None:
    replay.run(recording, {"call": number, "at": at})
    assert_whole(replay, recording)
    assert_one_death_in_that_call(replay)
    assert_asked_again_unless_it_happened(replay, at)


def test_calls_with_secrets_are_made_though_no_log_keeps_what_they_were(replay: Replay) -> None:
    recording = recording_with_keys(replay.folder.with_name("keys.jsonl"))
    replay.run(recording, {"call": 1, "at": "before"})
    assert_whole(replay, recording)
    assert_one_death_in_that_call(replay)
    statuses = [result.status for result in replay.results().values()]
    assert statuses == ["interrupted", "interrupted", "ok", "ok"]


def recording_with_keys(file: Path) -> dict[str, Any]:
    """Write a transcript in which one answer writes two keys to two files."""
    keys = {name: f"AKIA{letter * 16}\n" for name, letter in (("one", "A"), ("two", "B"))}
    calls = [
        {
            "type": "tool_use",
            "id": f"c-{name}",
            "name": "Write",
            "input": {"file_path": f"/recorded/{name}", "content": key},
        }
        for name, key in keys.items()
    ]
    results = [
        {"type": "tool_result", "tool_use_id": call["id"], "content": "ok"} for call in calls
    ]
    said = (("user", "go"), ("assistant", calls), ("user", results))
    records = [
        {
            "type": role,
            "cwd": "/recorded",
            "message": {"id": "m1", "role": role, "content": content},
        }
        for role, content in said
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    hashes = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in keys.items()}
    begin: dict[str, Any] = {"initial_files": {}, "git_init": False}
    return {**begin, "file": str(file), "calls": 2, "expected_final_sha256": hashes}


def assert_one_death_in_that_call(replay: Replay) -> None:
    (death,) = replay.deaths()
    assert (death.signal, death.action) == (signal.SIGKILL, "restarted")
    assert replay.struck in death.open_tool_call_ids
    assert replay.struck in [struck.tool_call_id for struck in death.struck_calls]


def assert_asked_again_unless_it_happened(replay: Replay, at: str) -> None:
    results = replay.results()
    struck = results[replay.struck]
    assert struck.status == "interrupted"
    if replay.requests()[replay.struck].tool in FILE_TOOLS:
        assert struck.happened is (at != "before")  # the file itself tells
    else:
        assert struck.happened is None
    # Calls of one answer run side by side: others of them may have been cut off, too.
    for call_id, result in results.items():
        if result.status == "interrupted":
            again = [results[one].status for one in replay.asked_again(call_id)]
            assert again == [] if result.happened else again[0] != "interrupted"
