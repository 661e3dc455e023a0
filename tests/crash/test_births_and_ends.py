"""The host is killed while sessions are created, suspended, woken and deleted: each once."""

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from paddock.client import Host, Session
from paddock.store.errors import AlreadyExists, SessionNotFound
from paddock.store.session_file import folder_of, sessions_in
from paddock.testing import HostForTests, turn, wait_until, wait_until_async
from tests.crash import judge

SECONDS = 150.0
PATIENCE = 100.0
SESSIONS = 12
SEED = int(os.environ.get("PADDOCK_CRASH_SEED", "3"))


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


@pytest.fixture
def dice() -> random.Random:
    return random.Random(SEED)


async def kill_now_and_then(made: HostForTests, dice: random.Random, times: int) -> None:
    """Kill the host so often, each time when a few more files were written."""
    for _ in range(times):
        written = size_of(made.data)
        wanted = written + dice.randint(1, 60_000)

        async def has_grown(wanted: int = wanted) -> bool:
            return size_of(made.data) >= wanted

        with suppress(AssertionError):  # all may be done by then
            await wait_until_async(has_grown, 2.0, what="more is written")
        await asyncio.to_thread(made.kill)
        await asyncio.to_thread(made.start)


def size_of(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder / "sessions"):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118 - brief
    return total


async def new(host: Host, made: HostForTests, folder: Path, number: int) -> Session:
    """Create a session, as often as it takes."""
    workspace = folder / str(number)
    workspace.mkdir(parents=True)
    model = made.script(*[turn(f"answer {place}") for place in range(9)])
    config = {"model": model, "mode": "yolo", "cwd": workspace}
    return await host.ensure(f"name-{number}", **config)


async def test_l26_sessions_that_are_created_while_hosts_die_are_there_once(
    made: HostForTests, ground: Path, dice: random.Random
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        births = [new(host, made, ground / "w", number) for number in range(SESSIONS)]
        killing = asyncio.create_task(kill_now_and_then(made, dice, 3))
        sessions = await asyncio.gather(*births)
        await killing
        ids = [session.session_id for session in sessions]
        assert sorted(sessions_in(made.data)) == sorted(ids)
        for session in sessions:
            operation = await session.send("go", deadline_seconds=PATIENCE)
            assert (await operation.wait(PATIENCE)).final_message == "answer 0"
            log = judge.read_log(made.data, session.session_id)
            assert judge.faults_of(log, is_live=True) == []
            assert judge.file_faults(made.data, session.session_id) == []
        rows = await host.sql("SELECT session_id FROM sessions ORDER BY 1")
        assert [row[0] for row in rows] == sorted(ids)


async def test_l26_sessions_that_are_deleted_while_hosts_die_are_gone_and_leave_no_byte(
    made: HostForTests, ground: Path, dice: random.Random
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        sessions = [await new(host, made, ground / "w", number) for number in range(SESSIONS)]
        for session in sessions:
            await session.send("go")

        async def delete(session: Session) -> None:
            command_id = host.new_command_id()
            await session.delete(erase=True, command_id=command_id)
            await session.delete(erase=True, command_id=command_id)  # the same answer again
            with pytest.raises(SessionNotFound):
                await session.send("go")

        doomed, spared = sessions[::2], sessions[1::2]
        await asyncio.gather(*map(delete, doomed), kill_now_and_then(made, dice, 3))
        for session in doomed:
            folder = folder_of(made.data, session.session_id)
            wait_until(lambda folder=folder: not folder.exists(), what="it is erased")  # type: ignore[misc]
        for session in spared:
            operation = await session.send("go", deadline_seconds=PATIENCE)
            assert (await operation.wait(PATIENCE)).final_message == "answer 1"
        rows = await host.sql("SELECT DISTINCT session_id FROM events ORDER BY 1")
        assert [row[0] for row in rows] == sorted(session.session_id for session in spared)
        again = await new(host, made, ground / "again", 0)  # its name is free
        assert again.session_id not in {session.session_id for session in sessions}


async def test_l26_sessions_that_are_suspended_and_woken_while_hosts_die_keep_every_word(
    made: HostForTests, ground: Path, dice: random.Random
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        sessions = [await new(host, made, ground / "w", number) for number in range(SESSIONS)]

        async def use(session: Session) -> None:
            for number in range(4):
                operation = await session.send(
                    "go", key=f"word {number}", deadline_seconds=PATIENCE
                )
                assert (await operation.wait(PATIENCE)).final_message == f"answer {number}"
                await session.suspend()

        await asyncio.gather(*map(use, sessions), kill_now_and_then(made, dice, 3))
        for session in sessions:
            log = judge.read_log(made.data, session.session_id)
            assert judge.faults_of(log, is_live=False) == []
            assert judge.file_faults(made.data, session.session_id) == []
            kinds = [stored.event.kind for stored in log]
            assert kinds.count("operation_completed") == 4
        assert await host.lives() == []


async def test_l27_a_name_that_a_dead_host_reserved_is_not_lost(
    made: HostForTests, ground: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        session = await new(host, made, ground / "w", 1)
        await asyncio.to_thread(made.kill)
        await asyncio.to_thread(made.start)
        with pytest.raises(AlreadyExists):
            await host.new("name-1", cwd=ground)
        assert (await host.session("name-1")).session_id == session.session_id
