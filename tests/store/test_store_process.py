"""The store as a process: asked over its socket, killed, and left alone."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
import zmq

from paddock.store.door import StoreClient, StoreGone
from paddock.store.errors import (
    AlreadyExists,
    AlreadyOwned,
    Damaged,
    SessionNotFound,
    SqlRefused,
    TimedOut,
    TooLarge,
)
from paddock.store.ids import SessionId
from paddock.store.process import LOCK_NAME, open_local
from paddock.store.process.server import ASKING_THREADS
from paddock.store.protocol import (
    Header,
    ProjectionDamaged,
    Rows,
    SessionFilter,
    unpack_rows,
)
from paddock.store.session_file import SessionFile, folder_of
from tests.house.crowd_at_door import crowd_at
from tests.store.logs import Story, a_day, append, host_log, tombstone

ENDLESS = "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(10000000) b(i)"


class Running:
    """A store process over a data folder."""

    def __init__(self, home: Path, *more: str) -> None:
        self.data = home / "data"
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.runtime = home / "run"
        self.address = f"ipc://{self.runtime}/store.sock"
        self.more = more
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "paddock.store.process"),
                *("--data", str(self.data), "--runtime", str(self.runtime), *self.more),
            ],
            stderr=subprocess.PIPE,
        )

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, self.said = self.process.communicate(timeout=60)
        return self.process.returncode

    def client(self) -> StoreClient:
        # Its start takes half a second, and a busy machine its time.
        return StoreClient(self.address, connect_seconds=60)


@pytest.fixture
def store(home: Path) -> Iterator[Running]:
    running = Running(home)
    yield running
    running.end()


@pytest.fixture
async def client(store: Running) -> AsyncIterator[StoreClient]:
    async with store.client() as asked:
        yield asked


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the condition holds."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - another process's; nothing to wait on
            await asyncio.sleep(0.01)


async def until_ready(client: StoreClient) -> None:
    async def is_ready() -> bool:
        return (await client.status()).state == "ready"

    await until(is_ready)


async def count(client: StoreClient, session_id: SessionId, sequence: int) -> Any:
    result = await client.sql(
        "SELECT count(*) FROM events WHERE session_id = ?",
        [session_id],
        wait_for={session_id: sequence},
    )
    return result.rows[0][0]


async def test_one_reads_what_one_wrote_while_the_session_goes_on(
    store: Running, client: StoreClient
) -> None:
    story = Story(1).create().start()
    file = SessionFile.create(folder_of(store.data, story.session_id), story.session_id, at_us=1)
    done = 0
    for number in range(5):
        story.turn(f"Task {number}")
        append(file, story.happened[done:])
        done = len(story.happened)
        # Nobody tells the store of it: waiting is enough.
        assert await count(client, story.session_id, file.head) == file.head == done
    append(file, [])
    file.close(clean=True)


async def test_a_head_that_is_told_is_followed(store: Running, client: StoreClient) -> None:
    story = a_day(1)
    await until_ready(client)
    story.write(store.data)
    await client.heads({story.session_id: len(story.happened)})

    async def is_seen() -> bool:
        return (await client.list_sessions())[1] == 1

    await until(is_seen)
    row = await client.session(story.session_id)
    assert row["last_sequence"] == len(story.happened)


async def test_the_hosts_own_log_is_seen_at_once(store: Running, client: StoreClient) -> None:
    await until_ready(client)
    for epoch in (1, 2, 3):
        host_log(store.data, epoch)
        assert (await client.sql("SELECT max(epoch) FROM host_events")).rows == [(epoch,)]


async def test_waiting_for_what_never_comes_times_out(store: Running, client: StoreClient) -> None:
    story = a_day(1, turns=1)
    story.write(store.data)
    await until_ready(client)
    with pytest.raises(TimedOut):
        await client.sql("SELECT 1", wait_for={story.session_id: 10_000}, timeout_seconds=0.3)
    with pytest.raises(SessionNotFound):
        await client.sql("SELECT 1", wait_for={Story(9).session_id: 1}, timeout_seconds=0.3)


async def test_s4_who_waits_for_an_erased_session_sees_nothing_of_it(
    store: Running, client: StoreClient
) -> None:
    stories = [a_day(seed, turns=2) for seed in range(6)]
    for story in stories:
        story.write(store.data)
        assert await count(client, story.session_id, len(story.happened)) == len(story.happened)
    with pytest.raises(TimedOut, match="was erased, and could still be seen"):
        await client.sql("SELECT 1", wait_for={stories[0].session_id: 0}, timeout_seconds=0.3)
    for story in stories:
        tombstone(store.data, story.session_id)
        shutil.rmtree(folder_of(store.data, story.session_id))
        assert await count(client, story.session_id, 0) == 0


async def test_waiting_for_a_damaged_session_says_so(store: Running, client: StoreClient) -> None:
    story = a_day(1, turns=1)
    story.write(store.data)
    path = folder_of(store.data, story.session_id) / "session.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(Damaged):
        await client.sql("SELECT 1", wait_for={story.session_id: 5}, timeout_seconds=30)
    assert (await client.sql("SELECT 1")).notice is not None


async def test_errors_cross_the_wire_as_what_they_are(client: StoreClient) -> None:
    with pytest.raises(SqlRefused, match="nowhere"):
        await client.sql("SELECT * FROM nowhere")
    with pytest.raises(SqlRefused):
        await client.sql("DELETE FROM internal.events")
    with pytest.raises(SessionNotFound):
        await client.session(Story(9).session_id)
    with pytest.raises(TimedOut):
        await client.sql(ENDLESS, timeout_seconds=0.2)
    assert (await client.sql("SELECT 41 + 1")).rows == [(42,)]


async def test_a_long_result_is_sent_as_it_is_read(client: StoreClient) -> None:
    result = await client.sql("SELECT i, 'x' || i AS x FROM range(100000) t(i)")
    assert result.rows[99_999] == (99_999, "x99999")
    assert (result.names, result.types) == (["i", "x"], ["BIGINT", "VARCHAR"])
    stream = client.stream("FROM range(100000000)")
    seen = 0
    async for word in stream:
        if isinstance(word, Header):
            assert word.names == ["range"]
        if isinstance(word, Rows):
            seen += len(unpack_rows(word.rows))
        if seen > 10_000:
            break
    await stream.aclose()  # an async generator
    cut = await client.sql("FROM range(100)", row_limit=7)
    assert (len(cut.rows), cut.is_cut) == (7, True)


async def test_large_rows_cross_in_frames_below_the_limit(client: StoreClient) -> None:
    result = await client.sql("SELECT repeat('x', 10000000) AS x FROM range(8)")
    assert [len(x) for (x,) in result.rows] == [10_000_000] * 8


async def test_a_row_that_no_frame_holds_is_refused_in_words(client: StoreClient) -> None:
    with pytest.raises(TooLarge, match="a row of the result has 40,000,0"):
        await client.sql("SELECT repeat('x', 40_000_000) AS x")
    assert (await client.sql("SELECT 1 AS x")).rows == [(1,)]


async def test_questions_are_answered_beside_each_other(client: StoreClient) -> None:
    await client.status()
    slow = asyncio.create_task(client.sql(ENDLESS, timeout_seconds=600))
    answers = await asyncio.gather(*(client.sql("SELECT ?", [n]) for n in range(40)))
    assert [answer.rows for answer in answers] == [[(n,)] for n in range(40)]
    assert not slow.done()
    slow.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await slow


async def test_a_question_that_is_given_up_stops_working(client: StoreClient) -> None:
    for _ in range(2 * ASKING_THREADS):
        given_up = asyncio.create_task(client.sql(ENDLESS, timeout_seconds=600))
        for _ in range(3):  # it is asked, and runs
            await client.status()
        given_up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await given_up
    assert (await client.sql("SELECT 42", timeout_seconds=30)).rows == [(42,)]


async def test_lists_of_sessions_are_given(store: Running, client: StoreClient) -> None:
    stories = [a_day(seed, turns=1, labels={"n": str(seed)}) for seed in range(3)]
    for story in stories:
        story.write(store.data)
    heads = {story.session_id: len(story.happened) for story in stories}
    found, total = await client.list_sessions(SessionFilter(limit=2), wait_for=heads)
    assert (len(found), total) == (2, 3)
    found, total = await client.list_sessions(SessionFilter(labels={"n": "1"}))
    assert [row["session_id"] for row in found] == [stories[1].session_id]


async def test_more_sessions_than_one_message_holds_are_listed(
    store: Running, client: StoreClient
) -> None:
    stories = [Story(seed).create(labels={"text": "x" * 2**20}) for seed in range(34)]
    for story in stories:
        story.write(store.data)
    heads = {story.session_id: 1 for story in stories}
    found, total = await client.list_sessions(wait_for=heads)
    assert total == len(found) == len(stories)
    assert {row["session_id"] for row in found} == set(heads)


async def test_s4_erased_rows_are_gone(store: Running, client: StoreClient) -> None:
    story = a_day(1, turns=1)
    story.write(store.data)
    assert await count(client, story.session_id, 5) == len(story.happened)
    await client.erase(story.session_id)
    with pytest.raises(SessionNotFound):
        await client.session(story.session_id)


async def test_it_is_verified_copied_and_rebuilt_while_it_serves(
    store: Running, client: StoreClient, ground: Path
) -> None:
    story = a_day(1)
    story.write(store.data)
    length = len(story.happened)
    assert await count(client, story.session_id, length) == length
    assert await client.verify() == []
    assert await client.checkpoint() > 0
    assert await client.snapshot(ground / "copy.duckdb") > 0
    with pytest.raises(AlreadyExists):
        await client.snapshot(ground / "copy.duckdb")
    await client.rebuild()
    assert await count(client, story.session_id, length) == length
    await until_ready(client)
    assert (await client.status()).notice == "asked for"


async def test_f3_a_file_damaged_while_it_serves_is_made_anew(
    store: Running, client: StoreClient
) -> None:
    stories = [a_day(seed, turns=20) for seed in range(3)]
    heads = {story.write(store.data): len(story.happened) for story in stories}
    # Columns of which nothing is read when the file is opened.
    whole = "SELECT session_id, sum(hash(m.text)) FROM messages m GROUP BY ALL ORDER BY ALL"
    before = (await client.sql(whole, wait_for=heads)).rows
    await client.checkpoint()
    store.end()
    path = store.data / "projection.duckdb"
    content = path.read_bytes()
    store.start()
    await client.status()
    await until_ready(client)
    path.write_bytes(content[: 3 * 4096] + bytes(len(content) - 3 * 4096))

    async def is_noticed() -> bool:
        with contextlib.suppress(ProjectionDamaged):
            await client.sql(whole)
        return (await client.status()).notice is not None

    await until(is_noticed)
    assert (await client.sql(whole, wait_for=heads)).rows == before


async def test_l26_killed_at_any_moment_it_comes_back_with_all_of_it(store: Running) -> None:
    stories = [Story(seed).create().start() for seed in range(3)]
    files = [
        SessionFile.create(folder_of(store.data, story.session_id), story.session_id, at_us=1)
        for story in stories
    ]
    done = [0] * len(stories)
    for round_number in range(6):
        for place, (story, file) in enumerate(zip(stories, files, strict=True)):
            for _ in range(10):
                story.turn()
            append(file, story.happened[done[place] :])
            done[place] = len(story.happened)
        async with store.client() as client:
            heads = {story.session_id: 0 for story in stories}
            await client.heads(heads)
            if round_number % 2:
                await client.status()
            store.end(signal.SIGKILL)
        store.start()
    async with store.client() as client:
        for story, file in zip(stories, files, strict=True):
            assert await count(client, story.session_id, file.head) == file.head
        rows = await client.sql(
            "SELECT count(*), count(DISTINCT (session_id, sequence)) FROM events"
        )
        assert rows.rows == [(sum(done), sum(done))]
        for file in files:
            file.close(clean=True)
        assert await client.verify() == []


async def test_a_client_sees_that_the_store_has_gone_and_finds_the_next(store: Running) -> None:
    async with store.client() as client:
        assert (await client.sql("SELECT 1")).rows == [(1,)]
        stream = client.stream("FROM range(100000000)", timeout_seconds=60)
        while not isinstance(await anext(stream), Rows):
            pass
        store.end(signal.SIGKILL)
        with pytest.raises(StoreGone):
            async for _ in stream:
                pass
        store.start()
        assert (await client.sql("SELECT 2")).rows == [(2,)]


async def test_f13_a_second_store_on_the_folder_is_refused_with_the_pid_of_the_first(
    store: Running, client: StoreClient, home: Path
) -> None:
    await client.status()
    second = Running(home)
    assert second.end(0) == 3
    assert f"pid {store.process.pid}".encode() in second.said
    with pytest.raises(AlreadyOwned) as caught, open_local(store.data):
        pass
    assert caught.value.facts["pid"] == store.process.pid
    assert (await client.sql("SELECT 1")).rows == [(1,)]  # its socket was not taken either


async def test_the_next_supervisors_store_waits_for_the_last_ones_to_leave(
    store: Running, client: StoreClient, home: Path
) -> None:
    assert (await client.status()).pid == store.process.pid
    second = Running(home, "--wait-seconds", "60")
    assert (await client.status()).pid == store.process.pid
    store.end()
    assert (await client.status()).pid == second.process.pid
    assert second.end() == 0


async def test_f11_bytes_that_are_no_request_are_refused_and_nobody_else_notices(
    store: Running, client: StoreClient
) -> None:
    await client.status()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(store.address)
    frames = (
        b"",
        b"\xc1",
        b"x" * 1000,
        msgpack.packb([2, 1, "status", {}]),
        msgpack.packb([1, 1, "nothing", {}]),
        msgpack.packb([1, "a", "status", {}]),
        msgpack.packb([1, 1, "sql", {"query": 7}]),
        msgpack.packb([1, 1, "sql", {"query": "SELECT 1", "more": 1}]),
        msgpack.packb([1, 1, "sql", {"query": "x" * 2_000_000}]),
    )
    for frame in frames:
        socket.send(frame)
        assert socket.poll(20_000), f"no answer to {frame[:40]!r}"
        _, number, tag, fields = msgpack.unpackb(socket.recv())
        assert (number, tag, fields["code"]) == (0, "failed", "peer_broke")
    socket.send_multipart([b"a", b"b"])
    socket.close()
    context.term()
    assert (await client.sql("SELECT 1")).rows == [(1,)]


async def test_f11_connections_by_the_thousand_that_say_nothing_end_no_store(
    store: Running, client: StoreClient
) -> None:
    await client.status()
    with crowd_at(store.runtime / "store.sock", store.process.pid):
        assert (await client.sql("SELECT 1")).rows == [(1,)]
    async with store.client() as another:
        assert (await another.sql("SELECT 1")).rows == [(1,)]
    assert store.process.poll() is None


async def test_the_socket_is_for_its_user_alone(store: Running, client: StoreClient) -> None:
    await client.status()
    assert (store.runtime / "store.sock").stat().st_mode & 0o777 == 0o600
    assert store.runtime.stat().st_mode & 0o777 == 0o700
    assert (store.data / LOCK_NAME).stat().st_mode & 0o777 == 0o600


async def test_told_to_go_it_leaves_a_folded_file_and_no_socket(store: Running) -> None:
    story = a_day(1, turns=1)
    story.write(store.data)
    async with store.client() as client:
        assert await count(client, story.session_id, 5) > 0
        stream = client.stream(ENDLESS, timeout_seconds=600)
        slow = asyncio.ensure_future(anext(stream))
        await client.status()
        assert store.end() == 0
        with pytest.raises((StoreGone, SqlRefused)):
            await slow
    assert not (store.runtime / "store.sock").exists()
    log = store.data / "projection.duckdb.wal"
    assert not log.exists() or log.stat().st_size == 0


def test_it_goes_when_its_supervisor_has_gone(home: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    store = Running(home, "--supervisor-pid", str(supervisor.pid), "--grace-seconds", "0.1")
    try:
        asyncio.run(_asked(store))
        assert store.process.poll() is None
        supervisor.communicate(b"\n")
        assert store.process.wait(timeout=60) == 0
    finally:
        store.end(signal.SIGKILL)
        if supervisor.poll() is None:
            supervisor.communicate(b"\n")


def test_it_stays_for_the_next_supervisor(home: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    store = Running(home, "--supervisor-pid", str(supervisor.pid), "--grace-seconds", "1")

    async def handed_over() -> None:
        async with store.client() as client:
            await client.watch(os.getpid())
            supervisor.communicate(b"\n")
            assert (await client.sql("SELECT pg_sleep(1.5)")).rows

    try:
        asyncio.run(handed_over())
        assert store.process.poll() is None
    finally:
        assert store.end() == 0


async def _asked(store: Running) -> None:
    async with store.client() as client:
        await client.status()


def test_a_folder_that_is_not_there_is_one_clear_line(home: Path) -> None:
    store = Running(home)
    store.end()
    store.data = home / "nowhere"
    store.start()
    assert store.end(0) == 4
    assert b"nowhere" in store.said
    assert b"Traceback" not in store.said


async def test_with_no_store_the_client_says_so(home: Path) -> None:
    async with StoreClient(f"ipc://{home}/none.sock") as client:
        with pytest.raises(StoreGone):
            await client.sql("SELECT 1", timeout_seconds=0.2)


async def test_p11_endless_and_greedy_queries_are_bounded_and_hold_nobody_up(
    store: Running, client: StoreClient
) -> None:
    endless = asyncio.create_task(client.sql(ENDLESS, timeout_seconds=600))
    # Kept whole for its order, and far above what DuckDB may have of memory and disk.
    greedy = "SELECT list(repeat('x', 1000) || i ORDER BY hash(i)) FROM range(100000000) t(i)"
    hungry = asyncio.create_task(client.sql(greedy, timeout_seconds=600))
    story = a_day(1)
    story.write(store.data)
    assert await count(client, story.session_id, len(story.happened)) == len(story.happened)
    with pytest.raises(TimedOut):
        await client.sql(ENDLESS, timeout_seconds=0.5)
    with pytest.raises(SqlRefused, match=r"(?i)memory|temp"):
        await hungry
    assert psutil.Process(store.process.pid).memory_info().rss < 2_000 * 2**20
    assert not endless.done()
    later = a_day(2)
    later.write(store.data)
    assert await count(client, later.session_id, len(later.happened)) == len(later.happened)
    endless.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await endless


async def test_p11_its_memory_stays_bounded_when_nobody_reads(
    store: Running, client: StoreClient
) -> None:
    stream = client.stream("SELECT repeat('x', 100000) FROM range(100000)", timeout_seconds=60)
    async for word in stream:
        if isinstance(word, Rows):
            break
    process = psutil.Process(store.process.pid)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert process.memory_info().rss < 900 * 2**20
        await client.status()
    await stream.aclose()  # an async generator
