"""At most one owner of a session's file, whoever looks, dies or forks meanwhile."""

import fcntl
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.store.errors import AlreadyOwned
from paddock.store.session_file import (
    Holder,
    SessionFile,
    folder_of,
    holder_of,
    is_owned,
    start_ticks_of,
    this_process,
    witness_of,
)
from paddock.store.session_file.lock import OwnerLock
from paddock.store.session_file.place import place_of
from tests.store.filebench import (
    AT_US,
    SESSION,
    code_of,
    every_row,
    finish,
    kill,
    make,
    own,
    read,
    run,
    titles,
    wait_until,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path, SESSION)


def test_p3_would_be_owners_never_both_own(folder: Path, tmp_path: Path) -> None:
    make(folder, 0)
    # Inside, each makes a file that must not be there, so that two at once would show.
    code = """
inside = Path(sys.argv[2]) / "inside"
owned = 0
while owned < 25:
    try:
        file = SessionFile.own(Path(sys.argv[1]), SESSION)
    except PaddockError as error:
        assert error.code == "already_owned", error
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    file.append(titles(1, file.head + 1), generation=file.last_generation + 1, at_us=AT_US)
    owned += 1
    inside.unlink()
    file.close(clean=owned % 2 == 0)
"""
    rivals = [run(code, folder, tmp_path) for _ in range(4)]
    probes = 0
    while any(rival.poll() is None for rival in rivals):
        is_owned(folder)
        holder_of(folder)
        probes += 1
    for rival in rivals:
        finish(rival)
    rows = read(folder)
    assert [row.generation for row in rows] == list(range(1, 101))
    assert probes > 0


def test_p3_looking_whether_a_session_is_owned_never_keeps_anybody_from_owning_it(
    folder: Path,
) -> None:
    make(folder, 1)
    stop = threading.Event()

    def probe() -> None:
        while not stop.is_set():
            is_owned(folder)

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            own(folder).close(clean=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_refused_owner_is_told_who_holds_the_session(folder: Path) -> None:
    make(folder, 1)
    code = """
with own(Path(sys.argv[1])) as file:
    file.append(titles(1), generation=7, at_us=AT_US)
    say("owned")
    sys.stdin.readline()
"""
    owner = run(code, folder)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "owned\n"
    with pytest.raises(AlreadyOwned) as error:
        own(folder)
    assert error.value.facts["pid"] == owner.pid
    assert error.value.facts["generation"] == 7
    assert str(owner.pid) in error.value.message
    holder = holder_of(folder)
    assert holder is not None
    assert (holder.pid, holder.generation) == (owner.pid, 7)
    alive_before = holder.is_alive
    finish(owner)
    assert holder_of(folder) is None
    assert (alive_before, holder.is_alive) == (True, False)
    assert not is_owned(folder)


def test_the_lock_is_free_when_its_owner_was_killed_and_its_words_stay(folder: Path) -> None:
    make(folder, 1)
    code = """
file = own(Path(sys.argv[1]))
file.append(titles(1), generation=7, at_us=AT_US)
say("owned")
time.sleep(60)
"""
    owner = run(code, folder)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "owned\n"
    assert is_owned(folder)
    kill(owner)
    assert not is_owned(folder)
    holder = holder_of(folder)
    assert holder is not None
    assert (holder.pid, holder.is_alive) == (owner.pid, False)
    with own(folder) as file:
        assert file.head == 2


def test_f14_a_reused_pid_is_not_taken_for_the_owner(folder: Path) -> None:
    present = this_process()
    assert present.is_alive
    assert present.pid == os.getpid()
    assert not replace(present, start_ticks=present.start_ticks - 1).is_alive
    assert not replace(present, boot_id="another boot").is_alive
    assert not replace(present, pid_namespace=1).is_alive
    assert start_ticks_of(2**22 + 1) is None


def test_f14_a_zombie_is_no_owner() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait_until(lambda: start_ticks_of(child) is None, "the child is a zombie")
    holder = replace(this_process(), pid=child)
    assert not holder.is_alive
    os.waitpid(child, 0)


def test_p3_a_process_without_its_main_thread_is_no_zombie(folder: Path) -> None:
    """It holds its locks still, as one does for a moment that is being killed."""
    code = """
file = SessionFile.own(Path(sys.argv[1]), SESSION)
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    make(folder, 1)
    child = run(code, folder)
    state = Path(f"/proc/{child.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(") ")[2][0] == "Z", "its main thread is gone")
    try:
        holder = holder_of(folder)
        assert holder is not None
        assert holder.is_alive
        assert is_owned(folder)
    finally:
        kill(child)


def test_who_waits_for_a_session_owns_it_when_it_is_given_up(folder: Path) -> None:
    make(folder, 1)
    held = own(folder)
    found: list[int] = []

    def wait() -> None:
        with SessionFile.own(folder, SESSION, wait_seconds=60) as file:
            found.append(file.head)

    waiting = threading.Thread(target=wait)
    waiting.start()
    held.append(titles(1), generation=1, at_us=AT_US)
    held.close(clean=True)
    waiting.join()
    assert found == [2]


def test_a_wait_for_a_session_has_an_end(folder: Path) -> None:
    make(folder, 1)
    with own(folder), pytest.raises(AlreadyOwned):
        SessionFile.own(folder, SESSION, wait_seconds=0.02)


def test_the_lock_is_not_inherited_by_a_program_that_is_started(folder: Path) -> None:
    make(folder, 1)
    with own(folder):
        child = run("say('up'); sys.stdin.readline()")
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"  # it opens and closes nothing any more
        fds = Path(f"/proc/{child.pid}/fd")
        assert not [fd for fd in fds.iterdir() if str(folder) in str(fd.readlink())]
    assert not is_owned(folder)
    finish(child)


def test_two_owners_in_one_process_exclude_each_other_too(folder: Path) -> None:
    make(folder, 1)
    with own(folder) as file:
        assert code_of(lambda: own(folder)) == "already_owned"
        assert code_of(lambda: SessionFile.create(folder, SESSION, at_us=AT_US)) == "already_owned"
        assert is_owned(folder)
        file.append(titles(1), generation=1, at_us=AT_US)


def test_a_lock_that_somebody_else_holds_for_reasons_of_his_own_is_respected(folder: Path) -> None:
    make(folder, 1)
    descriptor = os.open(folder / "owner.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(AlreadyOwned, match="has not said who it is"):
        own(folder)
    os.close(descriptor)
    assert code_of(lambda: own(folder).close(clean=True)) is None


def test_the_witness_follows_each_commit(folder: Path) -> None:
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        for number in range(1, 20):
            file.append(titles(number), generation=1, at_us=AT_US)
            witness = witness_of(folder)
            assert witness is not None
            assert (witness.sequence, witness.hash) == (file.head, file.head_hash)


def test_the_witness_and_the_holder_are_read_whole_while_they_are_written(folder: Path) -> None:
    make(folder, 1)
    stop = threading.Event()
    seen: set[Holder | None] = set()
    missing: list[int] = []

    def look() -> None:
        while not stop.is_set():
            if witness_of(folder) is None:
                missing.append(1)
            seen.add(holder_of(folder))

    thread = threading.Thread(target=look)
    thread.start()
    with own(folder) as file:
        for number in range(300):
            file.append(titles(1), generation=1 + number, at_us=AT_US)
    stop.set()
    thread.join()
    assert missing == []
    assert {holder.pid for holder in seen if holder is not None} == {os.getpid()}
    assert len(every_row_of(folder)) == 301


def every_row_of(folder: Path) -> list[object]:
    with own(folder) as file:
        return list(every_row(file))


@pytest.mark.parametrize("lost", [b"", bytes(512), b"witness 00000000000000000007 torn"])
def test_f1_a_log_whose_witness_was_lost_is_not_empty_while_its_next_owner_opens_it(
    folder: Path, lost: bytes
) -> None:
    before = make(folder, 7, clean=False)  # with a write-ahead log
    (folder / "owner.lock").write_bytes(lost)  # nothing in it is synced
    lock = OwnerLock.take(place_of(folder))
    try:
        assert read(folder) == before
    finally:
        lock.close()
    with own(folder):
        assert read(folder) == before
