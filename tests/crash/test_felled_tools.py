"""What keeps a tool's processes is killed, too: the call ends, nothing runs on, nothing waits."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from paddock.client import Host, Operation, Session
from paddock.session_worker.toolbox.processes import OwnedProcess, owned_processes
from paddock.store.events import ToolCallFinished
from paddock.testing import HostForTests, call, turn, wait_until_async
from tests.crash import judge

SECONDS = 60.0
SLEEPERS = 2


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


class Sleeper:
    """A session whose first call sleeps, with a child that went off into a session of its own."""

    session: Session
    operation: Operation

    def __init__(self, made: HostForTests, workspace: Path) -> None:
        self._made = made
        self._workspace = workspace

    async def begin(self, host: Host) -> None:
        """Bring it to where all sleep."""
        command = "test -e again || { touch again; setsid -f sleep 1000; sleep 1001; }"
        model = self._made.script(turn(call("bash", command=command)), turn("awake"))
        self.session = await host.new(model=model, mode="yolo", cwd=self._workspace)
        self.operation = await self.session.send("go")

        async def all_sleep() -> bool:
            return len(self.sleepers()) == SLEEPERS

        await wait_until_async(all_sleep, what="all sleep")

    def processes(self) -> list[OwnedProcess]:
        """Return all that the first worker's tools started."""
        return owned_processes(f"{self.session.session_id}.1")

    def sleepers(self) -> list[psutil.Process]:
        """Return the processes that sleep."""
        return [process for process, words in self._alive() if words[:1] == ["sleep"]]

    def keepers(self) -> list[psutil.Process]:
        """Return what keeps the call's processes."""
        return [process for process, words in self._alive() if "keeper" in " ".join(words)]

    def _alive(self) -> list[tuple[psutil.Process, list[str]]]:
        found = []
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):  # it may end between any two looks
                process = psutil.Process(each.pid)
                found.append((process, process.cmdline()))
        return found

    def results(self) -> list[ToolCallFinished]:
        log = judge.read_log(self._made.data, self.session.session_id)
        assert judge.faults_of(log, is_live=True) == []
        return [one.event for one in log if isinstance(one.event, ToolCallFinished)]


@pytest.fixture
def workspace(ground: Path) -> Path:
    folder = ground / "work"
    folder.mkdir()
    return folder


async def test_f4_a_killed_keeper_is_a_typed_result_and_leaves_nothing_running(
    made: HostForTests, workspace: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        sleeper = Sleeper(made, workspace)
        await sleeper.begin(host)
        (keeper,) = sleeper.keepers()
        keeper.kill()
        assert (await sleeper.operation.wait(SECONDS)).final_message == "awake"
        assert sleeper.processes() == []
        (result,) = sleeper.results()
        assert result.status == "error"


async def test_f5_worker_and_keeper_killed_at_once_leave_nothing_running(
    made: HostForTests, workspace: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        sleeper = Sleeper(made, workspace)
        await sleeper.begin(host)
        worker = made.worker_pid(sleeper.session.session_id)
        assert worker is not None
        (keeper,) = sleeper.keepers()
        for pid in (worker, keeper.pid):
            os.kill(pid, signal.SIGSTOP)  # so that neither sees the other die
        for pid in (worker, keeper.pid):
            os.kill(pid, signal.SIGKILL)
        assert (await sleeper.operation.wait(SECONDS)).final_message == "awake"
        assert sleeper.processes() == []
        assert [one.status for one in sleeper.results()] == ["interrupted", "ok"]


async def test_f5_worker_keeper_and_host_killed_at_once_leave_nothing_running(
    made: HostForTests, workspace: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        sleeper = Sleeper(made, workspace)
        await sleeper.begin(host)
        worker = made.worker_pid(sleeper.session.session_id)
        assert worker is not None
        (keeper,) = sleeper.keepers()
        for pid in (worker, keeper.pid, made.pid):
            os.kill(pid, signal.SIGSTOP)
        for pid in (worker, keeper.pid):
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(made.kill)
        assert len(sleeper.sleepers()) == SLEEPERS  # nobody is there to end them
        await asyncio.to_thread(made.start)
        assert (await sleeper.operation.wait(SECONDS)).final_message == "awake"
        assert sleeper.processes() == []
        assert [one.status for one in sleeper.results()] == ["interrupted", "ok"]


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("groups", ["auto", "off"])
async def test_f5_a_daemon_without_environment_ends_with_worker_keeper_and_host(
    home: Path, workspace: Path, groups: str
) -> None:
    """Nobody is left whose descendant it is, and its environment says nothing."""
    made = HostForTests(home, cgroups=groups)
    daemon = "env -i setsid -f /bin/sh -c 'echo $$ > pid; exec /bin/sleep 1002'"
    command = f"test -e again || {{ touch again; {daemon}; sleep 1001; }}"
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            model = made.script(turn(call("bash", command=command)), turn("awake"))
            session = await host.new(model=model, mode="yolo", cwd=workspace)
            operation = await session.send("go")
            written = workspace / "pid"

            async def is_hidden() -> bool:
                return written.exists() and bool(written.read_text().strip())

            await wait_until_async(is_hidden, what="the daemon is there")
            daemon_pid = int(written.read_text())
            worker = made.worker_pid(session.session_id)
            assert worker is not None
            marked = owned_processes(f"{session.session_id}.1")
            keepers = [
                each.pid
                for each in marked
                if "keeper" in " ".join(psutil.Process(each.pid).cmdline())
            ]
            for pid in (worker, *keepers, made.pid):
                os.kill(pid, signal.SIGSTOP)
            for pid in (worker, *keepers):
                os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(made.kill)
            assert not _is_gone(daemon_pid)
            await asyncio.to_thread(made.start)
            assert (await operation.wait(SECONDS)).final_message == "awake"
            assert _is_gone(daemon_pid)
    finally:
        await asyncio.to_thread(made.end)
