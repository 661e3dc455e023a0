"""The file of a session, used as its owner and its readers use it."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paddock.store.errors import (
    AlreadyExists,
    AlreadyOwned,
    Bug,
    Damaged,
    NewerFormat,
    SessionNotFound,
    TooLarge,
)
from paddock.store.events import (
    KINDS,
    OperationStarted,
    SessionTitled,
    ToolCallFinished,
    ToolCallStarted,
)
from paddock.store.ids import OperationId, SessionId, ToolCallId
from paddock.store.session_file import (
    SessionFile,
    SessionReader,
    erase,
    erasures_begun_in,
    events_of,
    folder_of,
    holder_of,
    host_place,
    is_owned,
    sessions_in,
    verify,
)
from tests.store.filebench import (
    AT_US,
    OTHER,
    SESSION,
    every_row,
    finish,
    kill,
    make,
    own,
    read,
    run,
    sql,
    titles,
    wait_until,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path, SESSION)


def test_s1_append_returns_consecutive_numbers_and_load_returns_the_events_in_order(
    folder: Path,
) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        assert file.append(titles(1), generation=1, at_us=AT_US) == 1
        assert file.append(titles(3, 2), generation=1, at_us=AT_US + 1) == 2
        assert file.append(titles(1, 5), generation=2, at_us=AT_US + 2) == 5
        assert file.head == 5
        assert file.last_generation == 2
        rows = every_row(file)
    stored = list(events_of(SESSION, rows))
    assert [one.sequence for one in stored] == [1, 2, 3, 4, 5]
    assert [one.event for one in stored] == titles(5)
    assert [one.generation for one in stored] == [1, 1, 1, 1, 2]
    assert [one.occurred_at for one in stored] == [AT_US, *[AT_US + 1] * 3, AT_US + 2]
    assert read(folder) == rows


def test_s1_an_empty_append_stores_nothing_and_names_the_next_number(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        assert file.append([], generation=1, at_us=AT_US) == 1
        file.append(titles(2), generation=1, at_us=AT_US)
        assert file.append([], generation=9, at_us=AT_US) == 3
        assert file.head == 2
        assert file.last_generation == 1


def test_s2_load_after_n_returns_only_what_is_above_n(folder: Path) -> None:
    rows = make(folder, 25)
    with SessionReader(folder, SESSION) as reader:
        assert reader.rows(20) == rows[20:]
        assert reader.rows(0, limit=7) == rows[:7]
        assert reader.rows(7, limit=7) == rows[7:14]
        assert reader.rows(3, limit=2) == rows[3:5]
        assert reader.rows(25) == []
        assert reader.rows(1000) == []
    with own(folder) as file:
        assert file.rows(24) == rows[24:]
        assert file.rows(25) == []


def test_s3_sessions_are_isolated_from_each_other(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, SESSION), folder_of(tmp_path, OTHER)
    with (
        SessionFile.create(one, SESSION, at_us=AT_US) as first,
        SessionFile.create(two, OTHER, at_us=AT_US) as second,
    ):
        first.append(titles(3), generation=1, at_us=AT_US)
        second.append(titles(1, 100), generation=1, at_us=AT_US)
        digest = first.put_blob(b"mine").digest
        assert [row.payload for row in every_row(second)] == ['{"title":"title 100"}']
        assert every_row(first)[0].hash != every_row(second)[0].hash
        with pytest.raises(Exception, match="no blob"):
            list(second.blob(digest))
    assert sessions_in(tmp_path) == sorted([SESSION, OTHER])


def test_s3_a_file_of_another_session_is_refused(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, SESSION), folder_of(tmp_path, OTHER)
    make(one, 3)
    two.parent.mkdir()
    one.rename(two)
    with pytest.raises(Damaged, match=SESSION):
        SessionFile.own(two, OTHER)
    with pytest.raises(Damaged, match=SESSION):
        SessionReader(two, OTHER)
    assert not verify(two, OTHER).ok


def test_s18_events_are_filtered_by_sequence_kind_operation_and_tool_call(folder: Path) -> None:
    operation, other = OperationId("one"), OperationId("two")
    call = ToolCallId("call")
    events = [
        OperationStarted(operation_id=operation),
        ToolCallStarted(operation_id=operation, tool_call_id=call),
        ToolCallFinished(operation_id=operation, tool_call_id=call, status="ok", text=""),
        OperationStarted(operation_id=other),
        ToolCallStarted(operation_id=other, tool_call_id=ToolCallId("another")),
    ]
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(events, generation=1, at_us=AT_US)
    with SessionReader(folder, SESSION) as reader:

        def found(after: int = 0, **names: object) -> list[int]:
            return [row.sequence for row in reader.matching(after, **names)]  # type: ignore[arg-type]

        assert found() == [1, 2, 3, 4, 5]
        assert found(3) == [4, 5]
        assert found(kinds={"tool_call_started"}) == [2, 5]
        assert found(operation_id="one") == [1, 2, 3]
        assert found(tool_call_id="call") == [2, 3]
        assert found(2, kinds={"tool_call_started", "operation_started"}, operation_id="two") == [
            4,
            5,
        ]
        assert found(kinds=set()) == []


def test_s20_parallel_appends_of_threads_lose_nothing(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:

        def work(worker: int) -> list[int]:
            return [
                file.append(titles(2, worker * 1000 + n * 2), generation=1, at_us=AT_US)
                for n in range(40)
            ]

        with ThreadPoolExecutor(8) as pool:
            firsts = [first for found in pool.map(work, range(8)) for first in found]
    rows = read(folder)
    assert sorted(firsts) == list(range(1, 640, 2))
    assert [row.sequence for row in rows] == list(range(1, 641))
    assert len({row.payload for row in rows}) == 640
    assert verify(folder, SESSION).ok


def test_s20_parallel_appends_of_processes_lose_nothing(folder: Path) -> None:
    make(folder, 0)
    code = """
for n in range(12):
    with SessionFile.own(Path(sys.argv[1]), SESSION, wait_seconds=60) as file:
        file.append(titles(3, int(sys.argv[2]) + n * 3), generation=1, at_us=AT_US)
"""
    workers = [run(code, folder, worker * 100) for worker in range(1, 5)]
    for worker in workers:
        finish(worker)
    rows = read(folder)
    assert [row.sequence for row in rows] == list(range(1, 145))
    assert len({row.payload for row in rows}) == 144
    assert verify(folder, SESSION).ok


def test_s21_the_first_event_can_be_replayed_and_so_can_ten_thousand(folder: Path) -> None:
    make(folder, 10_000, batch=1000)
    with SessionReader(folder, SESSION) as reader:
        assert next(events_of(SESSION, reader.rows(0, limit=1))).event == titles(1)[0]
        numbers = [stored.sequence for stored in events_of(SESSION, every_row(reader))]
    assert numbers == list(range(1, 10_001))
    report = verify(folder, SESSION)
    assert report.ok
    assert report.events == 10_000


def test_a_page_of_long_events_ends_early_and_the_next_one_goes_on(folder: Path) -> None:
    long = "x" * 6_000_000
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        for _ in range(5):
            file.append([SessionTitled(title=long)], generation=1, at_us=AT_US)
        assert [row.sequence for row in file.rows(0)] == [1, 2, 3]
        assert [row.sequence for row in file.rows(3)] == [4, 5]
    assert len(read(folder)) == 5


def test_an_event_over_its_limit_is_refused_and_nothing_of_its_batch_is_stored(
    folder: Path,
) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        huge = SessionTitled(title="x" * (64 * 1024 * 1024))
        with pytest.raises(TooLarge):
            file.append([*titles(1), huge], generation=1, at_us=AT_US)
        assert file.head == 0
        assert file.append(titles(1), generation=1, at_us=AT_US) == 1


def test_f16_what_no_file_can_hold_is_refused_whole(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        bad = [
            SessionTitled(title="half \ud800"),
            OperationStarted(operation_id=OperationId("half \ud800")),
        ]
        for event in bad:
            with pytest.raises(Bug):
                file.append([*titles(1), event], generation=1, at_us=AT_US)
        with pytest.raises(Bug):
            file.append(titles(1), generation=2**64, at_us=AT_US)
        assert file.head == 0
        assert file.append(titles(1), generation=2**63 - 1, at_us=AT_US) == 1
    assert len(read(folder)) == 1


def test_creating_a_session_twice_is_refused_and_changes_nothing(folder: Path) -> None:
    rows = make(folder, 3)
    with pytest.raises(AlreadyExists):
        SessionFile.create(folder, SESSION, at_us=AT_US)
    assert read(folder) == rows
    assert not is_owned(folder)


def test_a_creation_that_died_before_its_first_event_can_be_done_again(folder: Path) -> None:
    make(folder, 0)
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        assert file.append(titles(1), generation=1, at_us=AT_US) == 1


def test_a_session_that_is_not_there_is_not_found(folder: Path) -> None:
    with pytest.raises(SessionNotFound):
        SessionFile.own(folder, SESSION)
    with pytest.raises(SessionNotFound):
        SessionReader(folder, SESSION)
    with pytest.raises(SessionNotFound):
        verify(folder, SESSION)
    with pytest.raises(SessionNotFound):
        erase(folder)
    assert holder_of(folder) is None
    assert not is_owned(folder)
    assert not folder.exists()


@pytest.mark.parametrize("bad", ["../../etc", "", "x", "01a202dd-721f-4dd2-a174-61f051fb80f3"])
def test_an_id_that_is_no_uuid7_has_no_folder(tmp_path: Path, bad: str) -> None:
    with pytest.raises(SessionNotFound):
        folder_of(tmp_path, SessionId(bad))


def test_a_file_of_a_newer_format_is_left_alone(folder: Path) -> None:
    make(folder, 3)
    sql(folder, "PRAGMA user_version = 99")
    with pytest.raises(NewerFormat, match="upgrade"):
        SessionFile.own(folder, SESSION)
    with pytest.raises(NewerFormat):
        SessionReader(folder, SESSION)


def test_an_event_of_a_kind_from_the_future_is_read_as_a_row_and_told_as_newer(
    folder: Path,
) -> None:
    class Invented(SessionTitled):
        pass

    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        event = Invented.model_construct(kind="invented", title="x")  # type: ignore[arg-type]  # that is the point
        file.append([event], generation=1, at_us=AT_US)
        rows = every_row(file)
    assert "invented" not in KINDS
    with pytest.raises(NewerFormat):
        list(events_of(SESSION, rows))
    assert [problem.sequence for problem in verify(folder, SESSION).problems] == [1]


def test_a_session_s_files_are_for_its_user_alone(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(1), generation=1, at_us=AT_US)
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert set(modes.values()) == {0o600}
        assert {"session.sqlite", "owner.lock"} <= set(modes)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_after_a_clean_close_the_log_is_one_file(folder: Path) -> None:
    make(folder, 30)
    assert {path.name for path in folder.iterdir()} == {"session.sqlite", "owner.lock"}
    alone = folder.with_name("alone")
    alone.mkdir()
    (folder / "session.sqlite").rename(alone / "session.sqlite")
    assert len(read(alone)) == 30
    assert verify(alone, SESSION).ok
    with own(alone) as file:
        assert file.append(titles(1), generation=2, at_us=AT_US) == 31


def test_a_clean_close_folds_the_log_while_a_reader_is_connected(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(5), generation=1, at_us=AT_US)
        reader = SessionReader(folder, SESSION)
        assert len(reader.rows(0)) == 5
        file.append(titles(5), generation=1, at_us=AT_US)
    wal = folder / "session.sqlite-wal"
    assert not wal.exists() or wal.stat().st_size == 0
    assert len(reader.rows(0)) == 10
    reader.close()
    assert len(read(folder)) == 10


def test_a_reader_follows_while_the_owner_writes(folder: Path) -> None:
    make(folder, 0)
    code = """
with own(Path(sys.argv[1])) as file:
    for n in range(1, 301):
        file.append(titles(3, n * 3), generation=1, at_us=AT_US)
"""
    writer = run(code, folder)
    seen: list[int] = []
    with SessionReader(folder, SESSION) as reader:
        while len(seen) < 900:
            seen += [row.sequence for row in reader.rows(len(seen))]
            assert writer.poll() in {None, 0}
    assert seen == list(range(1, 901))
    finish(writer)


def test_readers_go_on_after_the_owner_died(folder: Path) -> None:
    make(folder, 5)
    code = """
file = own(Path(sys.argv[1]))
file.append(titles(5, 6), generation=2, at_us=AT_US)
say("written")
time.sleep(60)
"""
    owner = run(code, folder)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "written\n"
    with SessionReader(folder, SESSION) as early:
        assert early.head()[0] == 10
        kill(owner)
        assert not is_owned(folder)
        assert len(every_row(early)) == 10
    assert (folder / "session.sqlite-wal").stat().st_size > 0
    assert len(read(folder)) == 10
    assert verify(folder, SESSION).ok
    with own(folder) as file:
        assert file.head == 10
        assert file.last_generation == 2
        assert (folder / "session.sqlite-wal").stat().st_size == 0


def test_an_owner_in_the_same_process_does_not_take_a_reader_s_locks_away(folder: Path) -> None:
    make(folder, 3)
    with SessionReader(folder, SESSION) as reader:
        assert len(reader.rows(0)) == 3
        for n in range(5):
            with own(folder) as file:
                file.append(titles(1), generation=n + 1, at_us=AT_US)
            assert reader.head()[0] == 4 + n
        assert len(every_row(reader)) == 8


def test_a_file_is_not_used_after_its_close(folder: Path) -> None:
    make(folder, 1)
    file = own(folder)
    file.close(clean=True)
    file.close(clean=True)
    with pytest.raises(Bug, match="after its close"):
        file.append(titles(1), generation=1, at_us=AT_US)
    reader = SessionReader(folder, SESSION)
    reader.close()
    reader.close()


def test_a_forked_child_neither_writes_nor_gives_the_lock_back(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(1), generation=1, at_us=AT_US)
        child = os.fork()
        if child == 0:
            try:
                file.append(titles(1), generation=1, at_us=AT_US)
                os._exit(1)
            except Bug:
                file.close(clean=True)
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert is_owned(folder)
        with pytest.raises(AlreadyOwned):
            own(folder)
        assert file.append(titles(1), generation=1, at_us=AT_US) == 2


def test_a_reopened_file_goes_on_where_it_was(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(3), generation=1, at_us=AT_US)
        file.reopen()
        assert (file.head, file.last_generation) == (3, 1)
        assert file.append(titles(1), generation=1, at_us=AT_US) == 4
    assert verify(folder, SESSION).ok


def test_the_host_has_a_file_of_the_same_form(tmp_path: Path) -> None:
    place = host_place(tmp_path)
    with SessionFile.create(place, SESSION, at_us=AT_US) as file:
        file.append(titles(1), generation=1, at_us=AT_US)
        assert is_owned(place)
        with pytest.raises(AlreadyOwned):
            SessionFile.own(place, SESSION)
        with SessionReader(place, SESSION) as reader:
            assert reader.head()[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.lock", "host.sqlite"]


def test_erase_leaves_no_byte(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append([SessionTitled(title="secret")], generation=1, at_us=AT_US)
        file.put_blob(os.urandom(3_000_000))
        with pytest.raises(AlreadyOwned):
            erase(folder)
        assert file.head == 1
    (folder / "stderr.1").write_text("last words")
    link = folder.parent / "hard-link"
    link.hardlink_to(folder / "session.sqlite")
    with SessionReader(folder, SESSION) as reader:
        erase(folder)
        with pytest.raises(SessionNotFound):
            reader.rows(0)
    assert not any(link.read_bytes())
    link.unlink()
    assert list(folder.parent.iterdir()) == []
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        assert file.head == 0


@pytest.mark.parametrize("points", range(1, 6))
def test_s4_an_erasure_that_dies_is_gone_on_with_and_shows_no_part_of_it(
    folder: Path, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder, 3)
    (folder / "stderr.1").write_text("last words")
    left = iter([None] * points)

    def dying[**P, T](call: Callable[P, T]) -> Callable[P, T]:
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            next(left)
            return call(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("rename", "unlink"):
            patched.setattr(Path, name, dying(getattr(Path, name)))
        patched.setattr(os, "fsync", dying(os.fsync))
        with pytest.raises(StopIteration):
            erase(folder)
    data = folder.parent.parent.parent
    assert sessions_in(data) == []
    assert erasures_begun_in(data) == [SESSION]
    erase(folder)
    assert erasures_begun_in(data) == []
    assert list(folder.parent.iterdir()) == []


def test_readers_of_many_threads_see_one_log(folder: Path) -> None:
    make(folder, 500, batch=100)
    found: list[int] = []
    start = threading.Barrier(6)

    def look() -> None:
        start.wait()
        found.append(len(read(folder)))

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [500] * 6


def test_a_reader_that_came_before_the_first_event_sees_it(folder: Path) -> None:
    with (
        SessionFile.create(folder, SESSION, at_us=AT_US) as file,
        SessionReader(folder, SESSION) as reader,
    ):
        assert reader.head() == (0, bytes(16))
        assert reader.rows(0) == []
        file.append(titles(1), generation=1, at_us=AT_US)
        assert reader.head() == (1, file.head_hash)
        wait_until(lambda: len(reader.rows(0)) == 1, "the event is seen")
