"""S22: whatever dies between any two writes, what was acknowledged is there, whole and in order."""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.store.errors import SessionNotFound, StoreError
from paddock.store.events import Row
from paddock.store.session_file import (
    SessionFile,
    SessionReader,
    fold,
    folder_of,
    verify,
)
from tests.store.filebench import (
    AT_US,
    SESSION,
    code_of,
    copy_of,
    every_row,
    kill,
    make,
    own,
    read,
    run,
    titles,
)
from tests.store.tracing import (
    SYNCS,
    Ending,
    Fate,
    killed_before,
    needs_failing,
    needs_tracing,
    traced,
)

type Say = Callable[[object], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path, SESSION)


def test_s22_kill_9_in_mid_commit_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    make(folder, 0)
    code = """
with own(Path(sys.argv[1])) as file:
    while True:
        first = file.append(titles(3, file.head + 1), generation=1, at_us=AT_US)
        say(first + 2)
"""
    chosen = random.Random(1)
    head = 0
    for _ in range(12):
        writer = run(code, folder)
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(chosen.uniform(0, 0.05))  # what is random here is where it dies
        said = kill(writer).splitlines()
        acknowledged = int(said[-1]) if said and said[-1].isdigit() else acknowledged
        with SessionReader(folder, SESSION) as reader:
            if code_of(reader.head) == "needs_fold":
                fold(folder, SESSION)
            seen = reader.head()[0]
        with own(folder) as file:
            assert file.head >= max(acknowledged, seen, head)
            assert file.head % 3 == 0
            head = file.head
        assert verify(folder, SESSION).ok
    titles_seen = [row.payload for row in read(folder)]
    assert titles_seen == [f'{{"title":"title {number}"}}' for number in range(1, head + 1)]


def each_kill(work: Callable[[Path, Say], None], before: Path, copy: Path) -> list[Ending]:
    """Run ``work`` on copies of ``before``, killed before its first write, its second, and so on.

    Ends with the run that is not killed.
    """
    endings: list[Ending] = []
    while not endings or not endings[-1].finished:
        if before.exists():
            copy_of(before, copy)
        else:
            shutil.rmtree(copy, ignore_errors=True)
        ending = traced(lambda say: work(copy, say), killed_before(len(endings) + 1))
        endings.append(ending)
        check_after(copy, ending)
    return endings


def check_after(copy: Path, ending: Ending) -> None:
    """Check that all that was said is there, nothing is half there, and the session goes on."""
    said = int(ending.said[-1]) if ending.said else 0
    where = f"killed before write {len(ending.calls)}, a {ending.calls[-1]}; it had said {said}"
    shown: list[Row] = []
    # A reader may be told to wait for a fold, but never nonsense.
    refusal = code_of(lambda: shown.extend(read(copy)))
    assert refusal in {None, "needs_fold", "session_not_found"}, where
    try:
        file = own(copy)
    except SessionNotFound:
        assert said == 0, where
        file = SessionFile.create(copy, SESSION, at_us=AT_US)
    with file:
        assert file.head >= max(said, len(shown)), where
        assert file.head % 3 == 0, where
        rows = every_row(file)
        first = file.append(titles(3, file.head + 1), generation=99, at_us=AT_US)
        assert first == len(rows) + 1, where
    report = verify(copy, SESSION)
    assert report.ok, (where, report.problems)
    assert [row.payload for row in read(copy)] == [
        f'{{"title":"title {number}"}}' for number in range(1, first + 3)
    ]


@needs_tracing
def test_s22_killed_between_any_two_writes_of_a_creation(folder: Path, tmp_path: Path) -> None:
    def work(copy: Path, say: Say) -> None:
        with SessionFile.create(copy, SESSION, at_us=AT_US) as file:
            file.append(titles(3), generation=1, at_us=AT_US)
            say(3)

    endings = each_kill(work, tmp_path / "nothing", folder)
    assert len(endings) > 10
    assert "fsync" in endings[-1].calls


@needs_tracing
@pytest.mark.parametrize("clean", [True, False])
def test_s22_killed_between_any_two_writes_of_a_wake_and_its_commits(
    folder: Path, tmp_path: Path, clean: bool
) -> None:
    make(tmp_path / "before", 30, batch=3)
    if not clean:
        code = """
file = own(Path(sys.argv[1]))
file.append(titles(3, 31), generation=2, at_us=AT_US)
os.kill(os.getpid(), 9)
"""
        run(code, tmp_path / "before").communicate()

    def work(copy: Path, say: Say) -> None:
        with own(copy) as file:
            for _ in range(3):
                say(file.append(titles(3, file.head + 1), generation=3, at_us=AT_US) + 2)

    endings = each_kill(work, tmp_path / "before", folder)
    assert len(endings) > 20
    assert {"pwrite64", "fdatasync"} & set(endings[-1].calls)


@needs_tracing
def test_s22_killed_between_any_two_writes_of_blob_and_snapshot(
    folder: Path, tmp_path: Path
) -> None:
    make(tmp_path / "before", 3)
    content = os.urandom(10_000)

    def work(copy: Path, say: Say) -> None:
        with own(copy) as file:
            file.save_snapshot(3, 1, b"state")
            digest = file.put_blob(content).digest
            file.append(titles(3, 4), generation=1, at_us=AT_US)
            say(6)
            assert b"".join(file.blob(digest)) == content

    each_kill(work, tmp_path / "before", folder)


@needs_failing
def test_f2_a_commit_whose_sync_failed_was_not_and_does_not_come_back(
    folder: Path, tmp_path: Path
) -> None:
    make(tmp_path / "before", 3)

    def work(copy: Path, say: Say) -> None:
        with own(copy) as file:
            failed = 0
            while file.head < 9:
                number = file.head + 1
                try:
                    file.append(titles(3, number), generation=2, at_us=AT_US)
                except StoreError:
                    failed += 1
                    with SessionReader(copy, SESSION) as reader:
                        assert reader.head()[0] == number - 1
                    assert failed < 5
                else:
                    say(file.head)

    syncs = sum(name in SYNCS for name in traced_calls(work, tmp_path / "before", folder))
    for broken in range(1, syncs + 1):
        copy_of(tmp_path / "before", folder)
        count = 0

        def fate(_: int, name: str, broken: int = broken) -> Fate:
            nonlocal count
            count += name in SYNCS
            return Fate.FAIL if name in SYNCS and count == broken else Fate.GO

        ending = traced(lambda say: work(folder, say), fate)
        if ending.said:
            # Each commit is acknowledged once, and none of those that failed is there twice.
            assert ending.said[-1] == "9", broken
        check_after(folder, ending)


def traced_calls(work: Callable[[Path, Say], None], before: Path, copy: Path) -> list[str]:
    copy_of(before, copy)
    ending = traced(lambda say: work(copy, say), lambda _, __: Fate.GO)
    assert ending.finished
    return ending.calls


def test_s22_a_fold_that_was_cut_off_is_done_again(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "before", 30, batch=3)
    code = """
file = own(Path(sys.argv[1]))
for n in range(31, 331, 3):
    file.append(titles(3, n), generation=2, at_us=AT_US)
os.kill(os.getpid(), 9)
"""
    unfolded = tmp_path / "before"
    run(code, unfolded).communicate()
    folded = copy_of(unfolded, tmp_path / "folded")
    own(folded).close(clean=True)
    old = (unfolded / "session.sqlite").read_bytes()
    new = (folded / "session.sqlite").read_bytes()
    assert len(new) > len(old)
    for at in range(0, len(new), 2048):  # pages, and halves of them
        copy = copy_of(unfolded, folder)
        (copy / "session.sqlite").write_bytes(new[:at] + old[at:])
        with own(copy) as file:
            assert file.head == 330
        assert verify(copy, SESSION).ok
