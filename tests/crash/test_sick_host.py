"""A host that fails in the midst of what it does for one session: nothing of that hangs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.session_worker.protocol import Annotate
from paddock.store.errors import Bug
from paddock.testing import wait_until_async
from tests.crash import judge
from tests.crash.faulty_host import FaultyHost

SECONDS = 90.0


@pytest.fixture
def made(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyHost]:
    made = FaultyHost(home)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    yield made
    made.end()


async def test_p9_a_command_whose_handing_over_failed_is_handed_over_on_a_new_connection(
    made: FaultyHost, ground: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        session = await host.new(cwd=ground)
        pid = made.worker_pid(session.session_id)
        struck = made.orders.give("supervisor", "Deliver to be said", "out of memory")
        command_id = host.new_command_id()
        remark = Annotate(key="remark", value="one")
        with pytest.raises(Bug, match="MemoryError"):
            await session.command(remark, command_id=command_id)
        assert struck.exists()
        settled = await session.command(remark, command_id=command_id)
        assert settled.kind == "session_annotated"
        assert made.worker_pid(session.session_id) == pid

        async def lives() -> bool:
            return [life["life"] for life in await host.lives()] == ["live"]

        await wait_until_async(lives, SECONDS, what="the session lives")
    log = judge.read_log(made.data, session.session_id)
    assert [stored.event.kind for stored in log].count("session_annotated") == 1
