"""The host itself: one at a time, killed and started again, refused what it should refuse."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from paddock.session_worker.protocol import FROM_WORKER, TO_WORKER, Hello, Refuse
from paddock.session_worker.wire import PROTOCOL_VERSION
from paddock.store.ids import SessionId
from paddock.store.projection import host_log
from paddock.store.session_file import folder_of, holder_of, verify
from paddock.supervisor.cli import exit_codes
from paddock.supervisor.protocol import FROM_CLIENT, TO_CLIENT, Failed, Greet
from paddock.supervisor.registry import Registry
from tests.house.crowd_at_door import CROWD, crowd_at
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


@pytest.fixture
def host(home: Path) -> Iterator[HostProcess]:
    with hosting(home) as running:
        yield running


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def is_there(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def descendants_of(pid: int) -> set[int]:
    """Return a process's children, and theirs."""
    children = children_of(pid)
    return {*children, *(below for child in children for below in descendants_of(child))}


def exits(host: HostProcess, session: str) -> list[Any]:
    return [s.event for s in host.events(session) if s.event.kind == "worker_exited"]


# --- beginning and ending ---


@pytest.mark.parametrize("where", ["/", "a folder that is deleted"])
def test_l21_the_host_starts_in_any_folder_and_leaves_no_process(
    home: Path, workspace: Path, ground: Path, where: str
) -> None:
    folder = ground / "start" if where != "/" else Path(where)
    folder.mkdir(exist_ok=True)
    with hosting(home, folder=folder) as host:
        if where != "/":
            folder.rmdir()
        client = host.client()
        sessions = [client.create(workspace) for _ in range(3)]
        client.say_words(sessions[0], "work 60")
        client.say_words(sessions[1], "tool")
        eventually((workspace / "tool.pid").exists, "the tool's pid")
        pids = descendants_of(host.pid)
        workers = {life["pid"] for life in client.lives().values()}
        assert {*workers, client.ask("status")["zygote_pid"]} <= pids
        pids.add(int((workspace / "tool.pid").read_text()))
        with pytest.raises(Refusal) as caught:
            client.ask("down")
        assert caught.value.code == "busy"
        assert sorted(caught.value.facts["sessions"]) == sorted(sessions[:2])
        client.down(force=True)
        assert host.process is not None
        assert host.process.wait(30) == 0
        assert not [pid for pid in pids if is_there(pid)]
        for session in sessions:
            assert host.fold(session).life.status == "suspended"
        assert not (host.runtime / "host.json").exists()
        assert not list(host.runtime.glob("*.sock"))


def test_f13_a_second_host_on_one_folder_is_refused_with_the_pid_of_the_first(
    host: HostProcess, workspace: Path
) -> None:
    second = subprocess.run(
        [sys.executable, "-P", "-m", "paddock.supervisor.serve", "--home", str(host.home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == exit_codes.HOST
    assert f"as process {host.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    host.client().create(workspace)  # and the first one has lost nothing


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-live-sessions", "0"], "max_live_sessions (from --max-live-sessions) is '0'"),
        (["--runtime", "/tmp/" + "x" * 100], "the system allows 107"),
    ],
)
def test_a_host_that_cannot_start_says_why_in_one_line(
    home: Path, flags: list[str], words: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "paddock.supervisor.serve", "--home", str(home), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == exit_codes.USAGE
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# --- kill -9 ---


def test_l26_workers_outlive_a_killed_supervisor_and_are_adopted_by_the_next(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    sessions = [client.create(workspace) for _ in range(4)]
    client.say_words(sessions[0], "work 2")
    lives = client.lives()
    host.kill()
    host.start()
    again = host.client()
    eventually(
        lambda: [again.lives().get(each, {}).get("life") for each in sessions] == ["live"] * 4,
        "all are adopted",
    )
    assert again.host.epoch == client.host.epoch + 1  # type: ignore[attr-defined]
    for session in sessions:
        now = again.lives()[session]
        assert (now["pid"], now["generation"]) == (lives[session]["pid"], 1)
        assert exits(host, session) == []
    sub = again.subscribe(sessions[0])
    rows = again.rows(sub, lambda rows: bool(rows) and rows[-1][3] == "operation_completed")
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    again.say_words(sessions[1], "echo")


def test_an_adopted_workers_death_is_certified_too(host: HostProcess, workspace: Path) -> None:
    client = host.client()
    session = client.create(workspace)
    host.kill()
    host.start()
    again = host.client()
    eventually(lambda: again.lives().get(session, {}).get("life") == "live", "it is adopted")
    os.kill(again.lives()[session]["pid"], signal.SIGKILL)
    eventually(lambda: exits(host, session), "a certificate")
    (death,) = exits(host, session)
    assert (death.ending, death.action) == ("crashed", "restarted")
    assert death.signal in {signal.SIGKILL, None}  # older kernels cannot tell of an adopted one


def test_what_died_while_there_was_no_supervisor_is_finished_by_the_next(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    at_rest, at_work = client.create(workspace), client.create(workspace)
    client.say_words(at_work, "work 60")
    pids = [life["pid"] for life in client.lives().values()]
    host.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: not is_there(pid), "it is dead")  # type: ignore[misc]
    host.start()
    again = host.client()
    eventually(lambda: exits(host, at_rest) and exits(host, at_work), "certificates")
    eventually(lambda: again.lives().get(at_work, {}).get("life") == "live", "work goes on")
    assert exits(host, at_work)[0].struck_operation_id is not None
    assert host.fold(at_rest).life.status == "suspended"
    assert at_rest not in again.lives()


def test_a_worker_that_does_not_greet_the_next_supervisor_is_killed_and_certified(
    home: Path, workspace: Path
) -> None:
    with hosting(home, "--adopt-within-seconds", "0.5") as host:
        client = host.client()
        session = client.create(workspace)
        pid = client.lives()[session]["pid"]
        os.kill(pid, signal.SIGSTOP)
        host.kill()
        host.start()
        eventually(lambda: exits(host, session), "a certificate")
        assert not is_there(pid)


def test_an_accepted_deletion_is_finished_by_the_next_supervisor(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    session = client.create(workspace, name="gone")
    (workspace / "keeps").touch()
    request = client.begin("delete_session", session_id=session, command_id=new_id())
    eventually(lambda: "command_accepted" in host.kinds(session), "the deletion is accepted")
    pid = client.lives()[session]["pid"]
    host.kill()
    os.kill(pid, signal.SIGKILL)
    host.start()
    eventually(lambda: host.kinds(session)[-1] == "session_deleted", "it is deleted")
    again = host.client()
    eventually(lambda: _code(again, session) == "session_not_found", "it is no more")
    again.create(workspace, name="gone")
    del request


def _code(client: PlainClient, session: str) -> str:
    try:
        client.ask("subscribe", session_id=session)
    except Refusal as refusal:
        return refusal.code
    return ""


def test_l26_a_killed_zygote_is_replaced_and_its_workers_go_on(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    session = client.create(workspace)
    zygote = client.ask("status")["zygote_pid"]
    os.kill(zygote, signal.SIGKILL)
    client.say_words(session, "echo")
    for _ in range(2):  # the first may be the spare fork that was in hand
        client.create(workspace)
    eventually(lambda: client.ask("status")["zygote_pid"] not in {zygote, None}, "the next one")
    assert client.lives()[session]["generation"] == 1
    os.kill(client.lives()[session]["pid"], signal.SIGKILL)
    eventually(lambda: exits(host, session), "a certificate")
    assert exits(host, session)[0].signal == signal.SIGKILL  # the host is a subreaper


def test_p13_what_a_power_cut_took_is_found_although_the_first_host_after_it_was_killed(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    session = client.create(workspace)
    worker = client.lives()[session]["pid"]
    host.kill()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not is_there(worker), "its worker is gone")
    with closing(sqlite3.connect(host.data / "host.sqlite")) as registry, registry:
        # The cut took the entry; the host after it began its term, and was killed as it looked.
        registry.execute("DELETE FROM entries")
        registry.execute("DELETE FROM looks")
    host.start()
    eventually(lambda: "worker_exited" in host.kinds(session), "its certificate")
    assert host.client().create(workspace)


def test_an_entry_is_left_of_what_a_look_at_all_sessions_found_open(
    host: HostProcess, workspace: Path
) -> None:
    session = host.client().create(workspace)
    host.kill()
    with closing(sqlite3.connect(host.data / "host.sqlite")) as registry, registry:
        registry.execute("DELETE FROM entries")
        registry.execute("DELETE FROM looks")
    host.start()
    with closing(sqlite3.connect(host.data / "host.sqlite")) as registry:

        def told() -> list[Any]:
            return registry.execute("SELECT boot_id FROM looks").fetchall()

        eventually(told, "all were looked at")
        entries = registry.execute("SELECT session_id FROM entries").fetchall()
    assert entries == [(session,)]


def test_a_stopped_zygote_is_killed_and_replaced(host: HostProcess, workspace: Path) -> None:
    client = host.client()
    client.create(workspace)
    zygote = client.ask("status")["zygote_pid"]
    os.kill(zygote, signal.SIGSTOP)
    for _ in range(2):
        client.create(workspace)
    eventually(lambda: client.ask("status")["zygote_pid"] not in {zygote, None}, "the next one")
    eventually(lambda: not is_there(zygote), "the stopped one is gone")


def test_sessions_start_again_once_a_host_that_ran_out_of_descriptors_has_some(
    home: Path, workspace: Path
) -> None:
    with hosting(home) as host:
        client = host.client()
        kept = client.create(workspace)
        zygote = client.ask("status")["zygote_pid"]
        allowed = resource.prlimit(host.pid, resource.RLIMIT_NOFILE)
        used = descriptors_of(host.pid)
        none_left = next(number for number in range(10) if number == 9 or number not in used)
        resource.prlimit(host.pid, resource.RLIMIT_NOFILE, (none_left, allowed[1]))
        os.kill(zygote, signal.SIGKILL)
        eventually(lambda: "Too many open files" in host.log.read_text(), "no next one yet")
        resource.prlimit(host.pid, resource.RLIMIT_NOFILE, allowed)
        assert {kept, client.create(workspace)} <= client.lives().keys()


def descriptors_of(pid: int) -> set[int]:
    return {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}


def test_l26_a_killed_store_is_started_again_and_no_session_notices(
    home: Path, workspace: Path
) -> None:
    host = HostProcess(home)
    host.has_store = True
    try:
        client = host.start().client()
        session = client.create(workspace)
        first = eventually(lambda: client.ask("status")["store_pid"], "a store")
        os.kill(first, signal.SIGKILL)
        client.say_words(session, "echo")
        eventually(lambda: client.ask("status")["store_pid"] not in {first, None}, "the next one")
        assert client.ask("status")["store_restarts"] >= 1
        assert client.lives()[session]["generation"] == 1
    finally:
        host.end()


def test_workers_without_a_supervisor_rest_after_the_grace(home: Path, workspace: Path) -> None:
    with hosting(home, "--orphan-grace-seconds", "0.5") as host:
        session = host.client().create(workspace)
        host.kill()
        eventually(lambda: host.fold(session).life.status == "suspended", "it rests")
        host.start()


def test_a_restart_keeps_the_workers(host: HostProcess, workspace: Path) -> None:
    client = host.client()
    session = client.create(workspace)
    pid = client.lives()[session]["pid"]
    client.down(keep_workers=True)
    assert host.process is not None
    assert host.process.wait(30) == 0
    assert is_there(pid)
    host.start()
    again = host.client()
    eventually(lambda: again.lives().get(session, {}).get("life") == "live", "it is adopted")
    assert again.lives()[session]["pid"] == pid


@contextmanager
def watched(host: HostProcess, look_seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Give a watcher that keeps this host running, and end it."""
    environment = dict(os.environ) | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PADDOCK_STORE_COMMAND": "",
    }
    code = (
        "import sys; from paddock.supervisor.watch import Watcher; "
        f"sys.exit(Watcher(sys.argv[1:], look_seconds={look_seconds}).watch())"
    )
    flags = ["--home", str(host.home), "--worker", "tests.together.fake_worker:run_worker"]
    watcher = subprocess.Popen(
        [sys.executable, "-P", "-c", code, *flags], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        yield watcher
    finally:
        host.end()
        if watcher.poll() is None:
            watcher.terminate()
            watcher.wait(30)


@pytest.mark.parametrize(("fault", "look_seconds"), [(signal.SIGKILL, 5.0), (signal.SIGSTOP, 1.0)])
def test_a_supervisor_that_died_or_hangs_is_started_again_by_its_watcher(
    home: Path, workspace: Path, fault: signal.Signals, look_seconds: float
) -> None:
    host = HostProcess(home)
    with watched(host, look_seconds) as watcher:
        first: Any = eventually(lambda: host.host_file().get("pid"), "a host")
        session = host.client().create(workspace)
        os.kill(first, fault)
        second = eventually(
            lambda: host.host_file().get("pid") not in {None, first} and host.host_file()["pid"],
            "the next host",
        )
        client = host.client()
        eventually(lambda: client.lives().get(session, {}).get("life") == "live", "adopted")
        client.down(force=True)
        assert watcher.wait(30) == 0
        assert not is_there(second)
    (died,) = [
        row for row in host_log.read(host.data / "host.sqlite", 0, 100) if row.kind == "died"
    ]
    detail = json.loads(died.detail)
    assert (died.subject, detail["pid"], detail["signal"]) == ("supervisor", first, signal.SIGKILL)
    assert ("stood still" in detail.get("reason", "")) is (fault == signal.SIGSTOP)


# --- the host's own file ---


def test_host_events_tell_of_starts_and_deaths(host: HostProcess) -> None:
    client = host.client()
    zygote = eventually(lambda: client.ask("status")["zygote_pid"], "a zygote")
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: client.ask("status")["zygote_pid"] not in {zygote, None}, "the next one")

    def told() -> list[tuple[str, str]]:
        registry = Registry(host.data / "host.sqlite")
        try:
            return registry._all("SELECT kind, subject FROM host_events ORDER BY number")
        finally:
            registry.close()

    eventually(lambda: told().count(("started", "zygote")) == 2, "the second start is recorded")
    assert ("started", "supervisor") in told()
    assert ("died", "zygote") in told()


def test_without_the_hosts_own_file_every_session_is_looked_at(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    session = client.create(workspace)
    pid = client.lives()[session]["pid"]
    host.kill()
    os.kill(pid, signal.SIGKILL)
    for path in host.data.glob("host.sqlite*"):
        path.unlink()
    host.start()
    eventually(lambda: exits(host, session), "a certificate")


# --- strangers ---


def test_f11_bytes_that_are_no_message_are_refused_and_counted_and_nobody_else_notices(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    session = client.create(workspace)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{host.runtime / 'workers.sock'}")
    for frame in (
        b"",
        b"\xc1\xff",
        os.urandom(1000),
        msgpack.packb([PROTOCOL_VERSION, "hello", {}]),
        msgpack.packb([PROTOCOL_VERSION + 1, "hello", {}]),
        msgpack.packb({"a": 1}),
    ):
        socket.send(frame)
    socket.send_multipart([b"a", b"b", b"c"])
    eventually(lambda: client.ask("status")["bad_messages"] == 7, "all are counted")
    socket.close()
    context.term()
    client.say_words(session, "echo")


@pytest.mark.parametrize("door", ["clients", "workers"])
def test_f11_connections_by_the_thousand_that_say_nothing_are_counted_and_end_no_host(
    host: HostProcess, workspace: Path, door: str
) -> None:
    """Libzmq aborts its process where it finds no descriptor for one more connection."""
    known = host.client()
    session = known.create(workspace)
    with crowd_at(host.runtime / f"{door}.sock", host.pid):
        known.say_words(session, "echo")  # in the midst of it
        eventually(lambda: known.ask("status")["strangers"] == CROWD, "all are counted")
        status = known.ask("status")
        assert status["doors_shut"] > 0
        assert status["pid"] == host.pid
    other = host.client()  # the door is open again
    other.say_words(session, "echo")
    assert not list(host.runtime.glob("*.shut"))


def test_f11_what_the_stores_door_refuses_is_counted_and_told_by_the_host(
    host: HostProcess,
) -> None:
    """Also of a store that died meanwhile: it is the host that is asked how often."""
    host.kill()
    host.has_store = True
    host.start()
    client = host.client()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{host.runtime / 'store.sock'}")
    for _ in range(50):
        socket.send(os.urandom(64))
    socket.send_multipart([b"a", b"b"])
    try:
        eventually(lambda: client.ask("status")["bad_messages"] == 51, "all are counted")
    finally:
        socket.close()
        context.term()
    os.kill(client.ask("status")["store_pid"], signal.SIGKILL)
    eventually(lambda: client.ask("status")["store_restarts"] == 1, "its end is noticed")
    assert client.ask("status")["bad_messages"] == 51
    assert client.ask("status")["strangers"] == 0


def test_f11_another_protocol_version_is_told_so(host: HostProcess) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{host.runtime / 'clients.sock'}")
    socket.send(msgpack.packb([PROTOCOL_VERSION + 1, "greet", {"paddock_version": "9"}]))
    assert socket.poll(30_000)
    word = TO_CLIENT.unpack(socket.recv())
    assert isinstance(word, Failed)
    assert word.code == "bad_message"
    assert "protocol version" in word.message
    socket.close()
    context.term()


def test_who_did_not_greet_is_told_to(host: HostProcess) -> None:
    client = host.client()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{host.runtime / 'clients.sock'}")
    socket.send(msgpack.packb([PROTOCOL_VERSION, "ask", {"request_id": 1, "verb": "status"}]))
    assert socket.poll(30_000)
    word = TO_CLIENT.unpack(socket.recv())
    assert isinstance(word, Failed)
    assert "greet first" in word.message
    socket.send(FROM_CLIENT.pack(Greet(paddock_version="0")))
    assert socket.poll(30_000)
    socket.close()
    context.term()
    del client


def test_f11_who_takes_the_identity_of_another_gets_nothing_of_its(host: HostProcess) -> None:
    """While the first is there it is not let in; when it left, its rights are not inherited."""
    client = host.client()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    first = _called(context, host, b"the same")
    first.send(FROM_CLIENT.pack(Greet(paddock_version="0")))
    assert first.poll(30_000)
    first.recv()
    code = f"""
import sys, zmq
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from paddock.supervisor.protocol import FROM_CLIENT, TO_CLIENT, Ask
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, b"the same")
socket.setsockopt(zmq.LINGER, 0)
socket.connect("ipc://{host.runtime / "clients.sock"}")
sys.stdin.readline()
socket.send(FROM_CLIENT.pack(Ask(request_id=7, verb="status", arguments={{}})))
answer = socket.poll(20_000) and TO_CLIENT.unpack(socket.recv())
print(getattr(answer, "message", answer))
"""
    before = client.ask("status")["strangers"]
    first.close()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as second:
        told, _ = second.communicate("go\n", timeout=60)
    assert "greet first" in told
    assert client.ask("status")["strangers"] == before + 1
    context.term()


def _called(
    context: zmq.Context[zmq.Socket[bytes]], host: HostProcess, identity: bytes
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.ROUTING_ID, identity)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{host.runtime / 'clients.sock'}")
    return socket


@pytest.mark.parametrize("wrong", ["token", "pid"])
def test_f11_a_wrong_token_or_a_strangers_pid_is_refused_and_the_worker_stays(
    host: HostProcess, workspace: Path, wrong: str
) -> None:
    client = host.client()
    session = client.create(workspace)
    life = client.lives()[session]
    token = b"x" * 32
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{host.runtime / 'workers.sock'}")
    start_id = "s"
    if wrong == "pid":
        from paddock.supervisor.home import Secret

        token = Secret.of(host.data).token(session, start_id)
    socket.send(
        FROM_WORKER.pack(
            Hello(
                session_id=session,
                generation=9,
                pid=life["pid"],
                head=2,
                stage="resting",
                start_id=start_id,
                token=token,
                epoch=1,
                paddock_version="0",
            )
        )
    )
    assert socket.poll(30_000)
    word = TO_WORKER.unpack(socket.recv())
    assert isinstance(word, Refuse)
    assert word.code == f"wrong_{wrong}"
    assert client.ask("status")["refused_workers"] == 1
    socket.close()
    context.term()
    client.say_words(session, "echo")
    assert client.lives()[session]["generation"] == 1


def test_a_process_of_a_session_may_not_decide_or_configure_or_ask_outside_it(
    host: HostProcess, workspace: Path
) -> None:
    client = host.client()
    session, other = client.create(workspace), client.create(workspace)
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.together.hosting import PlainClient, Refusal
client = PlainClient(Path({str(host.runtime)!r}))
for session, verb in (({session!r}, "decide"), ({session!r}, "configure"), ({other!r}, "annotate")):
    _, request = client.command(session, verb, key="k")
    try:
        client.answer(request)
        print("answered")
    except Refusal as refusal:
        print(refusal.code)
client.say_words({session!r}, "echo")
try:
    client.ask("suspend_session", session_id={other!r})
except Refusal as refusal:
    print(refusal.code)
client.close()
"""
    environment = dict(os.environ) | {"PADDOCK_OWNER": f"{session}.1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused"] * 4


# --- pids ---


def test_f14_the_pid_of_a_dead_worker_reused_by_another_program_is_never_signalled(
    home: Path, workspace: Path
) -> None:
    with hosting(home, "--adopt-within-seconds", "0.5") as host:
        client = host.client()
        session = client.create(workspace)
        life = client.lives()[session]
        host.kill()
        os.kill(life["pid"], signal.SIGKILL)
        eventually(lambda: not is_there(life["pid"]), "it is dead")
        # As after a reuse of its pid: the words in the lock file name a pid that is a bystander's.
        bystander = subprocess.Popen(["sleep", "1000"])
        try:
            folder = folder_of(host.data, SessionId(session))
            holder = holder_of(folder)
            assert holder is not None
            _forge_holder(folder, holder, bystander.pid)
            host.start()
            eventually(lambda: exits(host, session), "a certificate")
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()


def _forge_holder(folder: Path, holder: Any, pid: int) -> None:
    import json
    from dataclasses import asdict, replace
    from zlib import crc32

    from paddock.store.session_file.lock import HOLDER_AT, HOLDER_BYTES

    body = "holder " + json.dumps(asdict(replace(holder, pid=pid)), separators=(",", ":"))
    record = f"{body} {crc32(body.encode()):08x}".ljust(HOLDER_BYTES - 1).encode() + b"\n"
    with (folder / "owner.lock").open("r+b") as file:
        file.seek(HOLDER_AT)
        file.write(record)


def test_the_logs_are_whole_after_many_kills(host: HostProcess, workspace: Path) -> None:
    client = host.client()
    sessions = [client.create(workspace) for _ in range(3)]
    for round_ in range(2):
        for session in sessions:
            client.say_words(session, "echo")
        for life in client.lives().values():
            os.kill(life["pid"], signal.SIGKILL)
        for session in sessions:
            eventually(
                lambda s=session, n=round_: (
                    len(exits(host, s)) == n + 1  # type: ignore[misc]
                    and client.lives()[s]["life"] == "live"
                ),
                "it is back",
            )
    for session in sessions:
        report = verify(folder_of(host.data, session), session)
        assert report.ok
        assert host.fold(session).life.generation == 3
