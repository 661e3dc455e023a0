"""S4: of a session that is erased no byte is left in any file of DuckDB's, whatever happens."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from paddock.store.errors import StoreError
from paddock.store.ids import SessionId
from paddock.store.process import Keeper, keeper, open_local
from paddock.store.projection import Database
from paddock.store.projection.database import note_erasure
from paddock.store.session_file import erase, folder_of
from tests.store.filebench import wait_until
from tests.store.logs import Story, a_day, tombstone

SECRET = "zebra-quokka"
NEVER = 1e9


def secretive(data: Path, seed: int = 99) -> SessionId:
    """Write a session whose words are looked for, between others."""
    a_day(seed + 1).write(data)
    story = Story(seed).create(title=SECRET).start()
    story.turn(f"{SECRET} is the word")
    story.exit().write(data)
    a_day(seed + 2).write(data)
    return story.session_id


def places(data: Path) -> list[str]:
    """Return the names of DuckDB's files that have the secret in them."""
    files = (path for path in data.rglob("projection*") if path.is_file())
    return sorted(path.name for path in files if SECRET.encode() in path.read_bytes())


@contextmanager
def working(data: Path, scan_seconds: float = 30.0) -> Iterator[Keeper]:
    """Give a keeper that works in a thread of its own; it is closed as a store process is."""
    kept = Keeper(data, scan_seconds=scan_seconds)
    with ThreadPoolExecutor(1) as thread:
        kept.open()
        work = thread.submit(kept.work)
        try:
            yield kept
        finally:
            kept.stop()
            work.result()
            kept.close()


def shown(kept: Keeper) -> list[str]:
    """Return the sessions that SQL shows."""
    with kept.asking("SELECT session_id FROM sessions") as asking:
        return [row[0] for chunk in asking.chunks() for row in chunk]


def erase_in(kept: Keeper, session_id: SessionId) -> None:
    """Erase a session's files, then its rows."""
    erase(folder_of(kept.data, session_id))
    kept.submit_erasure(session_id).result(60.0)
    assert session_id not in shown(kept)


def test_s4_erase_leaves_no_byte_in_any_file_of_duckdb(tmp_path: Path) -> None:
    story = Story(99).create(title=SECRET).start()
    story.turn(f"{SECRET} is the word")
    story.exit().write(tmp_path)
    others = [a_day(seed, turns=5) for seed in range(3)]
    for other in others:
        other.write(tmp_path)
    with open_local(tmp_path) as store:
        path = store.keeper.path
    shutil.copy(path, path.with_name(path.name + ".broken"))
    assert places(tmp_path) == ["projection.duckdb", "projection.duckdb.broken"]
    with open_local(tmp_path) as store:
        shutil.rmtree(folder_of(tmp_path, story.session_id))
        store.erase(story.session_id)
        assert places(tmp_path) == []
        assert store.verify() == []
        assert store.sql("SELECT count(*) FROM sessions").rows == [(3,)]
        more = others[0]
        length = len(more.happened)
        more.start().turn()
        more.write_more(tmp_path, length)
        store.keeper.projector.learn([more.session_id])
        store.keeper.catch_up()
        assert store.verify() == []
    assert places(tmp_path) == []
    with open_local(tmp_path) as store:
        assert store.status().notice is None
        assert store.status().events == 0


def test_s4_of_what_was_erased_while_no_store_ran_no_byte_is_left(tmp_path: Path) -> None:
    session_id = secretive(tmp_path)
    with open_local(tmp_path):
        pass
    assert places(tmp_path) == ["projection.duckdb"]
    tombstone(tmp_path, session_id)
    erase(folder_of(tmp_path, session_id))
    with open_local(tmp_path) as store:
        assert store.sql("SELECT count(*) FROM sessions").rows == [(2,)]
        assert store.status().damaged == {}
    assert places(tmp_path) == []


def test_s4_many_that_are_erased_one_after_the_other_do_not_have_the_file_written_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "COMPACT_EVERY_SECONDS", NEVER)
    first, second, third = (secretive(tmp_path, seed) for seed in (10, 20, 30))
    with working(tmp_path) as kept:
        kept.wait_for(dict.fromkeys((first, second, third), 5), 60.0)
        erase_in(kept, first)
        wait_until(lambda: not kept.owes_bytes, "the first has the file written at once")
        assert first not in shown(kept)
        inode = kept.path.stat().st_ino
        for session_id in (second, third):
            erase_in(kept, session_id)
        assert kept.owes_bytes
        assert kept.path.stat().st_ino == inode
        assert places(tmp_path) != []
    assert places(tmp_path) == []
    assert not list(tmp_path.glob("projection.duckdb.*"))


def owing(data: Path) -> Keeper:
    """Return a keeper whose file owes the bytes of a session that was erased."""
    session_id = secretive(data)
    kept = Keeper(data)
    kept.open()
    kept.catch_up()
    erase(folder_of(data, session_id))
    kept.projector.erase_for_good([session_id])
    assert places(data) != []
    return kept


def leave(kept: Keeper) -> None:
    """Let go of the files as they are, as a kill does."""
    kept.stop()
    kept._close_database()
    kept.compact = kept.checkpoint = lambda: None  # type: ignore[method-assign,assignment,return-value]
    kept.close()


def test_s4_the_next_store_makes_good_of_what_a_killed_one_owed(tmp_path: Path) -> None:
    leave(owing(tmp_path))
    assert places(tmp_path) != []
    with working(tmp_path) as kept:
        wait_until(lambda: not kept.owes_bytes, "the file is written anew")
        assert places(tmp_path) == []
        assert len(shown(kept)) == 2


def test_s4_a_file_that_owes_bytes_is_not_set_aside_when_it_is_damaged(tmp_path: Path) -> None:
    leave(owing(tmp_path))
    path = tmp_path / "projection.duckdb"
    shutil.copy(path, path.with_name(path.name + ".broken"))
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)
    with open_local(tmp_path) as store:
        assert store.status().notice is not None
        assert store.sql("SELECT count(*) FROM sessions").rows == [(2,)]
        assert places(tmp_path) == []
    assert not list(tmp_path.glob("projection.duckdb.*"))


def test_s4_a_copy_that_is_taken_has_no_byte_of_it_either(tmp_path: Path) -> None:
    kept = owing(tmp_path)
    kept.snapshot(tmp_path / "projection.copy")
    assert places(tmp_path) == []
    kept.close()


def test_s4_a_full_disk_leaves_it_owing_and_what_is_left_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "COMPACT_EVERY_SECONDS", 0.0)
    leave(owing(tmp_path))
    tries = 0
    compacted = Database.compacted

    def failing(self: Database) -> Path:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise duckdb.IOException("No space left on device")
        return compacted(self)

    monkeypatch.setattr(Database, "compacted", failing)
    with working(tmp_path) as kept:
        with pytest.raises(StoreError, match="could not be written anew"):
            kept.submit(lambda own: own.compact()).result(60.0)
        assert len(shown(kept)) == 2
        wait_until(lambda: not kept.owes_bytes, "it is tried again")
        assert kept.notice is not None
        assert "No space left" in kept.notice
    assert places(tmp_path) == []


def test_s4_a_file_that_cannot_be_read_to_be_written_anew_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(owing(tmp_path))

    def failing(_: Database) -> Path:
        raise duckdb.IOException("Corrupt database file: computed checksum does not match")

    monkeypatch.setattr(Database, "compacted", failing)
    with open_local(tmp_path) as store:
        store.keeper.compact()
        store.keeper.catch_up()
        assert store.sql("SELECT count(*) FROM sessions").rows == [(2,)]
        assert not store.keeper.owes_bytes
    assert places(tmp_path) == []
    assert not list(tmp_path.glob("projection.duckdb.*"))


def test_s4_a_disk_that_takes_no_mark_leaves_the_rows_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = secretive(tmp_path)
    tries = 0

    def failing(path: Path) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StoreError("the mark cannot be made: No space left on device")
        note_erasure(path)

    monkeypatch.setattr("paddock.store.projection.projector.note_erasure", failing)
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.01)
    with working(tmp_path, scan_seconds=0.1) as kept:
        kept.wait_for({session_id: 5}, 60.0)
        tombstone(tmp_path, session_id)
        erase(folder_of(tmp_path, session_id))
        wait_until(lambda: session_id not in shown(kept), "its rows go at last")
        assert tries >= 3
    assert places(tmp_path) == []
