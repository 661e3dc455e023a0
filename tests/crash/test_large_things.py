"""Large things in bounded memory, in every process (F10); no assertion here is about time."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.client import Session
from paddock.store.errors import TooLarge
from paddock.store.events import SessionAnnotated, SessionConfig, SessionCreated
from paddock.store.ids import CommandId, SessionId, uuid7
from paddock.store.session_file import SessionFile, folder_of
from paddock.testing import HostForTests, call, turn

SECONDS = 200.0
MB = 1_000_000
START_US = 1_790_000_000_000_000
ROOM_MB = 250
"""Above what a process has at its start: some copies of 10 MB, but not of 100 MB."""


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


def peak_mb(pid: int) -> float:
    """Return the most memory that a process had at one time."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MB
    raise AssertionError(pid)


def worker_of(made: HostForTests, session: Session) -> int:
    pid = made.worker_pid(session.session_id)
    assert pid is not None
    return pid


async def test_f10_a_message_of_10_mb_goes_in_and_comes_out_in_bounded_memory(
    made: HostForTests, ground: Path
) -> None:
    words = "a large message\n" * (10 * MB // 16)
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        model = made.script(turn(words, prompt=0), turn("small again", prompt=1))
        session = await host.new(model=model, mode="yolo", cwd=ground)
        before = {pid: peak_mb(pid) for pid in (made.pid, worker_of(made, session))}
        outcome = await (await session.send(words)).wait(SECONDS)
        assert outcome.final_message == words
        for pid, was in before.items():
            assert peak_mb(pid) < was + ROOM_MB
        await session.suspend()
        outcome = await (await session.send("and now?")).wait(SECONDS)
        assert outcome.final_message == "small again"
        query = "SELECT max(length(text)) FROM messages WHERE session_id = ?"
        assert (await host.sql(query, [session.session_id])).one() == len(words)


async def test_f10_larger_input_is_refused_in_one_line_and_harms_nobody(
    made: HostForTests, ground: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        session = await host.new(model=made.script(turn("hello")), mode="yolo", cwd=ground)
        pid = worker_of(made, session)
        # Above what a message may have; and below it, but not as it would be stored.
        for words in ("x" * 40 * MB, "\n" * 20 * MB):
            with pytest.raises(TooLarge) as told:
                await session.send(words)
            assert "put them into a file" in told.value.message
            assert len(told.value.message.splitlines()) == 1
            assert len(told.value.message) < 300
        outcome = await (await session.send("hi")).wait(SECONDS)
        assert outcome.final_message == "hello"
        assert made.worker_pid(session.session_id) == pid


async def test_f10_an_answer_that_no_event_can_hold_fails_its_operation_and_no_worker(
    made: HostForTests, ground: Path
) -> None:
    file = call("write_file", path="a.txt", content="\n" * 20 * MB)
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        for answer in (turn("x" * 40 * MB, prompt=0), turn(file, prompt=0)):
            model = made.script(answer, turn("small again", prompt=1))
            session = await host.new(model=model, mode="yolo", cwd=ground)
            pid = worker_of(made, session)
            outcome = await (await session.send("go")).wait(SECONDS)
            assert (outcome.status, outcome.error_kind) == ("failed", "bad_answer")
            assert outcome.error is not None
            assert "ask for less at once" in outcome.error
            outcome = await (await session.send("again")).wait(SECONDS)
            assert outcome.final_message == "small again"
            assert made.worker_pid(session.session_id) == pid


async def test_f10_a_log_of_100_mb_is_woken_followed_and_asked_for_in_bounded_memory(
    made: HostForTests, ground: Path
) -> None:
    session_id = SessionId(uuid7(START_US, b"0123456789"))
    await asyncio.to_thread(write_long, made.data, session_id, ground)
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        session = Session(host, session_id)
        before = {pid: peak_mb(pid) for pid in (made.pid, os.getpid())}
        await session.resume()
        assert peak_mb(worker_of(made, session)) < ROOM_MB
        length = 0
        async for stored in session.events(follow=False):
            if isinstance(stored.event, SessionAnnotated):
                assert isinstance(stored.event.value, str)
                length += len(stored.event.value)
        assert length == 100 * MB
        for pid, was in before.items():
            assert peak_mb(pid) < was + ROOM_MB
        query = "SELECT count(*) FROM annotations WHERE session_id = ?"
        assert (await host.sql(query, [session_id], deadline_seconds=SECONDS)).one() == 100
        await session.annotate("still", "usable")


def write_long(data: Path, session_id: SessionId, workspace: Path) -> None:
    """Write a session of 100 MB, never started."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = SessionConfig(workspace=str(workspace))
    created = SessionCreated(config=config, command_id=CommandId(session_id))
    with SessionFile.create(folder_of(data, session_id), session_id, at_us=START_US) as file:
        file.append([created], generation=0, at_us=START_US)
        for _ in range(100):
            event = SessionAnnotated(key="large", value="x" * MB)
            file.append([event], generation=0, at_us=START_US)
