"""A host is ended in the midst of work: what was cut off goes on, what was put to rest rests."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.client import Session
from paddock.store.errors import SessionNotFound
from paddock.testing import HostForTests, call, turn, wait_until_async
from tests.crash import judge

SECONDS = 90.0
WAITS = "echo $$ >> {0}.begun; test $(wc -l < {0}.begun) -gt 1 || sleep 1000"


@pytest.fixture
def made(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostForTests]:
    monkeypatch.setenv("PADDOCK_HOME", str(home))
    made = HostForTests(home)
    yield made
    made.end()


async def in_a_tool(made: HostForTests, session: Session, folder: Path, name: str) -> None:
    async def has_begun() -> bool:
        return (folder / f"{name}.begun").exists()

    await session.send("go")
    await wait_until_async(has_begun, SECONDS, what=f"the tool of {name} runs")


async def test_f8_what_the_end_of_a_host_cut_off_goes_on_and_what_was_suspended_by_name_rests(
    made: HostForTests, ground: Path
) -> None:
    names = ("cut", "put")
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        sessions = {}
        for name in names:
            model = made.script(turn(call("bash", command=WAITS.format(name))), turn("through"))
            sessions[name] = await host.new(name, model=model, mode="yolo", cwd=ground)
            await in_a_tool(made, sessions[name], ground, name)
        assert await sessions["put"].suspend(deadline_seconds=2)
        await host.down(force=True, deadline_seconds=2)
    await asyncio.to_thread(made.kill, signal.SIGTERM)  # it is leaving: only waited for
    ids = {name: session.session_id for name, session in sessions.items()}
    logs = {name: judge.read_log(made.data, ids[name]) for name in names}
    rests = {
        name: [s.event.reason for s in logs[name] if s.event.kind == "session_suspended"]
        for name in names
    }
    assert rests == {"cut": ["shutdown"], "put": ["asked"]}

    async with await made.connect() as host, asyncio.timeout(SECONDS):
        cut = await host.session("cut")

        async def is_through() -> bool:
            ended = (await cut.state()).conversation.ended
            return ended is not None and ended.status == "completed"

        await wait_until_async(is_through, SECONDS, what="the operation goes on by itself")
        assert [life["name"] for life in await host.lives()] == ["cut"]
        assert not (ground / "put.begun").read_text().count("\n") > 1
        put = await host.session("put")
        assert (await put.state()).conversation.operation is not None

        await put.configure(name="renamed")
        with pytest.raises(SessionNotFound):
            await host.session("put")
        assert (await host.session("renamed")).session_id == put.session_id
        assert (await host.new("put", model=made.script(turn("a")), cwd=ground)).name == "put"

        async def put_is_through() -> bool:  # its rename woke it, and it goes on
            return (await put.state()).conversation.operation is None

        await wait_until_async(put_is_through, SECONDS, what="the woken one goes on, too")
    for name in names:
        log = judge.read_log(made.data, ids[name])
        assert judge.faults_of(log, is_live=True) == []
