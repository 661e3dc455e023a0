"""The host's loop on real files: one session's trouble stays its own, and nothing ends undone."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from paddock.session_worker.protocol import Hello
from paddock.store.events import (
    CommandAccepted,
    EventBase,
    OperationStarted,
    SessionConfig,
    SessionCreated,
    SessionDeleted,
    SessionSuspended,
    ToolCallStarted,
    WorkerExited,
    WorkerStarted,
)
from paddock.store.ids import CommandId, OperationId, SessionId, ToolCallId
from paddock.store.session_file import SessionFile, SessionReader, folder_of
from paddock.supervisor import births
from paddock.supervisor.asks import Client
from paddock.supervisor.clients import Clients
from paddock.supervisor.commands import Ticket
from paddock.supervisor.config import Settings
from paddock.supervisor.doors import Peer
from paddock.supervisor.home import Secret
from paddock.supervisor.loop import Host
from paddock.supervisor.processes import Process
from paddock.supervisor.protocol import Subscribe
from paddock.supervisor.record import Record, Setting
from paddock.supervisor.registry import Registry
from paddock.supervisor.stimuli import Effect, ReplyError, RoomGiven, Stage, Wanted

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
OTHER = SessionId("01890000-0000-7000-8000-000000000002")
DELETE = CommandId("01890000-0000-7000-8000-000000000009")
CREATED = SessionCreated(config=SessionConfig(workspace="/"), command_id=CommandId(SESSION))
DEADLINE_SECONDS = 20.0


def on_host(home: Path, play: Callable[[Host], Awaitable[None]]) -> None:
    """Play on a host that has no zygote and no store."""

    async def run() -> None:
        registry = Registry(home / "host.sqlite")
        setting = Setting(Settings(), home, home, 1, "none:none", "0")
        host = Host(setting, registry, Secret.of(home), [])
        try:
            await play(host)
        finally:
            await host.close()
            host.context.term()
            registry.close()
            (home / "workers.sock").unlink()

    asyncio.run(run())


def write(home: Path, *events: EventBase) -> None:
    with SessionFile.create(folder_of(home, SESSION), SESSION, at_us=1) as file:
        file.append([CREATED, *events], generation=0, at_us=1)


def sleeper() -> Process:
    """Start a process that does nothing, as a worker's stand-in."""
    child = subprocess.Popen(["sleep", "600"])
    child.returncode = 0  # it is reaped through its pidfd; subprocess has no part in that
    return Process(child.pid, os.pidfd_open(child.pid))


async def eventually(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not look():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0.01)


def test_p9_a_fault_in_one_life_is_told_and_holds_no_other_up(tmp_path: Path) -> None:
    told: list[Effect] = []

    async def play(host: Host) -> None:
        sick, well = host.add_record(SESSION), host.add_record(OTHER)

        def answered(effect: Effect, record: Record) -> None:
            if record is sick and not isinstance(effect, ReplyError):
                raise AssertionError("a fault of ours")
            told.append(effect)

        host.answered = answered
        sick.life.stage = Stage.LIVE
        host.stimulate(sick, RoomGiven(1.0))  # which cannot happen there
        host.stimulate(sick, Wanted(1.0, "test", Ticket(b"c", 1)))
        well.life.stage = Stage.LIVE
        host.stimulate(well, Wanted(1.0, "test", Ticket(b"c", 2)))

    on_host(tmp_path, play)
    assert [type(effect).__name__ for effect in told] == ["ReplyError", "Reply"]


STARTED = WorkerStarted(pid=1, start_ticks=1, boot_id="b", agent="builtin", paddock_version="0")


def greet_when_dead(host: Host) -> None:
    """Let a host hear the greeting of a worker that is dead."""
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    hello = Hello(
        session_id=SESSION,
        generation=1,
        pid=dead.pid,
        head=2,
        stage="working",
        start_id="s",
        token=host.secret.token(SESSION, "s"),
        epoch=1,
        paddock_version="0",
    )
    host.workers._greeted(Peer(b"w", dead.pid, os.getuid()), hello)


def kinds_in(home: Path) -> list[str]:
    with SessionReader(folder_of(home, SESSION), SESSION) as reader:
        return [row.kind for row in reader.rows(0)]


@pytest.mark.parametrize("is_known", [False, True])
def test_p13_a_worker_that_died_before_its_greeting_was_heard_is_certified(
    tmp_path: Path, *, is_known: bool
) -> None:
    """It greeted a host that had just begun and did not know it: nobody else tells of its death."""
    write(tmp_path, STARTED)

    async def play(host: Host) -> None:
        if is_known:
            host.add_record(SESSION)
        greet_when_dead(host)
        await eventually(lambda: SESSION in host.records and host.records[SESSION].life.head == 4)

    on_host(tmp_path, play)
    assert kinds_in(tmp_path)[2:] == ["worker_exited", "session_suspended"]


def test_l26_a_worker_that_was_suspended_after_its_greeting_is_not_started_again(
    tmp_path: Path,
) -> None:
    """It wrote its own end: what is open there rests until somebody asks for it."""
    asked = WorkerExited(worker_generation=1, ending="suspended", reason="asked")
    work = OperationStarted(operation_id=OperationId("o"))
    write(tmp_path, STARTED, work, SessionSuspended(reason="asked"), asked)
    before = kinds_in(tmp_path)
    stages: list[Stage] = []

    async def play(host: Host) -> None:
        greet_when_dead(host)
        await eventually(lambda: SESSION in host.records)
        life = host.records[SESSION].life
        await eventually(lambda: life.stage is not Stage.BURYING)
        stages.append(life.stage)

    on_host(tmp_path, play)
    assert stages == [Stage.COLD]
    assert kinds_in(tmp_path) == before


def test_a_burial_that_breaks_leaves_the_session_stuck_and_not_silent(tmp_path: Path) -> None:
    # A log that no version of ours writes: what cannot be folded must not end the wait for it.
    write(tmp_path, ToolCallStarted(operation_id=OperationId("o"), tool_call_id=ToolCallId("no")))

    async def play(host: Host) -> None:
        record = host.take_in(SESSION, births.Look("open", 2), None)
        await eventually(lambda: record.life.stage is Stage.STUCK)
        assert record.life.error is not None
        assert record.life.deadline is not None

    on_host(tmp_path, play)


def test_f6_the_late_death_of_a_former_worker_leaves_the_present_one_its_line(
    tmp_path: Path,
) -> None:
    """One that sits in the kernel is killed and dies late: its successor is there by then."""

    async def play(host: Host) -> None:
        record = host.add_record(SESSION)
        former, present = sleeper(), sleeper()
        try:
            host.attendant.hold(record, former, 1)
            host.attendant.hold(record, present, 2)
            record.life.stage, record.life.start, record.route = Stage.LIVE, 2, b"present"
            former.send(signal.SIGKILL)
            await eventually(lambda: former.state() == "X")  # reaped, and told in the same moment
            assert (record.process, record.route) == (present, b"present")
            assert record.life.stage is Stage.LIVE
        finally:
            record.life.stage = Stage.COLD  # where a death means nothing
            present.send(signal.SIGKILL)
            await eventually(lambda: present.state() == "X")

    on_host(tmp_path, play)


@pytest.mark.parametrize("erase", [False, True])
def test_p14_a_deletion_whose_tombstone_was_not_set_is_finished_when_it_is_found(
    tmp_path: Path, *, erase: bool
) -> None:
    accepted = CommandAccepted(command_id=DELETE, verb="delete", digest="d", arguments={})
    write(tmp_path, accepted, SessionDeleted(command_id=DELETE, erase=erase))

    async def play(host: Host) -> None:
        host.registry.reserve("name", SESSION)
        look = births.look(tmp_path, SESSION)
        assert look.found == "deleted"
        record = host.take_in(SESSION, look, None)
        await eventually(lambda: record.life.stage is Stage.DELETED)
        stone = host.registry.tombstone(SESSION)
        assert stone is not None
        assert (stone.command_id, stone.is_erased) == (DELETE, erase)
        assert host.registry.session_of("name") is None
        assert folder_of(tmp_path, SESSION).exists() is not erase

    on_host(tmp_path, play)


def test_l17_a_burial_that_finds_its_session_erased_takes_the_tombstones_word(
    tmp_path: Path,
) -> None:
    """A host that finishes an erasure while a client asks for the session: it was stuck then."""

    async def play(host: Host) -> None:
        host.registry.bury(SESSION, DELETE, erase=True, at_us=1)
        record = host.take_in(SESSION, births.Look("deleted", 3), None)
        await eventually(lambda: record.life.stage is Stage.DELETED)
        assert record.life.deleted_by == DELETE

    on_host(tmp_path, play)


def test_l11_who_vanishes_while_it_subscribes_leaves_no_subscription(tmp_path: Path) -> None:
    write(tmp_path)

    async def play(host: Host) -> None:
        clients = Clients(host, lambda *_: None)
        client = Client(b"gone", 1, 1, "gone")
        words = Subscribe(session_id=SESSION, exclusive=True)
        work = clients.asks.begin(client, Ticket(client.identity, 1), words)
        assert work is not None
        await clients._finish(client, Ticket(client.identity, 1), work)
        assert not host.records[SESSION].feed.subscribers
        clients.close()
        (tmp_path / "clients.sock").unlink()

    on_host(tmp_path, play)


def test_a_record_of_a_session_that_rests_goes_and_its_keys_come_back_with_the_next(
    tmp_path: Path,
) -> None:
    keys = {"ANTHROPIC_API_KEY": "not-a-real-key"}

    async def play(host: Host) -> None:
        for session_id in (SESSION, OTHER):
            host.add_record(session_id).credentials.update(keys)
        assert host.forget_resting(60.0) == 0  # both were used a moment ago
        await eventually(lambda: host.forget_resting(0.0) == 2)
        assert not host.records
        assert host.add_record(SESSION).credentials == keys
        assert host.add_record(OTHER).credentials == keys

    on_host(tmp_path, play)


def test_nothing_is_kept_of_a_session_that_was_deleted(tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        record = host.add_record(SESSION)
        record.credentials["ANTHROPIC_API_KEY"] = "not-a-real-key"
        record.life.end(DELETE)
        await eventually(lambda: host.forget_resting(0.0) == 1)
        assert host.add_record(SESSION).credentials == {}

    on_host(tmp_path, play)
