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


@pytest.mark.parametrize(
    "point", ["Deliver to be said", "Accepted heard", "Settled heard", "Reply to a client"]
)
async def test_p9_what_a_host_loses_by_a_fault_of_its_own_is_told_anew(
    made: FaultyHost, ground: Path, point: str
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        session = await host.new(cwd=ground)
        pid = made.worker_pid(session.session_id)
        struck = made.orders.give("supervisor", point, "out of memory")
        command_id = host.new_command_id()

        async def annotated() -> bool:
            remark = Annotate(key="remark", value="one")
            try:
                settled = await session.command(remark, command_id=command_id)
            except Bug:  # it is told that the host failed, and asks again
                return False
            return settled.kind == "session_annotated"

        await wait_until_async(annotated, SECONDS, what="the command is answered")
        assert struck.exists()
        assert made.worker_pid(session.session_id) == pid
        assert [life["life"] for life in await host.lives()] == ["live"]
    log = judge.read_log(made.data, session.session_id)
    assert [stored.event.kind for stored in log].count("session_annotated") == 1
