"""Names follow the sessions' files, whatever the host's own has lost or kept too long."""

import asyncio
from pathlib import Path

import pytest

from paddock.session_worker.protocol import Command, Fault, Settled
from paddock.store.errors import SessionNotFound
from paddock.store.events import (
    CommandAccepted,
    CommandQuarantined,
    CommandRejected,
    EventBase,
    SessionConfig,
    SessionConfigured,
    SessionCreated,
    SessionDeleted,
)
from paddock.store.ids import CommandId, SessionId
from paddock.store.session_file import SessionFile, folder_of
from paddock.supervisor import births
from paddock.supervisor.commands import Ticket
from paddock.supervisor.loop import Host
from paddock.supervisor.stimuli import Beaten, Commanded, Stage, TellSettled, WasAccepted
from tests.supervisor.test_loop import eventually, on_host

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
OTHER = SessionId("01890000-0000-7000-8000-000000000002")
CREATED = SessionCreated(
    config=SessionConfig(workspace="/", name="one"), command_id=CommandId(SESSION)
)
OTHERS = CREATED.model_copy(update={"command_id": CommandId(OTHER)})


def command(number: int) -> CommandId:
    return CommandId(f"01890000-0000-7000-8000-00000000010{number}")


def asked(number: int, **arguments: str) -> CommandAccepted:
    return CommandAccepted(
        command_id=command(number), verb="configure", digest="d", arguments=dict(arguments)
    )


def write(home: Path, *events: EventBase, session_id: SessionId = SESSION) -> None:
    with SessionFile.create(folder_of(home, session_id), session_id, at_us=1) as file:
        if events:
            file.append(list(events), generation=0, at_us=1)


def named(name: str | None, *, by: int) -> SessionConfigured:
    return SessionConfigured(command_id=command(by), name=name, labels={})


QUARANTINED = CommandQuarantined(command_id=command(1), reason="it kills")
REFUSED = CommandRejected(command_id=command(1), code="refused", reason="no")


@pytest.mark.parametrize(
    ("events", "present", "coming"),
    [
        ([CREATED], "one", set()),
        ([CREATED, asked(1, name="two")], "one", {"two"}),
        ([CREATED, asked(1, name="two"), named("two", by=1)], "two", set()),
        ([CREATED, asked(1, name="two"), REFUSED], "one", set()),
        ([CREATED, asked(1, name="two"), QUARANTINED], "one", set()),
        ([CREATED, asked(1, title="two"), named(None, by=1)], "one", set()),
        ([CREATED, asked(1, name="two"), named(None, by=2)], "one", {"two"}),
        ([CREATED, SessionDeleted(command_id=command(1))], None, set()),
    ],
)
def test_a_session_s_names_are_read_off_its_log(
    tmp_path: Path, events: list[EventBase], present: str | None, coming: set[str]
) -> None:
    write(tmp_path, *events)
    assert births.names_of(tmp_path, SESSION) == births.Names(present, frozenset(coming))


def test_f1_a_log_without_events_tells_no_name(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(SessionNotFound):
        births.names_of(tmp_path, SESSION)


def test_names_that_were_lost_and_kept_are_mended_and_those_that_come_are_kept(
    tmp_path: Path,
) -> None:
    write(tmp_path, CREATED, named("two", by=2), asked(1, name="three"))

    async def play(host: Host) -> None:
        host.registry.reserve("one", SESSION)
        host.registry.reserve("others", OTHER)
        host.naming.free()
        host.registry.reserve("later", SESSION)  # of a client of this host
        assert await host.naming.restore([SESSION])
        assert dict(host.registry.reserved()) == dict.fromkeys(("two", "three", "later"), SESSION)

    on_host(tmp_path, play)


def test_a_rename_that_an_earlier_host_had_handed_over_is_settled_by_this_one(
    tmp_path: Path,
) -> None:
    write(tmp_path, CREATED, asked(1, name="two"), named("two", by=1))
    settled = Settled(command_id=command(1), sequence=3, kind="session_configured")

    async def play(host: Host) -> None:
        record = host.add_record(SESSION)
        host.registry.reserve("one", SESSION)
        host.naming.settle(record, TellSettled((), settled))
        await eventually(lambda: dict(host.registry.reserved()) == {"two": SESSION})

    on_host(tmp_path, play)


def test_a_name_that_another_session_has_to_give_back_first_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, CREATED, named("two", by=1))
    write(tmp_path, OTHERS, session_id=OTHER)

    async def play(host: Host) -> None:
        host.registry.reserve("one", SESSION)
        host.naming.free()
        host.naming.lose()
        asked_for = asyncio.create_task(host.naming.known())
        await asyncio.sleep(0)
        assert not asked_for.done()
        assert await host.naming.restore([OTHER, SESSION])
        await asked_for
        assert dict(host.registry.reserved()) == {"two": SESSION, "one": OTHER}

    on_host(tmp_path, play)


def test_two_sessions_of_one_name_keep_nobody_waiting(tmp_path: Path) -> None:
    write(tmp_path, CREATED)
    write(tmp_path, OTHERS, session_id=OTHER)

    async def play(host: Host) -> None:
        assert await host.naming.restore([SESSION, OTHER])
        assert dict(host.registry.reserved()) == {"one": SESSION}

    on_host(tmp_path, play)


def test_a_name_that_a_refused_command_was_to_give_is_free_again(tmp_path: Path) -> None:
    write(tmp_path, CREATED)
    rename = Command(command_id=command(1), verb="configure", arguments={"name": "two"})
    fault = Fault(code="disk_full", reason="no room")

    async def play(host: Host) -> None:
        record = host.add_record(SESSION)
        record.life.stage = Stage.LIVE
        host.stimulate(record, Commanded(1.0, Command(command_id=command(2), verb="annotate")))
        host.stimulate(record, WasAccepted(1.0, command(2), 2))
        host.registry.reserve("one", SESSION)
        host.registry.reserve("two", SESSION)
        record.renaming = (command(1), "two")
        host.stimulate(record, Commanded(1.0, rename, Ticket(b"c", 1)))
        assert dict(host.registry.reserved()) == {"one": SESSION, "two": SESSION}
        host.stimulate(record, Beaten(2.0, "working", 2, fault=fault))
        await eventually(lambda: dict(host.registry.reserved()) == {"one": SESSION})

    on_host(tmp_path, play)
