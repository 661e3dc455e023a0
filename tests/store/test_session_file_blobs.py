"""Large contents and the folded state, kept in a session's file."""

import os
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from paddock.store.errors import BlobNotFound, Bug, StoreError, TooLarge
from paddock.store.session_file import SessionFile, SessionReader, Snapshot, folder_of, verify
from tests.store.filebench import AT_US, SESSION, every_row, finish, make, own, run, sql, titles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path, SESSION)


MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, 1000, MIB - 1, MIB, MIB + 1, 8 * MIB, 9 * MIB + 17])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_blob_is_read_back_as_it_was_put(
    folder: Path, tmp_path: Path, size: int, as_file: bool
) -> None:
    content = os.urandom(size // 2) + bytes(size - size // 2)
    source: Path | bytes = content
    if as_file:
        source = tmp_path / "content"
        source.write_bytes(content)
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        blob = file.put_blob(source)
        assert blob.digest == sha256(content).hexdigest()
        assert blob.size_bytes == size
        assert b"".join(file.blob(blob.digest)) == content
        with SessionReader(folder, SESSION) as reader:
            assert b"".join(reader.blob(blob.digest)) == content
    assert verify(folder, SESSION).ok


def test_the_same_content_is_stored_once(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "content"
    source.write_bytes(os.urandom(12 * MIB))
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        blobs = {file.put_blob(source), file.put_blob(source.read_bytes()), file.put_blob(source)}
    assert len(blobs) == 1
    assert sql(folder, "SELECT count(*), sum(parts) FROM blobs") == [(1, 12)]
    assert sql(folder, "SELECT count(*) FROM blob_parts") == [(12,)]


def test_an_unknown_blob_is_not_found(folder: Path) -> None:
    make(folder, 1)
    with own(folder) as file, pytest.raises(BlobNotFound):
        list(file.blob("0" * 64))
    with SessionReader(folder, SESSION) as reader, pytest.raises(BlobNotFound):
        list(reader.blob("0" * 64))


def test_a_blob_over_its_limit_is_refused_and_leaves_nothing(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        content = os.urandom(20 * MIB)
        for limits in ({"limit_bytes": 19 * MIB}, {"session_limit_bytes": 19 * MIB}):
            with pytest.raises(TooLarge) as error:
                file.put_blob(content, **limits)
            assert error.value.facts["limit_bytes"] == 19 * MIB
        assert sql(folder, "SELECT count(*) FROM blob_parts") == [(0,)]
        file.put_blob(content[: 10 * MIB], session_limit_bytes=19 * MIB)
        with pytest.raises(TooLarge):
            file.put_blob(content[10 * MIB :], session_limit_bytes=19 * MIB)
        assert file.append(titles(1), generation=1, at_us=AT_US) == 1


def test_an_endless_source_ends_at_the_limit(folder: Path) -> None:
    make(folder, 1)
    with own(folder) as file, pytest.raises(TooLarge):
        file.put_blob(Path("/dev/zero"), limit_bytes=30 * MIB)


def test_a_source_that_cannot_be_read_is_told_by_its_name(folder: Path, tmp_path: Path) -> None:
    make(folder, 1)
    with own(folder) as file:
        for bad in (tmp_path / "missing", tmp_path):
            with pytest.raises(StoreError, match=str(bad)):
                file.put_blob(bad)
        assert file.append(titles(1), generation=1, at_us=AT_US) == 2


def test_f10_a_very_large_result_is_kept_in_bounded_memory(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(300 * MIB)
    make(folder, 1)
    code = """
import resource
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with own(Path(sys.argv[1])) as file:
    before = peak()
    blob = file.put_blob(Path(sys.argv[2]))
    size = sum(len(piece) for piece in file.blob(blob.digest))
    say(size, (peak() - before) * 1024)
"""
    size, grown = map(int, finish(run(code, folder, source)).split())
    assert size == 300 * MIB
    assert grown < 100 * MIB


def test_appends_go_on_while_a_blob_is_put(folder: Path) -> None:
    content = os.urandom(64 * MIB)
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        put = threading.Thread(target=file.put_blob, args=(content,))
        put.start()
        appended = 0
        while put.is_alive():
            file.append(titles(1, appended), generation=1, at_us=AT_US)
            appended += 1
        put.join()
        assert appended > 0
        assert len(every_row(file)) == appended
        assert b"".join(file.blob(sha256(content).hexdigest())) == content
    assert verify(folder, SESSION).ok


def test_a_blob_in_the_making_when_its_owner_died_leaves_nothing(folder: Path) -> None:
    make(folder, 1)
    code = """
import threading
file = own(Path(sys.argv[1]))
from paddock.store.session_file import blobs
pieces = iter([os.urandom(1024 * 1024)] * 20)
def forever(source):
    yield from pieces
    say("half")
    time.sleep(60)
blobs.parts_of = forever
file.put_blob(b"")
"""
    owner = run(code, folder)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "half\n"
    owner.kill()
    owner.communicate()
    with own(folder) as file:
        assert file.head == 1
    assert sql(folder, "SELECT count(*) FROM blob_parts") == [(0,)]
    assert sql(folder, "SELECT count(*) FROM blobs") == [(0,)]


def test_a_snapshot_is_given_back_to_the_fold_that_made_it(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(10), generation=1, at_us=AT_US)
        assert file.snapshot(1) is None
        file.save_snapshot(5, 1, b"five")
        file.save_snapshot(8, 1, b"eight" * 1000)
        assert file.snapshot(1) == Snapshot(8, b"eight" * 1000)
    with SessionReader(folder, SESSION) as reader:
        assert reader.snapshot(1) == Snapshot(8, b"eight" * 1000)
        assert reader.snapshot(2) is None
        assert reader.snapshot(1) is not None
    with own(folder) as file:
        assert file.snapshot(2) is None  # another fold's: thrown away
        assert file.snapshot(1) is None
    assert verify(folder, SESSION).ok


def test_a_snapshot_of_an_event_that_is_not_there_cannot_be_saved(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        file.append(titles(10), generation=1, at_us=AT_US)
        with pytest.raises(Bug):
            file.save_snapshot(11, 1, b"x")
        assert file.append(titles(1), generation=1, at_us=AT_US) == 11
