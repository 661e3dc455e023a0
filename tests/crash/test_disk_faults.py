"""A full or read-only disk, damaged files: under a host as users have it (F1, F2)."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paddock.client import Host, Session
from paddock.client.keys import new_id
from paddock.store.errors import PaddockError, SessionNotFound, StoreError
from paddock.store.ids import SessionId
from paddock.store.session_file import folder_of, verify
from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.main import answer
from paddock.testing import HostForTests, call, turn, wait_until_async
from tests.crash import judge
from tests.store.disks import full, read_only, small_disk

SECONDS = 120.0
DISK_BYTES = 64 * 1024 * 1024


@pytest.fixture
def disk(home: Path) -> Iterator[Path]:
    with small_disk(home / "d", DISK_BYTES) as disk:
        yield disk


@pytest.fixture
def on_disk(disk: Path) -> Iterator[HostForTests]:
    """Give a host whose home, all of it, is on a small disk."""
    made = HostForTests(disk)
    yield made
    made.end()


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


async def worker(made: HostForTests, host: Host, folder: Path, name: str | None = None) -> Session:
    """Return a session that does a small thing each time it is spoken to."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    turns = []
    for number in range(6):
        turns += [turn(call("bash", command="echo done"), prompt=number)]
        turns += [turn(f"did {number}", prompt=number)]
    return await host.new(name, model=made.script(*turns), mode="yolo", cwd=folder)


async def do(session: Session) -> str | None:
    outcome = await (await session.send("go on")).wait(SECONDS)
    assert outcome.status == "completed", outcome
    return outcome.final_message


async def is_whole_in_sql(made: HostForTests, host: Host, session: Session) -> bool:
    count = (
        await host.sql("SELECT count(*) FROM events WHERE session_id = ?", [session.session_id])
    ).one()
    return bool(count == len(judge.read_log(made.data, session.session_id)))


# --- full ---


async def test_f2_on_a_full_disk_everybody_is_told_and_work_goes_on_by_itself_when_there_is_room(
    disk: Path, on_disk: HostForTests, ground: Path
) -> None:
    async with await on_disk.connect() as host, asyncio.timeout(2 * SECONDS):
        session = await worker(on_disk, host, ground / "work")
        assert await do(session) == "did 0"
        assert await is_whole_in_sql(on_disk, host, session)
        before = judge.read_log(on_disk.data, session.session_id)
        with full(disk):
            for _ in range(2):  # refused, and refused again, and not worse
                with pytest.raises(StoreError) as told:
                    await host.new("other", cwd=ground / "work")
                assert told.value.code == "disk_full"
                assert "make room" in told.value.message
            codes = [await code_of_a_command(session) for _ in range(40)]
            assert codes[-1] == "disk_full"
            assert set(codes) <= {"accepted", "disk_full"}
            assert (await host.status())["live"] == 1
        # With room again nothing has to be done by anybody.
        assert (await do(session) or "").startswith("did ")
        assert await do(await worker(on_disk, host, ground / "work", "other")) == "did 0"
        log = judge.read_log(on_disk.data, session.session_id)
        assert log[: len(before)] == before
        accepted = [stored for stored in log if stored.event.kind == "session_annotated"]
        assert len(accepted) == codes.count("accepted"), "what was acknowledged is there, once"
        assert verify(folder_of(on_disk.data, session.session_id), session.session_id).ok
        await wait_until_async(
            lambda: is_whole_in_sql(on_disk, host, session), SECONDS, what="SQL sees all of it"
        )


async def code_of_a_command(session: Session) -> str:
    """Have something large written; return "accepted", or the code of the refusal."""
    try:
        await session.annotate("large", "x" * 20_000)
    except PaddockError as error:
        return error.code
    return "accepted"


@pytest.mark.parametrize("died", [False, True])
async def test_f2_without_inodes_nothing_is_left_down_and_work_goes_on_when_there_are_some(
    disk: Path, on_disk: HostForTests, ground: Path, *, died: bool
) -> None:
    """There is room for every byte of a log, and none for a file: a worker cannot begin."""
    async with await on_disk.connect() as host, asyncio.timeout(2 * SECONDS):
        session = await worker(on_disk, host, ground / "work")
        assert await do(session) == "did 0"
        with out_of_inodes(disk):
            if died:
                pid = on_disk.worker_pid(session.session_id)
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            else:
                await session.suspend()
            with pytest.raises(StoreError) as told:
                await session.send("go on")
            assert told.value.code == "disk_full"
        assert await do(session) == "did 1"
        ends = [
            stored.event.ending
            for stored in judge.read_log(on_disk.data, session.session_id)
            if stored.event.kind == "worker_exited"
        ]
        assert ends == ["crashed" if died else "suspended"], "nobody died for want of a file"


@contextlib.contextmanager
def out_of_inodes(disk: Path) -> Iterator[None]:
    """Leave no inode on a disk, and all of its room."""
    folder = disk / "many"
    folder.mkdir()
    try:
        with contextlib.suppress(OSError):
            for number in range(10_000_000):
                (folder / str(number)).touch()
        yield
    finally:
        shutil.rmtree(folder)


# --- read-only ---


async def test_f2_on_a_read_only_disk_no_host_starts_and_what_is_there_can_be_read(
    disk: Path,
    on_disk: HostForTests,
    ground: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with await on_disk.connect() as host, asyncio.timeout(SECONDS):
        session = await worker(on_disk, host, ground / "work", "kept")
        assert await do(session) == "did 0"
        await host.down(force=True)
    monkeypatch.setenv("PADDOCK_HOME", str(disk))
    monkeypatch.setenv("PADDOCK_RUNTIME", str(ground / "run"))
    capsys.readouterr()
    with read_only(disk):
        assert await asyncio.to_thread(answer, ["events", session.session_id]) == exit_codes.DONE
        assert "operation_completed" in capsys.readouterr().out
        assert await asyncio.to_thread(answer, ["show", session.session_id]) == exit_codes.DONE
        assert "did 0" in capsys.readouterr().out
        for verb in (["up"], ["sql", "SELECT 1"]):
            assert await asyncio.to_thread(answer, verb) != exit_codes.DONE
            said = capsys.readouterr().err
            assert "Traceback" not in said
            assert "read-only" in said.lower() or "readonly" in said.lower(), said
    async with await on_disk.connect() as host, asyncio.timeout(SECONDS):
        assert await do(await host.session("kept")) == "did 1"


# --- the host's own file ---


def delete(file: Path) -> None:
    file.unlink()
    Path(f"{file}-wal").unlink(missing_ok=True)


def truncate(file: Path) -> None:
    Path(f"{file}-wal").unlink(missing_ok=True)
    os.truncate(file, 5000)


def fill_with_noise(file: Path) -> None:
    Path(f"{file}-wal").unlink(missing_ok=True)
    file.write_bytes(os.urandom(20_000))


@pytest.mark.parametrize("fault", [delete, truncate, fill_with_noise])
async def test_f2_without_the_hosts_own_file_workers_are_adopted_and_names_are_known_again(
    fault: Callable[[Path], None], made: HostForTests, ground: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(2 * SECONDS):
        live = await worker(made, host, ground / "work", "live")
        renamed = await worker(made, host, ground / "work", "first-name")
        gone = await worker(made, host, ground / "work", "gone")
        assert await do(live) == "did 0"
        await renamed.configure(name="second-name")
        await renamed.suspend()
        await gone.delete()
        pid = made.worker_pid(live.session_id)
        epoch: int = (await host.status())["epoch"]
        await asyncio.to_thread(made.kill)
        fault(made.data / "host.sqlite")
        await asyncio.to_thread(made.start)
        assert await do(live) == "did 1"
        assert made.worker_pid(live.session_id) == pid, "it was adopted, not replaced"
        status = await host.status()
        assert status["epoch"] > epoch
        assert "made anew" in status["host_file_notice"]

        async def is_known() -> bool:
            with contextlib.suppress(PaddockError):
                return (await host.session("second-name")).session_id == renamed.session_id
            return False

        await wait_until_async(is_known, SECONDS, what="names are known again")
        assert (await host.session("live")).session_id == live.session_id
        assert await do(renamed) == "did 0"
        for name in ("first-name", "gone"):  # both are free
            await host.new(name, cwd=ground / "work")


# --- a session's file ---


def flip_a_byte(folder: Path) -> None:
    """Change one letter of an event's payload, where it stands in the file."""
    file = folder / "session.sqlite"
    content = bytearray(file.read_bytes())
    place = content.index(b"go on")
    content[place] ^= 0x01
    file.write_bytes(bytes(content))


def cut_off(folder: Path) -> None:
    os.truncate(folder / "session.sqlite", (folder / "session.sqlite").stat().st_size // 2)


def remove_a_row(folder: Path) -> None:
    edit(folder, "DELETE FROM events WHERE sequence = (SELECT max(sequence) - 1 FROM events)")


def remove_the_last_row(folder: Path) -> None:
    edit(folder, "DELETE FROM events WHERE sequence = (SELECT max(sequence) FROM events)")


def edit(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "session.sqlite")) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize("fault", [flip_a_byte, cut_off, remove_a_row, remove_the_last_row])
async def test_f1_a_damaged_session_says_so_at_its_wake_and_to_verify_and_fails_alone(
    fault: Callable[[Path], None],
    made: HostForTests,
    ground: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with await made.connect() as host, asyncio.timeout(2 * SECONDS):
        hurt = await worker(made, host, ground / "work", "hurt")
        well = await worker(made, host, ground / "work", "well")
        assert await do(hurt) == "did 0"
        assert await is_whole_in_sql(made, host, hurt)
        seen = (await host.sql("SELECT count(*) FROM events")).one()
        await hurt.suspend()
        before = await hurt.state()
        folder = folder_of(made.data, hurt.session_id)
        fault(folder)
        for _ in range(2):
            with pytest.raises(PaddockError) as told:
                await hurt.send("go on")
            assert told.value.code == "damaged", told.value.message
            assert str(folder) in told.value.message
        with contextlib.suppress(StoreError):  # a snapshot that is whole may still tell it
            assert (await hurt.state()).sequence == before.sequence
        assert await do(well) == "did 0"
        assert (await host.sql("SELECT count(*) FROM events")).one() >= seen, "nothing is forgotten"
        monkeypatch.setenv("PADDOCK_HOME", str(made.home))
        capsys.readouterr()
        code = await asyncio.to_thread(answer, ["store", "verify", "--json"])
        reports = {row["session_id"]: row for row in json.loads(capsys.readouterr().out)}
        assert code == exit_codes.FAILED
        assert not reports[hurt.session_id]["ok"]
        assert reports[well.session_id]["ok"]


def remove_file(folder: Path) -> None:
    for path in folder.glob("session.sqlite*"):
        path.unlink()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def put_a_folder_there(folder: Path) -> None:
    remove_file(folder)
    (folder / "session.sqlite").mkdir()


def do_nothing(_: HostForTests) -> None:
    """Leave the host as it is: it remembers the session."""


def start_anew(made: HostForTests) -> None:
    made.kill()
    made.start()


@pytest.mark.parametrize("erase", [False, True])
@pytest.mark.parametrize("before", [do_nothing, start_anew])
@pytest.mark.parametrize("fault", [flip_a_byte, remove_file, remove_folder, put_a_folder_there])
async def test_f1_a_session_that_cannot_be_read_is_told_and_can_be_deleted_and_erased(
    fault: Callable[[Path], None],
    before: Callable[[HostForTests], None],
    made: HostForTests,
    ground: Path,
    *,
    erase: bool,
) -> None:
    async with await made.connect() as host, asyncio.timeout(2 * SECONDS):
        hurt = await worker(made, host, ground / "work", "hurt")
        well = await worker(made, host, ground / "work", "well")
        assert await do(hurt) == "did 0"
        await hurt.suspend()
        assert await is_whole_in_sql(made, host, hurt)
        folder = folder_of(made.data, hurt.session_id)
        fault(folder)
        await asyncio.to_thread(before, made)
        with pytest.raises(PaddockError) as told:
            await hurt.send("go on")
        is_forgotten = fault is remove_folder and before is start_anew
        assert told.value.code == ("session_not_found" if is_forgotten else "damaged")

        async def is_told() -> bool:
            row = await host.get_session(hurt.session_id)
            return bool(row["attention"] == "failed")

        async def is_listed() -> bool:
            rows = await host.list_sessions()
            return hurt.session_id in {row["session_id"] for row in rows}

        await wait_until_async(is_told, what="it is told to be damaged")
        assert await is_listed()
        found = await host.session(hurt.session_id)
        await found.delete(erase=erase)
        with pytest.raises(SessionNotFound):
            await found.delete(erase=erase)
        with pytest.raises(SessionNotFound):
            await host.session("hurt")

        async def is_unlisted() -> bool:
            return not await is_listed()

        await wait_until_async(is_unlisted, what="it is in no list")
        rows = await host.sql("SELECT * FROM sessions WHERE session_id = ?", [hurt.session_id])
        assert len(rows) == (0 if erase else 1)
        assert rows.notice is None
        if erase:
            assert not folder.exists()
            neighbour = folder_of(made.data, well.session_id)  # one in 256 lies beside it
            assert not {*folder.parent.iterdir()} - {neighbour}
        assert await do(well) == "did 0"
        await worker(made, host, ground / "work", "hurt")  # its name is free


@pytest.mark.parametrize("erase", [False, True])
async def test_l20_a_session_that_nobody_knows_cannot_be_deleted(
    made: HostForTests, *, erase: bool
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        with pytest.raises(SessionNotFound):
            await Session(host, SessionId(new_id())).delete(erase=erase)
