"""Workers that stop, hang, leave processes behind, or crash at every start."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from paddock.client import Session
from paddock.session_worker.toolbox.processes import owned_processes
from paddock.store.errors import PaddockError
from paddock.store.events import WorkerExited
from paddock.supervisor.cli.main import answer
from paddock.supervisor.errors import SessionFailed
from paddock.testing import HostForTests, call, turn, wait_until_async
from tests.crash import judge

SECONDS = 60.0
CRASHER = """
import os, pathlib, signal
if pathlib.Path(__file__).with_name("crash").exists():
    os.kill(os.getpid(), signal.SIGKILL)

from paddock.agent import Context, agent

@agent("fragile")
async def fragile(s: Context) -> None:
    async for turn in s.turns():
        await turn.reply(f"heard {turn.text}")
"""
SENDER = """
from paddock.client import sync

with sync.connect() as host:
    session = host.session("busy")
    print("sending", flush=True)
    operation = session.send("go", key="from a client that dies")
    print("accepted", flush=True)
    operation.wait()
"""


@pytest.fixture
def made(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostForTests]:
    monkeypatch.setenv("PADDOCK_HOME", str(home))
    made = HostForTests(home, hang_after_seconds=2, max_restarts=1)
    yield made
    made.end()


@pytest.fixture
def workspace(ground: Path) -> Path:
    folder = ground / "work"
    folder.mkdir()
    return folder


def ends(made: HostForTests, session: Session) -> list[WorkerExited]:
    """Return the certificates of a session."""
    log = judge.read_log(made.data, session.session_id)
    return [stored.event for stored in log if isinstance(stored.event, WorkerExited)]


def send_and_die(when: str) -> None:
    """Run a client that sends, and kill it when it says that it is so far."""
    line = [sys.executable, "-P", "-c", SENDER]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        for said in sender.stdout:
            if said.strip() == when:
                break
        sender.kill()


async def test_f6_a_stopped_worker_is_found_killed_with_its_tools_and_replaced(
    made: HostForTests, workspace: Path
) -> None:
    command = "echo $$ >> pids; test $(wc -l < pids) -gt 1 || sleep 1000"
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        model = made.script(turn(call("bash", command=command)), turn("replaced"))
        session = await host.new(model=model, mode="yolo", cwd=workspace)
        operation = await session.send("go")

        async def shell() -> psutil.Process | None:
            pids = workspace / "pids"
            written = pids.read_text() if pids.exists() else ""
            return psutil.Process(int(written)) if written.endswith("\n") else None

        tool = await wait_until_async(shell, what="the tool runs")
        stopped = made.kill_worker(session.session_id, signal.SIGSTOP)
        assert (await operation.wait(SECONDS)).final_message == "replaced"
        assert not psutil.pid_exists(stopped)
        assert not tool.is_running()
        log = judge.read_log(made.data, session.session_id)
        assert judge.faults_of(log, is_live=True) == []
        (certificate,) = ends(made, session)
        assert (certificate.ending, certificate.reason) == ("crashed", "stopped")
        rows = await host.sql("SELECT reason, action FROM worker_runs WHERE ending = 'crashed'")
        assert list(rows) == [("stopped", "restarted")]


async def test_f5_after_a_death_no_process_of_the_session_remains_wherever_it_went(
    made: HostForTests, workspace: Path
) -> None:
    sleepers = "(setsid sleep 1000 &) ; setsid -f sleep 1001; sleep 1002"
    command = f"test -e again || {{ touch again; {sleepers}; }}"
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        model = made.script(turn(call("bash", command=command)), turn("clean"))
        session = await host.new(model=model, mode="yolo", cwd=workspace)
        operation = await session.send("go")
        owner = f"{session.session_id}.1"

        async def all_sleep() -> bool:
            names = []
            for each in owned_processes(owner):
                with suppress(psutil.NoSuchProcess):  # the shells that start them end
                    names.append(psutil.Process(each.pid).name())
            return names.count("sleep") == 3

        await wait_until_async(all_sleep, what="three sleepers")
        made.kill_worker(session.session_id)
        assert (await operation.wait(SECONDS)).final_message == "clean"
        assert owned_processes(owner) == []


async def test_f7_a_session_that_crashes_at_every_start_is_left_down_until_one_command_frees_it(
    made: HostForTests, workspace: Path, ground: Path
) -> None:
    (ground / "fragile_agent.py").write_text(CRASHER)
    async with await made.connect() as host, asyncio.timeout(2 * SECONDS):
        session = await host.new(
            "fragile", agent="fragile_agent:fragile", python_path=(str(ground),), cwd=workspace
        )
        await session.suspend()
        (ground / "crash").touch()
        with pytest.raises(SessionFailed) as failed:
            await session.send("one", key="one")
        assert "2 crashes without progress" in failed.value.message
        assert [one.action for one in ends(made, session)] == ["none", "restarted", "left_down"]

        await asyncio.to_thread(made.kill)  # its budget is the log's, so the next host knows it
        await asyncio.to_thread(made.start)
        with pytest.raises(SessionFailed):
            await session.send("one", key="one")
        assert len(ends(made, session)) == 3

        (ground / "crash").unlink()
        assert await asyncio.to_thread(answer, ["resume", "--reset", "fragile"]) == 0
        operation = await session.send("one", key="one")
        assert (await operation.wait(SECONDS)).final_message == "heard one"
        log = judge.read_log(made.data, session.session_id)
        assert judge.faults_of(log, is_live=True) == []


async def test_l11_l13_a_client_killed_in_mid_command_costs_nothing_and_its_key_finds_its_operation(
    made: HostForTests, workspace: Path, ground: Path
) -> None:
    gate = ground / "go"
    command = f"echo once >> ran; until [ -e {gate} ]; do sleep 0.02; done"
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        model = made.script(turn(call("bash", command=command)), turn("through"))
        session = await host.new("busy", model=model, mode="yolo", cwd=workspace)
        await asyncio.to_thread(send_and_die, "accepted")
        again = await session.send("go", key="from a client that dies")
        gate.touch()
        assert (await again.wait(SECONDS)).final_message == "through"
        assert (workspace / "ran").read_text() == "once\n"
        with pytest.raises(PaddockError) as other:
            await session.send("other words", key="from a client that dies")
        assert other.value.code == "already_exists"
        log = judge.read_log(made.data, session.session_id)
        assert judge.faults_of(log, is_live=True) == []


async def test_l26_a_client_killed_while_it_sends_sends_once_or_not_at_all(
    made: HostForTests, workspace: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(2 * SECONDS):
        model = made.script(*[turn("heard") for _ in range(9)])
        session = await host.new("busy", model=model, mode="yolo", cwd=workspace)
        await asyncio.to_thread(send_and_die, "sending")
        operation = await session.send("go", key="from a client that dies")
        await operation.wait(SECONDS)
        log = judge.read_log(made.data, session.session_id)
        assert judge.faults_of(log, is_live=True) == []
        assert [one.event.kind for one in log].count("operation_started") == 1
