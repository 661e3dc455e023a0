"""Everything stands still for a while and goes on: nobody is killed or suspended (F6)."""

import asyncio
import contextlib
import signal
from pathlib import Path

import psutil

from paddock.store.events import SessionSuspended, WorkerExited
from paddock.testing import HostForTests, call, turn, wait_until, wait_until_async
from tests.crash import judge

SECONDS = 90.0
JUDGED_AFTER_SECONDS = 4
STOOD_SECONDS = 3 * JUDGED_AFTER_SECONDS
STANDING = {psutil.STATUS_STOPPED}
AT_AN_END = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}


def stop(process: psutil.Process) -> None:
    """Stop a process, unless it has ended by then, as the tool's own short ones do."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGSTOP)


def status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


async def test_f6_when_everything_stood_still_for_long_nobody_is_killed_or_suspended(
    home: Path, ground: Path
) -> None:
    made = HostForTests(
        home,
        hang_after_seconds=JUDGED_AFTER_SECONDS,
        idle_after_seconds=2 * JUDGED_AFTER_SECONDS,
        start_timeout_seconds=60,
    )
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            waits = "touch begun; until [ -e go ]; do sleep 0.05; done"
            model = made.script(turn(call("bash", command=waits)), turn("through"))
            works = await host.new("works", model=model, mode="yolo", cwd=ground)
            rests = await host.new("rests", model=made.script(turn("a")), cwd=ground)
            operation = await works.send("go")

            async def has_begun() -> bool:
                return (ground / "begun").exists()

            await wait_until_async(has_begun, SECONDS, what="the tool runs")
            before = {life["name"]: life["pid"] for life in await host.lives()}
            # Processes are stopped from the host on down: what still runs says nothing to it.
            everything = [psutil.Process(made.pid), *psutil.Process(made.pid).children(True)]
            for process in everything:
                stop(process)
            wait_until(
                lambda: {status(process) for process in everything} <= AT_AN_END | STANDING,
                what="everything stands still",
            )
            everything = [process for process in everything if status(process) in STANDING]
            await asyncio.sleep(STOOD_SECONDS)  # the time is what this is about
            for process in everything:
                process.send_signal(signal.SIGCONT)
            after = {life["name"]: life["pid"] for life in await host.lives()}
            assert after == before
            (ground / "go").touch()
            assert (await operation.wait(SECONDS)).final_message == "through"
            for session in (works, rests):
                log = judge.read_log(made.data, session.session_id)
                assert not [s for s in log if isinstance(s.event, WorkerExited | SessionSuspended)]
            (stood,) = await host.sql(
                "SELECT CAST(detail->>'stood_seconds' AS DOUBLE) FROM host_events"
                " WHERE kind = 'stood_still'"
            )
            assert stood[0] > STOOD_SECONDS / 2
    finally:
        await asyncio.to_thread(made.end)
