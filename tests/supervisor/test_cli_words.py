"""The words of a command line: what is wrong with them is one line on stderr and an exit code."""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli import replay as cli_replay
from paddock.supervisor.cli.main import VERBS, answer, command_of
from paddock.supervisor.errors import CapacityExceeded
from tests.store.disks import full, small_disk


@pytest.fixture
def quiet_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the one line of a command line that goes wrong."""
    code = answer(list(words))
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert "Traceback" not in said.err
    return code, said.err


def test_an_unknown_verb_is_one_line_with_the_verbs_that_are_near(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, line = refused(capsys, "suspent")
    assert code == exit_codes.USAGE
    assert "'suspent'" in line
    assert "suspend" in line


def test_an_unknown_option_is_one_line_that_names_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, line = refused(capsys, "ls", "--colour")
    assert code == exit_codes.USAGE
    assert "--colour" in line
    assert "paddock ls --help" in line


def test_no_words_at_all_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer([]) == exit_codes.USAGE
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("run", "replay", "doctor"))


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_examples_in_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer([verb, "--help"]) == exit_codes.DONE
    out = capsys.readouterr().out
    assert f"paddock {verb}" in out.partition("Examples:")[2]
    assert "--as-json" not in out
    assert command_of(verb) is not None


def test_x7_an_empty_prompt_is_an_error(
    quiet_stdin: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(capsys, "run", "--json", "-")
    assert code == exit_codes.USAGE
    assert "PROMPT is empty" in line


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ("", "empty"),
        ("[]", "empty"),
        ("{}", "no JSON list"),
        ("not json", "not JSON"),
        ('[{"role": "assistant", "content": "hi"}]', "role 'assistant'"),
        ('[{"role": "user", "content": [{"type": "image"}]}]', "no text"),
    ],
)
def test_x7_a_list_of_messages_must_end_in_a_users_text(
    messages: str,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(messages.encode())))
    code, line = refused(capsys, "run", "--json", "--messages", "-")
    assert code == exit_codes.USAGE
    assert what in line


@pytest.mark.parametrize("label", ["team", "=x"])
def test_x6_a_label_is_key_and_value(label: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(capsys, "run", "--label", label, "hello")
    assert code == exit_codes.USAGE
    assert "key=value" in line


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("worker_exitted", "did you mean worker_exited"), ("xyzzy", "SELECT DISTINCT kind")],
)
def test_a_kind_of_event_that_there_is_not_is_told_with_what_there_is(
    kind: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(capsys, "events", "--kind", "worker_exited", "--kind", kind, "fixer")
    assert code == exit_codes.USAGE
    assert repr(kind) in line
    assert advice in line


def test_a_missing_script_is_named(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(capsys, "run", "--model", "script:nowhere.json", "hello")
    assert code == exit_codes.NOT_FOUND
    assert "nowhere.json" in line


def test_a_script_that_is_none_is_told_where(
    ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.json").write_text(json.dumps([{"txt": "hello"}]))
    code, line = refused(capsys, "run", "--model", "script:bad.json", "hello")
    assert code == exit_codes.NOT_FOUND
    assert "turn 0" in line
    assert "'txt'" in line


def test_an_unknown_model_is_told_with_what_is_possible(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, line = refused(capsys, "run", "--model", "hal-9000", "open the doors")
    assert code == exit_codes.NOT_FOUND
    assert "hal-9000" in line
    assert "anthropic" in line


def test_without_a_key_the_line_names_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(capsys, "run", "hello")
    assert code == exit_codes.CREDENTIALS
    assert "ANTHROPIC_API_KEY" in line


def test_a_named_model_without_its_key_names_the_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, line = refused(capsys, "run", "--model", "anthropic:claude-sonnet-5-5", "hello")
    assert code == exit_codes.CREDENTIALS
    assert "ANTHROPIC_API_KEY" in line


def test_a_workspace_that_does_not_exist_is_named(
    ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("turns.json").write_text("[]")
    code, line = refused(
        capsys, "run", "--model", "script:turns.json", "--cwd", "no/such/folder", "hello"
    )
    assert code == exit_codes.NOT_FOUND
    assert "no/such/folder" in line


def test_a_variable_that_is_not_set_is_named(
    ground: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("turns.json").write_text("[]")
    code, line = refused(
        capsys, "run", "--model", "script:turns.json", "--env", "NOT_SET_ANYWHERE", "hello"
    )
    assert code == exit_codes.USAGE
    assert "NOT_SET_ANYWHERE" in line


def test_a_replay_refuses_to_start_unattended_without_yolo(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, line = refused(capsys, "replay", "session.jsonl", "--json")
    assert code == exit_codes.USAGE
    assert "--mode yolo" in line


def test_a_missing_transcript_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(capsys, "replay", "nowhere.jsonl", "--mode", "yolo", "--json")
    assert code == exit_codes.NOT_FOUND
    assert "nowhere.jsonl" in line


def test_a_file_that_is_no_transcript_is_told(
    ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("milk\neggs\n")
    code, line = refused(capsys, "replay", "notes.txt", "--mode", "yolo", "--json")
    assert code == exit_codes.USAGE
    assert "notes.txt" in line


def test_a_pipe_to_which_nobody_writes_is_not_waited_for_without_end(
    ground: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_replay, "PIPE_WAIT_SECONDS", 0.01)
    os.mkfifo("pipe.jsonl")
    code, line = refused(capsys, "replay", "pipe.jsonl", "--mode", "yolo", "--json")
    assert code == exit_codes.NOT_FOUND
    assert "nobody wrote to it" in line


def test_a_transcript_may_come_through_a_pipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, into = os.pipe()
    os.write(into, b"milk\n")
    os.close(into)
    code, line = refused(capsys, "replay", f"/dev/fd/{out}", "--mode", "yolo", "--json")
    os.close(out)
    assert code == exit_codes.USAGE
    assert "it holds no JSON records" in line


def test_l4_a_replay_that_makes_no_session_leaves_no_folder(
    ground: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: object) -> int:
        assert list(temporary.iterdir())
        raise CapacityExceeded("no room", current=1, max=1)

    temporary = ground / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(cli_replay, "with_host", no_room)
    Path("hello.jsonl").write_text(json.dumps({"type": "user", "message": {"content": "hello"}}))
    refused(capsys, "replay", "hello.jsonl", "--mode", "yolo", "--json")
    assert list(temporary.iterdir()) == []


def test_a_transcript_with_many_faults_is_told_of_in_few_lines(
    ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = json.dumps({"type": "user", "message": {"content": "hello"}})
    Path("torn.jsonl").write_text("\n".join([prompt, *["torn"] * 500]))
    assert len(cli_replay._read(Path("torn.jsonl")).prompts) == 1
    first, *_, last = lines = capsys.readouterr().err.splitlines()
    assert first.startswith("torn.jsonl: line 2: is not JSON")
    assert last == f"torn.jsonl: and {501 - len(lines)} more of the kind"
    assert len(lines) < 30


def test_a_number_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(capsys, "down", "--deadline", "soon")
    assert code == exit_codes.USAGE
    assert "--deadline" in line


def test_an_empty_home_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--home=", "ls"), ("--home", "", "ls"), ("--home",)):
        code, line = refused(capsys, *words)
        assert code == exit_codes.USAGE
        assert "--home needs a folder" in line


@pytest.mark.parametrize("seconds", ["nan", "-5"])
def test_an_idle_exit_that_cannot_be_is_told_by_the_name_that_was_typed(
    seconds: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(capsys, "up", "--idle-exit", seconds)
    assert code == exit_codes.USAGE
    assert "'--idle-exit'" in line


def test_home_goes_before_the_verb_and_over_the_environment(
    ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(["--home", str(ground / "other"), "config", "--json"]) == exit_codes.DONE
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["data"]["value"].startswith(str(ground / "other"))


def test_doctor_says_each_thing_with_a_verdict(
    ground: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PADDOCK_HOME", str(home))
    assert answer(["doctor", "--json"]) == exit_codes.DONE
    findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    machine = {"python", "sqlite", "duckdb", "pyzmq", "pidfd", "pidfd exit codes", "cgroup v2"}
    kernel = {"landlock", "subreaper", "sandbox", "file system", "clock", "settings"}
    assert machine | kernel <= set(findings)
    assert not [row for row in findings.values() if row["verdict"] == "bad"]
    assert findings["host"]["value"] == "none runs"


def test_doctor_finds_settings_that_keep_a_host_from_starting(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PADDOCK_HOME", str(home))
    monkeypatch.setenv("PADDOCK_SANDBOX", "perhaps")
    assert answer(["doctor", "--json"]) == exit_codes.FAILED
    findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert findings["settings"]["verdict"] == "bad"
    assert "'perhaps'" in findings["settings"]["value"]


def test_f2_doctor_finds_a_disk_that_takes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PADDOCK_HOME", str(home))
    with small_disk(home / "data", 1024 * 1024) as disk:
        with full(disk):
            assert answer(["doctor", "--json"]) == exit_codes.FAILED
            findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
            assert findings["data folder"]["verdict"] == "bad"
            assert "No space left" in findings["data folder"]["advice"]
        answer(["doctor", "--json"])
        findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert findings["data folder"]["verdict"] == "ok"
        assert list(disk.iterdir()) == []


def test_f12_doctor_says_when_the_clock_is_behind_what_was_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PADDOCK_HOME", str(home))
    (home / "data").mkdir(mode=0o700)
    (home / "data" / "host.sqlite").touch()
    later = time.time() + 3600
    os.utime(home / "data" / "host.sqlite", (later, later))
    answer(["doctor", "--json"])
    findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert findings["clock"]["verdict"] == "note"
    assert "behind this home's files" in findings["clock"]["value"]


def test_doctor_finds_a_socket_path_that_is_too_long(
    ground: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PADDOCK_HOME", str(ground / ("deep" * 30)))
    assert answer(["doctor", "--json"]) == exit_codes.FAILED
    findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert findings["socket path"]["verdict"] == "bad"


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",)])
def test_f2_what_cannot_be_written_is_one_line_of_any_words(words: tuple[str, ...]) -> None:
    """Of those without a verb it was a traceback: their output was written only at the end."""
    with Path("/dev/full").open("wb") as nowhere:
        said = subprocess.run(
            [sys.executable, "-m", "paddock.supervisor.cli", *words],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    assert said.returncode == exit_codes.STORAGE
    assert said.stderr == "paddock: No space left on device\n"
