"""Where a process's own words have no room any more, it does its work all the same (F2)."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.client.starting import LOG
from paddock.testing import HostForTests, turn, wait_until_async
from tests.crash import judge

SECONDS = 100.0


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    made.data.mkdir(mode=0o700)
    (made.data / LOG).symlink_to("/dev/full")  # each write there says ENOSPC
    yield made
    made.end()


async def test_f2_a_host_that_cannot_write_its_log_loses_a_zygote_a_store_and_a_worker_and_goes_on(
    made: HostForTests, ground: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        model = made.script(*[turn(f"answer {number}") for number in range(3)])
        session = await host.new(model=model, mode="yolo", cwd=ground)
        assert (await (await session.send("one")).wait(SECONDS)).final_message == "answer 0"
        for name in ("zygote_pid", "store_pid"):
            old: int = (await host.status())[name]
            os.kill(old, signal.SIGKILL)

            async def is_replaced(name: str = name, old: int = old) -> bool:
                return (await host.status())[name] not in {None, old}

            await wait_until_async(is_replaced, SECONDS, what=f"another {name}")
        made.kill_worker(session.session_id)
        assert (await (await session.send("two")).wait(SECONDS)).final_message == "answer 1"
        await session.suspend()
        assert (await (await session.send("three")).wait(SECONDS)).final_message == "answer 2"
        log = judge.read_log(made.data, session.session_id)
        assert judge.faults_of(log, is_live=True) == []
        rows = await host.sql("SELECT count(*) FROM events")
        assert list(rows) == [(len(log),)]
