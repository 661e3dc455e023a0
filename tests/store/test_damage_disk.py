"""F2: a disk that is full, read-only or broken: a typed error, nothing acknowledged is lost."""

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.store.errors import DiskFull, StoreError
from paddock.store.events import EventBase, SessionTitled
from paddock.store.session_file import SessionFile, SessionReader, fold, folder_of, verify
from tests.store.disks import full, read_only, small_disk
from tests.store.filebench import (
    AT_US,
    SESSION,
    code_of,
    copy_of,
    every_row,
    finish,
    make,
    own,
    read,
    run,
    titles,
)

DISK_BYTES = 2 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        yield disk


def long_titles(count: int) -> list[EventBase]:
    return [SessionTitled(title=f"{number} " + "x" * 5000) for number in range(count)]


def append_for_ever(file: SessionFile, batch: int) -> None:
    """Append until it fails, and check that what is acknowledged is what the file says."""
    while True:
        head = file.head
        assert file.append(long_titles(batch), generation=1, at_us=AT_US) == head + 1


def test_f2_on_a_full_disk_appends_stop_being_acknowledged_and_go_on_when_there_is_room(
    disk: Path,
) -> None:
    folder = folder_of(disk, SESSION)
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(long_titles(3), generation=1, at_us=AT_US)
        with full(disk):
            with pytest.raises(DiskFull, match="make room"):
                append_for_ever(file, 3)
            acknowledged = file.head
            for _ in range(3):  # still full: refused again, and not worse
                with pytest.raises(StoreError):
                    file.append(long_titles(30), generation=1, at_us=AT_US)
            assert file.head == acknowledged
            with SessionReader(folder, SESSION) as reader:
                assert reader.head()[0] == acknowledged
                assert len(every_row(reader)) == acknowledged
        assert file.append(long_titles(3), generation=1, at_us=AT_US) == acknowledged + 1
        assert file.head == acknowledged + 3
    assert len(read(folder)) == acknowledged + 3
    assert verify(folder, SESSION).ok


def test_f2_a_session_that_filled_its_disk_by_itself_goes_on_when_there_is_room(
    disk: Path,
) -> None:
    folder = folder_of(disk, SESSION)
    (disk / "ballast").write_bytes(bytes(DISK_BYTES // 2))
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        with pytest.raises(DiskFull):
            append_for_ever(file, 7)
        acknowledged = file.head
        assert acknowledged > 0
        assert acknowledged % 7 == 0
        (disk / "ballast").unlink()
        assert file.append(long_titles(1), generation=1, at_us=AT_US) == acknowledged + 1
    assert verify(folder, SESSION).ok


def test_f2_a_wake_on_a_full_disk_is_refused_and_loses_nothing(disk: Path) -> None:
    folder = folder_of(disk, SESSION)
    make(folder, 10)
    code = """
file = own(Path(sys.argv[1]))
for n in range(11, 111):
    file.append(titles(1, n), generation=2, at_us=AT_US)
os.kill(os.getpid(), 9)
"""
    run(code, folder).communicate()
    with full(disk):
        assert code_of(lambda: own(folder).close(clean=False)) in {None, "disk_full"}
    with own(folder) as file:
        assert file.head == 110
    assert verify(folder, SESSION).ok


def test_f2_a_creation_on_a_full_disk_is_refused_and_can_be_done_later(disk: Path) -> None:
    folder = folder_of(disk, SESSION)
    with full(disk), pytest.raises(DiskFull):
        SessionFile.create(folder, SESSION, at_us=AT_US)
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        assert file.append(titles(1), generation=1, at_us=AT_US) == 1
    assert verify(folder, SESSION).ok


def test_f2_a_blob_that_finds_no_room_leaves_nothing_and_takes_no_event_with_it(
    disk: Path,
) -> None:
    folder = folder_of(disk, SESSION)
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(3), generation=1, at_us=AT_US)
        with pytest.raises(DiskFull):
            file.put_blob(os.urandom(2 * DISK_BYTES))
        assert code_of(lambda: file.append(titles(1, 4), generation=1, at_us=AT_US)) in {
            None,
            "disk_full",
        }
    with own(folder) as file:
        assert file.head in {3, 4}
        assert b"".join(file.blob(file.put_blob(b"small").digest)) == b"small"
    assert verify(folder, SESSION).ok


def test_f2_a_read_only_disk_refuses_owners_and_serves_readers(disk: Path) -> None:
    folder = folder_of(disk, SESSION)
    rows = make(folder, 10)
    with read_only(disk):
        with pytest.raises(DiskFull, match="right to write"):
            own(folder)
        with pytest.raises(DiskFull):
            SessionFile.create(folder_of(disk / "more", SESSION), SESSION, at_us=AT_US)
        assert read(folder) == rows
        assert verify(folder, SESSION).ok
    with own(folder) as file:
        assert file.append(titles(1), generation=2, at_us=AT_US) == 11


def test_f2_on_a_read_only_disk_an_unfolded_log_is_never_taken_for_a_short_one(disk: Path) -> None:
    folder = folder_of(disk, SESSION)
    make(folder, 10)
    code = """
file = own(Path(sys.argv[1]))
file.append(titles(5, 11), generation=2, at_us=AT_US)
os.kill(os.getpid(), 9)
"""
    run(code, folder).communicate()
    for name in ("session.sqlite-shm",):
        (folder / name).unlink()
    with read_only(disk):
        assert code_of(lambda: read(folder)) in {"disk_full", "store_error"}
        assert not verify(folder, SESSION).ok
    fold(folder, SESSION)
    assert len(read(folder)) == 15


@pytest.mark.parametrize("limit_kib", [40, 64, 100, 200])
def test_f2_a_disk_that_fails_in_mid_write_is_told_and_nothing_of_the_batch_is_stored(
    tmp_path: Path, limit_kib: int
) -> None:
    folder = folder_of(tmp_path, SESSION)
    make(folder, 3)
    # A limit on the size of files gives real failing writes to everybody (EFBIG).
    code = """
import resource
limit = int(sys.argv[2]) * 1024
file = own(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
failed = 0
while failed < 3:
    try:
        file.append(titles(30, file.head + 1), generation=1, at_us=AT_US)
    except StoreError as error:
        failed += 1
    say(file.head)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
before = file.head
assert file.append(titles(30, before + 1), generation=1, at_us=AT_US) == before + 1
file.close(clean=True)
"""
    said = finish(run("from paddock.store.errors import StoreError\n" + code, folder, limit_kib))
    acknowledged = int(said.splitlines()[-1])
    rows = read(folder)
    assert len(rows) == acknowledged + 30
    assert [row.payload for row in rows] == [
        f'{{"title":"title {number}"}}' for number in range(1, len(rows) + 1)
    ]
    assert verify(folder, SESSION).ok


def test_f2_killed_at_any_size_of_the_log_loses_nothing_acknowledged(tmp_path: Path) -> None:
    before = tmp_path / "before"
    make(before, 3)
    folder = folder_of(tmp_path, SESSION)
    for limit in range(33_000, 60_000, 1_700):
        copy_of(before, folder)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            die_at(folder, limit, write_end)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            said = pipe.read().split()
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGXFSZ
        with own(folder) as file:
            assert file.head >= (int(said[-1]) if said else 3)
            assert file.head % 3 == 0
        assert verify(folder, SESSION).ok
    shutil.rmtree(folder)


def die_at(folder: Path, limit: int, pipe: int) -> None:
    """Append until the kernel kills this process in the write that passes ``limit`` bytes."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        file = own(folder)
        while True:
            file.append(titles(3, file.head + 1), generation=1, at_us=AT_US)
            os.write(pipe, f"{file.head}\n".encode())
    finally:
        os._exit(1)
