"""The command line against real hosts: what scripts read, what people see, and what goes wrong."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from paddock.client import starting
from paddock.client.places import announced, places_of
from paddock.session_worker.toolbox.marks import mark_of, set_mark
from paddock.session_worker.turn import DEFAULT_MODEL_CALLS
from paddock.store.ids import uuid7
from paddock.store.session_file import folder_of
from paddock.supervisor import store_child
from paddock.supervisor.cli import exit_codes
from paddock.supervisor.errors import HostRunning
from paddock.testing import HostForTests, call, turn, wait_until, write_script
from tests.house import provider_server
from tests.together.cli import PADDOCK, begin, environment, paddock
from tests.together.hosting import delete_what_lives, host_for_tests

DEADLINE = 60.0
BAD_TOOL = """
from paddock.agent import agent, tool

@tool()
def bad(*rest): ...

@agent("one")
async def one(s): ...
"""
NOTE = (turn("I look.", call("bash", command="echo hi > note; cat note")), turn("Done."))


@pytest.fixture(scope="module")
def host() -> Iterator[HostForTests]:
    with host_for_tests("cli") as made:
        yield made


@pytest.fixture(autouse=True)
def put_away(host: HostForTests, ground: Path) -> Iterator[None]:
    yield
    delete_what_lives(host)


def script(ground: Path, *turns: Any) -> str:
    return write_script(ground / "script.json", turns)


# --- what scripts read ---


def test_run_prints_one_object_with_the_fixed_fields(host: HostForTests, ground: Path) -> None:
    said = paddock(
        host.home, "run", "--model", script(ground, *NOTE), "--mode", "yolo", "--json", "go"
    )
    assert said.code == 0
    told = said.json
    assert {
        "session_id",
        "status",
        "final_message",
        "operation_id",
        "usage",
        "duration_ms",
    } <= told.keys()
    assert (told["status"], told["final_message"]) == ("completed", "Done.")
    assert (ground / "note").read_text() == "hi\n"


def test_events_that_are_followed_show_the_output_of_a_call_while_it_runs(
    host: HostForTests, ground: Path
) -> None:
    waits = "echo begun; while [ ! -e over ]; do sleep 0.05; done; echo ended"
    model = script(ground, turn("", call("bash", command=waits)), turn("Done."))
    paddock(host.home, "new", "shown", "--model", model, "--mode", "yolo", "--cwd", str(ground))
    with begin(host.home, "events", "shown", "--follow", "--deltas", "--json") as following:
        assert following.stdout is not None
        assert following.stdout.readline(), "the first events are told: it listens"
        paddock(host.home, "send", "shown", "go")
        for line in following.stdout:
            told = json.loads(line)
            if "begun" in told.get("delta", {}).get("text", ""):
                (ground / "over").touch()
            if told.get("kind") == "tool_call_finished":
                break
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=DEADLINE)
    assert told["payload"]["text"] == "begun\nended\n"


def test_a18_an_unattended_run_denies_what_needs_approval_and_says_so(
    host: HostForTests, ground: Path
) -> None:
    said = paddock(host.home, "run", "--model", script(ground, *NOTE), "--json", "go")
    assert said.code == 0
    assert said.json["status"] == "completed"
    assert "--mode yolo" in said.err
    assert not (ground / "note").exists()


def test_words_go_to_stdout_and_all_else_to_stderr(host: HostForTests, ground: Path) -> None:
    said = paddock(host.home, "run", "--model", script(ground, *NOTE), "--mode", "yolo", "go")
    assert said.out == "I look.\nDone.\n"
    assert "● bash" in said.err


def test_the_exit_code_tells_how_the_operation_ended(host: HostForTests, ground: Path) -> None:
    said = paddock(host.home, "run", "--model", script(ground), "--json", "go")
    assert said.code == exit_codes.FAILED
    assert said.json["status"] == "failed"
    assert "no turn left" in said.json["error"]


def test_x8_a_session_keeps_its_context_across_unattended_runs(
    host: HostForTests, ground: Path
) -> None:
    model = script(ground, turn("one"), turn("two"))
    first = paddock(host.home, "run", "--model", model, "--json", "first").json
    second = paddock(
        host.home, "run", "--session", first["session_id"], "--json", "-", stdin="second"
    ).json
    assert second["session_id"] == first["session_id"]
    assert (first["final_message"], second["final_message"]) == ("one", "two")
    shown = paddock(host.home, "show", "--json", first["session_id"]).json
    assert [message["text"] for message in shown["last_messages"]] == [
        *("first", "one", "second", "two")
    ]


def test_a18_an_unattended_run_denies_also_in_a_session_that_was_made_to_be_asked(
    host: HostForTests, ground: Path
) -> None:
    paddock(host.home, "new", "asks", "--model", script(ground, *NOTE), "--cwd", str(ground))
    said = paddock(host.home, "run", "--session", "asks", "--json", "go")
    assert (said.code, said.json["status"]) == (0, "completed")
    assert "1 call(s) needed an approval" in said.err
    assert not (ground / "note").exists()
    assert paddock(host.home, "approvals", "--json").json == []


def test_a_run_in_a_session_sets_its_mode_and_refuses_what_it_cannot_change(
    host: HostForTests, ground: Path
) -> None:
    model = script(ground, *NOTE)
    paddock(host.home, "new", "allows", "--model", model, "--cwd", str(ground))
    for option in (("--cwd", str(ground)), ("--model", model), ("--agent", "a:b"), ("--name", "")):
        refused = paddock(host.home, "run", "--session", "allows", *option, "go")
        assert refused.code == exit_codes.USAGE
        assert option[0] in refused.line
    said = paddock(host.home, "run", "--session", "allows", "--mode", "yolo", "--json", "go")
    assert said.json["final_message"] == "Done."
    assert (ground / "note").exists()
    assert paddock(host.home, "show", "allows", "--json").json["mode"] == "yolo"


def test_x7_an_unknown_session_is_an_error(host: HostForTests) -> None:
    said = paddock(host.home, "run", "--session", "nobody", "--json", "hello")
    assert said.code == exit_codes.NOT_FOUND
    assert "nobody" in said.line


def test_ls_ps_status_and_sql_print_json(host: HostForTests, ground: Path) -> None:
    model = script(ground, turn("ok"))
    ran = paddock(host.home, "run", "--model", model, "--name", "printed", "--json", "go").json
    listed = {row["session_id"]: row for row in paddock(host.home, "ls", "--json").json}
    assert listed[ran["session_id"]]["name"] == "printed"
    lives = {row["session_id"]: row for row in paddock(host.home, "ps", "--json").json}
    assert lives[ran["session_id"]]["pid"] > 0
    assert paddock(host.home, "status", "--json").json["pid"] == host.pid
    rows = paddock(
        host.home,
        *("sql", "--json", "select status from operations where operation_id = ?"),
        *("-p", ran["operation_id"]),
    ).json
    assert rows == [{"status": "completed"}]


def test_events_are_printed_one_object_a_line(host: HostForTests, ground: Path) -> None:
    ran = paddock(host.home, "run", "--model", script(ground, turn("ok")), "--json", "go").json
    said = paddock(host.home, "events", "--json", ran["session_id"])
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["kind"] == "session_created"
    assert events[-1]["kind"] == "operation_completed"


def test_logs_of_a_start_that_there_was_not_are_refused_and_of_a_quiet_one_said_so(
    host: HostForTests, ground: Path
) -> None:
    paddock(host.home, "new", "quiet", "--model", script(ground, turn("never")))
    for words in ((), ("--generation", "1")):
        quiet = paddock(host.home, "logs", "quiet", *words)
        assert (quiet.code, quiet.out) == (0, "")
        assert "nothing was written" in quiet.err
    never = paddock(host.home, "logs", "quiet", "--generation", "99")
    assert never.code == exit_codes.USAGE
    assert never.line == "paddock logs: there was no generation 99 of quiet; its last is 1"


def test_sent_words_are_waited_for_by_their_exit_code(host: HostForTests, ground: Path) -> None:
    made = paddock(
        host.home, "new", "talker", "--model", script(ground, turn("hello"), turn("bye")), "--json"
    ).json
    assert made["name"] == "talker"
    assert paddock(host.home, "send", "talker", "hi", "--wait").out == "hello\n"
    sent = paddock(host.home, "send", "talker", "--key", "k", "--json", "ciao").json
    again = paddock(host.home, "send", "talker", "--key", "k", "--json", "ciao").json
    assert sent == again
    other = paddock(host.home, "send", "talker", "--key", "k", "farewell")
    assert other.code == exit_codes.REFUSED
    assert "the key 'k' was given with something else" in other.line
    waited = paddock(host.home, "wait", "talker", "--json")
    assert (waited.code, waited.json["operation_id"]) == (0, sent["operation_id"])
    failed = paddock(host.home, "send", "talker", "more?", "--wait")
    assert failed.code == exit_codes.FAILED


def test_a_users_own_command_prints_its_output(host: HostForTests, ground: Path) -> None:
    paddock(host.home, "new", "shell", "--model", script(ground))
    said = paddock(host.home, "send", "shell", "--shell", "--wait", "echo from the shell")
    assert said.out.strip() == "from the shell"


def test_an_approval_is_listed_and_decided(host: HostForTests, ground: Path) -> None:
    paddock(host.home, "new", "asker", "--model", script(ground, *NOTE))
    paddock(host.home, "send", "asker", "go")
    asked = wait_until(lambda: paddock(host.home, "approvals", "--json").json, DEADLINE)
    assert asked[0]["tool"] == "bash"
    assert paddock(host.home, "approve", asked[0]["approval_id"][-12:]).code == 0
    assert paddock(host.home, "wait", "asker").code == 0
    assert (ground / "note").exists()
    late = paddock(host.home, "deny", asked[0]["approval_id"])
    assert late.code == exit_codes.NOT_FOUND
    assert "paddock approvals" in late.line


def test_a_replay_keeps_the_keys_of_its_calls_only_and_erase_leaves_nothing_of_it(
    host: HostForTests, ground: Path
) -> None:
    key = "sk-ant-" + "api03-" + "0a1B2c3D" * 6
    command = f"cd /rec && mkdir -p sub && echo {key} > sub/made && echo unmistakable > word"
    words = {"type": "text", "text": f"unspoken {key}"}
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": command}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "made"}
    records = [
        ("user", {"role": "user", "content": "make it"}),
        ("assistant", {"id": "m1", "role": "assistant", "model": "m", "content": [words, use]}),
        ("user", {"role": "user", "content": [result]}),
    ]
    recording = ground / "recording.jsonl"
    with recording.open("w") as lines:
        for number, (kind, message) in enumerate(records):
            record = {"type": kind, "uuid": str(number), "cwd": "/rec", "message": message}
            lines.write(json.dumps({**record, "parentUuid": str(number - 1)}) + "\n")
    (ground / "a b").mkdir()
    replay = ("replay", str(recording), "--cwd", str(ground / "a b"), "--mode", "yolo", "--json")
    said = paddock(host.home, *replay)
    assert (said.code, said.json["status"]) == (0, "completed"), said
    assert (ground / "a b" / "sub" / "made").read_text() == f"{key}\n"
    session = said.json["session_id"]

    def holding(word: str) -> list[Path]:
        found = []
        for path in (host.home / "data").rglob("*"):
            with suppress(OSError):  # a folder, or gone by now: the store's files come and go
                found += [path] if word.encode() in path.read_bytes() else []
        return found

    assert holding(f"unspoken {key}") == []
    assert [(path.name, path.parent.name) for path in holding(key)] == [("replay.json", session)]
    assert paddock(host.home, "erase", session, "--yes").code == 0
    wait_until(lambda: not holding("unmistakable") and not holding(key))


@pytest.mark.slow
def test_a_replay_is_as_long_as_its_recording(host: HostForTests, ground: Path) -> None:
    recording = ground / "long.jsonl"
    turns = DEFAULT_MODEL_CALLS + 1
    with recording.open("w") as lines:
        lines.write(json.dumps({"type": "user", "message": {"content": "go on"}}) + "\n")
        for number in range(turns):
            use = {"type": "tool_use", "id": f"t{number}", "name": "Elsewhere", "input": {}}
            message = {"id": f"m{number}", "content": [use]}
            lines.write(json.dumps({"type": "assistant", "message": message}) + "\n")
    replay = ("replay", str(recording), "--cwd", str(ground), "--mode", "yolo", "--json")
    said = paddock(host.home, *replay)
    assert (said.code, said.json["status"]) == (0, "completed"), said
    query = f"SELECT count(*) AS n FROM tool_calls WHERE session_id = '{said.json['session_id']}'"
    assert paddock(host.home, "sql", query, "--json").json == [{"n": turns}]


def test_a_replay_that_ends_early_says_what_was_not_said(host: HostForTests, ground: Path) -> None:
    recording = ground / "cut.jsonl"
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "sleep 100"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": ""}
    records = [
        {"type": "user", "message": {"content": "first"}},
        {"type": "assistant", "message": {"id": "m1", "content": [use]}},
        {"type": "user", "message": {"content": [result]}},
        {"type": "user", "message": {"content": "second"}},
        {"type": "user", "message": {"content": "third"}},
    ]
    recording.write_text("\n".join(map(json.dumps, records)))
    words = ("replay", str(recording), "--cwd", str(ground), "--mode", "yolo", "--json")
    replaying = begin(host.home, *words, "--name", "cut")
    wait_until(lambda: paddock(host.home, "interrupt", "cut").code == 0, DEADLINE)
    out, err = replaying.communicate(timeout=DEADLINE)
    assert replaying.returncode == exit_codes.CANCELLED
    assert json.loads(out)["operations"] == 1
    assert "2 prompts were not said" in err


def test_a_session_is_suspended_woken_deleted_and_erased(host: HostForTests, ground: Path) -> None:
    paddock(host.home, "new", "mortal", "--model", script(ground))
    assert "suspended" in paddock(host.home, "suspend", "mortal").out
    assert "at rest" in paddock(host.home, "suspend", "mortal").out
    assert "generation 2" in paddock(host.home, "resume", "mortal").out
    session_id = paddock(host.home, "show", "mortal", "--json").json["session_id"]
    assert paddock(host.home, "erase", "mortal").code == exit_codes.USAGE
    assert paddock(host.home, "erase", "mortal", "--yes").code == 0
    assert not list(host.data.glob(f"sessions/*/{session_id}"))
    assert paddock(host.home, "show", "mortal").code == exit_codes.NOT_FOUND
    paddock(host.home, "new", "mortal", "--model", script(ground))
    assert paddock(host.home, "rm", "mortal").code == 0
    assert paddock(host.home, "rm", "mortal").code == exit_codes.NOT_FOUND


def test_what_is_at_work_is_interrupted(host: HostForTests, ground: Path) -> None:
    model = script(ground, turn(call("bash", command="sleep 30")))
    paddock(host.home, "new", "busy", "--mode", "yolo", "--model", model)
    paddock(host.home, "send", "busy", "go")
    assert paddock(host.home, "interrupt", "busy").code == 0
    assert paddock(host.home, "wait", "busy").code == exit_codes.CANCELLED
    assert paddock(host.home, "interrupt", "busy").code == exit_codes.NOT_FOUND


def test_the_store_is_verified_rebuilt_and_copied(host: HostForTests, ground: Path) -> None:
    ran = paddock(host.home, "run", "--model", script(ground, turn("ok")), "--json", "go").json
    reports = {
        row["session_id"]: row for row in paddock(host.home, "store", "verify", "--json").json
    }
    assert reports[ran["session_id"]]["ok"] is True
    assert paddock(host.home, "store", "rebuild").code == 0
    assert paddock(host.home, "store", "snapshot", str(ground / "copy.duckdb")).code == 0
    assert (ground / "copy.duckdb").stat().st_size > 0
    many = paddock(host.home, "sql", "--json", "select i from range(1203) t(i)").json
    assert many == [{"i": i} for i in range(1203)]
    outcomes = paddock(host.home, "report", "outcomes", "--json").json
    assert sum(row["operations"] for row in outcomes) >= 1
    late = paddock(host.home, "sql", "--csv", "--deadline", "0.2", "from range(3_000_000_000)")
    assert (late.code, late.out) == (exit_codes.TIMED_OUT, "")
    rows = paddock(host.home, "sql", "--json", "select count(*) as n from sessions").json
    assert rows[0]["n"] >= 1


def flip_a_byte(folder: Path) -> None:
    path = folder / "session.sqlite"
    content = bytearray(path.read_bytes())
    content[content.rindex(b"the second words")] ^= 0x40
    path.write_bytes(content)


def remove_file(folder: Path) -> None:
    (folder / "session.sqlite").unlink()


def store_that_looks_often(home: Path) -> str:
    """Return the command of a store as a host starts it; nobody tells it of damage done by hand."""
    places = places_of(home)
    words = store_child._command(places.data, places.runtime)
    watched = words.index("--supervisor-pid")
    del words[watched : watched + 2]
    return " ".join([*words, "--scan-seconds", "0.2"])


@pytest.mark.parametrize("with_host", [True, False])
@pytest.mark.parametrize("fault", [flip_a_byte, remove_file, shutil.rmtree])
def test_f1_a_damaged_session_is_told_by_all_that_look_with_what_can_be_read(
    home: Path, ground: Path, fault: Callable[[Path], None], *, with_host: bool
) -> None:
    host = HostForTests(home, store_command=store_that_looks_often(home))
    host.start()
    try:
        model = script(ground, turn("one"), turn("two"))
        ran = paddock(home, "run", "--model", model, "--json", "the first words").json
        session_id = ran["session_id"]
        assert paddock(home, "send", "--wait", session_id, "the second words").code == 0
        assert paddock(home, "suspend", session_id).code == 0
        paddock(home, "sql", "select 1")
        whole = paddock(home, "events", "--json", session_id).out.splitlines()
        assert paddock(home, "store", "verify").code == 0
        if not with_host:
            assert paddock(home, "down").code == 0
        folder = folder_of(host.data, session_id)
        fault(folder)

        verified = paddock(home, "store", "verify")
        assert verified.code == exit_codes.FAILED
        assert session_id in verified.out
        assert str(folder) in verified.out

        shown = paddock(home, "show", "--json", session_id)
        assert shown.code == exit_codes.STORAGE
        assert str(folder) in json.loads(shown.out)["damage"]
        assert str(folder) in shown.err
        assert str(folder) in paddock(home, "show", session_id).out

        events = paddock(home, "events", "--json", session_id)
        read = events.out.splitlines()
        if fault is flip_a_byte:
            assert events.code == exit_codes.STORAGE
            assert 0 < len(read) < len(whole)
            assert read == whole[: len(read)]
            told = [json.loads(line) for line in read]
            assert len(told) == json.loads(shown.out)["last_sequence"]
            assert f"event {len(read) + 1}" in events.err
        else:
            assert events.code != exit_codes.DONE
            assert read == []

        def is_listed() -> bool:
            rows = paddock(home, "ls", "--json").json
            return [row["attention"] for row in rows if row["session_id"] == session_id] == [
                "failed"
            ]

        wait_until(is_listed, what="it is listed as failed", deadline_seconds=DEADLINE)
        assert paddock(home, "erase", "--yes", session_id).code == 0
        assert not folder.exists()
        assert paddock(home, "store", "verify").code == 0
        assert paddock(home, "ls", "--json").json == []
    finally:
        host.end()
        paddock(home, "down", "--force")


def test_the_one_key_that_is_there_chooses_the_model_and_is_never_written(
    host: HostForTests, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-ant-api03-" + "x1Y2" * 12
    with provider_server.serve(provider_server.claude({"type": "text", "text": "Hello."})) as wire:
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", wire.url)
        said = paddock(host.home, "run", "hello")
    assert (said.code, said.out) == (0, "Hello.\n")
    assert "model: anthropic:" in said.err
    assert key in wire.requests[0][1]["authorization"]
    written = [file for file in host.home.rglob("*") if file.is_file()]
    assert [file for file in written if key.encode() in file.read_bytes()] == []


def test_v5_what_is_kept_of_a_run_holds_no_answer_that_was_cut_off(
    host: HostForTests, ground: Path
) -> None:
    half = provider_server.claude({"text": "Hel"}, stop_reason=None)
    whole = provider_server.claude({"text": "Hello."})
    with provider_server.serve(half, whole) as wire:
        model = f"anthropic:claude-sonnet-5-5@{wire.url}"
        said = paddock(host.home, "run", "--model", model, "hello")
    assert (said.code, said.out) == (0, "Hello.\n")
    assert "broke off its answer" in said.err


def test_the_default_model_is_taken_where_none_is_named_and_named(
    host: HostForTests, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "goes before no setting")
    monkeypatch.setenv("PADDOCK_DEFAULT_MODEL", script(ground, turn("by default")))
    said = paddock(host.home, "run", "hello")
    assert (said.code, said.out) == (0, "by default\n")
    assert "default_model" in said.err
    monkeypatch.setenv("PADDOCK_DEFAULT_MODEL", "nobody's")
    said = paddock(host.home, "new")
    assert said.code == exit_codes.NOT_FOUND
    assert "nobody's" in said.line


def test_a_session_whose_key_is_gone_says_so_and_can_be_interrupted(
    home: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api03-" + "x1Y2" * 12)
    assert paddock(home, "new", "needy").code == 0
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert paddock(home, "down").code == 0
    sent = paddock(home, "send", "needy", "--wait", "hello")
    assert sent.code == exit_codes.CREDENTIALS
    assert "ANTHROPIC_API_KEY" in sent.line
    assert paddock(home, "wait", "needy").code == exit_codes.CREDENTIALS
    (life,) = paddock(home, "ps", "--json").json
    assert life["stage"] == "needs_credentials"
    assert paddock(home, "interrupt", "needy").code == 0
    assert paddock(home, "wait", "needy").code == exit_codes.CANCELLED
    assert paddock(home, "down").code == 0


# --- what goes wrong ---


def test_sql_that_writes_is_refused_in_one_line(host: HostForTests) -> None:
    said = paddock(host.home, "sql", "delete from events")
    assert said.code == exit_codes.SQL
    assert "DELETE" in said.line


def test_an_empty_name_is_refused_as_an_argument_as_it_is_as_an_option(
    host: HostForTests, ground: Path
) -> None:
    for words in (("new", ""), ("new", "--name", ""), ("run", "--name", "", "go")):
        said = paddock(host.home, *words, "--model", script(ground, turn("never")))
        assert said.code == exit_codes.USAGE
        assert "name needs at least one character" in said.line


def test_a_taken_name_is_refused_in_one_line(host: HostForTests, ground: Path) -> None:
    paddock(host.home, "new", "taken", "--model", script(ground))
    said = paddock(host.home, "new", "taken", "--model", script(ground))
    assert said.code == exit_codes.REFUSED
    assert "'taken'" in said.line


@pytest.mark.parametrize("agent", ["nowhere:agent", "paddock.supervisor.cli.demo_agent:nobody"])
def test_an_unknown_agent_is_told_in_one_line(agent: str, host: HostForTests, ground: Path) -> None:
    said = paddock(host.home, "run", "--agent", agent, "--json", "hello")
    assert said.code == exit_codes.NOT_FOUND
    assert agent in said.line


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("\n\nraise RuntimeError('two\\nlines')", "RuntimeError: two lines ({file}, line 3)"),
        ("import sys; sys.exit('usage: …')", "SystemExit"),
        ("class Odd(Exception):\n    __str__ = lambda self: 'x\\ny' * 9999\nraise Odd", "x y"),
        ("x = 1\ndef (", "SyntaxError: invalid syntax ({file}, line 2)"),
        ("import broken_agents.x", "ModuleNotFoundError"),
        (BAD_TOOL, "bad cannot be a tool: *rest"),
    ],
    ids=[
        "raises",
        "leaves",
        "says too much",
        "is no Python",
        "imports what is not there",
        "has what can be no tool",
    ],
)
def test_an_agents_module_that_cannot_be_imported_leaves_a_session_that_says_so(
    body: str, told: str, host: HostForTests, ground: Path
) -> None:
    (ground / "broken_agents.py").write_text(body)
    told = told.format(file=ground / "broken_agents.py")
    words = ("new", "ill", "--agent", "broken_agents:one", "--cwd", str(ground))
    said = paddock(host.home, *words)
    assert said.code == exit_codes.NOT_FOUND
    assert "'broken_agents:" in said.line
    assert told in said.line
    assert "paddock resume --reset" in said.line
    shown = paddock(host.home, "show", "ill", "--json").json
    assert shown["status"] == "failed"
    assert shown["reason"].startswith("agent_not_found: ")
    assert told in shown["reason"]
    if body != BAD_TOOL:
        assert "Traceback" in paddock(host.home, "logs", "ill").out
    (ground / "broken_agents.py").write_text(
        "from paddock.agent import agent\n\n@agent('one')\nasync def one(s):\n    await s.turns()\n"
    )
    assert paddock(host.home, "resume", "--reset", "ill").code == 0
    assert paddock(host.home, "rm", "ill").code == 0


def test_f13_a_second_host_on_one_folder_is_refused_with_the_pid_of_the_first(
    host: HostForTests,
) -> None:
    assert str(host.pid) in paddock(host.home, "up").out
    second = subprocess.run(
        [*PADDOCK, "up", "--foreground"],
        env=environment(host.home),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert second.returncode == exit_codes.HOST
    assert f"process {host.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 1


async def test_f13_a_host_that_stands_elsewhere_is_named_also_while_another_start_is_tried(
    host: HostForTests, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_DATA", str(host.home / "data"))
    monkeypatch.setattr(starting, "TRY_AGAIN_SECONDS", 0.0)  # one is at its start at the end, too
    with pytest.raises(HostRunning, match=f"process {host.pid}:"):
        await starting.start_host(places_of(home), deadline_seconds=10)


def test_a_folder_that_is_gone_is_told_in_one_line(host: HostForTests, ground: Path) -> None:
    gone = ground / "gone"

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        gone.mkdir(exist_ok=True)
        line = f"cd {gone} && rmdir {gone} && exec {' '.join([*PADDOCK, *words])}"
        return subprocess.run(
            ["/bin/sh", "-c", line],
            env=environment(host.home),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    assert there("ls").returncode == 0
    for words, code in (
        (("--home", "here", "ls"), exit_codes.USAGE),
        (("new", "--model", "script:/a.json"), exit_codes.NOT_FOUND),
        (("run", "--model", "script:a.json", "go"), exit_codes.NOT_FOUND),
        (("new", "--cwd", "x", "--model", "script:/a.json"), exit_codes.NOT_FOUND),
    ):
        said = there(*words)
        assert said.returncode == code, said
        assert len(said.stderr.splitlines()) == 1, said.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("show", "n\udcff"),
        ("new", "--name", "n\udcff"),
        ("sql", "select '\udcff'"),
        ("run", "--cwd", "w\udcff", "go"),
        ("ls", "--limit", "-1"),
        ("ls", "--offset", "-1"),
        ("events", "x", "--after", "-1"),
        ("deaths", "--limit", "-1"),
        ("sql", "select 1", "--limit", "-1"),
        ("suspend", "x", "--deadline", "-1"),
        ("wait", "x", "--deadline", "-1"),
        ("ls", "--limit", "9" * 20),
        ("ls", "--offset", "9" * 20),
        ("events", "x", "--after", "9" * 20),
        ("attach", "x", "--after", "9" * 20),
        ("deaths", "--limit", "9" * 20),
    ],
)
def test_words_that_are_no_text_and_numbers_that_nothing_has_are_wrong_usage(
    host: HostForTests, words: tuple[str, ...]
) -> None:
    said = paddock(host.home, *words)
    assert said.code == exit_codes.USAGE, said
    assert "fault of Paddock" not in said.line


def test_what_the_terminal_has_no_letters_for_is_printed_all_the_same(
    host: HostForTests, ground: Path
) -> None:
    name = "größe"
    assert paddock(host.home, "new", name, "--model", script(ground, turn("hi"))).code == 0
    for words in (("ls",), ("ls", "--json"), ("show", name)):
        said = subprocess.run(
            [*PADDOCK, *words],
            env=environment(host.home, PYTHONIOENCODING="ascii"),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        assert said.returncode == 0, said
        if "--json" in words:
            assert name in [row["name"] for row in json.loads(said.stdout.decode("ascii"))]


def test_a_host_that_cannot_start_ends_its_client_with_the_code_of_why(ground: Path) -> None:
    home = ground / "home"
    (home / "data" / "host.sqlite").mkdir(parents=True)
    said = paddock(home, "up")
    assert said.code == exit_codes.STORAGE, said
    assert "host.sqlite" in said.line


def test_a_call_that_nobody_needed_to_allow_is_not_said_to_lack_an_approval(
    host: HostForTests, ground: Path
) -> None:
    model = script(
        ground, turn("", call("nothing", x=1)), turn("", call("bash", command=5)), turn("done")
    )
    said = paddock(host.home, "run", "--model", model, "--mode", "yolo", "go")
    assert said.code == 0
    assert "approval" not in said.err


def test_a_socket_path_that_is_too_long_is_told_in_one_line(ground: Path) -> None:
    said = paddock(ground / ("deep" * 30), "up")
    assert said.code == exit_codes.USAGE
    assert "PADDOCK_HOME" in said.line


def test_a_client_killed_in_mid_command_takes_nothing_along(
    host: HostForTests, ground: Path
) -> None:
    model = script(ground, turn(call("bash", command="sleep 1; echo > made")), turn("ok"))
    process = begin(
        host.home, "run", "--name", "orphan", "--mode", "yolo", "--model", model, "--json", "go"
    )
    wait_until(lambda: has_started(host, "orphan"), DEADLINE)
    process.kill()
    process.communicate()
    waited = paddock(host.home, "wait", "orphan", "--json")
    assert (waited.code, waited.json["status"]) == (0, "completed")
    assert (ground / "made").exists()


def has_started(host: HostForTests, name: str) -> bool:
    said = paddock(host.home, "events", "--kind", "tool_call_started", name)
    return "tool_call_started" in said.out


def test_ctrl_c_cancels_what_run_is_doing(host: HostForTests, ground: Path) -> None:
    model = script(ground, turn(call("bash", command="sleep 30")))
    process = begin(host.home, "run", "--name", "stopped", "--mode", "yolo", "--model", model, "go")
    wait_until(lambda: has_started(host, "stopped"), DEADLINE)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == exit_codes.CANCELLED
    assert "cancelled" in err
    assert "Traceback" not in err


def test_output_that_nobody_reads_ends_quietly(host: HostForTests, ground: Path) -> None:
    ran = paddock(host.home, "run", "--model", script(ground, *NOTE), "--json", "go").json
    line = " ".join(PADDOCK)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{line} events --json {ran['session_id']} | head -n 1"],
        env=environment(host.home),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.parametrize("words", ["config", "sql select/**/1", "doctor", "ls --json"])
def test_output_that_nobody_reads_is_no_failure(host: HostForTests, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PADDOCK, *words.split()],
        env=environment(host.home),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (exit_codes.DONE, b"")


@pytest.mark.parametrize("closed", [">&-", "<&-", "<&- >&- 2>&-"])
def test_a_verb_whose_standard_streams_are_closed_does_its_work(
    host: HostForTests, ground: Path, closed: str
) -> None:
    name = f"closed {closed}"
    line = f'{" ".join(PADDOCK)} new --model {script(ground, *NOTE)} "{name}"'
    for words in (line, f"{' '.join(PADDOCK)} ls"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{words} {closed}"],
            env=environment(host.home),
            cwd=ground,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (exit_codes.DONE, "")
    assert paddock(host.home, "show", name, "--json").json["status"] == "live"


def test_f15_an_agents_words_do_not_drive_the_terminal(host: HostForTests, ground: Path) -> None:
    model = script(ground, turn("\x1b[2Jclear \x1b]0;title\x07me\x1b[31m"))
    assert paddock(host.home, "run", "--model", model, "go").out == "clear me\n"


def test_p3_who_holds_a_session_that_cannot_start_is_named(
    host: HostForTests, ground: Path
) -> None:
    model = script(ground, turn("ok"))
    made = paddock(host.home, "new", "held", "--model", model, "--json").json["session_id"]
    assert paddock(host.home, "suspend", "held").code == 0
    with (folder_of(host.data, made) / "owner.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = paddock(host.home, "send", "held", "go")
        assert refused.code == exit_codes.HOST
        holder = f"held by process {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
        assert holder in refused.line
        listed = paddock(host.home, "ps")
        assert "stuck" in listed.out
        assert holder in listed.err
        assert holder in paddock(host.home, "show", "--json", "held").json["trouble"]
    goes_on = ("send", "held", "--wait", "go")
    wait_until(lambda: paddock(host.home, *goes_on).code == 0, DEADLINE, what="it goes on")
    assert "trouble" not in paddock(host.home, "show", "held").out


# --- without a host ---


def test_looking_starts_no_host(home: Path, ground: Path) -> None:
    assert paddock(home, "ls", "--json").json == []
    assert paddock(home, "sql", "--json", "select 1 as one").json == [{"one": 1}]
    many = paddock(home, "sql", "--json", "select i from range(1203) t(i)").json
    assert many == [{"i": i} for i in range(1203)]
    for name in [row["name"] for row in paddock(home, "report", "--json").json]:
        assert paddock(home, "report", name, "--json").json == []
        assert "SELECT" in paddock(home, "report", name, "--sql").out
    unknown = paddock(home, "report", "nosuch")
    assert (unknown.code, unknown.out) == (exit_codes.USAGE, "")
    assert "there are approvals, cost" in unknown.err
    assert paddock(home, "ps", "--json").json == []
    assert paddock(home, "approvals", "--json").json == []
    assert paddock(home, "store", "verify").code == 0
    assert paddock(home, "status").code == exit_codes.HOST
    assert paddock(home, "show", "nobody").code == exit_codes.NOT_FOUND
    assert paddock(home, "down").code == 0
    assert list(home.iterdir()) == []


def test_a_command_starts_a_host_and_what_it_did_is_seen_without_one(
    home: Path, ground: Path
) -> None:
    model = script(ground, turn("ok"))
    ran = paddock(home, "run", "--name", "alone", "--model", model, "--json", "go")
    assert ran.code == 0, ran.err
    down = paddock(home, "down")
    assert down.out == "down\n", down.err
    assert paddock(home, "status").code == exit_codes.HOST
    (row,) = paddock(home, "ls", "--json").json
    assert (row["name"], row["status"]) == ("alone", "suspended")
    shown = paddock(home, "show", "--json", "alone").json
    assert shown["session_id"] == ran.json["session_id"]
    assert "operation_completed" in paddock(home, "events", "alone").out
    assert paddock(home, "logs", "alone").code == 0
    rows = paddock(home, "sql", "--json", "select name from sessions").json
    assert rows == [{"name": "alone"}]


def test_a_host_that_a_command_started_leaves_when_its_settings_say(
    home: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_LEAVE_AFTER_SECONDS", "0.5")
    assert paddock(home, "new", "alone", "--model", script(ground, turn("never"))).code == 0
    started = announced(places_of(home))  # to ask it would be to use it
    try:
        wait_until(lambda: started is None or not started.is_live(), 60, what="the host leaves")
    finally:
        paddock(home, "down", "--force")


def test_what_died_with_the_machine_is_not_told_to_be_live(home: Path, ground: Path) -> None:
    made = HostForTests(home)
    made.start()
    try:
        paddock(home, "new", "lost", "--model", script(ground, turn("ok")))
        assert paddock(home, "send", "lost", "--wait", "go").code == 0
        assert paddock(home, "ls").err == ""
        assert paddock(home, "show", "--json", "lost").json["status"] == "live"
        made.kill_all()
        listed = paddock(home, "ls")
        assert "the worker is gone: lost" in listed.err
        assert "lost" in listed.out
        shown = paddock(home, "show", "--json", "lost").json
        assert (shown["status"], shown["pid"]) == ("down", None)
        assert "worker is gone" in shown["reason"]
    finally:
        made.end()


def test_a_host_that_is_stopped_is_told_with_what_lets_it_go_on(home: Path) -> None:
    made = HostForTests(home)
    made.start()
    try:
        os.kill(made.pid, signal.SIGSTOP)
        for verb in ("status", "ls"):
            said = paddock(home, verb)
            assert said.code == exit_codes.HOST
            assert f"is stopped; let it go on: kill -CONT {made.pid}" in said.line
        os.kill(made.pid, signal.SIGCONT)
        assert paddock(home, "status").code == 0
    finally:
        made.end()


def test_f5_what_a_session_started_starts_no_host_of_its_home(home: Path, ground: Path) -> None:
    made = HostForTests(home)
    made.start()
    try:
        model = script(ground, turn("ok"))
        session = paddock(home, "new", "own", "--model", model, "--json").json["session_id"]
        made.kill_all()

        def in_session(owner: str, *words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*PADDOCK, *words],
                preexec_fn=lambda: set_mark(*mark_of(owner, None)),
                env=environment(home),
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=False,
            )

        for words in (("send", "own", "go"), ("up",), ("up", "--foreground")):
            refused = in_session(f"{session}.0", *words)
            assert refused.returncode == exit_codes.HOST
            assert "a session of it can start none" in refused.stderr
        other = in_session(f"{uuid7(1, bytes(10))}.0", "send", "own", "--wait", "go")
        assert other.returncode == 0, other.stderr
    finally:
        paddock(home, "down", "--force")
        made.end()


def test_down_refuses_while_operations_are_open_and_nobody_can_be_asked(
    home: Path, ground: Path
) -> None:
    model = script(ground, turn(call("bash", command="sleep 300", timeout_seconds=400)))
    paddock(home, "new", "busy", "--mode", "yolo", "--model", model)
    paddock(home, "send", "busy", "go")
    wait_until(lambda: "tool_call_started" in paddock(home, "events", "busy").out, DEADLINE)
    refused = paddock(home, "down")
    assert refused.code == exit_codes.REFUSED
    assert "at work" in refused.line
    assert paddock(home, "down", "--force", "--deadline", "1").code == 0


def test_restart_keeps_the_workers(home: Path, ground: Path) -> None:
    paddock(home, "new", "kept", "--model", script(ground, turn("ok")))
    (before,) = paddock(home, "ps", "--json").json
    assert paddock(home, "restart").code == 0
    (after,) = wait_until(lambda: adopted(home), DEADLINE)
    assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    assert paddock(home, "send", "kept", "--wait", "go").out == "ok\n"
    assert paddock(home, "down").code == 0


def test_a_restart_with_settings_that_are_wrong_leaves_the_host_as_it_is(home: Path) -> None:
    assert paddock(home, "up").code == 0
    before = paddock(home, "status", "--json").json["pid"]
    file = home / "config" / "config.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text('[host]\nidle_after_seconds = "long"\n')
    refused = paddock(home, "restart")
    assert refused.code == exit_codes.USAGE
    assert "idle_after_seconds" in refused.line
    assert paddock(home, "status", "--json").json["pid"] == before
    assert paddock(home, "down").code == 0


def test_a_restart_after_which_no_host_starts_says_that_none_runs(home: Path) -> None:
    assert paddock(home, "up").code == 0
    lock = home / "data" / "host.lock"
    lock.unlink()
    lock.mkdir()
    failed = paddock(home, "restart")
    assert failed.code != 0
    assert "no host runs now" in failed.err
    assert paddock(home, "status").code == exit_codes.HOST


def adopted(home: Path) -> list[Any]:
    lives = paddock(home, "ps", "--json").json
    return [life for life in lives if life["generation"] is not None]


def test_up_leaves_a_watcher_that_starts_the_host_again(home: Path, ground: Path) -> None:
    assert paddock(home, "up").code == 0
    first = paddock(home, "status", "--json").json["pid"]
    assert paddock(home, "up", "--json").json == {
        "pid": first,
        "was_up": True,
        "data": str(home / "data"),
    }
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: other_host(home, first), DEADLINE)
    assert second != first
    assert paddock(home, "down").code == 0
    assert paddock(home, "status").code == exit_codes.HOST


def test_l21_down_ends_also_what_a_host_that_was_killed_left(home: Path, ground: Path) -> None:
    """It said that no host runs, while workers lived on and the watcher started the next host."""
    assert paddock(home, "up").code == 0
    assert paddock(home, "new", "left", "--model", script(ground, turn("ok"))).code == 0
    os.kill(paddock(home, "status", "--json").json["pid"], signal.SIGKILL)
    down = paddock(home, "down")
    assert (down.code, down.out) == (0, "down\n"), down.err
    (row,) = paddock(home, "ls", "--json").json
    assert row["status"] == "suspended"
    assert paddock(home, "status").code == exit_codes.HOST
    assert paddock(home, "down").out == "no host runs here\n"


def other_host(home: Path, than: int) -> int | None:
    said = paddock(home, "status", "--json")
    return said.json["pid"] if said.code == 0 and said.json["pid"] != than else None
