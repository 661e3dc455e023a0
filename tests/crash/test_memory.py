"""Sessions that use too much memory, and a machine that has too little (P9, P13)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.client.feed import Noticed
from paddock.store.events import SessionAnnotated, SessionSuspended, Stored, WorkerExited
from paddock.store.ids import SessionId
from paddock.testing import HostForTests, call, turn, wait_until_async
from tests.crash import judge

SECONDS = 90.0
LIMIT_MB = 200
HOG = """\
import pathlib, subprocess, sys, time
if pathlib.Path("second").exists():
    sys.exit(0)
held = bytearray(130_000_000)
while not pathlib.Path("second").exists():
    time.sleep(0.05)
child = subprocess.Popen([sys.executable, "-c", "x = bytearray(130_000_000); input()"], stdin=-1)
child.wait()
"""


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home, memory_limit_mb=LIMIT_MB)
    yield made
    made.end()


async def test_p13_a_session_is_warned_before_its_tools_memory_ends_it_and_its_death_says_so(
    made: HostForTests, ground: Path
) -> None:
    (ground / "hog.py").write_text(HOG)
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        model = made.script(turn(call("bash", command="python hog.py")), turn("lighter"))
        session = await host.new("heavy", model=model, mode="yolo", cwd=ground)
        warned = asyncio.Event()

        async def listen() -> None:
            async with session.follow(after=0) as feed:
                async for told in feed:
                    if isinstance(told, Noticed) and told.what == "memory":
                        assert told.detail["limit_bytes"] == LIMIT_MB * 1024 * 1024
                        warned.set()

        listening = asyncio.create_task(listen())
        operation = await session.send("go")
        await warned.wait()
        assert (await host.lives())[0]["memory_bytes"] > 130_000_000
        (ground / "second").touch()
        assert (await operation.wait(SECONDS)).final_message == "lighter"
        listening.cancel()
        log = judge.read_log(made.data, session.session_id)
        assert judge.faults_of(log, is_live=True) == []
        events = [stored.event for stored in log]
        (died,) = [one for one in events if isinstance(one, WorkerExited)]
        assert (died.ending, died.reason, died.action) == ("crashed", "out_of_memory", "restarted")
        assert died.memory_limit_bytes == LIMIT_MB * 1024 * 1024
        assert died.peak_rss_bytes is not None
        assert died.peak_rss_bytes > died.memory_limit_bytes
        assert [struck.tool for struck in died.struck_calls] == ["bash"]
        remarks = [one for one in events if isinstance(one, SessionAnnotated)]
        assert [one.key for one in remarks] == ["memory_warning"]
        assert events.index(remarks[0]) < events.index(died)


async def test_a_machine_that_runs_short_suspends_sessions_at_rest_the_least_recently_used_first(
    home: Path, ground: Path
) -> None:
    made = HostForTests(home, memory_reserve_mb=100_000_000)
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            first, second, watched = [
                await host.new(name, model=made.script(turn("heard")), cwd=ground)
                for name in ("first", "second", "watched")
            ]
            async with watched.follow(after=0):

                async def both_rest() -> bool:
                    return [life["name"] for life in await host.lives()] == ["watched"]

                await wait_until_async(both_rest, SECONDS, what="both are suspended")

            def rested(session_id: SessionId) -> Stored:
                log = judge.read_log(made.data, session_id)
                (one,) = [s for s in log if isinstance(s.event, SessionSuspended)]
                assert isinstance(one.event, SessionSuspended)
                assert one.event.reason == "memory"
                return one

            before, after = rested(first.session_id), rested(second.session_id)
            assert before.occurred_at < after.occurred_at
            operation = await first.send("wake")
            assert (await operation.wait(SECONDS)).final_message == "heard"
    finally:
        await asyncio.to_thread(made.end)
