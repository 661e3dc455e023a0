"""Sessions of a real host, with real processes, files and sockets (the worker's agent is fake)."""

import asyncio
import os
import select
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from paddock.client import connect
from paddock.store.errors import Damaged
from paddock.store.ids import SessionId
from paddock.store.session_file import folder_of, is_owned, sessions_in, verify
from paddock.supervisor.protocol import Answer, CommandSettled
from paddock.testing import wait_until_async
from tests.conftest import SHORT
from tests.together.hosting import (
    HostProcess,
    PlainClient,
    Refusal,
    eventually,
    hosting,
    new_id,
)


@pytest.fixture
def workspace(ground: Path) -> Path:
    folder = ground / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def shared() -> Iterator[HostProcess]:
    folder = Path(tempfile.mkdtemp(prefix="pd-many-", dir=SHORT))
    with hosting(folder, folder=folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def host(shared: HostProcess, ground: Path) -> Iterator[HostProcess]:
    """Give a host that serves all tests here in turn, and knows no session when one begins."""
    yield shared
    shared.leave_all()
    with closing(PlainClient(shared.runtime)) as client:
        for session in sessions_in(shared.data):
            with suppress(Refusal):  # a test has deleted it
                client.ask(
                    "delete_session",
                    session_id=session,
                    command_id=new_id(),
                    erase=True,
                    deadline_seconds=1.0,
                )


@pytest.fixture
def lone_host(home: Path) -> Iterator[HostProcess]:
    """Give a host that may be killed, and whose folders have been nobody else's."""
    with hosting(home) as running:
        yield running


@pytest.fixture
def client(host: HostProcess) -> PlainClient:
    return host.client()


def is_over(rows: list[list[Any]]) -> bool:
    return bool(rows) and rows[-1][3] == "operation_completed"


def refused(client: PlainClient, verb: str, **arguments: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        client.ask(verb, **arguments)
    return caught.value


def processes_of(session: str) -> list[int]:
    """Return the processes, dead ones not counted, that are marked as a session's tools."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            owner = process.environ().get("PADDOCK_OWNER", "")
            if owner.startswith(f"{session}.") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


# --- creating ---


def test_l1_create_returns_an_id_and_the_session_is_active(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace, name="first")
    life = client.lives()[session]
    assert (life["life"], life["stage"], life["name"]) == ("live", "resting", "first")
    assert host.kinds(session) == ["session_created", "worker_started"]


def test_l27_a_taken_name_is_already_exists_and_leaves_no_trace(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    client.create(workspace, name="first")
    other = new_id()
    refusal = refused(
        client,
        "create_session",
        session_id=other,
        config={"workspace": str(workspace), "name": "first"},
    )
    assert refusal.code == "already_exists"
    assert not folder_of(host.data, SessionId(other)).exists()


def test_l27_a_known_id_gets_the_same_answer_and_with_another_payload_already_exists(
    client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace, name="first")
    config = {"workspace": str(workspace), "name": "first"}
    again = client.ask("create_session", session_id=session, config=config)
    assert again == {"session_id": session, "name": "first", "existed": True}
    config["model"] = "another"
    refusal = refused(client, "create_session", session_id=session, config=config)
    assert refusal.code == "already_exists"


def test_a_workspace_that_is_not_there_is_refused_and_its_name_is_free_again(
    lone_host: HostProcess, workspace: Path
) -> None:
    client = lone_host.client()
    nowhere = str(workspace / "nowhere")
    config = {"workspace": nowhere, "name": "first"}
    refusal = refused(client, "create_session", session_id=new_id(), config=config)
    assert refusal.code == "workspace_missing"
    assert sessions_in(lone_host.data) == []
    client.create(workspace, name="first")


def test_names_that_a_killed_host_had_reserved_for_nothing_are_free_again(
    lone_host: HostProcess, workspace: Path
) -> None:
    client = lone_host.client()
    session = client.create(workspace, name="first")
    client.ask("suspend_session", session_id=session)
    lone_host.kill()
    with closing(sqlite3.connect(lone_host.data / "host.sqlite")) as registry, registry:
        # As it dies between the name and the session's file, and between the name and the renaming.
        registry.execute("INSERT INTO names VALUES ('unborn', ?)", (new_id(),))
        registry.execute("INSERT INTO names VALUES ('second', ?)", (session,))
    lone_host.start()
    again = lone_host.client()
    again.create(workspace, name="unborn")
    again.create(workspace, name="second")
    assert again.ask("resolve", text="first") == {"session_id": session}


def test_a_session_that_cannot_run_as_configured_is_not_retried_and_says_why(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    (workspace / "misconfigured").touch()
    session = new_id()
    refusal = refused(
        client, "create_session", session_id=session, config={"workspace": str(workspace)}
    )
    assert refusal.code == "agent_not_found"
    assert refusal.facts["reason"] == "no agent of that name"
    assert session in str(refusal)
    assert host.kinds(session) == ["session_created", "worker_exited", "session_failed"]


# --- suspending and waking ---


def test_l2_suspend_makes_it_inactive_and_resume_active_again(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    pid = client.lives()[session]["pid"]
    assert client.ask("suspend_session", session_id=session) == {"was_live": True}
    assert session not in client.lives()
    assert not Path(f"/proc/{pid}").exists()
    assert not is_owned(folder_of(host.data, session))
    assert client.ask("suspend_session", session_id=session) == {"was_live": False}
    assert client.ask("resume_session", session_id=session) == {"was_live": False, "generation": 2}
    assert client.ask("resume_session", session_id=session) == {"was_live": True, "generation": 2}


def test_l22_two_concurrent_resumes_give_one_live_worker(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.ask("suspend_session", session_id=session)
    other = host.client()
    requests = [client.begin("resume_session", session_id=session) for _ in range(3)]
    others = [other.begin("resume_session", session_id=session) for _ in range(3)]
    answers = [client.answer(each) for each in requests] + [other.answer(each) for each in others]
    assert {answer["generation"] for answer in answers} == {2}
    assert host.kinds(session).count("worker_started") == 2


def test_a_command_to_a_suspended_session_wakes_it(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.ask("suspend_session", session_id=session)
    client.say_words(session, "echo")
    assert client.lives()[session]["generation"] == 2


def test_suspending_a_session_at_work_is_a_question_unless_it_is_told_to(
    client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.say_words(session, "work 60")
    assert refused(client, "suspend_session", session_id=session, force=False).code == "busy"
    assert client.ask("suspend_session", session_id=session) == {"was_live": True}


def test_a_worker_that_does_not_leave_in_time_is_killed(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    (workspace / "stays").touch()
    session = client.create(workspace)
    result = client.ask("suspend_session", session_id=session, deadline_seconds=1.0)
    assert result == {"was_live": True}
    exited = host.events(session)[-2].event
    assert exited.kind == "worker_exited"
    assert (exited.reason, exited.signal) == ("suspend_timeout", signal.SIGKILL)
    assert exited.stacks
    assert "fake_worker" in exited.stacks


def test_l23_after_suspend_no_process_of_the_session_is_there(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    worker = os.pidfd_open(client.lives()[session]["pid"])
    client.say_words(session, "tool")  # which has left the worker's group and session
    eventually(lambda: len(processes_of(session)) == 1, "the tool's process")
    (pid,) = processes_of(session)
    tool = os.pidfd_open(pid)
    client.ask("suspend_session", session_id=session, force=True, deadline_seconds=1.0)
    # What is gone uses no time and writes nothing: both are, the moment the suspension is told.
    gone, _, _ = select.select([worker, tool], [], [], 0)
    os.close(worker)
    os.close(tool)
    assert gone == [worker, tool]
    assert session not in client.lives()
    assert processes_of(session) == []
    assert not is_owned(folder_of(host.data, session))


# --- commands ---


def test_p14_an_accepted_command_is_answered_once_and_the_same_id_gets_the_same_answer(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    words: dict[str, Any] = {"parts": [{"type": "text", "text": "echo"}]}
    command, first = client.command(session, "send_input", **words)
    accepted = client.answer(first)
    _, second = client.command(session, "send_input", command, **words)
    assert client.answer(second) == accepted
    _, third = client.command(session, "send_input", command, parts=[{"type": "text", "text": "x"}])
    with pytest.raises(Refusal) as caught:
        client.answer(third)
    assert caught.value.code == "already_exists"
    assert host.kinds(session).count("command_accepted") == 1


def test_p14_a_command_whose_worker_dies_before_accepting_it_takes_effect_once(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.command(session, "send_input", parts=[{"type": "text", "text": "die unaccepted"}])
    sub = client.subscribe(session)
    exits = client.rows(sub, lambda rows: [r[3] for r in rows].count("worker_exited") == 2)
    assert [row[3] for row in exits].count("command_accepted") == 0
    dead = [stored.event for stored in host.events(session) if stored.event.kind == "worker_exited"]
    assert dead[0].in_delivery_command_id
    assert dead[0].struck_command_ids == (dead[0].in_delivery_command_id,)


def test_p14_a_command_whose_worker_dies_before_answering_it_is_answered_by_the_next(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    (workspace / "keeps").touch()
    slow, request = client.command(session, "send_input", parts=[{"type": "text", "text": "slow"}])
    client.answer(request)
    # Another one waits behind it, in the host.
    _, behind = client.command(session, "annotate", key="k")
    os.kill(client.lives()[session]["pid"], signal.SIGKILL)
    eventually(lambda: client.lives()[session]["generation"] == 2, "the next worker")
    assert host.fold(session).life.accepted[slow].verb == "send_input"
    client.listen(0.2)
    kinds = host.kinds(session)
    assert kinds.count("command_accepted") == 1
    del behind


def settled(client: PlainClient, command_id: str) -> CommandSettled:
    word = client.wait(lambda w: isinstance(w, CommandSettled) and w.command_id == command_id)
    assert isinstance(word, CommandSettled)
    return word


def test_p14_an_answer_that_a_worker_had_no_time_to_tell_is_told_though_its_session_fails(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    """It exits in the moment in which its answer is durable: that word is in no socket."""
    session = client.create(workspace)
    command_id = client.say_words(session, "untold 64")
    told = settled(client, command_id)
    assert told.kind == "operation_started"
    assert told.operation_id == host.events(session)[told.sequence - 1].event.operation_id
    assert host.kinds(session)[-1] == "session_failed"


def test_p14_what_a_failed_session_had_accepted_is_refused_in_its_log_and_told_so(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    command_id = client.say_words(session, "answer-exits 64")
    told = settled(client, command_id)
    assert (told.kind, told.code) == ("command_rejected", "session_failed")
    assert host.kinds(session)[-3:] == ["worker_exited", "command_rejected", "session_failed"]
    assert client.ask("resume_session", session_id=session, reset=True)["generation"] == 2
    _, request = client.command(
        session, "send_input", command_id, parts=[{"type": "text", "text": "answer-exits 64"}]
    )
    client.answer(request)
    assert settled(client, command_id) == told


def test_p14_what_a_deleted_session_had_accepted_is_refused_in_its_log_and_told_so(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    (workspace / "keeps").touch()
    session = client.create(workspace)
    command_id = client.say_words(session, "slow")
    client.ask("delete_session", session_id=session, command_id=new_id(), deadline_seconds=2)
    told = settled(client, command_id)
    assert (told.kind, told.code) == ("command_rejected", "session_not_found")
    assert host.kinds(session)[-2:] == ["command_rejected", "session_deleted"]


async def test_p14_who_waits_for_an_answer_is_told_when_its_file_is_found_damaged(
    host: HostProcess, workspace: Path
) -> None:
    async with await connect(home=host.home, start=False) as paddock:
        session = await paddock.new(cwd=workspace)
        sending = asyncio.create_task(session.send("slow"))

        async def is_accepted() -> bool:
            return "command_accepted" in host.kinds(session.session_id)

        await wait_until_async(is_accepted)
        (life,) = await paddock.lives()
        folder = folder_of(host.data, session.session_id)
        for name in ("session.sqlite", "session.sqlite-wal"):
            (folder / name).write_bytes(b"no database" * 1000)
        os.kill(life["pid"], signal.SIGKILL)
        async with asyncio.timeout(30):
            with pytest.raises(Damaged):
                await sending


def test_r7_what_was_decided_is_in_the_log_that_the_next_worker_reads(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.say_words(session, "approve")
    eventually(lambda: client.lives()[session]["stage"] == "waiting", "an open approval")
    os.kill(client.lives()[session]["pid"], signal.SIGKILL)
    eventually(
        lambda: (
            client.lives()[session]["generation"] == 2
            and client.lives()[session]["stage"] == "waiting"
        ),
        "the approval is open again",
    )
    exited = next(s.event for s in host.events(session) if s.event.kind == "worker_exited")
    assert exited.struck_operation_id is None
    assert exited.operation_id is not None
    assert len(exited.open_tool_call_ids) == 1


def test_l20_an_unknown_session_is_a_typed_not_found(client: PlainClient) -> None:
    for verb, more in (
        ("resume_session", {}),
        ("suspend_session", {}),
        ("subscribe", {}),
        ("touch_session", {}),
        ("delete_session", {"command_id": new_id()}),
        ("command", {"command": {"command_id": new_id(), "verb": "annotate"}}),
    ):
        assert refused(client, verb, session_id=new_id(), **more).code == "session_not_found", verb
    assert refused(client, "resume_session", session_id="../../etc").code == "session_not_found"


def test_an_unknown_verb_and_a_wrong_argument_are_named(
    client: PlainClient, workspace: Path
) -> None:
    assert refused(client, "fly").code == "bad_argument"
    refusal = refused(client, "resume_session", session_id=new_id(), speed=3)
    assert (refusal.code, refusal.facts["argument"]) == ("bad_argument", "speed")
    session = client.create(workspace)
    _, request = client.command(session, "fly")
    with pytest.raises(Refusal) as caught:
        client.answer(request)
    assert caught.value.code == "bad_argument"


# --- capacity ---


def test_l3_l4_with_limit_one_a_second_create_is_refused_and_leaves_no_trace(
    home: Path, workspace: Path
) -> None:
    with hosting(home, "--max-live-sessions", "1", "--at-capacity", "refuse") as host:
        client = host.client()
        client.create(workspace)
        other = new_id()
        refusal = refused(
            client,
            "create_session",
            session_id=other,
            config={"workspace": str(workspace), "name": "n"},
        )
        assert refusal.code == "capacity_exceeded"
        assert refusal.facts == {"current": 1, "max": 1}
        assert len(sessions_in(host.data)) == 1
        assert not folder_of(host.data, SessionId(other)).exists()
        assert refused(client, "resolve", text="n").code == "session_not_found"


def test_l5_concurrent_creates_never_exceed_the_limit(home: Path, workspace: Path) -> None:
    with hosting(home, "--max-live-sessions", "3", "--at-capacity", "refuse") as host:
        client = host.client()
        requests = [
            client.begin(
                "create_session", session_id=new_id(), config={"workspace": str(workspace)}
            )
            for _ in range(8)
        ]
        outcomes = []
        for request in requests:
            try:
                client.answer(request)
                outcomes.append("live")
            except Refusal as refusal:
                outcomes.append(refusal.code)
        assert outcomes.count("live") == 3
        assert outcomes.count("capacity_exceeded") == 5
        assert len(client.lives()) == len(sessions_in(host.data)) == 3


def test_l6_resume_at_the_limit_obeys_the_same_rule(home: Path, workspace: Path) -> None:
    with hosting(home, "--max-live-sessions", "1", "--at-capacity", "refuse") as host:
        client = host.client()
        first = client.create(workspace)
        client.ask("suspend_session", session_id=first)
        client.create(workspace)
        refusal = refused(client, "resume_session", session_id=first)
        assert (refusal.code, refusal.facts) == ("capacity_exceeded", {"current": 1, "max": 1})


def test_l27_past_the_limit_the_least_recently_used_is_suspended_and_comes_back_on_demand(
    home: Path, workspace: Path
) -> None:
    with hosting(home, "--max-live-sessions", "2") as host:
        client = host.client()
        first, second = client.create(workspace), client.create(workspace)
        client.say_words(first, "echo")
        third = client.create(workspace)
        assert set(client.lives()) == {first, third}
        client.say_words(second, "echo")
        assert second in client.lives()
        assert len(client.lives()) == 2
        assert host.events(second)[3].event.reason == "capacity"


def test_p10_a_session_at_work_or_with_a_subscriber_never_makes_room(
    home: Path, workspace: Path
) -> None:
    with hosting(home, "--max-live-sessions", "2") as host:
        client = host.client()
        busy, watched = client.create(workspace), client.create(workspace)
        client.say_words(busy, "work 60")
        eventually(lambda: client.lives()[busy]["stage"] == "working", "it works")
        client.subscribe(watched)
        refusal = refused(
            client, "create_session", session_id=new_id(), config={"workspace": str(workspace)}
        )
        assert refusal.code == "capacity_exceeded"
        client.ask("suspend_session", session_id=busy)
        client.create(workspace)  # every room that was asked for in vain was given back


# --- idling ---


def test_l7_an_idle_session_is_suspended_by_cleanup_and_counted(
    client: PlainClient, workspace: Path
) -> None:
    client.create(workspace)
    assert client.ask("suspend_idle_sessions", max_idle_seconds=0) == {"count": 1}
    assert client.lives() == {}
    assert client.ask("suspend_idle_sessions", max_idle_seconds=0) == {"count": 0}


def test_l8_l9_one_with_a_subscriber_or_at_work_is_not(
    client: PlainClient, workspace: Path
) -> None:
    watched, busy = client.create(workspace), client.create(workspace)
    client.subscribe(watched)
    client.say_words(busy, "work 60")
    eventually(lambda: client.lives()[busy]["stage"] == "working", "it works")
    assert client.ask("suspend_idle_sessions", max_idle_seconds=0) == {"count": 0}


def test_l10_the_last_subscriber_leaving_makes_it_suspendable_and_the_first_does_not(
    home: Path, workspace: Path
) -> None:
    with hosting(home, "--idle-after-seconds", "0") as host:
        client = host.client()
        session = client.create(workspace)
        subs = [client.subscribe(session, wake=True) for _ in range(2)]
        eventually(lambda: client.lives().get(session, {}).get("life") == "live", "live")
        client.ask("unsubscribe", subscription_id=subs[0])
        client.listen(1.5)
        assert client.lives()[session]["life"] == "live"
        client.ask("unsubscribe", subscription_id=subs[1])
        eventually(lambda: session not in client.lives(), "suspended")


def test_l11_a_client_that_vanishes_counts_as_having_left_and_its_operation_goes_on(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    pid = os.fork()
    if pid == 0:
        gone = PlainClient(host.runtime)
        gone.subscribe(session)
        gone.say_words(session, "work 1")
        os._exit(0)
    os.waitpid(pid, 0)
    eventually(lambda: client.lives()[session]["subscribers"] == 0, "its subscription ended")
    sub = client.subscribe(session)
    assert client.rows(sub, is_over)


def test_l12_connecting_with_wake_resumes_it_and_it_stays_live(home: Path, workspace: Path) -> None:
    with hosting(home, "--idle-after-seconds", "0.5") as host:
        client = host.client()
        session = client.create(workspace)
        eventually(lambda: session not in client.lives(), "suspended for being idle")
        quiet = client.subscribe(session)
        client.listen(0.3)
        assert session not in client.lives()
        client.ask("unsubscribe", subscription_id=quiet)
        sub = client.subscribe(session, wake=True)
        client.notice(sub, "live")
        client.listen(2.0)
        assert client.lives()[session]["life"] == "live"


# --- listening ---


def test_l18_r8_a_subscription_replays_and_follows_each_event_once_in_order(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.say_words(session, "echo")
    sub = client.subscribe(session, after=1)
    client.say_words(session, "many 450")
    rows = client.rows(sub, lambda rows: [row[3] for row in rows].count("operation_completed") == 2)
    assert [row[0] for row in rows] == list(range(2, len(rows) + 2))
    assert [row[3] for row in rows] == host.kinds(session)[1:]
    again = host.client()
    late = again.subscribe(session, after=rows[-10][0])
    assert again.rows(late, is_over) == rows[-9:]


def test_l19_a_client_that_switches_sessions_receives_the_second(
    client: PlainClient, workspace: Path
) -> None:
    first, second = client.create(workspace), client.create(workspace)
    sub = client.subscribe(first)
    client.ask("unsubscribe", subscription_id=sub)
    sub = client.subscribe(second)
    client.say_words(second, "echo")
    assert client.rows(sub, is_over)


def test_exclusive_is_for_one_and_has_the_references_error(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.subscribe(session, exclusive=True)
    refusal = refused(host.client(), "subscribe", session_id=session)
    assert refusal.code == "session_already_has_listener"


def test_f9_a_subscriber_that_stops_reading_misses_nothing_when_it_reads_again(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    slow = host.client("slow")
    sub = slow.subscribe(session)
    client.say_words(session, "many 2500")
    fast = client.subscribe(session)
    rows = client.rows(fast, is_over)
    assert slow.rows(sub, is_over) == rows


# --- deaths ---


def exits(host: HostProcess, session: str) -> list[Any]:
    return [s.event for s in host.events(session) if s.event.kind == "worker_exited"]


def test_l26_p13_a_killed_worker_has_a_certificate_and_is_started_again(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    sub = client.subscribe(session)
    os.kill(client.lives()[session]["pid"], signal.SIGKILL)
    notice = client.notice(sub, "died")
    assert notice.detail == {"generation": 1, "reason": "signal"}
    client.rows(sub, lambda rows: [row[3] for row in rows].count("worker_started") == 2)
    (death,) = exits(host, session)
    assert (death.ending, death.signal, death.action) == ("crashed", 9, "restarted")
    assert death.worker_generation == 1
    assert death.last_stage == "resting"
    assert verify(folder_of(host.data, session), session).ok


def test_p13_an_exit_code_and_the_open_operation_are_in_the_certificate(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.say_words(session, "exit 7")
    eventually(lambda: exits(host, session), "a certificate")
    (death,) = exits(host, session)
    assert (death.exit_code, death.reason) == (7, "exit_code")
    assert death.operation_id is not None
    assert death.struck_operation_id == death.operation_id


def test_f7_a_session_that_crashes_at_every_start_is_left_down_and_one_command_frees_it(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.ask("suspend_session", session_id=session)
    (workspace / "crash").touch()
    refusal = refused(client, "resume_session", session_id=session)
    assert refusal.code == "session_failed"
    deaths = exits(host, session)
    assert [death.action for death in deaths[1:]] == ["restarted"] * 3 + ["left_down"]
    assert [death.last_stage for death in deaths[1:]] == ["starting"] * 4
    assert "it crashes at starting" in deaths[-1].last_words
    assert host.kinds(session)[-1] == "session_failed"
    (workspace / "crash").unlink()
    assert refused(client, "resume_session", session_id=session).code == "session_failed"
    assert client.ask("resume_session", session_id=session, reset=True)["was_live"] is False
    assert host.fold(session).life.status == "live"


def test_f5_after_a_death_no_process_of_the_session_remains(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.command(session, "send_input", parts=[{"type": "text", "text": "orphan-tool"}])
    eventually(lambda: exits(host, session), "a certificate")
    pid = (workspace / "tool.pid").read_text()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the tool is gone")
    assert exits(host, session)[0].tools_killed == 1


@pytest.mark.parametrize("how", ["hangs", "is stopped"])
def test_f6_a_worker_that_hangs_or_is_stopped_is_found_killed_and_replaced(
    home: Path, workspace: Path, how: str
) -> None:
    with hosting(home, "--hang-after-seconds", "1.2") as host:
        client = host.client()
        session = client.create(workspace)
        if how == "hangs":
            client.command(session, "send_input", parts=[{"type": "text", "text": "spin"}])
        else:
            os.kill(client.lives()[session]["pid"], signal.SIGSTOP)
        eventually(lambda: exits(host, session), "a certificate")
        (death,) = exits(host, session)
        assert death.reason == ("hang" if how == "hangs" else "stopped")
        assert death.stacks is not None
        assert "fake_worker" in death.stacks
        eventually(lambda: client.lives()[session]["life"] == "live", "the next worker")


def test_a_worker_above_its_memory_limit_dies_of_that(home: Path, workspace: Path) -> None:
    with hosting(home, "--memory-limit-mb", "64") as host:
        client = host.client()
        session = client.create(workspace)
        client.say_words(session, "hog 100")
        eventually(lambda: exits(host, session), "a certificate")
        (death,) = exits(host, session)
        assert (death.reason, death.memory_limit_bytes) == ("out_of_memory", 64 * 1024 * 1024)
        assert death.peak_rss_bytes > 64 * 1024 * 1024


def test_a_start_that_never_greets_is_killed_and_counted(home: Path, workspace: Path) -> None:
    (workspace / "sleepy").touch()
    with hosting(home, "--start-timeout-seconds", "1", "--max-restarts", "0") as host:
        client = host.client()
        session = new_id()
        refusal = refused(
            client, "create_session", session_id=session, config={"workspace": str(workspace)}
        )
        assert refusal.code == "creation_failed"
        (death,) = exits(host, session)
        assert (death.reason, death.last_stage) == ("start_timeout", "starting")


# --- deleting ---


def test_l16_delete_makes_it_inactive_and_a_later_resume_is_not_found(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace, name="gone")
    command = new_id()
    assert client.ask("delete_session", session_id=session, command_id=command) == {"deleted": True}
    assert session not in client.lives()
    assert refused(client, "resume_session", session_id=session).code == "session_not_found"
    assert client.ask("delete_session", session_id=session, command_id=command) == {"deleted": True}
    assert (
        refused(client, "delete_session", session_id=session, command_id=new_id()).code
        == "session_not_found"
    )
    assert "session_deleted" in host.kinds(session)
    client.create(workspace, name="gone")  # its name is free again


@pytest.mark.parametrize("keeps", [False, True])
def test_l17_delete_during_an_operation_stops_it_and_nothing_is_written_later(
    host: HostProcess, client: PlainClient, workspace: Path, keeps: bool
) -> None:
    session = client.create(workspace)
    client.say_words(session, "work 60")
    if keeps:  # a worker that does not carry its deletion out is killed, and the host does it
        (workspace / "keeps").touch()
    result = client.ask(
        "delete_session", session_id=session, command_id=new_id(), deadline_seconds=2.0
    )
    assert result == {"deleted": True}
    kinds = host.kinds(session)
    assert kinds.count("session_deleted") == 1
    assert not is_owned(folder_of(host.data, session))


def test_s4_erase_leaves_no_byte(host: HostProcess, client: PlainClient, workspace: Path) -> None:
    session = client.create(workspace)
    client.say_words(session, "echo secret")
    client.ask("delete_session", session_id=session, command_id=new_id(), erase=True)
    assert not folder_of(host.data, session).exists()
    assert refused(client, "resume_session", session_id=session).code == "session_not_found"


def test_a_session_at_rest_is_deleted_without_being_woken(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.ask("suspend_session", session_id=session)
    client.ask("delete_session", session_id=session, command_id=new_id())
    assert host.kinds(session)[-2:] == ["command_accepted", "session_deleted"]


# --- looking ---


def test_a_session_is_found_by_name_by_id_and_by_a_unique_part_of_it(
    client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace, name="first")
    for text in ("first", session, session[-12:], session[-12:].upper()):
        assert client.ask("resolve", text=text) == {"session_id": session}
    assert refused(client, "resolve", text="nobody").code == "session_not_found"


def test_heads_and_status_tell_how_the_host_fares(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = client.create(workspace)
    client.say_words(session, "echo")
    eventually(lambda: client.ask("heads")["heads"][session] == 6, "its head")
    status = client.ask("status")
    assert (status["pid"], status["live"], status["max_live_sessions"]) == (host.pid, 1, 256)


def test_credentials_reach_the_worker_and_no_file(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    session = new_id()
    client.ask(
        "create_session",
        session_id=session,
        config={"workspace": str(workspace)},
        credentials={"env:KEY": "hush-hush-hush"},
    )
    client.ask("put_credentials", session_id=session, credentials={"env:KEY": "hush-hush-hush"})
    client.ask("suspend_session", session_id=session)
    for path in host.data.rglob("*"):
        assert not path.is_file() or b"hush-hush-hush" not in path.read_bytes(), path


def test_l25_a_session_that_hangs_does_not_delay_commands_to_others(
    host: HostProcess, client: PlainClient, workspace: Path
) -> None:
    stuck, other = client.create(workspace), client.create(workspace)
    pid = client.lives()[stuck]["pid"]
    client.say_words(stuck, "spin")  # which holds its process for ever
    eventually(lambda: host.kinds(stuck)[-1] == "user_message_added", "it spins")
    _, waiting = client.command(stuck, "send_input", parts=[{"type": "text", "text": "echo"}])
    head = host.events(stuck)[-1].sequence
    for _ in range(3):
        client.say_words(other, "echo")
    # The one is still where it was when all of the other's commands are answered.
    assert client.lives()[stuck]["pid"] == pid
    assert host.events(stuck)[-1].sequence == head
    assert "operation_completed" not in host.kinds(stuck)
    assert not any(isinstance(word, Answer) and word.request_id == waiting for word in client.heard)
    os.kill(pid, signal.SIGKILL)
