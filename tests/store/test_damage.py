"""F1: damage in a session's file is noticed at the next wake and by verify, with file and event."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddock.store.errors import Damaged, NeedsFold, StoreError
from paddock.store.events import Row, SessionTitled, ToolCallFinished
from paddock.store.ids import OperationId, ToolCallId
from paddock.store.session_file import (
    OwnerLock,
    Place,
    SessionFile,
    SessionReader,
    fold,
    folder_of,
    is_owned,
    sessions_in,
    verify,
    witness_of,
)
from tests.store.filebench import (
    AT_US,
    SESSION,
    code_of,
    copy_of,
    every_row,
    flip,
    kill,
    make,
    own,
    read,
    run,
    sql,
    titles,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path, SESSION)


def own_and_read(folder: Path) -> list[Row]:
    with own(folder) as file:
        return every_row(file)


def assert_noticed(folder: Path, sequence: int | None = None) -> None:
    """Assert that wake and verify both say which file, and from which event on."""
    before = {path: path.read_bytes() for path in folder.glob("session.sqlite*")}
    with pytest.raises(Damaged) as wake:
        own(folder)
    assert wake.value.facts["path"] == str(folder / "session.sqlite")
    assert str(folder) in wake.value.message
    assert not is_owned(folder)
    problems = verify(folder, SESSION).problems
    assert problems
    if sequence is not None:
        assert wake.value.facts["sequence"] == sequence
        assert sequence in {problem.sequence for problem in problems}
    for path, content in before.items():  # nothing was mended away: all is there to be looked at
        if path.suffix != ".sqlite-shm":
            assert path.read_bytes() == content


ADDED = "41, 1, 0, 'x', '', '', '', '', '', x''"
EDITS: dict[str, tuple[int | None, Callable[[Path], object]]] = {
    "a payload": (7, lambda f: sql(f, "UPDATE events SET payload = '{}' WHERE sequence = 7")),
    "a kind": (7, lambda f: sql(f, "UPDATE events SET kind = 'x' WHERE sequence = 7")),
    "a generation": (7, lambda f: sql(f, "UPDATE events SET generation = 9 WHERE sequence = 7")),
    "a time": (7, lambda f: sql(f, "UPDATE events SET occurred_at = 0 WHERE sequence = 7")),
    "an id": (7, lambda f: sql(f, "UPDATE events SET command_id = '' WHERE sequence = 7")),
    "a hash": (7, lambda f: sql(f, "UPDATE events SET hash = zeroblob(16) WHERE sequence = 7")),
    "the first hash": (1, lambda f: sql(f, "UPDATE events SET hash = x'00' WHERE sequence = 1")),
    "the last event": (40, lambda f: sql(f, "UPDATE events SET payload = '' WHERE sequence = 40")),
    "one removed": (7, lambda f: sql(f, "DELETE FROM events WHERE sequence = 7")),
    "the first removed": (1, lambda f: sql(f, "DELETE FROM events WHERE sequence = 1")),
    "the last removed": (40, lambda f: sql(f, "DELETE FROM events WHERE sequence = 40")),
    "half removed": (21, lambda f: sql(f, "DELETE FROM events WHERE sequence > 20")),
    "all removed": (1, lambda f: sql(f, "DELETE FROM events")),
    "one moved": (7, lambda f: sql(f, "UPDATE events SET sequence = 41 WHERE sequence = 7")),
    "one added": (41, lambda f: sql(f, f"INSERT INTO events VALUES ({ADDED})")),
    "the table dropped": (None, lambda f: sql(f, "DROP TABLE events")),
    "a table dropped": (None, lambda f: sql(f, "DROP TABLE blobs")),
    "not ours": (1, lambda f: sql(f, "PRAGMA application_id = 1")),
    "another session's": (1, lambda f: sql(f, "UPDATE meta SET value = '' WHERE key > 's'")),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_f1_a_row_changed_or_removed_by_hand_is_noticed(folder: Path, edit: str) -> None:
    make(folder, 40)
    sequence, change = EDITS[edit]
    change(folder)
    assert_noticed(folder, sequence)


@pytest.mark.parametrize("edit", ["a payload", "one removed", "half removed"])
def test_f1_a_change_by_hand_is_noticed_by_a_reader_too(folder: Path, edit: str) -> None:
    make(folder, 40)
    sequence, change = EDITS[edit]
    change(folder)
    with SessionReader(folder, SESSION) as reader, pytest.raises(Damaged) as error:
        every_row(reader)
    assert error.value.facts["sequence"] == sequence


def test_f1_what_stands_before_the_damage_can_still_be_read(folder: Path) -> None:
    rows = make(folder, 40)
    sql(folder, "UPDATE events SET payload = '{}' WHERE sequence = 7")
    with SessionReader(folder, SESSION) as reader:
        with pytest.raises(Damaged) as error:
            reader.rows(0)
        sequence = error.value.facts["sequence"]
        assert isinstance(sequence, int)
        assert reader.rows(0, limit=sequence - 1) == rows[:6]
    report = verify(folder, SESSION)
    assert (report.events, report.head, report.ok) == (6, 40, False)


def test_f1_an_edit_deep_in_a_long_log_is_noticed_at_the_next_wake(folder: Path) -> None:
    make(folder, 30_000, batch=1000)
    sql(folder, "UPDATE events SET payload = '{}' WHERE sequence = 7")
    assert_noticed(folder, 7)


def test_f1_a_splice_that_keeps_its_own_chain_is_noticed_by_the_witness(folder: Path) -> None:
    make(folder, 40)
    other = folder.with_name("other")
    make(other, 40)
    with own(folder) as file:
        file.append(titles(5), generation=1, at_us=AT_US)
    with own(other) as file:
        file.append(titles(5), generation=2, at_us=AT_US)
    shutil.copy(other / "session.sqlite", folder / "session.sqlite")
    assert_noticed(folder, 45)


def test_what_changes_no_content_is_no_damage(folder: Path) -> None:
    rows = make(folder, 40)
    sql(folder, "VACUUM")
    assert verify(folder, SESSION).ok
    assert own_and_read(folder) == rows


def test_f1_each_flipped_byte_of_a_closed_file_is_noticed_or_means_nothing(
    folder: Path, tmp_path: Path
) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(60), generation=1, at_us=AT_US)
        blob = file.put_blob(bytes(range(256)) * 40)
        event = ToolCallFinished(
            operation_id=OperationId("o"),
            tool_call_id=ToolCallId("c"),
            status="ok",
            text="",
            output_blob=blob.digest,
        )
        file.append([event], generation=1, at_us=AT_US)
        file.save_snapshot(30, 1, b"state" * 100)
        rows = every_row(file)
    size = (folder / "session.sqlite").stat().st_size
    chosen = random.Random(1)
    # All of the first 100 bytes (the header), then one in each stretch of 64.
    places = [*range(100), *(at + chosen.randrange(64) for at in range(100, size - 64, 64))]
    noticed = 0
    for at in places:
        copy = copy_of(folder, tmp_path / "copy")
        flip(copy / "session.sqlite", at, 1 << chosen.randrange(8))
        found = verify(copy, SESSION)
        try:
            with own(copy) as file:
                assert every_row(file) == rows, at
                assert b"".join(file.blob(blob.digest)) == bytes(range(256)) * 40, at
                assert file.snapshot(1) is None or file.snapshot(1).state == b"state" * 100  # type: ignore[union-attr]
        except StoreError:
            noticed += 1
            assert not found.ok, at
    assert noticed > len(places) // 10


@pytest.fixture(scope="module")
def unclean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a session whose owner was killed with 200 acknowledged events in its log."""
    folder = folder_of(tmp_path_factory.mktemp("unclean"), SESSION)
    make(folder, 20)
    code = """
file = own(Path(sys.argv[1]))
for n in range(21, 201):
    file.append(titles(1, n), generation=2, at_us=AT_US)
say("written")
time.sleep(60)
"""
    owner = run(code, folder)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "written\n"
    kill(owner)
    return folder


@pytest.mark.parametrize("share", [0.02, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_f1_a_flipped_byte_in_a_dead_owner_s_log_is_noticed_and_nothing_thrown_away(
    unclean: Path, tmp_path: Path, share: float
) -> None:
    copy = copy_of(unclean, tmp_path / "copy")
    wal = copy / "session.sqlite-wal"
    flip(wal, int(wal.stat().st_size * share))
    assert_noticed(copy)
    with SessionReader(copy, SESSION) as reader, pytest.raises(Damaged, match="200"):
        reader.head()


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_f1_any_flipped_byte_in_a_dead_owner_s_log_is_noticed_or_means_nothing(
    unclean: Path, tmp_path: Path, at: int, bit: int
) -> None:
    copy = copy_of(unclean, tmp_path / "copy")
    wal = copy / "session.sqlite-wal"
    flip(wal, at % wal.stat().st_size, 1 << bit)
    found = verify(copy, SESSION)
    try:
        assert len(own_and_read(copy)) == 200
        assert found.ok
    except Damaged:
        assert not found.ok


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_f1_a_truncated_log_of_a_dead_owner_is_noticed(
    unclean: Path, tmp_path: Path, share: float
) -> None:
    copy = copy_of(unclean, tmp_path / "copy")
    wal = copy / "session.sqlite-wal"
    with wal.open("r+b") as file:
        file.truncate(int(wal.stat().st_size * share))
    assert_noticed(copy)


def test_f1_a_removed_log_of_a_dead_owner_is_noticed(unclean: Path, tmp_path: Path) -> None:
    copy = copy_of(unclean, tmp_path / "copy")
    (copy / "session.sqlite-wal").unlink()
    assert_noticed(copy, 21)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 1000, 4096, 8192, 20480, -4096, -1])
def test_f1_a_truncated_database_is_noticed_and_never_taken_for_an_empty_one(
    folder: Path, size: int
) -> None:
    make(folder, 400, batch=100)
    database = folder / "session.sqlite"
    with database.open("r+b") as file:
        file.truncate(size if size >= 0 else database.stat().st_size + size)
    assert_noticed(folder)


def test_f1_a_removed_database_is_damage_and_not_a_session_that_never_was(folder: Path) -> None:
    make(folder, 3)
    (folder / "session.sqlite").unlink()
    assert_noticed(folder, 1)
    with pytest.raises(Damaged):
        SessionFile.create(folder, SESSION, at_us=AT_US)
    with pytest.raises(Damaged) as told:
        SessionReader(folder, SESSION)
    assert str(folder) in told.value.message


def take_away_the_folder(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


def take_away_the_file(folder: Path) -> None:
    (folder / "session.sqlite").rename(folder / "away")


def put_a_copy_there(folder: Path) -> None:
    copy = shutil.copy(folder / "session.sqlite", folder / "copy")
    Path(copy).replace(folder / "session.sqlite")


@pytest.mark.parametrize(
    "deed", [take_away_the_folder, take_away_the_file, put_a_copy_there], ids=lambda f: f.__name__
)
def test_f1_nothing_is_acknowledged_that_goes_into_a_file_which_was_taken_away(
    folder: Path, deed: Callable[[Path], None]
) -> None:
    """SQLite goes on in a removed file: all that was accepted was lost with the worker."""
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append([SessionTitled(title="one")], generation=1, at_us=AT_US)
        file.reopen()
        deed(folder)
        with pytest.raises(StoreError, match="was removed"):
            file.append([SessionTitled(title="two")], generation=1, at_us=AT_US)
        if deed is put_a_copy_there:  # which is all that was acknowledged: it goes on in that
            assert file.append([SessionTitled(title="two")], generation=1, at_us=AT_US) == 2
            return
        with pytest.raises(StoreError, match="was removed"):
            file.append([SessionTitled(title="two")], generation=1, at_us=AT_US)
        if deed is take_away_the_folder:
            folder.with_name("away").rename(folder)
        else:
            (folder / "away").rename(folder / "session.sqlite")
        assert file.append([SessionTitled(title="two")], generation=1, at_us=AT_US) == 2
    with SessionReader(folder, SESSION) as reader:
        assert [row.sequence for row in reader.rows(0)] == [1, 2]


def empty(folder: Path) -> None:
    (folder / "session.sqlite").write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "session.sqlite").unlink()


def put_a_folder_there(folder: Path) -> None:
    remove(folder)
    (folder / "session.sqlite").mkdir()


def put_another_sessions_there(folder: Path) -> None:
    sql(folder, "UPDATE meta SET value = '' WHERE key > 's'")


def point_to_nothing(folder: Path) -> None:
    remove(folder)
    (folder / "session.sqlite").symlink_to(folder / "nothing")


@pytest.mark.parametrize(
    "fault", [empty, remove, put_a_folder_there, put_another_sessions_there, point_to_nothing]
)
def test_f1_a_session_stays_one_whatever_is_in_its_folder(
    tmp_path: Path, folder: Path, fault: Callable[[Path], None]
) -> None:
    make(folder, 3)
    fault(folder)
    assert sessions_in(tmp_path) == [SESSION]
    assert verify(folder, SESSION).problems
    assert code_of(lambda: SessionReader(folder, SESSION)) == "damaged"
    assert code_of(lambda: SessionFile.own(folder, SESSION)) == "damaged"


def test_what_a_creation_that_died_leaves_is_no_session(tmp_path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    assert sessions_in(tmp_path) == []
    OwnerLock.take(Place(folder)).close()
    (folder / "session.sqlite.new").write_bytes(b"half a file")
    assert sessions_in(tmp_path) == []
    assert code_of(lambda: verify(folder, SESSION)) == "session_not_found"
    assert code_of(lambda: SessionReader(folder, SESSION)) == "session_not_found"


def test_f1_a_log_without_its_database_is_no_new_session(unclean: Path, tmp_path: Path) -> None:
    copy = copy_of(unclean, tmp_path / "copy")
    (copy / "session.sqlite").unlink()
    (copy / "owner.lock").unlink()
    with pytest.raises(Damaged):
        SessionFile.create(copy, SESSION, at_us=AT_US)
    with pytest.raises(Damaged):
        own(copy)


def test_f1_a_database_overwritten_with_noise_is_noticed(folder: Path) -> None:
    make(folder, 3)
    noise = random.Random(1).randbytes(20_000)
    (folder / "session.sqlite").write_bytes(noise)
    assert_noticed(folder)
    assert code_of(lambda: SessionReader(folder, SESSION)) == "damaged"


def test_f1_damage_while_the_owner_lives_is_noticed_by_its_next_reading(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(50), generation=1, at_us=AT_US)
        data = (folder / "session.sqlite-wal").read_bytes()
        flip(folder / "session.sqlite-wal", data.rindex(b"title 25"))
        with SessionReader(folder, SESSION) as reader, pytest.raises(Damaged):
            every_row(reader)


def test_f1_damage_fails_that_session_only(tmp_path: Path, folder: Path) -> None:
    make(folder, 3)
    neighbour = tmp_path / "neighbour"
    rows = make(neighbour, 3)
    sql(folder, "DELETE FROM events")
    assert_noticed(folder)
    assert own_and_read(neighbour) == rows
    assert verify(neighbour, SESSION).ok


def test_f1_a_damaged_blob_is_noticed_where_it_is_read_and_named_with_its_event(
    folder: Path,
) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        digest = file.put_blob(b"a long output " * 200_000).digest
        event = ToolCallFinished(
            operation_id=OperationId("o"),
            tool_call_id=ToolCallId("c"),
            status="ok",
            text="",
            output_blob=digest,
        )
        file.append([*titles(2), event], generation=1, at_us=AT_US)
    whole = copy_of(folder, folder.with_name("whole"))
    for edit in (
        "UPDATE blob_parts SET data = zeroblob(length(data))",
        "DELETE FROM blob_parts WHERE position = (SELECT max(position) FROM blob_parts)",
        "UPDATE blobs SET parts = 1",
        "DELETE FROM blobs",
    ):
        copy = copy_of(whole, folder)
        sql(copy, edit)
        problems = verify(copy, SESSION).problems
        assert [problem.sequence for problem in problems] == [3], edit
        assert digest in problems[0].what
        with SessionReader(copy, SESSION) as reader:
            assert len(every_row(reader)) == 3  # the log is whole
            assert code_of(lambda: b"".join(reader.blob(digest))) in {"damaged", "blob_not_found"}


def test_f1_a_damaged_snapshot_is_no_damage_but_is_not_used(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(10), generation=1, at_us=AT_US)
        file.save_snapshot(5, 1, b"the state")
    whole = copy_of(folder, folder.with_name("whole"))
    for edit in (
        "UPDATE snapshot SET state = zeroblob(10)",
        "UPDATE snapshot SET sequence = 6",
        "UPDATE snapshot SET log_hash = zeroblob(16)",
        "UPDATE snapshot SET digest = zeroblob(16)",
        "DELETE FROM snapshot",
    ):
        copy = copy_of(whole, folder)
        sql(copy, edit)
        with SessionReader(copy, SESSION) as reader:
            assert reader.snapshot(1) is None, edit
        with own(copy) as file:
            assert file.snapshot(1) is None, edit
            assert file.head == 10


def test_a_lost_witness_is_reported_by_verify_and_does_not_stop_the_session(folder: Path) -> None:
    make(folder, 5)
    flip(folder / "owner.lock", 20)
    assert witness_of(folder) is None
    assert "witness" in verify(folder, SESSION).problems[0].what
    assert len(read(folder)) == 5
    with own(folder) as file:
        assert file.append(titles(1), generation=2, at_us=AT_US) == 6
    assert verify(folder, SESSION).ok


def test_a_reader_waits_for_a_fold_where_nobody_vouches_for_the_last_commit(
    unclean: Path, tmp_path: Path
) -> None:
    copy = copy_of(unclean, tmp_path / "copy")
    (copy / "owner.lock").unlink()  # as after a loss of power, say: the witness is behind or gone
    with SessionReader(copy, SESSION) as reader:
        with pytest.raises(NeedsFold, match="fold"):
            reader.head()
        assert verify(copy, SESSION).events == 200
        fold(copy, SESSION)
        assert reader.head()[0] == 200
        assert len(every_row(reader)) == 200


def test_what_a_dead_owner_committed_but_did_not_acknowledge_is_shown_after_the_fold(
    unclean: Path, tmp_path: Path
) -> None:
    copy = copy_of(unclean, tmp_path / "copy")
    before = copy_of(unclean, tmp_path / "before")
    code = """
file = own(Path(sys.argv[1]))
file.append(titles(1), generation=3, at_us=AT_US)
say("written")
time.sleep(60)
"""
    owner = run(code, copy)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "written\n"
    kill(owner)
    # Killed between the commit and its witness: the witness is the one of before.
    shutil.copy(before / "owner.lock", copy / "owner.lock")
    with SessionReader(copy, SESSION) as reader:
        assert code_of(reader.head) == "needs_fold"
    with own(copy) as file:
        assert file.head == 201
    assert len(read(copy)) == 201


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    number=st.integers(1, 12),
    column=st.sampled_from(
        [
            "generation",
            "occurred_at",
            "kind",
            "operation_id",
            "message_id",
            "tool_call_id",
            "command_id",
            "payload",
            "hash",
        ]
    ),
    text=st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=5)),
    integer=st.integers(-(2**63), 2**63 - 1),
)
def test_f1_any_single_changed_column_breaks_the_chain(
    tmp_path: Path, number: int, column: str, text: str | None, integer: int
) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        with SessionFile.create(whole, SESSION, at_us=AT_US) as file:
            events = [
                ToolCallFinished(
                    operation_id=OperationId("None"),
                    tool_call_id=ToolCallId(""),
                    status="ok",
                    text="x",
                ),
                SessionTitled(title="y"),
            ]
            file.append(events * 6, generation=1, at_us=AT_US)
    copy = copy_of(whole, tmp_path / "copy")
    value: object = text
    if column in {"generation", "occurred_at"}:
        value = integer
    elif column == "hash":
        value = (text or "").encode()
    try:
        before = sql(copy, f"SELECT {column} FROM events WHERE sequence = ?", number)
        sql(copy, f"UPDATE events SET {column} = ? WHERE sequence = ?", value, number)
        after = sql(copy, f"SELECT {column} FROM events WHERE sequence = ?", number)
    except sqlite3.IntegrityError:  # NULL where none may be: SQLite itself refused the edit
        return
    if before == after:
        assert verify(copy, SESSION).ok
    else:
        assert_noticed(copy, number)
