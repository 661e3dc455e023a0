"""Burials and looks on real files and processes: who is ended, and who must never be."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.store.events import (
    CommandAccepted,
    EventBase,
    SessionConfig,
    SessionCreated,
    SessionDeleted,
    WorkerStarted,
)
from paddock.store.ids import CommandId, SessionId
from paddock.store.session_file import SessionFile, fold, folder_of
from paddock.store.session_file.lock import boot_id
from paddock.store.session_file.place import place_of
from paddock.supervisor import births, burial
from paddock.supervisor.errors import OwnerStuck
from paddock.supervisor.processes import Status
from paddock.supervisor.restart import Budget
from paddock.supervisor.stimuli import Bury

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
CREATED = SessionCreated(config=SessionConfig(workspace="/"), command_id=CommandId(SESSION))
FOUND = Bury(1, None, None, None, False, None, None, (), None, is_found=True)
HOLD = """
import sys
from pathlib import Path
from paddock.store.session_file import SessionFile
with SessionFile.own(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""

LOCKS = """
import fcntl, sys
with open(sys.argv[1], "rb") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


def write(home: Path, *events: EventBase) -> None:
    with SessionFile.create(folder_of(home, SESSION), SESSION, at_us=1) as file:
        file.append([CREATED], generation=0, at_us=1)
        if events:
            file.append(events, generation=1, at_us=2)


def started() -> WorkerStarted:
    """Return the start of a worker that is dead by now."""
    return WorkerStarted(
        pid=2**22 + 1, start_ticks=1, boot_id=boot_id(), agent="builtin", paddock_version="0"
    )


def rites(home: Path) -> burial.Rites:
    return burial.Rites(
        home,
        SESSION,
        FOUND,
        Status(),
        False,
        None,
        Budget(),
        (),
        None,
        lambda: 3,
        0.0,
    )


@contextmanager
def held_by_another(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Have the session's file owned by a process that is no worker, as when the store folds it."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder_of(home, SESSION)), SESSION],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin, child.stdout:
        assert child.stdout.readline() == b"held\n"
        yield child


def test_f5_the_tools_of_a_death_that_was_found_are_ended_whoever_folded_the_file(
    tmp_path: Path,
) -> None:
    write(tmp_path, started())
    fold(folder_of(tmp_path, SESSION), SESSION)  # as the store does: its owner's words are gone
    owner = {"PADDOCK_OWNER": f"{SESSION}.1", "PATH": os.environ["PATH"]}
    with subprocess.Popen(["sleep", "1000"], env=owner) as tool:
        try:
            outcome = burial.bury(rites(tmp_path))
            assert tool.wait(10) == -9
        finally:
            tool.kill()
    assert outcome.ending == "crashed"


def test_p13_a_worker_that_died_right_after_it_deleted_its_session_has_a_certificate(
    tmp_path: Path,
) -> None:
    by = CommandId("01890000-0000-7000-8000-000000000002")
    accepted = CommandAccepted(command_id=by, verb="delete", digest="d", arguments={})
    write(tmp_path, started(), accepted, SessionDeleted(command_id=by))
    outcomes = [burial.bury(rites(tmp_path)) for _ in range(2)]  # found by one host, then another
    assert [one.deleted_by for one in outcomes] == [by, by]
    with SessionFile.own(folder_of(tmp_path, SESSION), SESSION) as file:
        rows = file.rows(4)
    assert [row.kind for row in rows] == ["worker_exited"]
    assert outcomes[-1].head == rows[-1].sequence


def test_p15_what_a_dead_worker_s_tools_put_out_and_nobody_read_goes_at_its_burial(
    tmp_path: Path,
) -> None:
    write(tmp_path, started())
    spool = place_of(folder_of(tmp_path, SESSION)).spool
    spool.mkdir()
    (spool / "0123.out").write_text("half of an output")
    burial.bury(rites(tmp_path))
    assert not spool.exists()


def test_p13_a_worker_that_named_its_words_and_died_before_its_first_commit_is_heard(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    folder = folder_of(tmp_path, SESSION)
    (folder / "stderr.1").write_text("agent_not_found: a tool of it cannot be one\n")
    died_starting = Bury(1, 2**22 + 1, None, None, False, "starting", None, (), None)
    died = replace(
        rites(tmp_path), bury=died_starting, status=Status(exit_code=64), start_id="a start"
    )
    burial.bury(died)
    with SessionFile.own(folder, SESSION) as file:
        rows = file.rows(1)
    assert [row.kind for row in rows] == ["worker_exited", "session_failed"]
    assert all("a tool of it cannot be one" in row.payload for row in rows)


def test_a_burial_never_ends_its_own_host(tmp_path: Path) -> None:
    write(tmp_path, started())
    with (
        SessionFile.own(folder_of(tmp_path, SESSION), SESSION),
        pytest.raises(OwnerStuck),
    ):
        burial.bury(rites(tmp_path))


def test_who_holds_the_lock_is_told_by_pid_and_name_and_who_looks_at_it_is_not(
    tmp_path: Path,
) -> None:
    write(tmp_path, started())
    lock = folder_of(tmp_path, SESSION) / "owner.lock"
    with (
        lock.open("rb") as looked_at,
        subprocess.Popen(["sleep", "60"], stdin=looked_at) as looks,
        subprocess.Popen(
            [sys.executable, "-c", LOCKS, str(lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder,
    ):
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
            with pytest.raises(OwnerStuck) as stuck:
                burial.bury(rites(tmp_path))
        finally:
            looks.kill()
            holder.kill()
    assert f"still held by process {holder.pid} ({name}):" in stuck.value.message
    assert stuck.value.facts["pids"] == [holder.pid]


def test_who_folds_a_file_is_not_taken_for_its_worker(tmp_path: Path) -> None:
    write(tmp_path)
    with held_by_another(tmp_path) as child:
        assert child.stdin is not None
        looks: list[births.Look] = []
        looking = threading.Thread(target=lambda: looks.append(births.look(tmp_path, SESSION)))
        looking.start()
        looking.join(0.1)
        child.stdin.close()
        looking.join(30)
    assert [look.found for look in looks] == ["cold"]
