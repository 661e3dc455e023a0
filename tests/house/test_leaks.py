"""The look that every test is given finds what it is there to find."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from paddock.testing import wait_until
from tests.house import leaks


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GOING_SECONDS", 0.05)


def forever(env: dict[str, str] | None = None, cwd: str | None = None) -> subprocess.Popen[bytes]:
    """Start a process that ends only when its standard input does; return when it runs."""
    command = [sys.executable, "-Ic", "import sys; print(flush=True); sys.stdin.read()"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, cwd=cwd)
    assert process.stdout is not None
    process.stdout.read(1)
    return process


def test_a_child_that_is_left_over_is_found_until_it_is_gone(ground: Path) -> None:
    before = leaks.look()
    with forever() as child:
        assert [p.pid for p in leaks.processes_left(before, "", [])] == [child.pid]
        assert str(child.pid) in leaks.describe(psutil.Process(child.pid))
        child.communicate()
    assert leaks.processes_left(before, "", []) == []


def test_a_child_that_was_never_waited_for_is_found(ground: Path) -> None:
    before = leaks.look()
    with forever() as child:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert [p.pid for p in leaks.processes_left(before, "", [])] == [child.pid]


@pytest.mark.skipif(shutil.which("setsid") is None, reason="setsid is not installed")
def test_a_process_that_left_its_parent_and_its_session_is_known_by_its_mark(ground: Path) -> None:
    before = leaks.look()
    environment = {**os.environ, leaks.MARK: "a mark"}
    runs = ground / "runs"
    code = f"import pathlib, time; pathlib.Path({str(runs)!r}).touch(); time.sleep(60)"
    script = f"setsid --fork {sys.executable} -Ic {shlex.quote(code)} >/dev/null 2>&1"
    subprocess.run(["sh", "-c", script], env=environment, cwd="/", check=True)
    # In the middle of its start its environment cannot be read.
    wait_until(runs.exists, what="it runs")
    found = leaks.processes_left(before, "a mark", [])
    leaks.end(found)
    assert len(found) == 1
    assert leaks.processes_left(before, "a mark", []) == []


def test_a_process_of_this_home_is_found_whoever_started_it(home: Path) -> None:
    before = leaks.look()
    with forever(env={"PADDOCK_HOME": str(home / "x")}, cwd="/") as child:
        process = psutil.Process(child.pid)
        assert leaks.processes_left(before, "no mark", [home]) == [process]
        child.communicate()


def test_what_the_host_of_a_wider_fixture_starts_is_its_own_affair(ground: Path) -> None:
    script = "read line; sleep 60 & echo $!; wait"
    pipe = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", script], stdin=pipe, stdout=pipe, cwd="/") as host:
        before = leaks.look()
        assert host.stdin is not None
        assert host.stdout is not None
        host.stdin.write(b"go\n")
        host.stdin.flush()
        child = psutil.Process(int(host.stdout.readline()))
        assert leaks.processes_left(before, "no mark", []) == []
        leaks.end([child])


def test_an_open_descriptor_is_found_and_a_closed_one_is_not(ground: Path) -> None:
    before = leaks.look()
    with Path(ground / "file").open("w"):
        assert leaks.descriptors_left(before) == [str(ground / "file")]
    assert leaks.descriptors_left(before) == []


def test_what_a_library_opens_once_and_keeps_is_no_leak(ground: Path) -> None:
    before = leaks.look()
    with Path("/dev/null").open():
        assert leaks.descriptors_left(before) == []


def test_a_socket_file_is_found(home: Path) -> None:
    assert leaks.sockets_left([home]) == []
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(home / "door"))
    assert leaks.sockets_left([home]) == [home / "door"]
    (home / "door").unlink()


def test_traces_of_a_host_are_found_in_a_clone(ground: Path) -> None:
    (ground / "sessions").mkdir()
    (ground / "sessions" / "session.sqlite").touch()
    (ground / "notes.md").touch()
    assert leaks.host_files(ground) == {ground / "sessions" / "session.sqlite"}


def test_every_test_has_a_place_of_its_own_and_nobody_s_keys(home: Path, ground: Path) -> None:
    assert Path.cwd() == ground
    assert Path.home().is_relative_to(ground)
    assert home.stat().st_mode & 0o777 == 0o700
    assert len(str(home / "run" / "supervisor.sock")) < 60
    assert not [name for name in os.environ if name.endswith("_API_KEY")]
