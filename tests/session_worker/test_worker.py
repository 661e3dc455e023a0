"""A real worker process: turns, deaths, and what the next one makes of them."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from paddock.session_worker.journal import SNAPSHOT_AT_REST, SNAPSHOT_EVERY, _due
from paddock.session_worker.protocol import Beat, Command, Deliver, NotAccepted
from paddock.store.events import (
    SessionAnnotated,
    ToolCallFinished,
    ToolCallStarted,
    WorkerExited,
    WorkspaceChanged,
)
from paddock.store.fold import FOLD_VERSION
from paddock.store.ids import SessionId
from paddock.store.session import Session, load, thread
from paddock.store.session_file import SessionFile, SessionReader, folder_of
from tests.house.provider_server import chat, serve
from tests.session_worker.bench_host import BenchHost, bench_host, new_id


@pytest.fixture
def host(ground: Path) -> Iterator[BenchHost]:
    with bench_host(ground) as made:
        yield made


def script(host: BenchHost, turns: Sequence[object]) -> str:
    path = host.data / "script.json"
    path.write_text(json.dumps(turns))
    return f"script:{path}"


def bash(command: str) -> dict[str, object]:
    return {"name": "bash", "arguments": {"command": command}}


def test_t6_a_full_turn_is_user_assistant_with_call_result_answer(host: BenchHost) -> None:
    turns = [{"text": "let me look", "tool_calls": [bash("echo hi")]}, {"text": "it says hi"}]
    host.create(model=script(host, turns), mode="yolo")
    host.start()
    answer = host.send("what does it say?")
    assert answer.kind == "operation_started"
    host.rest()
    state = host.state()
    assert state.conversation.message_count == 4
    assert state.conversation.operation is None
    assert [m.role for m in thread(state.conversation)] == ["user", "assistant", "assistant"]
    (call,) = state.conversation.calls.values()
    assert call.status == "ok"
    assert "hi" in call.text
    host.suspend()


def test_the_repository_is_seen_at_the_start_and_after_each_operation(
    host: BenchHost, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    refs = repository / ".git" / "refs" / "heads"
    refs.mkdir(parents=True)
    (repository / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (refs / "main").write_text("c0ffee\n")
    turns = [{"tool_calls": [bash("echo bada55 > .git/refs/heads/main")]}, {"text": "done"}]
    host.create(model=script(host, turns), mode="yolo", workspace=str(repository))
    host.start()
    assert host.state().conversation.workspace == WorkspaceChanged(
        workspace=str(repository), repo=str(repository), branch="main", commit="c0ffee"
    )
    host.send("commit")
    deadline = time.monotonic() + 30
    while commits(host) != ["c0ffee", "bada55"]:
        assert time.monotonic() < deadline, "the new commit was not seen"
        time.sleep(0.01)
    host.suspend()
    host.start()
    host.suspend()
    assert commits(host) == ["c0ffee", "bada55"]


def commits(host: BenchHost) -> list[str | None]:
    """Return what was told of the repository's commit, in order."""
    told = [stored.event for stored in host.events()]
    return [event.commit for event in told if isinstance(event, WorkspaceChanged)]


def test_l14_messages_survive_suspend_and_resume(host: BenchHost) -> None:
    turns = [{"text": "a", "tool_calls": [bash("echo hi")]}, {"text": "b"}, {"text": "c"}]
    host.create(model=script(host, turns), mode="yolo")
    host.start()
    host.send("one")
    host.rest()
    host.suspend()
    before = host.state()
    assert before.life.status == "suspended"
    hello = host.start()
    assert hello.generation == 2
    after = host.state()
    assert after.conversation == before.conversation
    host.send("two")
    host.rest()
    assert host.state().conversation.message_count == 6
    host.suspend()


def test_p6_a_killed_call_is_interrupted_and_asked_again_under_a_new_id(host: BenchHost) -> None:
    turns = [{"tool_calls": [bash("echo started; sleep 5; echo done > out.txt")]}, {"text": "done"}]
    host.create(model=script(host, turns), mode="yolo")
    host.start()
    host.send("go")
    host.wait_for(Beat, lambda beat: bool(beat.open_tool_call_ids))
    wait_until_started(host)
    host.kill()
    certify(host)
    hello = host.start()
    assert hello.generation == 3
    host.rest()
    calls = list(host.state().conversation.calls.values())
    assert [call.status for call in calls] == ["interrupted", "ok"]
    events = [stored.event for stored in host.events()]
    for call in calls:
        of_call = [e for e in events if e.tool_call_id == call.tool_call_id]
        assert sum(isinstance(e, ToolCallStarted) for e in of_call) == 1
        assert sum(isinstance(e, ToolCallFinished) for e in of_call) == 1
    host.suspend()


def wait_until_started(host: BenchHost) -> None:
    while not any(call.stage == "started" for call in host.state().conversation.calls.values()):
        host.hear(0.1)


def certify(host: BenchHost) -> None:
    """Write the certificate that a supervisor writes."""
    folder = folder_of(host.data, host.session_id)
    # A child that was just being forked has the lock until it is its own program.
    with SessionFile.own(folder, host.session_id, wait_seconds=5.0) as file:
        died = WorkerExited(
            worker_generation=file.last_generation, ending="crashed", reason="signal", signal=9
        )
        file.append([died], generation=file.last_generation + 1, at_us=time.time_ns() // 1000)


def test_p13_a_start_that_comes_after_the_next_host_leaves_the_session_as_it_is(
    host: BenchHost,
) -> None:
    host.create()
    address = {"workers_address": "ipc:///nobody", "epoch": 2, "pid": 1}
    (host.data / "host.json").write_text(json.dumps(address))
    assert host.launch().wait(60) == 75
    assert [stored.event.kind for stored in host.events()] == ["session_created"]
    (host.data / "host.json").unlink()
    assert host.start().generation == 1


def test_t4_a_gated_tool_asks_and_the_model_waits_for_its_result(host: BenchHost) -> None:
    host.create(model=script(host, [{"tool_calls": [bash("echo hi")]}, {"text": "done"}]))
    host.start()
    host.send("go")
    beat = host.wait_for(Beat, lambda beat: beat.stage == "waiting")
    state = host.state()
    assert list(state.conversation.approvals) == list(beat.approval_ids)
    host.command("decide", approval_id=beat.approval_ids[0], decision="allowed")
    host.rest()
    assert [c.status for c in host.state().conversation.calls.values()] == ["ok"]
    host.suspend()


def test_c1_an_interrupt_gives_each_open_call_one_cancelled_result(host: BenchHost) -> None:
    host.create(model=script(host, [{"tool_calls": [bash("sleep 60")]}]), mode="yolo")
    host.start()
    host.send("go")
    wait_until_started(host)
    answer = host.command("interrupt")
    assert answer.kind == "operation_cancelled"
    state = host.state()
    assert [c.status for c in state.conversation.calls.values()] == ["cancelled"]
    assert state.conversation.operation is None
    host.suspend()


def test_s15_an_image_that_the_session_has_reaches_its_model_and_others_are_refused(
    host: BenchHost,
) -> None:
    """Any was taken, none was ever sent, and the file was told as damaged for what it never had."""
    call = {"index": 0, "id": "c1", "type": "function"}
    call["function"] = {"name": "bash", "arguments": json.dumps({"command": "seq 20000"})}
    asks = chat({"tool_calls": [call]}, finish_reason="tool_calls")
    with serve(asks, chat({"content": "drawn"}), chat({"content": "seen"})) as wire:
        host.create(model=f"openai:m@{wire.url}/v1", mode="yolo")
        host.start()
        host.send("draw")
        host.rest()
        (done,) = host.state().conversation.calls.values()
        (finished,) = [
            stored.event for stored in host.events() if isinstance(stored.event, ToolCallFinished)
        ]
        blob = str(finished.output_blob)
        image = {"type": "image", "media_type": "image/png", "size_bytes": 4}
        words = {"command_id": new_id(), "verb": "send_input"}
        for wrong in ("0" * 64, blob[:12]):
            arguments = {"parts": [image | {"blob": wrong}]}
            told = Command.model_validate(words | {"command_id": new_id(), "arguments": arguments})
            host.say(Deliver(command=told))
            assert host.wait_for(NotAccepted).code == "blob_not_found"
        host.command("send_input", parts=[image | {"blob": blob}])
        host.rest()
        content = wire.requests[-1][2]["messages"][-1]["content"]
    assert done.status == "ok"
    sent = base64.b64decode(content[0]["image_url"]["url"].partition("base64,")[2])
    assert hashlib.sha256(sent).hexdigest() == blob
    host.suspend()


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (float("nan"), "the command holds nan, which is no number in JSON"),
        (json.loads("[" * 101 + "]" * 101), "more than 100 levels deep"),
    ],
    ids=["number", "levels"],
)
def test_p14_a_command_that_no_log_can_hold_is_refused_and_kills_nobody(
    host: BenchHost, value: object, flaw: str
) -> None:
    host.create(model=script(host, [{"text": "fine"}]))
    host.start()
    words = {"command_id": new_id(), "verb": "annotate", "arguments": {"key": "k", "value": value}}
    host.say(Deliver(command=Command.model_validate(words)))
    refused = host.wait_for(NotAccepted)
    assert (refused.command_id, refused.code) == (words["command_id"], "bad_argument")
    assert flaw in refused.reason
    host.send("go on")
    host.rest()
    assert [stored.event.kind for stored in host.events()].count("worker_started") == 1
    host.suspend()


def test_l15_head_and_all_branches_survive_suspend_and_resume(host: BenchHost) -> None:
    host.create(model=script(host, [{"text": "a"}, {"text": "b"}]), mode="yolo")
    host.start()
    host.send("first")
    host.rest()
    before = host.state().conversation
    first = next(iter(before.messages))
    edited = [{"type": "text", "text": "first, said anew"}]
    host.command("edit_message", message_id=first, parts=edited)
    host.rest()
    host.suspend()
    branched = host.state().conversation
    assert len(branched.messages) == 4
    assert next(m.message_id for m in thread(branched)) != first
    host.start()
    assert host.state().conversation == branched
    host.command("check_out", message_id=before.head)
    assert host.state().conversation.head == before.head
    assert next(m.message_id for m in thread(host.state().conversation)) == first
    host.suspend()


def test_a_session_of_some_length_is_at_rest_with_its_snapshot(host: BenchHost) -> None:
    host.create()
    folder = folder_of(host.data, host.session_id)
    with SessionFile.own(folder, host.session_id) as file:
        remarks = [SessionAnnotated(key="n", value=number) for number in range(SNAPSHOT_AT_REST)]
        file.append(remarks, generation=0, at_us=1)
    host.start()
    with SessionReader(folder, host.session_id) as reader:
        deadline = time.monotonic() + 60
        while (kept := reader.snapshot(FOLD_VERSION)) is None and time.monotonic() < deadline:
            host.hear(0.05)
    assert kept is not None, "it was welcomed, and has nothing else to do"
    assert load(kept.state) == host.state()
    host.suspend()


def test_a_snapshot_costs_an_event_no_more_the_longer_a_session_is() -> None:
    session = Session(SessionId(new_id()), sequence=50_000)
    assert _due(session, is_at_rest=True) == _due(session, is_at_rest=False) == 5_000
    session.sequence = 1_000
    assert _due(session, is_at_rest=True) == SNAPSHOT_AT_REST
    assert _due(session, is_at_rest=False) == SNAPSHOT_EVERY
