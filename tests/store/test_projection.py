"""The projection follows the logs, whatever happens to it: fed in any pieces, killed, damaged."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from paddock.store.errors import AlreadyExists, AlreadyOwned, Damaged, SessionNotFound, StoreError
from paddock.store.events import stored_of
from paddock.store.fold import evolve
from paddock.store.process import Keeper, LocalStore, open_local
from paddock.store.projection import cycles, fold, projector
from paddock.store.projection.folded import Batch, Folded, dump, load, summarize
from paddock.store.projection.projector import BATCH_EVENTS, PAGE_EVENTS, Flight, Projector
from paddock.store.projection.schema import PER_SESSION, VIEWS
from paddock.store.projection.texts import signature
from paddock.store.projection.writing import Writer
from paddock.store.protocol import json_rows
from paddock.store.session import Session
from paddock.store.session_file import Place, SessionFile, folder_of, host_place
from paddock.store.session_file.lock import OwnerLock
from tests.store.logs import Story, a_day, append, host_log, tombstone

ORDER = {
    "events": "session_id, sequence",
    "messages": "session_id, sequence",
    "tool_calls": "tool_call_id",
    "model_calls": "session_id, started_at",
    "operations": "operation_id",
    "approvals": "session_id, tool_call_id",
    "worker_runs": "session_id, generation",
}


def everything(store: LocalStore) -> dict[str, list[dict[str, JsonValue]]]:
    """Return all views but for ``position``, which is another after each rebuild."""
    found = {}
    for view in VIEWS:
        query = f"SELECT * FROM {view.name} ORDER BY {ORDER.get(view.name, 'ALL')}"
        result = store.sql(query)
        found[view.name] = json_rows(result.names, result.types, result.rows)
    for row in found["events"]:
        del row["position"]
    return found


def eventful(seed: int = 1) -> Story:
    """Return a session in which much happened, and something is still open."""
    story = Story(seed).create(name=f"s{seed}", labels={"team": "a"}).start()
    story.turn("first", calls=3)
    story.ask("second")
    answer = story.think(retries=1, cost=0.1)
    first, second = story.call(answer), story.call(answer, effects="none")
    approval = story.ask_leave(first)
    story.decide(first, approval, decision="denied", decided_by="ann")
    story.finish(first, "denied", text="No.")
    story.decide(second)
    story.run(second)
    story.crash([second])
    story.end("interrupted")
    story.ask("second, said better", parent=None)
    third = story.call(story.think())
    story.ask_leave(third)
    return story


# --- the fold ---


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(min_value=1, max_value=80), max_size=6), st.integers(0, 3))
def test_r2_folding_in_any_pieces_is_folding_at_once(cuts: list[int], seed: int) -> None:
    rows = eventful(seed).rows()
    whole, once = Folded("s"), Batch()
    fold.apply(whole, rows, once)
    summarize(whole)

    part, pieces = Folded("s"), Batch()
    for place, row in enumerate(rows):
        if place in cuts:  # the state goes to its row and comes back
            summarize(part)
            part = load(dump(part))
        fold.apply(part, [row], pieces)
    summarize(part)
    assert part == whole
    assert pieces == once


@pytest.mark.parametrize("seed", range(4))
def test_r1_the_sessions_row_agrees_with_the_fold_of_the_session(seed: int) -> None:
    story = eventful(seed)
    folded, batch = Folded(story.session_id), Batch()
    state = Session(story.session_id)
    for row in story.rows():
        fold.apply(folded, [row], batch)
        evolve(state, stored_of(story.session_id, row))
        summarize(folded)
        shown, conversation = folded.session, state.conversation
        assert shown["message_count"] == conversation.message_count
        totals = conversation.totals
        went_in = None if totals.uncounted_input_calls else totals.input_tokens
        came_out = None if totals.uncounted_output_calls else totals.output_tokens
        assert (shown["input_tokens"], shown["output_tokens"]) == (went_in, came_out)
        assert folded.memory.head == conversation.head
        at_work = conversation.operation
        assert shown["open_operation_id"] == (at_work.operation_id if at_work else None)
        assert set(folded.approvals) == set(conversation.approvals)
        assert (shown["status"] == "live") == (state.life.status == "live")


def test_an_error_signature_keeps_what_tells_errors_apart() -> None:
    one = "Traceback\n  File a\nFileNotFoundError: no '/tmp/a1/b.py' at 0x7f12 after 3.5 s"
    other = "FileNotFoundError: no '/home/x/b.py' at 0xdead after 12 s\n\n"
    assert signature("error", one) == signature("error", other)
    assert signature("error", one) == "error: FileNotFoundError: no '<path>' at <id> after <n> s"
    assert signature("timed_out", "") == "timed_out"


# --- following the logs ---


def test_what_is_appended_is_followed_in_the_order_of_the_log(tmp_path: Path) -> None:
    story = eventful()
    story.write(tmp_path)
    with open_local(tmp_path) as store:
        before = everything(store)
        length = len(story.happened)
        story.turn("third")
        story.write_more(tmp_path, length)
        store.keeper.projector.catch_up(story.session_id)
        rows = store.sql("SELECT sequence FROM events ORDER BY position").rows
        assert rows == [(n,) for n in range(1, len(story.happened) + 1)]
        assert before != everything(store)
        incremental = everything(store)
        store.rebuild()
        assert everything(store) == incremental


def test_a_log_longer_than_a_batch_is_projected_whole(tmp_path: Path) -> None:
    story = Story(1).create().start()
    while len(story.happened) < BATCH_EVENTS + 100:
        story.turn(calls=4)
    story.write(tmp_path)
    a_day(2).write(tmp_path)
    with open_local(tmp_path) as store:
        query = "SELECT count(*) FROM events WHERE session_id = ?"
        assert store.sql(query, [story.session_id]).rows == [(len(story.happened),)]
        assert store.verify() == []


def test_what_is_opened_again_goes_on_where_it_was(tmp_path: Path) -> None:
    story = eventful()
    story.write(tmp_path)
    with open_local(tmp_path) as store:
        first = everything(store)
    with open_local(tmp_path) as store:
        assert store.status().events == 0
        assert everything(store) == first
    length = len(story.happened)
    story.turn("more")
    story.write_more(tmp_path, length)
    with open_local(tmp_path) as store:
        assert store.status().events == len(story.happened) - length
        assert store.status().notice is None


def test_an_unchanged_file_is_not_opened_again(tmp_path: Path) -> None:
    for seed in range(3):
        a_day(seed).write(tmp_path)
    with open_local(tmp_path):
        pass
    with open_local(tmp_path):  # opening them may have left empty logs of SQLite's beside them
        pass
    with open_local(tmp_path) as store:
        assert store.keeper.projector.scan() == 0


def test_open_readers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock.store.projection.logs.OPEN_READERS", 3)
    monkeypatch.setattr("paddock.store.projection.projector.KEPT_SESSIONS", 2)
    stories = [a_day(seed, turns=1) for seed in range(8)]
    for story in stories:
        story.write(tmp_path)
    with open_local(tmp_path) as store:
        projector = store.keeper.projector
        assert len(projector._logs._readers) == 3
        assert len(projector._folded) == 2
        for story in stories:
            length = len(story.happened)
            story.start().exit()
            story.write_more(tmp_path, length)
        projector.learn([story.session_id for story in stories])
        store.keeper.catch_up()
        assert store.verify() == []


@pytest.mark.parametrize(
    ("step", "part", "call"),
    [("stage", "_state", "append_rows"), ("commit", "connection", "commit")],
)
def test_s22_a_failed_batch_leaves_nothing_and_is_tried_again(
    step: str, part: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eventful(1).write(tmp_path)
    eventful(2).write(tmp_path)
    real = getattr(Writer, step)
    left = 2

    def failing(self: Writer, *arguments: object) -> None:
        nonlocal left
        if not left:
            real(self, *arguments)
            return
        left -= 1
        whole = getattr(self, part)

        class Broken:
            """A part of the writer whose last call, once all rows are there, fails."""

            def __getattr__(self, name: str) -> object:
                return fail if name == call else getattr(whole, name)

        def fail(*_: object) -> None:
            raise duckdb.IOException("No space left on device")

        setattr(self, part, Broken())
        try:
            real(self, *arguments)
        finally:
            setattr(self, part, whole)

    keeper = Keeper(tmp_path)
    with LocalStore(keeper) as store:
        keeper.open()
        monkeypatch.setattr(Writer, step, failing)
        for _ in range(2):
            with pytest.raises(duckdb.IOException):
                keeper.projector.catch_up()
            assert store.sql("SELECT count(*) FROM events").rows == [(0,)]
        keeper.catch_up()
        assert store.verify() == []
        broken = everything(store)
        store.rebuild()
        assert everything(store) == broken


def test_s4_erase_removes_every_row_of_a_session(tmp_path: Path) -> None:
    story, other = eventful(1), eventful(2)
    for one in (story, other):
        one.write(tmp_path)
    with open_local(tmp_path) as store:
        shutil.rmtree(folder_of(tmp_path, story.session_id))
        store.erase(story.session_id)
        for table in (*PER_SESSION, "state", "stamps", "damaged"):
            if table != "compactions":
                query = f"SELECT count(*) FROM internal.{table} WHERE session_id = ?"
                assert store.sql(query, [story.session_id]).rows == [(0,)]
        assert store.sql("SELECT session_id FROM sessions").rows == [(other.session_id,)]
        assert store.verify() == []
        with pytest.raises(SessionNotFound):
            store.session(story.session_id)


def test_s4_what_was_erased_while_no_store_ran_is_forgotten(tmp_path: Path) -> None:
    story, other = eventful(1), eventful(2)
    for one in (story, other):
        one.write(tmp_path)
    with open_local(tmp_path):
        pass
    tombstone(tmp_path, story.session_id)
    shutil.rmtree(folder_of(tmp_path, story.session_id))
    with open_local(tmp_path) as store:
        assert store.sql("SELECT DISTINCT session_id FROM events").rows == [(other.session_id,)]
        assert store.sql("SELECT session_id FROM sessions").rows == [(other.session_id,)]
        assert store.status().damaged == {}


def test_another_log_under_the_same_id_is_projected_anew(tmp_path: Path) -> None:
    story = Story(1).create().start()
    story.turn("one")
    session_id = story.write(tmp_path)
    with open_local(tmp_path):
        pass
    shutil.rmtree(folder_of(tmp_path, session_id))
    other = Story(1).create().start()
    other.turn("quite another", calls=5)
    other.write(tmp_path)
    assert other.session_id == session_id
    with open_local(tmp_path) as store:
        texts = store.sql("SELECT text FROM messages WHERE role = 'user'").rows
        assert texts == [("quite another",)]
        assert store.verify() == []


def test_the_hosts_own_log_is_shown_as_host_events(tmp_path: Path) -> None:
    a_day(1, turns=1).write(tmp_path)
    host_log(tmp_path, 1, 2)
    with open_local(tmp_path) as store:
        assert everything(store)["host_events"][0] == {
            "epoch": 1,
            "at": "2026-09-21T14:13:20.000001Z",
            "kind": "died",
            "subject": "store",
            "detail": {"signal": 9},
        }
        assert store.sql("SELECT count(*) FROM sessions").rows == [(1,)]
        assert store.sql("SELECT count(*) FROM events WHERE session_id = 'host'").rows == [(0,)]
        assert store.verify() == []
    epochs = "SELECT epoch FROM host_events ORDER BY epoch"
    host_log(tmp_path, 3)
    with open_local(tmp_path) as store:
        assert store.status().events == 1
        assert store.sql(epochs).rows == [(1,), (2,), (3,)]
        store.rebuild()
        assert store.sql(epochs).rows == [(1,), (2,), (3,)]


def test_a_new_log_of_the_host_takes_the_place_of_the_old(tmp_path: Path) -> None:
    host_log(tmp_path, 1, 2)
    with open_local(tmp_path):
        pass
    for path in tmp_path.glob("host.sqlite*"):
        path.unlink()
    host_log(tmp_path, 7)
    with open_local(tmp_path) as store:
        assert store.sql("SELECT epoch FROM host_events").rows == [(7,)]
        host_place(tmp_path).database.write_bytes(b"no database" * 1000)
        store.keeper.projector.scan()
        store.keeper.catch_up()
        assert "the host's own log cannot be read" in store.status().word
        assert store.sql("SELECT epoch FROM host_events").rows == [(7,)]


# --- damage to a session ---


def test_f1_a_damaged_session_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    story, other = a_day(1), a_day(2)
    for one in (story, other):
        one.write(tmp_path)
    path = folder_of(tmp_path, story.session_id) / "session.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET payload = '{}' WHERE sequence = 10")
    connection.commit()
    connection.close()
    with open_local(tmp_path) as store:
        status = store.status()
        assert list(status.damaged) == [story.session_id]
        assert "1 session damaged" in status.word
        # What stands before the damage is there, and nothing after it.
        query = "SELECT session_id, max(sequence) FROM events GROUP BY ALL ORDER BY ALL"
        assert store.sql(query).rows == sorted(
            [(story.session_id, 9), (other.session_id, len(other.happened))]
        )
        result = store.sql("SELECT 1")
        assert result.notice is not None
        assert "damaged" in result.notice
        assert [problem for problem in store.verify() if story.session_id in problem]
    with open_local(tmp_path) as store:  # it is remembered, and looked at again
        assert list(store.status().damaged) == [story.session_id]


def test_f1_what_is_damaged_after_a_store_was_killed_is_told_by_the_next(tmp_path: Path) -> None:
    story = a_day(1)
    story.write(tmp_path)
    path = folder_of(tmp_path, story.session_id) / "session.sqlite"
    with open_local(tmp_path) as store:
        # What the files look like is written at rest, and at the end: one that is killed does not.
        store.keeper.projector.save_stamps()
        store.keeper.projector._connection.execute("DELETE FROM internal.stamps")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET payload = '{}' WHERE sequence = 2")
    connection.commit()
    connection.close()
    with open_local(tmp_path) as store:
        assert list(store.status().damaged) == [story.session_id]


def test_f1_what_was_its_owners_when_it_was_looked_at_is_looked_at_again(tmp_path: Path) -> None:
    story = a_day(1)
    story.write(tmp_path)
    place = Place(folder_of(tmp_path, story.session_id))
    with open_local(tmp_path) as store:
        projector = store.keeper.projector
        connection = sqlite3.connect(place.database)
        connection.execute("UPDATE events SET payload = '{}' WHERE sequence = 2")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        owner = OwnerLock.take(place)  # one that wakes, and finds it damaged
        assert projector.scan() == 1
        projector.catch_up()
        assert projector.scan() == 0
        assert projector.damage_of(story.session_id) is None
        owner.close()
        assert projector.scan() == 1
        projector.catch_up()
        assert list(store.status().damaged) == [story.session_id]


def test_f1_a_log_that_lost_its_end_is_damage_and_keeps_its_rows(tmp_path: Path) -> None:
    story = a_day(1)
    story.write(tmp_path)
    with open_local(tmp_path):
        pass
    folder = folder_of(tmp_path, story.session_id)
    connection = sqlite3.connect(folder / "session.sqlite")
    connection.execute("DELETE FROM events WHERE sequence > 10")
    connection.commit()
    connection.close()
    (folder / "owner.lock").unlink()  # the witness, which would tell it as well
    with open_local(tmp_path) as store:
        assert list(store.status().damaged) == [story.session_id]
        assert store.sql("SELECT count(*) FROM events").rows == [(len(story.happened),)]


def test_f1_a_repaired_session_is_followed_again(tmp_path: Path) -> None:
    story = a_day(1)
    story.write(tmp_path)
    path = folder_of(tmp_path, story.session_id) / "session.sqlite"
    whole = path.read_bytes()
    path.write_bytes(b"no database at all" * 300)
    with open_local(tmp_path) as store:
        assert list(store.status().damaged) == [story.session_id]
        assert store.sql("SELECT status, attention, name FROM sessions").rows == [
            ("failed", "failed", None)
        ]
        path.write_bytes(whole)
        store.keeper.projector.scan()
        store.keeper.catch_up()
        assert store.status().damaged == {}
        assert store.sql("SELECT attention FROM sessions").rows == [(None,)]
        assert store.sql("SELECT count(*) FROM events").rows == [(len(story.happened),)]
    with open_local(tmp_path) as store:
        assert store.status().damaged == {}


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_content(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def remove_file(folder: Path) -> None:
    (folder / "session.sqlite").unlink()


def empty_file(folder: Path) -> None:
    (folder / "session.sqlite").write_bytes(b"")


def put_a_folder_there(folder: Path) -> None:
    remove_file(folder)
    (folder / "session.sqlite").mkdir()


def flip_a_byte(folder: Path) -> None:
    path = folder / "session.sqlite"
    content = bytearray(path.read_bytes())
    place = content.index(b"the first words")
    content[place] ^= 0x40
    path.write_bytes(content)


LOSSES = [remove_folder, remove_content, remove_file, empty_file, put_a_folder_there, flip_a_byte]


@pytest.mark.parametrize("loss", LOSSES)
def test_f1_a_session_whose_file_is_lost_keeps_its_rows_and_is_told_until_it_is_back(
    tmp_path: Path, loss: Callable[[Path], None]
) -> None:
    story, other = a_day(1, turns=0), a_day(2, turns=1)
    story.turn("the first words")
    story.exit()
    for one in (story, other):
        one.write(tmp_path)
    folder, kept = folder_of(tmp_path, story.session_id), tmp_path / "kept"
    with open_local(tmp_path) as store:
        shutil.copytree(folder, kept)
        loss(folder)
        for _ in range(2):
            store.keeper.projector.scan()
            store.keeper.catch_up()
        assert list(store.status().damaged) == [story.session_id]
        assert str(folder) in store.status().damaged[story.session_id]
        query = "SELECT count(*) FROM events WHERE session_id = ?"
        assert store.sql(query, [story.session_id]).rows == [(len(story.happened),)]
        row = store.session(story.session_id)
        assert (row["attention"], row["status"]) == ("failed", "suspended")
        assert [problem for problem in store.verify() if story.session_id in problem]
    with open_local(tmp_path) as store:
        assert list(store.status().damaged) == [story.session_id]
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        store.keeper.projector.scan()
        store.keeper.catch_up()
        assert store.status().damaged == {}
        assert store.session(story.session_id)["attention"] is None
        assert store.verify() == []


@pytest.mark.parametrize("loss", LOSSES[2:5])
def test_f1_a_session_of_which_nothing_can_be_read_is_listed_after_a_rebuild(
    tmp_path: Path, loss: Callable[[Path], None]
) -> None:
    story = a_day(1, turns=1)
    story.write(tmp_path)
    with open_local(tmp_path) as store:
        loss(folder_of(tmp_path, story.session_id))
        store.rebuild()
        row = store.session(story.session_id)
        assert (row["attention"], row["status"], row["created_at"]) == ("failed", "failed", None)
        assert [row["session_id"] for row in store.list_sessions()[0]] == [story.session_id]


def test_a_deleted_session_that_cannot_be_read_is_deleted_and_told_to_nobody(
    tmp_path: Path,
) -> None:
    story, other = a_day(1, turns=1), a_day(2, turns=1)
    for one in (story, other):
        one.write(tmp_path)
    with open_local(tmp_path) as store:
        for one, loss in ((story, remove_file), (other, remove_folder)):
            loss(folder_of(tmp_path, one.session_id))
            tombstone(tmp_path, one.session_id, erase=False)
        store.keeper.projector.scan()
        store.keeper.catch_up()
        assert store.status().damaged == {}
        assert store.list_sessions() == ([], 0)
        found = store.sql("SELECT DISTINCT status, attention FROM sessions")
        assert (found.rows, found.notice) == ([("deleted", None)], None)
        assert store.sql("SELECT count(DISTINCT session_id) FROM events").rows == [(2,)]
        assert store.verify() == []


@pytest.mark.parametrize("where", ["among", "first", "last"])
def test_p9_a_number_that_no_column_can_hold_stops_its_own_session_only(
    tmp_path: Path, where: str
) -> None:
    story, others = a_day(1, turns=0 if where == "first" else 40), [a_day(n) for n in range(2, 6)]
    story.ask("Count.")
    call = story.call(story.think())
    story.run(call)
    story.change(call, "a.py", added=2**80)
    bad = len(story.happened)
    story.finish(call)
    story.end()
    for _ in range(40 if where == "among" else 0):
        story.turn()
    written = len(story.happened)
    for one in (story, *others):
        one.write(tmp_path)
    with open_local(tmp_path) as store:
        told = store.status()
        assert list(told.damaged) == [story.session_id]
        assert f"event {bad} cannot be stored" in told.damaged[story.session_id]
        expected = {one.session_id: len(one.happened) for one in others}
        expected[story.session_id] = bad - 1
        query = "SELECT session_id, max(sequence) FROM events GROUP BY ALL"
        assert dict(store.sql(query).rows) == expected
        for one in (story, *others):  # who comes later, and who goes on, is seen as well
            one.turn()
            one.write_more(tmp_path, written if one is story else expected[one.session_id])
        late = a_day(9)
        late.write(tmp_path)
        store.keeper.projector.scan()
        store.keeper.catch_up()
        expected = {one.session_id: len(one.happened) for one in (*others, late)}
        expected[story.session_id] = bad - 1
        assert dict(store.sql(query).rows) == expected


def test_p9_a_count_of_tokens_that_cannot_be_is_not_known(tmp_path: Path) -> None:
    story, other = a_day(1), a_day(2)
    for one, tokens in ((story, 10**30), (other, 7)):
        one.ask("Count.")
        one.think(tokens=(tokens, 1))
        one.write(tmp_path)
    with open_local(tmp_path) as store:
        assert store.status().damaged == {}
        query = "SELECT input_tokens IS NULL FROM sessions WHERE session_id = $id"
        assert store.sql(query, {"id": story.session_id}).rows == [(True,)]
        assert store.sql(query, {"id": other.session_id}).rows == [(False,)]


def test_what_a_dead_owner_left_is_folded_in_where_nobody_else_would(tmp_path: Path) -> None:
    story = a_day(1)
    file = SessionFile.create(folder_of(tmp_path, story.session_id), story.session_id, at_us=1)
    append(file, story.happened)
    folder = folder_of(tmp_path, story.session_id)
    aside = tmp_path / "aside"
    shutil.copytree(folder, aside)  # as a kill -9 leaves it: commits in the log, and no owner
    file.close(clean=True)
    shutil.rmtree(folder)
    aside.rename(folder)
    assert (folder / "session.sqlite-wal").stat().st_size > 0
    with open_local(tmp_path) as store:
        assert store.sql("SELECT count(*) FROM events").rows == [(len(story.happened),)]


# --- damage to DuckDB's file ---


def _delete(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nonsense(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _newer_duckdb(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[12] = 250  # the storage version, in the main header
    path.write_bytes(content)


def _newer_schema(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE internal.meta SET value = '999'")


def _foreign(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine(a INT)")


def _lost_rows(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM internal.events WHERE sequence % 7 = 3")


def _lost_state(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM internal.state")


@pytest.mark.parametrize(
    "harm",
    [_delete, _truncate, _empty, _nonsense, _newer_duckdb, _newer_schema, _foreign],
    ids=lambda harm: harm.__name__.strip("_"),
)
def test_f3_a_duckdb_file_that_cannot_be_trusted_is_made_anew_and_told(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    stories = [eventful(seed) for seed in range(3)]
    for story in stories:
        story.write(tmp_path)
    with open_local(tmp_path) as store:
        before = everything(store)
        path = store.keeper.path
    harm(path)
    with open_local(tmp_path) as store:
        assert store.status().notice
        assert everything(store) == before
        assert store.verify() == []
    with open_local(tmp_path) as store:  # and that is over
        assert store.status().notice is None


def test_who_waits_for_an_event_ends_the_rest_between_two_batches(tmp_path: Path) -> None:
    story = eventful(1)
    story.write(tmp_path)
    keeper = Keeper(tmp_path)
    with LocalStore(keeper):
        keeper.open()
        head = len(story.happened)
        with ThreadPoolExecutor(1) as thread:
            seen = thread.submit(keeper.projector.wait_until, story.session_id, head, 30.0)
            keeper.projector.rest(600.0)  # ends for him alone: nobody else is here
            keeper.catch_up()
            assert seen.result()


@pytest.mark.parametrize(
    ("loss", "is_erased", "answer"),
    [
        (remove_folder, True, SessionNotFound),
        (remove_folder, False, Damaged),
        (remove_content, False, Damaged),
        (remove_file, False, Damaged),
    ],
)
def test_nobody_waits_for_a_session_that_is_gone(
    tmp_path: Path, loss: Callable[[Path], None], answer: type[Exception], *, is_erased: bool
) -> None:
    story = eventful(1)
    story.write(tmp_path)
    keeper = Keeper(tmp_path)
    with LocalStore(keeper):
        keeper.open()
        keeper.catch_up()
        if is_erased:
            tombstone(tmp_path, story.session_id)
        loss(folder_of(tmp_path, story.session_id))
        with ThreadPoolExecutor(1) as thread:
            working = thread.submit(keeper.work)
            try:
                with pytest.raises(answer):
                    keeper.wait_for({story.session_id: 10_000}, 600.0)
            finally:
                keeper.stop()
            working.result()


def test_who_waits_has_a_session_looked_at_now_and_again_and_not_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = eventful(1)
    story.write(tmp_path)
    looks = 0
    take = Projector._take

    def counted(self: Projector, *arguments: Any) -> bool:
        nonlocal looks
        looks += 1
        return take(self, *arguments)

    monkeypatch.setattr(Projector, "_take", counted)
    keeper = Keeper(tmp_path)
    with LocalStore(keeper):
        keeper.open()
        with ThreadPoolExecutor(4) as threads:
            working = threads.submit(keeper.work)
            waits = [
                threads.submit(keeper.projector.wait_until, story.session_id, 10_000, seconds)
                for seconds in (0.4, 0.5, 0.6)
            ]
            try:
                assert [wait.result() for wait in waits] == [False] * 3
            finally:
                keeper.stop()
            working.result()
    # Each asks at most 13 times in 0.6 s, and each time it may be looked at twice.
    assert looks < 100


def test_f3_a_rebuild_tells_how_many_events_it_has_done_of_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = [a_day(seed, turns=2 * PAGE_EVENTS // 20) for seed in range(3)]
    for story in stories:
        story.write(tmp_path)
    total = sum(len(story.happened) for story in stories)
    monkeypatch.setattr(projector, "BATCH_EVENTS", PAGE_EVENTS)
    with open_local(tmp_path) as store:
        store.keeper.path.unlink()
    keeper = Keeper(tmp_path)
    with LocalStore(keeper) as store:
        keeper.open()
        seen = [store.status()]
        assert f"(0 of {total:,} events, 0 of 3 sessions)" in seen[0].word
        assert "its file was not there" in seen[0].word
        while keeper.state() == "rebuilding":
            keeper.projector.step()
            seen.append(store.status())
        done = [status.events_rebuilt for status in seen if status.state == "rebuilding"]
        assert done == sorted(done)
        assert any(0 < one < total for one in done)
        assert {one.events_to_rebuild for one in seen if one.state == "rebuilding"} == {total}
        assert store.status().events == total


def test_the_first_store_of_a_host_is_no_rebuild_to_tell_of(tmp_path: Path) -> None:
    eventful(1).write(tmp_path)  # a session may be sooner than its host's store
    keeper = Keeper(tmp_path)
    with LocalStore(keeper) as store:
        keeper.open()
        assert "the projection is being made (0 of " in store.status().word
        keeper.catch_up()
        assert store.sql("SELECT 1").notice is None
        assert store.status().notice is None


def test_f3_the_next_answer_after_a_rebuild_tells_why_once(tmp_path: Path) -> None:
    eventful(1).write(tmp_path)
    with open_local(tmp_path) as store:
        path = store.keeper.path
    _nonsense(path)
    with open_local(tmp_path) as store:
        told = store.sql("SELECT count(*) FROM events").notice
        assert told is not None
        assert "made anew from the logs" in told
        assert str(path) in told
        assert store.sql("SELECT count(*) FROM events").notice is None
        store.rebuild()
        assert store.sql("SELECT 1").notice is None, "who asked for it knows"


@pytest.mark.parametrize("harm", [_lost_rows, _lost_state])
def test_p15_rows_that_differ_from_applied_are_projected_anew(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    for seed in range(2):
        eventful(seed).write(tmp_path)
    with open_local(tmp_path) as store:
        before = everything(store)
        path = store.keeper.path
    harm(path)
    with open_local(tmp_path) as store:
        assert everything(store) == before


@pytest.mark.parametrize("part", ["file", "log"])
def test_f3_one_flipped_byte_loses_nothing(tmp_path: Path, part: str) -> None:
    for seed in range(3):
        eventful(seed).write(tmp_path)
    keeper = Keeper(tmp_path)
    with LocalStore(keeper) as store:
        keeper.open()
        if part == "file":
            keeper.catch_up()
            keeper.checkpoint()
        else:
            while keeper.projector.step():
                pass
        before = everything(store)
        path = keeper.path if part == "file" else keeper.path.with_name(keeper.path.name + ".wal")
        content = path.read_bytes()
        main = keeper.path.read_bytes()
    chance = random.Random(1)
    for place in [chance.randrange(len(content)) for _ in range(8)]:
        keeper.path.write_bytes(main)
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with open_local(tmp_path) as store:
            assert everything(store) == before, f"byte {place}"


def test_f3_damage_that_shows_only_when_it_is_read_is_mended(tmp_path: Path) -> None:
    for seed in range(3):
        eventful(seed).write(tmp_path)
    with open_local(tmp_path) as store:
        before = everything(store)
    path = store.keeper.path
    content = path.read_bytes()
    with open_local(tmp_path) as store:
        # All blocks of the tables, behind the headers: what was not read yet is not there any more.
        path.write_bytes(content[: 3 * 4096] + bytes(len(content) - 3 * 4096))
        assert everything(store) == before


HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_f3_a_file_that_is_open_elsewhere_is_told_and_left_alone(tmp_path: Path) -> None:
    a_day(1).write(tmp_path)
    with open_local(tmp_path) as store:
        path = store.keeper.path
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD,
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(StoreError, match="another process"), open_local(tmp_path):
            pass
    finally:
        holder.communicate(b"")
    with open_local(tmp_path) as store:
        assert store.status().notice is None
        assert not path.with_name(path.name + ".broken").exists()


# --- one store a folder ---


def test_two_stores_on_one_folder_are_refused_with_the_pid(tmp_path: Path) -> None:
    with open_local(tmp_path):
        with pytest.raises(AlreadyOwned) as caught, open_local(tmp_path):
            pass
        assert caught.value.facts["pid"] == os.getpid()
    with open_local(tmp_path):
        pass


def test_a_snapshot_is_whole_and_takes_nobodys_place(tmp_path: Path) -> None:
    eventful().write(tmp_path)
    copy = tmp_path / "copy.duckdb"
    with open_local(tmp_path) as store:
        assert store.snapshot(copy) == copy.stat().st_size
        events = store.sql("SELECT count(*) FROM events").rows
        with pytest.raises(AlreadyExists):
            store.snapshot(copy)
        with pytest.raises(StoreError):
            store.snapshot(tmp_path / "nowhere" / "copy.duckdb")
    with duckdb.connect(str(copy), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchall() == events
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.duckdb"]


def test_verify_names_what_differs(tmp_path: Path) -> None:
    story = eventful()
    story.write(tmp_path)
    with open_local(tmp_path) as store:
        path = store.keeper.path
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE internal.events SET kind = 'x' WHERE sequence = 5")
    with open_local(tmp_path) as store:
        assert store.verify() == [f"session {story.session_id}: event 5 differs in DuckDB"]


def test_a_payload_that_cannot_be_folded_damages_its_session_alone(tmp_path: Path) -> None:
    story, other = a_day(1, turns=1), a_day(2, turns=1)
    for one in (story, other):
        one.write(tmp_path)
    with open_local(tmp_path) as store:
        projector: Projector = store.keeper.projector
        row = story.rows()[0]._replace(payload="[1]")
        assert projector._fold_in("x", [row], Flight(Batch())) is False
        assert projector.damage_of("x") is not None
        assert store.sql("SELECT count(DISTINCT session_id) FROM events").rows == [(2,)]


class Knot:
    """Refers to itself: only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_in_cycles_is_freed_while_batches_are_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = eventful()
    story.write(tmp_path)
    with open_local(tmp_path) as store:
        store.keeper.projector.step()
        knot = weakref.ref(Knot())
        store.keeper.projector.step()  # whatever was young is old from here on
        assert knot() is not None
        monkeypatch.setattr(cycles, "CYCLES_SECONDS", 0.0)
        store.keeper.projector.step()
        assert knot() is None
