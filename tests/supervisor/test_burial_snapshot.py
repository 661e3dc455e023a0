"""What a burial folded, the next worker need not fold again."""

from pathlib import Path

import pytest

from paddock.store.events import CommandAccepted, EventBase, SessionAnnotated
from paddock.store.fold import FOLD_VERSION, evolve
from paddock.store.ids import CommandId, SessionId, uuid7
from paddock.store.session import Session, load
from paddock.store.session_file import SessionFile, events_of, folder_of
from paddock.supervisor import burial
from tests.supervisor.test_burial import SESSION, rites, started, write

UNDONE = CommandAccepted(
    command_id=CommandId(uuid7(5, bytes(10))), verb="send_input", digest="d", arguments={}
)


def remarks(count: int) -> list[EventBase]:
    return [SessionAnnotated(key="n", value=number) for number in range(count)]


def folded(file: SessionFile) -> Session:
    session = Session(SessionId(SESSION))
    for stored in events_of(SESSION, file.rows(0, 10_000)):
        evolve(session, stored)
    return session


@pytest.mark.parametrize("count", [burial.SNAPSHOT_AFTER, 3 * burial.SNAPSHOT_AFTER])
def test_p1_the_snapshot_of_a_burial_is_the_fold_with_its_certificate(
    tmp_path: Path, count: int
) -> None:
    write(tmp_path, started(), UNDONE, *remarks(count))
    outcome = burial.bury(rites(tmp_path))
    assert outcome.restart_seconds is not None
    with SessionFile.own(folder_of(tmp_path, SESSION), SESSION) as file:
        snapshot = file.snapshot(FOLD_VERSION)
        assert snapshot is not None
        assert snapshot.sequence == file.head == outcome.head
        assert load(snapshot.state) == folded(file)
        assert folded(file).life.worker is None


def test_a_short_session_is_folded_again(tmp_path: Path) -> None:
    write(tmp_path, started(), UNDONE)
    assert burial.bury(rites(tmp_path)).restart_seconds is not None
    with SessionFile.own(folder_of(tmp_path, SESSION), SESSION) as file:
        assert file.snapshot(FOLD_VERSION) is None
