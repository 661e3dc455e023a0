"""F5: whatever a tool does to hide what it started, all of it is found and ended with its session.

Worker and keeper are stopped, so that neither sees the other die, and killed: nobody is left who
descends to what they started. Then it is looked for, as a burial does.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from paddock.session_worker.toolbox import cgroups, marks, processes
from tests.session_worker.toolbench import is_gone, pids_in, until

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.executable} -I -S"
NOTE = "import os; open('pids','a').write(f'{os.getpid()} ')"
SLEEP = "import time; time.sleep(1000)"
PRCTL = "import ctypes; ctypes.CDLL(None).prctl"
TRICKS = {
    "fork twice": "(sh -c 'echo $$ >> pids; exec sleep 1000' &)",
    "setsid": "setsid -f sh -c 'echo $$ >> pids; exec sleep 1000'",
    "nohup": "(nohup sh -c 'echo $$ >> pids; exec sleep 1000' > /dev/null 2>&1 &)",
    "emptied environment": "env -i setsid -f /bin/sh -c 'echo $$ >> pids; exec /bin/sleep 1000'",
    "changed environment": (
        "PADDOCK_OWNER=another.1 PADDOCK_CALL=x setsid -f sh -c 'echo $$ >> pids; exec sleep 1000'"
    ),
    "not dumpable": f'setsid -f {PYTHON} -c "{NOTE}; {PRCTL}(4, 0); {SLEEP}"',
    "main thread gone": (
        f'setsid -f {PYTHON} -c "{NOTE}; import ctypes, threading, time\n'
        f"threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        f'ctypes.CDLL(None).pthread_exit(None)"'
    ),
    "subreaper of its own": (
        f'setsid -f env -i {PYTHON} -c "{NOTE}; {PRCTL}(36, 1)\n'
        f'if os.fork() == 0 and os.fork() == 0:\n os.setsid(); {NOTE}\n{SLEEP}"'
    ),
}
PIDS = {"subreaper of its own": 2}
WORKER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from tests.session_worker.toolbench import call, room
from paddock.session_worker.tools import Confines, builtin_tools
where = room(Path(sys.argv[1]), sys.argv[2])
if sys.argv[4]:
    where = replace(where, confines=Confines(group=f"{sys.argv[4]}/{sys.argv[2]}"))
asyncio.run(call(builtin_tools()["bash"], where, command=sys.argv[3] + "; sleep 1000"))
"""


@pytest.fixture
def host_group() -> Iterator[Path]:
    group = cgroups.open_host(f"test{os.getpid():x}{os.urandom(4).hex()}")
    if group is None:
        pytest.skip("this machine gives no control groups")
    yield group
    assert cgroups.pids(group) == []
    cgroups.end(group)
    assert not group.exists()


@pytest.fixture(params=["control groups", "marks alone"])
def group(request: pytest.FixtureRequest) -> Path | None:
    if request.param == "marks alone":
        return None
    found: Path = request.getfixturevalue("host_group")
    return found


async def hide(folder: Path, owner: str, trick: str, group: Path | None) -> list[int]:
    """Have a tool hide something, fell its worker and its keeper, return the pids of the hidden."""
    arguments = [str(folder), owner, TRICKS[trick], str(group or "")]
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, *arguments, cwd=ROOT
    )
    written, count = folder / "workspace" / "pids", PIDS.get(trick, 1)
    await until(lambda: pids_in(written, count))
    (keeper,) = psutil.Process(worker.pid).children()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        os.kill(worker.pid, number)
        os.kill(keeper.pid, number)
    await worker.wait()
    await until(lambda: is_gone(keeper.pid))
    found = pids_in(written, count)
    assert not any(is_gone(pid) for pid in found), "it did hide"
    return found


@pytest.mark.parametrize("trick", TRICKS)
async def test_f5_what_hid_from_its_keeper_is_found_and_ended(
    tmp_path: Path, trick: str, group: Path | None
) -> None:
    session = f"{tmp_path.name}-{os.getpid()}"
    hidden = await hide(tmp_path, f"{session}.1", trick, group)
    if group is None:
        await asyncio.to_thread(processes.kill_owned, f"{session}.", deadline_seconds=30)
    else:
        (generation,) = cgroups.groups_of(group, session)
        assert set(hidden) <= set(cgroups.pids(generation))
        assert await asyncio.to_thread(cgroups.end, generation, 30) >= len(hidden)
        assert not generation.exists()
    assert all(is_gone(pid) for pid in hidden)


async def test_f5_a_fork_bomb_that_forks_on_is_ended_by_its_group_at_once(
    tmp_path: Path, host_group: Path
) -> None:
    """Faster than anything that looks for its processes one by one; at most some 60 at a time."""
    again = "setsid -f sh -c 'sleep 0.01; exec sh again'\n"
    (tmp_path / "again").write_text(again)
    group = host_group / "bomb.1"
    assert cgroups.make(group)
    start = f"echo 0 > {group}/cgroup.procs; for i in $(seq 30); do sh again; done"
    starter = await asyncio.create_subprocess_exec("sh", "-c", start, cwd=tmp_path)
    assert await starter.wait() == 0
    await until(lambda: cgroups.is_populated(group))
    assert await asyncio.to_thread(cgroups.end, group, 30) > 0
    assert not group.exists()


def test_f14_marks_tell_sessions_generations_and_calls_apart() -> None:
    mark = marks.mark_of("s.3", "c")
    assert marks.is_of(mark, "s.3", "c")
    assert marks.is_of(mark, "s.3", None)
    assert marks.is_of(mark, "s.", None)
    for owner, call in (("s.3", "d"), ("s.4", "c"), ("s.4", None), ("t.3", "c"), ("t.", None)):
        assert not marks.is_of(mark, owner, call)


def test_a_process_without_a_mark_has_none() -> None:
    assert marks.read_mark(os.getpid()) is None
    assert marks.read_mark(2**22 + 1) is None


def test_a_group_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    assert cgroups.probe(tmp_path / "no-group") is not None
    assert not (tmp_path / "no-group").exists()


def test_the_empty_group_of_a_host_that_is_no_more_is_removed_by_the_next(
    tmp_path: Path, host_group: Path
) -> None:
    names = [f"test{os.getpid():x}{os.urandom(4).hex()}" for _ in range(2)]
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.mkdir()
    gone.mkdir()
    groups = [
        cgroups.open_host(name, data) for name, data in zip(names, (there, gone), strict=True)
    ]
    gone.rmdir()
    assert cgroups.open_host(names[0], there) == groups[0]
    assert [group is not None and group.exists() for group in (*groups, host_group)] == [
        True,
        False,
        True,
    ]
    assert groups[0] is not None
    cgroups.end(groups[0])
