"""The host is killed or restarted while tools run, approvals are open and inputs wait (F8)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from paddock.client import Host, Operation, Session
from paddock.store.events import ApprovalRequested, Stored, ToolCallFinished, WorkerExited
from paddock.store.ids import ApprovalId
from paddock.supervisor.cli.main import answer
from paddock.testing import HostForTests, call, turn, wait_until, wait_until_async
from tests.crash import judge

SECONDS = 60.0


@pytest.fixture
def made(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostForTests]:
    monkeypatch.setenv("PADDOCK_HOME", str(home))
    made = HostForTests(home)
    yield made
    made.end()


class Busy:
    """Two sessions with something open: one in a tool, one waiting for an approval."""

    def __init__(self, host: Host, made: HostForTests, folder: Path) -> None:
        self.host = host
        self.made = made
        self.folder = folder
        self.gate = folder / "go"
        self.shown: dict[str, list[Stored]] = {}
        self.tool: Session
        self.asks: Session
        self.in_tool: Operation
        self.asked: Operation
        self.queued: Operation
        self._following: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Bring both to where they have something open, and attach a client to each."""
        waits = f"touch begun; until [ -e {self.gate} ]; do sleep 0.02; done; echo through"
        self.tool = await self._new("tool", "yolo", turn(call("bash", command=waits)), turn("out"))
        gated = [call("bash", command="echo one >> one.txt"), call("bash", command="echo two")]
        self.asks = await self._new(
            "asks", "normal", turn(gated[0]), turn("first"), turn(gated[1]), turn("second")
        )
        self.in_tool = await self.tool.send("go")
        self.asked = await self.asks.send("go")
        await wait_until_async(self._has_begun, what="the tool runs and the approval is asked")
        self.queued = await self.asks.send("go on")
        assert self.queued.is_queued

    async def _new(self, name: str, mode: Any, *turns: Any) -> Session:
        workspace = self.folder / name
        workspace.mkdir(parents=True)
        model = self.made.script(*turns)
        session = await self.host.new(name, model=model, mode=mode, cwd=workspace)
        shown: list[Stored] = []
        self.shown[name] = shown

        async def follow() -> None:
            async for stored in session.events():
                shown.append(stored)  # noqa: PERF401 - it is looked at meanwhile

        self._following.append(asyncio.create_task(follow()))
        return session

    async def _has_begun(self) -> bool:
        return (self.folder / "tool" / "begun").exists() and bool(self.approvals())

    def approvals(self) -> list[ApprovalId]:
        """Return the approvals that the attached client was asked for."""
        return [
            stored.event.approval_id
            for stored in self.shown["asks"]
            if isinstance(stored.event, ApprovalRequested)
        ]

    async def end(self) -> None:
        """Let go of the feeds."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    async def let_go_on(self) -> None:
        """Open the gate, allow what is asked, and wait until all is done."""
        self.gate.touch()
        assert (await self.in_tool.wait(SECONDS)).final_message == "out"
        await self.asks.approve(self.approvals()[0])
        assert (await self.asked.wait(SECONDS)).final_message == "first"
        await wait_until_async(self._asked_twice, what="the second approval")
        await self.asks.deny(self.approvals()[1])
        assert (await self.queued.wait(SECONDS)).final_message == "second"
        assert (self.folder / "asks" / "one.txt").read_text() == "one\n"

    async def _asked_twice(self) -> bool:
        return len(self.approvals()) == 2

    async def logs(self) -> dict[str, list[Stored]]:
        """Return both logs; each keeps every promise, and its client was shown all of it."""
        logs: dict[str, list[Stored]] = {}
        for name, session in (("tool", self.tool), ("asks", self.asks)):
            logs[name] = log = judge.read_log(self.made.data, session.session_id)
            await wait_until_async(self._all_shown(name, len(log)), what=f"all of {name} is shown")
            assert judge.faults_of(log, is_live=True) == []
            assert judge.shown_faults(self.shown[name], log) == []
        return logs

    def _all_shown(self, name: str, head: int) -> Callable[[], Any]:
        async def is_shown() -> bool:
            return bool(self.shown[name]) and self.shown[name][-1].sequence >= head

        return is_shown

    def pids(self) -> list[int | None]:
        """Return the workers' processes."""
        return [self.made.worker_pid(one.session_id) for one in (self.tool, self.asks)]


@asynccontextmanager
async def busy(made: HostForTests, ground: Path) -> AsyncIterator[Busy]:
    async with await made.connect() as host, asyncio.timeout(3 * SECONDS):
        both = Busy(host, made, ground / "work")
        try:
            await both.begin()
            yield both
        finally:
            await both.end()


def deaths(log: list[Stored]) -> list[WorkerExited]:
    return [stored.event for stored in log if isinstance(stored.event, WorkerExited)]


async def test_f8_l13_a_killed_host_costs_no_operation_no_tool_no_approval_and_no_event(
    made: HostForTests, ground: Path
) -> None:
    async with busy(made, ground) as both:
        before = both.pids()
        await asyncio.to_thread(made.kill)
        assert both.pids() == before
        await asyncio.to_thread(made.start)
        await both.let_go_on()
        assert both.pids() == before
        logs = await both.logs()
        assert [deaths(log) for log in logs.values()] == [[], []]
        kinds = [stored.event.kind for stored in logs["tool"]]
        assert kinds.count("tool_call_started") == 1


async def test_f8_a_worker_finishes_its_operation_without_any_host(
    made: HostForTests, ground: Path
) -> None:
    async with busy(made, ground) as both:
        await asyncio.to_thread(made.kill)
        both.gate.touch()

        async def is_completed() -> bool:
            log = judge.read_log(made.data, both.tool.session_id)
            return log[-1].event.kind == "operation_completed"

        await wait_until_async(is_completed, what="the operation completed without a host")
        await asyncio.to_thread(made.start)
        await both.let_go_on()
        assert [deaths(log) for log in (await both.logs()).values()] == [[], []]


async def test_f8_approvals_and_inputs_outlive_host_and_workers_and_the_tool_is_closed(
    made: HostForTests, ground: Path
) -> None:
    async with busy(made, ground) as both:
        pids = both.pids()
        await asyncio.to_thread(made.kill)
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(made.start)
        await both.let_go_on()  # the approval has the id that it had
        logs = await both.logs()
        assert [len(deaths(log)) for log in logs.values()] == [1, 1]
        status = [
            stored.event.status
            for stored in logs["tool"]
            if isinstance(stored.event, ToolCallFinished)
        ]
        assert status == ["interrupted", "ok"]
        kinds = [stored.event.kind for stored in logs["asks"]]
        assert kinds.count("approval_requested") == 2
        assert deaths(logs["asks"])[0].struck_operation_id is None  # it only waited


async def test_l26_a_restart_keeps_tools_and_approvals(made: HostForTests, ground: Path) -> None:
    async with busy(made, ground) as both:
        before = both.pids()
        old = made.pid
        assert await asyncio.to_thread(answer, ["restart"]) == 0
        assert (await both.host.status())["pid"] != old
        await both.let_go_on()
        assert both.pids() == before
        assert [deaths(log) for log in (await both.logs()).values()] == [[], []]
        await both.host.down(force=True)
    wait_until(lambda: made.worker_pid(both.tool.session_id) is None, what="its worker is gone")
