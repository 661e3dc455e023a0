"""The store process as the supervisor keeps it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq

from paddock.client.keys import new_id
from paddock.store.door import StoreClient
from paddock.store.ids import SessionId
from paddock.supervisor.store_child import StoreChild

SILENT_SECONDS = 1.5
PATIENCE_SECONDS = 60.0


class Kept:
    """A store process, its keeper, and what the keeper noted of it."""

    def __init__(self, home: Path) -> None:
        self.data, self.runtime = home / "data", home / "run"
        self.data.mkdir(mode=0o700)
        self.runtime.mkdir(mode=0o700)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.deaths: list[dict[str, object]] = []
        self.died = asyncio.Event()
        self.child = StoreChild(
            self.context,
            data=self.data,
            runtime=self.runtime,
            command=None,
            note=self._note,
            silent_seconds=SILENT_SECONDS,
        )

    def _note(self, kind: str, _subject: str, detail: dict[str, object]) -> None:
        if kind == "died":
            self.deaths.append(detail)
            self.died.set()

    async def death_of(self, pid: int) -> dict[str, object]:
        """Wait until the death of a process is noted; return what is noted of it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := [death for death in self.deaths if death["pid"] == pid]):
                await self.died.wait()
                self.died.clear()
        return found[0]

    async def pid(self) -> int:
        """Wait until it answers in SQL; return its process."""
        await self.answers()
        assert self.child.process is not None
        return self.child.process.pid

    async def answers(self) -> None:
        """Wait until it answers in SQL."""
        async with StoreClient(self.child.address, connect_seconds=PATIENCE_SECONDS) as client:
            assert (await client.sql("SELECT 42", timeout_seconds=PATIENCE_SECONDS)).rows == [(42,)]


@pytest.fixture
async def kept(home: Path) -> AsyncIterator[Kept]:
    made = Kept(home)
    made.child.start()
    yield made
    await made.child.leave()
    made.context.term()


async def test_a_store_that_is_silent_is_killed_and_started_again(kept: Kept) -> None:
    stopped = await kept.pid()
    os.kill(stopped, signal.SIGSTOP)
    death = await kept.death_of(stopped)
    assert death["signal"] == signal.SIGKILL
    assert death["reason"] == "answered nothing for 1.5 s, and was killed"
    await kept.answers()


async def test_a_store_that_was_killed_died_of_no_silence(kept: Kept) -> None:
    killed = await kept.pid()
    os.kill(killed, signal.SIGKILL)
    assert "reason" not in await kept.death_of(killed)
    await kept.answers()


async def test_it_is_known_what_the_store_has_still_to_erase(kept: Kept) -> None:
    sessions = [SessionId(new_id()) for _ in range(3)]
    process = await kept.pid()
    os.kill(process, signal.SIGSTOP)
    for session_id in sessions:
        kept.child.erase(session_id)
    assert kept.child.erasing() == set(sessions)
    os.kill(process, signal.SIGCONT)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while kept.child.erasing():  # noqa: ASYNC110 - another process's; nothing to wait on
            await asyncio.sleep(0.01)


async def test_the_next_store_has_nothing_to_erase(kept: Kept) -> None:
    killed = await kept.pid()
    os.kill(killed, signal.SIGSTOP)
    kept.child.erase(SessionId(new_id()))
    os.kill(killed, signal.SIGKILL)
    await kept.death_of(killed)
    assert kept.child.erasing() == set()
