"""P12: whose a process is that speaks at a door."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paddock.session_worker.toolbox.marks import mark_of
from paddock.supervisor.origins import UNKNOWN, session_of

SESSION = "019a2c00-0000-7000-8000-000000000001"
MARK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_RTTIME, (int(sys.argv[1]), int(sys.argv[2])))
sys.stdin.readline()
"""


def origin(pid: int, **known: Any) -> str | None:
    nobody: Callable[[str], bool] = {SESSION}.__contains__
    facts: dict[str, Any] = {
        "group": None,
        "worker_of": {}.get,
        "sessions": [SESSION],
        "is_ours": nobody,
        "host_pid": 2**22 + 2,
    }
    return session_of(pid, **(facts | known))


def test_an_ordinary_process_is_an_outsider() -> None:
    assert origin(os.getpid()) is None
    assert origin(0) is None
    assert origin(os.getpid(), host_pid=os.getpid()) is None


def test_what_descends_from_a_worker_is_its_sessions() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            assert origin(child.pid, worker_of={os.getpid(): SESSION}.get) == SESSION
            assert origin(os.getpid(), worker_of={os.getpid(): SESSION}.get) == SESSION
            assert origin(child.pid, host_pid=os.getpid()) == UNKNOWN
        finally:
            child.kill()


def test_the_mark_in_the_environment_counts_if_it_is_of_a_session_of_ours() -> None:
    for owner, session in ((f"{SESSION}.3", SESSION), ("another.1", None)):
        with subprocess.Popen(["sleep", "1000"], env={"PADDOCK_OWNER": owner}) as child:
            try:
                assert origin(child.pid) == session
            finally:
                child.kill()


def test_the_mark_in_the_limits_counts_without_any_environment() -> None:
    for owner, session in ((f"{SESSION}.3", SESSION), ("another.1", None)):
        soft, hard = mark_of(owner, "c")
        command = [sys.executable, "-I", "-S", "-c", f"{MARK}", str(soft), str(hard)]
        pipes = {"stdin": subprocess.PIPE, "env": {}}
        with subprocess.Popen(command, **pipes) as child:  # type: ignore[call-overload]  # a dict of words
            try:
                _wait_marked(child.pid)
                assert origin(child.pid) == session
            finally:
                child.kill()


def _wait_marked(pid: int) -> None:
    from paddock.session_worker.toolbox.marks import read_mark
    from paddock.testing import wait_until

    wait_until(lambda: read_mark(pid) is not None, what="its mark")


def test_f14_who_is_gone_is_nobody_that_can_be_trusted() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert origin(child.pid) == UNKNOWN  # dead and not reaped
    child.wait()
    assert not Path(f"/proc/{2**22 + 1}").exists()
    assert origin(2**22 + 1) == UNKNOWN
