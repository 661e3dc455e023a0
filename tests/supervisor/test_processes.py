"""Processes as the supervisor holds them: how they ended, told by whoever can tell."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from paddock.supervisor.processes import Process, Status

PARENT = """
import os, signal, struct, sys
report = int(sys.argv[1])
child = os.fork()
if child == 0:
    signal.pause()
print(child, flush=True)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
if sys.stdin.readline():  # reaped only when it is told to
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(report, struct.pack("q", code))
"""
LATE_SECONDS = 0.4
"""A zygote on a very busy machine; four times as long as was once waited for it."""


@contextmanager
def grandchild() -> Iterator[tuple[subprocess.Popen[str], Process]]:
    """Give a process that is not ours, held as the workers are, and its parent, who reports."""
    sentinel, report = os.pipe()
    line = [sys.executable, "-c", PARENT, str(report)]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, pass_fds=[report]) as parent:
        os.close(report)
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        process = Process(pid, os.pidfd_open(pid), sentinel=sentinel)
        try:
            yield parent, process
        finally:
            process.send(signal.SIGKILL)
            parent.kill()
            process.release()


def ended(process: Process) -> "asyncio.Future[Status]":
    future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
    process.watch(future.set_result)
    return future


async def test_p13_a_death_that_a_busy_zygote_reports_late_is_told_with_its_signal() -> None:
    with grandchild() as (parent, process):
        status = ended(process)
        process.send(signal.SIGKILL)
        await asyncio.sleep(LATE_SECONDS)
        assert parent.stdin is not None
        parent.stdin.write("reap\n")
        parent.stdin.flush()
        assert await asyncio.wait_for(status, 30) == Status(signal=signal.SIGKILL)


async def test_p13_a_death_that_nobody_reports_is_told_without_a_cause() -> None:
    with grandchild() as (parent, process):
        parent.send_signal(signal.SIGSTOP)  # it keeps its end of the pipe, and says nothing
        status = ended(process)
        process.send(signal.SIGKILL)
        assert not (await asyncio.wait_for(status, 30)).is_known


def test_a_process_whose_descriptor_is_above_1023_is_seen() -> None:
    """A thousand live sessions have more descriptors than ``select`` knows."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        low = os.pidfd_open(child.pid)
        high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1024)
        os.close(low)
        process = Process(child.pid, high)
        assert high > 1023
        assert process.is_waiting()
        assert not process.wait_dead(0)
        child.kill()
        assert process.wait_dead(20)
        child.wait()
        process.release()
