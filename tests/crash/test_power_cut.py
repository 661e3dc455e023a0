"""A file system that loses what was not synced, under a host at work (P1, P2, F2)."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from paddock.client import Host, Session
from paddock.session_worker.protocol import Annotate
from paddock.store.errors import PaddockError, SessionNotFound
from paddock.store.events import OperationCompleted, SessionAnnotated
from paddock.testing import HostForTests, call, turn, wait_until_async
from tests.crash import judge
from tests.store.disks import RealDisk, real_disk

SECONDS = 120.0
DISK_BYTES = 256 * 1024 * 1024
SESSIONS = 3
ACKNOWLEDGED = 25
"""By every session, before the power goes."""
REFUSALS = 3
"""By every session, before it is believed to say no."""
ANSWER_SECONDS = 10.0
CALLS = 40


@pytest.fixture
def made(home: Path) -> HostForTests:
    return HostForTests(home)


@pytest.fixture
def disk(made: HostForTests, ground: Path) -> Iterator[RealDisk]:
    """Give the disk that the data folder lies on, and nothing else does."""
    with real_disk(ground / "disk", made.data, DISK_BYTES) as disk:
        yield disk


class Talk:
    """Annotations of one session, one after the other, and how each was answered."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.acknowledged: list[str] = []
        self.codes: list[str] = []
        self.has_enough = asyncio.Event()

    async def go_on(self) -> None:
        """Go on until it was refused often enough."""
        number = 0
        while len(self.codes) < REFUSALS:
            number += 1
            words = Annotate(key=f"key {number}", value="value")
            try:
                await self.session.command(words, deadline_seconds=ANSWER_SECONDS)
            except PaddockError as error:
                self.codes.append(error.code)
            else:
                self.acknowledged.append(words.key)
            if len(self.acknowledged) >= ACKNOWLEDGED:
                self.has_enough.set()


async def at_work(made: HostForTests, host: Host, folder: Path, name: str) -> Session:
    """Return a session that has much to do."""
    turns = [turn(call("bash", command="echo done")) for _ in range(CALLS)]
    model = made.script(*turns, turn("all done"))
    return await host.new(name, model=model, mode="yolo", cwd=folder)


async def test_p1_f2_what_was_acknowledged_is_there_after_the_loss_of_a_file_system_at_work(
    disk: RealDisk, made: HostForTests, ground: Path
) -> None:
    names = [f"session {number}" for number in range(SESSIONS)]
    try:
        async with await made.connect() as host, asyncio.timeout(2 * SECONDS):
            sessions = [await at_work(made, host, ground, name) for name in names]
            for session in sessions:
                await session.send("go on")
            talks = [Talk(session) for session in sessions]
            talking = [asyncio.create_task(talk.go_on()) for talk in talks]
            await asyncio.gather(*(talk.has_enough.wait() for talk in talks))
            disk.lose_power()
            await asyncio.gather(*talking)
            for talk in talks:
                # One was accepted before, perhaps, and has no answer; nobody waits in vain again.
                assert talk.codes[-1] == "store_error"
                assert set(talk.codes) <= {"store_error", "timed_out"}
            assert (await host.status())["cannot_write"] == SESSIONS
            workers = await host.lives()
            assert len(workers) == SESSIONS
            assert all("check the disk" in worker["fault"] for worker in workers)
    finally:
        await asyncio.to_thread(made.kill_all)
        disk.unmount()
    disk.mount()
    try:
        async with await made.connect() as host, asyncio.timeout(2 * SECONDS):
            for name, talk in zip(names, talks, strict=True):
                await wait_until_async(
                    partial(is_known, host, name), SECONDS, what=f"{name} is known again"
                )
                session = await host.session(name)
                await session.resume()
                await wait_until_async(
                    partial(is_done, made, session), SECONDS, what="its work is done"
                )
                log = judge.read_log(made.data, session.session_id)
                found = [x.event.key for x in log if isinstance(x.event, SessionAnnotated)]
                assert [key for key in talk.acknowledged if found.count(key) != 1] == []
                assert judge.faults_of(log, is_live=True) == []
                assert judge.file_faults(made.data, session.session_id) == []
            counts = await host.sql("SELECT session_id, count(*) FROM events GROUP BY ALL")
            assert dict(counts) == {
                talk.session.session_id: judge.head_of(made.data, talk.session.session_id)
                for talk in talks
            }
    finally:
        await asyncio.to_thread(made.end)


async def is_known(host: Host, name: str) -> bool:
    try:
        await host.session(name)
    except SessionNotFound:
        return False
    return True


async def is_done(made: HostForTests, session: Session) -> bool:
    log = await asyncio.to_thread(judge.read_log, made.data, session.session_id)
    return any(isinstance(stored.event, OperationCompleted) for stored in log)


async def test_names_are_those_of_the_sessions_where_the_hosts_own_file_lost_its_last_commits(
    made: HostForTests, ground: Path
) -> None:
    file, earlier = made.data / "host.sqlite", ground / "earlier.sqlite"
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            first = await host.new("first", cwd=ground)
            gone = await host.new("gone", cwd=ground)
            with closing(sqlite3.connect(file)) as now, closing(sqlite3.connect(earlier)) as then:
                now.backup(then)
                then.execute("UPDATE looks SET boot_id = 'of another boot'")
                then.commit()
            await first.configure(name="renamed")
            second = await host.new("first", cwd=ground)
            third = await host.new("third", cwd=ground)
            await gone.delete()
            await host.down(force=True)
        earlier.replace(file)
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            for name, session in (("renamed", first), ("first", second), ("third", third)):
                await wait_until_async(
                    partial(is_named, host, name, session),
                    SECONDS,
                    what=f"{name!r} is the name of its session",
                )
            assert not await is_known(host, "gone")
    finally:
        await asyncio.to_thread(made.end)


async def is_named(host: Host, name: str, session: Session) -> bool:
    return await is_known(host, name) and (
        (await host.session(name)).session_id == session.session_id
    )
