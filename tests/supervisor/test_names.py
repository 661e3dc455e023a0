"""Names follow the sessions' files, whatever the host's own has lost or kept too long."""

from pathlib import Path

import pytest

from paddock.session_worker.protocol import Settled
from paddock.store.errors import SessionNotFound
from paddock.store.events import (
    CommandAccepted,
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
from paddock.supervisor.loop import Host
from paddock.supervisor.stimuli import TellSettled
from tests.supervisor.test_loop import eventually, on_host

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
OTHER = SessionId("01890000-0000-7000-8000-000000000002")
CREATED = SessionCreated(
    config=SessionConfig(workspace="/", name="one"), command_id=CommandId(SESSION)
)


def command(number: int) -> CommandId:
    return CommandId(f"01890000-0000-7000-8000-00000000010{number}")


def asked(number: int, **arguments: str) -> CommandAccepted:
    return CommandAccepted(
        command_id=command(number), verb="configure", digest="d", arguments=dict(arguments)
    )


def write(home: Path, *events: EventBase) -> None:
    with SessionFile.create(folder_of(home, SESSION), SESSION, at_us=1) as file:
        if events:
            file.append(list(events), generation=0, at_us=1)


REFUSED = CommandRejected(command_id=command(1), code="refused", reason="no")


@pytest.mark.parametrize(
    ("events", "present", "coming"),
    [
        ([CREATED], "one", set()),
        ([CREATED, asked(1, name="two")], "one", {"two"}),
        ([CREATED, asked(1, name="two"), SessionConfigured(name="two")], "two", set()),
        ([CREATED, asked(1, name="two"), REFUSED], "one", set()),
        ([CREATED, asked(1, title="two"), SessionConfigured(labels={})], "one", set()),
        ([CREATED, asked(1, name="two"), SessionConfigured(labels={})], "one", {"two"}),
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
    write(tmp_path, CREATED, SessionConfigured(name="two"), asked(1, name="three"))

    async def play(host: Host) -> None:
        host.registry.reserve("one", SESSION)
        host.registry.reserve("others", OTHER)
        host.naming.free()
        host.registry.reserve("later", SESSION)  # of a client of this host
        await host.naming.restore([SESSION])
        assert dict(host.registry.reserved()) == dict.fromkeys(("two", "three", "later"), SESSION)

    on_host(tmp_path, play)


def test_a_rename_that_an_earlier_host_had_handed_over_is_settled_by_this_one(
    tmp_path: Path,
) -> None:
    write(tmp_path, CREATED, asked(1, name="two"), SessionConfigured(name="two"))
    settled = Settled(command_id=command(1), sequence=3, kind="session_configured")

    async def play(host: Host) -> None:
        record = host.add_record(SESSION)
        host.registry.reserve("one", SESSION)
        host.naming.settle(record, TellSettled((), settled))
        await eventually(lambda: dict(host.registry.reserved()) == {"two": SESSION})

    on_host(tmp_path, play)
