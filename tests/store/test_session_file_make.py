"""A session's file that is made with its first events in it, and left at rest."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from paddock.store.errors import AlreadyExists, AlreadyOwned, Damaged
from paddock.store.events import SessionConfig, SessionCreated, SessionTitled
from paddock.store.session_file import SessionFile, SessionReader, events_of, is_owned, verify
from paddock.store.session_file import opening as opening_module
from tests.store.filebench import AT_US, SESSION

CREATED = SessionCreated(config=SessionConfig(workspace="/home/someone"))
TITLED = SessionTitled(title="x" * 10_000)


def make(folder: Path) -> None:
    SessionFile.make(folder, SESSION, [CREATED, TITLED], generation=3, at_us=AT_US)


def test_what_was_made_is_read_and_owned_by_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "session"
    make(folder)
    assert not is_owned(folder)
    with SessionReader(folder, SESSION) as reader:
        stored = list(events_of(SESSION, reader.rows(0)))
    assert [one.event for one in stored] == [CREATED, TITLED]
    assert [(one.sequence, one.generation, one.occurred_at) for one in stored] == [
        (1, 3, AT_US),
        (2, 3, AT_US),
    ]
    assert verify(folder, SESSION).ok


def test_it_is_the_file_that_create_and_append_make(tmp_path: Path) -> None:
    make(tmp_path / "made")
    with SessionFile.create(tmp_path / "grown", SESSION, at_us=AT_US) as file:
        file.append([CREATED, TITLED], generation=3, at_us=AT_US)
    made, grown = (dump(tmp_path / name / "session.sqlite") for name in ("made", "grown"))
    assert made == grown
    witnesses = [(tmp_path / name / "owner.lock").read_bytes()[:96] for name in ("made", "grown")]
    assert witnesses[0] == witnesses[1]


def dump(path: Path) -> list[object]:
    pragmas = ("journal_mode", "page_size", "application_id", "user_version", "integrity_check")
    with closing(sqlite3.connect(path)) as connection:
        told: list[object] = [connection.execute(f"PRAGMA {one}").fetchall() for one in pragmas]
        return [*told, *connection.iterdump()]


def test_its_next_owner_knows_it_by_its_seal_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)

    def refuse(*_: object) -> None:
        pytest.fail("it was taken for another file than the one that was made")

    monkeypatch.setattr(opening_module, "check_whole", refuse)
    with SessionFile.own(tmp_path, SESSION) as file:
        assert (file.head, file.last_generation) == (2, 3)
        assert file.append([SessionTitled(title="on")], generation=4, at_us=AT_US) == 3
    assert verify(tmp_path, SESSION).ok


def test_a_change_of_a_byte_in_it_is_found(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "session.sqlite"
    path.write_bytes(path.read_bytes().replace(b"/home/someone", b"/home/another"))
    with pytest.raises(Damaged):
        SessionFile.own(tmp_path, SESSION)


def test_one_with_events_is_left_as_it_is(tmp_path: Path) -> None:
    make(tmp_path)
    before = (tmp_path / "session.sqlite").read_bytes()
    with pytest.raises(AlreadyExists):
        make(tmp_path)
    assert (tmp_path / "session.sqlite").read_bytes() == before
    assert verify(tmp_path, SESSION).ok


def test_one_without_events_is_taken_over(tmp_path: Path) -> None:
    SessionFile.create(tmp_path, SESSION, at_us=AT_US).close(clean=False)
    make(tmp_path)
    assert verify(tmp_path, SESSION).events == 2


def test_what_a_death_left_beside_it_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "session.sqlite.new").write_bytes(b"half a fi")
    make(tmp_path)
    assert verify(tmp_path, SESSION).events == 2
    assert not (tmp_path / "session.sqlite.new").exists()


def test_an_owner_is_not_disturbed(tmp_path: Path) -> None:
    with SessionFile.create(tmp_path, SESSION, at_us=AT_US) as file:
        with pytest.raises(AlreadyOwned):
            make(tmp_path)
        file.append([CREATED], generation=0, at_us=AT_US)
    assert verify(tmp_path, SESSION).events == 1
