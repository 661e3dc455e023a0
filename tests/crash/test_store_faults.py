"""DuckDB's file is lost or damaged: sessions go on, it is made anew, and that is told (F3)."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paddock.client import Host, Session
from paddock.store.door import StoreClient
from paddock.store.projection import FILE_NAME
from paddock.supervisor.cli.main import answer
from paddock.testing import HostForTests, call, turn, wait_until_async
from tests.crash import judge

SECONDS = 100.0
PAGE = 4096
COUNTS = "SELECT session_id, count(*), max(sequence) FROM events GROUP BY session_id"
OPERATIONS = 6


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


def delete(data: Path) -> None:
    file_of(data).unlink()
    wal_of(data).unlink(missing_ok=True)


def truncate(data: Path) -> None:
    os.truncate(file_of(data), file_of(data).stat().st_size // 2)


def flip_in_file(data: Path) -> None:
    flip(file_of(data), PAGE + 100)  # in DuckDB's own header of headers


def flip_in_wal(data: Path) -> None:
    flip(wal_of(data), wal_of(data).stat().st_size // 2)


def fill_with_noise(data: Path) -> None:
    file_of(data).write_bytes(os.urandom(file_of(data).stat().st_size))


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 0x55]))


FAULTS = pytest.mark.parametrize(
    "fault", [delete, truncate, flip_in_file, flip_in_wal, fill_with_noise]
)


def file_of(data: Path) -> Path:
    return data / FILE_NAME


def wal_of(data: Path) -> Path:
    return data / f"{FILE_NAME}.wal"


class Work:
    """A session that does one small thing after the other."""

    def __init__(self, host: Host, made: HostForTests, folder: Path) -> None:
        self._host = host
        self._made = made
        self._folder = folder
        self.session: Session

    async def begin(self) -> None:
        self._folder.mkdir()
        turns = []
        for number in range(OPERATIONS):
            turns += [turn(call("bash", command=f"echo {number} >> done")), turn(f"did {number}")]
        model = self._made.script(*turns)
        self.session = await self._host.new(model=model, mode="yolo", cwd=self._folder)

    async def do(self, number: int) -> None:
        outcome = await (await self.session.send("go on")).wait(SECONDS)
        assert outcome.final_message == f"did {number}"

    async def is_seen_whole(self) -> bool:
        """Whether SQL counts what the file holds."""
        log = judge.read_log(self._made.data, self.session.session_id)
        rows = list(await self._host.sql(COUNTS))
        return rows == [(self.session.session_id, len(log), len(log))]


async def assert_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, made: HostForTests
) -> None:
    """Look whether ``paddock status`` says that and why the file was made anew."""
    monkeypatch.setenv("PADDOCK_HOME", str(made.home))
    capsys.readouterr()
    assert await asyncio.to_thread(answer, ["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "up to date" in told["store"]
    assert told["store_notice"]


async def assert_is_as_the_logs(made: HostForTests) -> None:
    async with StoreClient(f"ipc://{made.places.runtime / 'store.sock'}") as store:
        assert await store.verify() == []


@FAULTS
async def test_f3_a_fault_that_comes_while_the_store_was_killed_is_mended_at_its_next_start(
    fault: Callable[[Path], None],
    made: HostForTests,
    ground: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        work = Work(host, made, ground / "work")
        await work.begin()
        await work.do(0)
        assert await work.is_seen_whole()
        first: int = (await host.status())["store_pid"]
        os.kill(first, signal.SIGSTOP)  # it makes no more changes
        fault(made.data)
        await work.do(1)  # without any store
        os.kill(first, signal.SIGKILL)
        await work.do(2)
        assert await work.is_seen_whole()
        await assert_is_as_the_logs(made)
        await assert_is_told(capsys, monkeypatch, made)
        await work.do(3)
        assert await work.is_seen_whole()


@FAULTS
async def test_f3_a_fault_that_comes_while_there_is_no_host_is_mended_by_the_next(
    fault: Callable[[Path], None],
    made: HostForTests,
    ground: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        work = Work(host, made, ground / "work")
        await work.begin()
        await work.do(0)
        assert await work.is_seen_whole()
        store: int = (await host.status())["store_pid"]
        os.kill(store, signal.SIGKILL)
        await asyncio.to_thread(made.kill)
        fault(made.data)
        await asyncio.to_thread(made.start)
        await work.do(1)
        assert await work.is_seen_whole()
        await assert_is_as_the_logs(made)
        await assert_is_told(capsys, monkeypatch, made)


def take_its_place(data: Path) -> None:
    file_of(data).rename(data / "elsewhere")
    file_of(data).write_bytes(b"another file")


@pytest.mark.parametrize("fault", [truncate, delete, take_its_place])
async def test_f3_a_file_that_is_lost_under_a_store_that_runs_is_made_anew_and_told(
    fault: Callable[[Path], None],
    made: HostForTests,
    ground: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        work = Work(host, made, ground / "work")
        await work.begin()
        await work.do(0)
        assert await work.is_seen_whole()
        store_pid: int = (await host.status())["store_pid"]
        async with StoreClient(f"ipc://{made.places.runtime / 'store.sock'}") as store:
            await store.checkpoint()  # so that there is something to lose
            fault(made.data)
            await work.do(1)

            async def is_told() -> bool:
                return (await store.status()).notice is not None

            await wait_until_async(is_told, what="it is told")
        await host.list_sessions()  # which gives no notice on
        notices = [(await host.sql("SELECT 1")).notice or "" for _ in range(2)]
        assert ["was made anew from the logs" in one for one in notices] == [True, False]
        assert await work.is_seen_whole()
        await assert_is_as_the_logs(made)
        await assert_is_told(capsys, monkeypatch, made)
        await work.do(2)
        assert await work.is_seen_whole()
        assert file_of(made.data).stat().st_size > PAGE
        assert (await host.status())["store_pid"] == store_pid


@pytest.mark.parametrize("fault", [truncate, fill_with_noise, delete])
async def test_f3_a_fault_under_a_store_that_runs_costs_no_session_and_no_answer_is_wrong(
    fault: Callable[[Path], None], made: HostForTests, ground: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        work = Work(host, made, ground / "work")
        await work.begin()
        await work.do(0)
        assert await work.is_seen_whole()
        fault(made.data)
        await work.do(1)
        assert await work.is_seen_whole()
        async with StoreClient(f"ipc://{made.places.runtime / 'store.sock'}") as store:
            await store.checkpoint()  # what it keeps in memory goes to the file

        async def is_mended() -> bool:
            await assert_is_as_the_logs(made)
            return file_of(made.data).exists() and await work.is_seen_whole()

        store_pid: int = (await host.status())["store_pid"]
        os.kill(store_pid, signal.SIGKILL)
        await work.do(2)
        await wait_until_async(is_mended, what="it is as the logs are")
