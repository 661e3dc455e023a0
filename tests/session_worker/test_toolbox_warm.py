"""Calls of Python functions from a warm template: what may happen to it, and what it is."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from paddock.session_worker.tools import Limits, Room, Tool, ToolSpec, Warm, python_tool
from tests.session_worker.toolbench import call, is_gone, room, run, until

HERE = "tests.session_worker.toolbox_functions"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def where(tmp_path: Path) -> Room:
    return room(tmp_path)


@pytest.fixture
async def warm() -> AsyncIterator[Warm]:
    template = Warm()
    yield template
    await template.close()


def tool(warm: Warm, reference: str, seconds: float = 60.0, **limits: Any) -> Tool:
    name = reference.partition(":")[2]
    spec = ToolSpec(name, "", {"type": "object"}, "write", "ask", seconds, 30_000, exclusive=True)
    return python_tool(reference, spec, (str(ROOT),), Limits(**limits), warm)


async def surroundings(warm: Warm, where: Room) -> dict[str, Any]:
    done = await call(tool(warm, f"{HERE}:surroundings"), where)
    assert isinstance(done.value, dict), done.text
    return done.value


async def test_p9_a_call_is_forked_from_a_template_that_has_its_module(
    warm: Warm, where: Room
) -> None:
    first, second = await surroundings(warm, where), await surroundings(warm, where)
    assert first["loaded_by"] == second["loaded_by"] == warm.pid
    assert len({warm.pid, first["pid"], second["pid"], os.getpid()}) == 4


async def test_p9_a_call_inherits_neither_threads_nor_zeromq_nor_the_store(
    warm: Warm, where: Room
) -> None:
    found = await surroundings(warm, where)
    assert found["threads"] == 1
    assert not {"zmq", "duckdb", "sqlite3", "pytest"} & set(found["modules"])
    assert found["descriptors"][0] == "/dev/null"


async def test_p9_a_template_that_was_killed_is_followed_by_another(
    warm: Warm, where: Room
) -> None:
    before = (await surroundings(warm, where))["loaded_by"]
    os.kill(before, signal.SIGKILL)
    after = (await surroundings(warm, where))["loaded_by"]
    assert after == warm.pid != before


async def test_p9_a_template_that_was_stopped_is_followed_by_another(
    warm: Warm, where: Room
) -> None:
    before = (await surroundings(warm, where))["loaded_by"]
    os.kill(before, signal.SIGSTOP)
    assert (await surroundings(warm, where))["loaded_by"] == warm.pid != before
    assert is_gone(before)


async def test_p9_a_call_goes_on_when_its_template_is_killed(warm: Warm, where: Room) -> None:
    waits = tool(warm, f"{HERE}:wait_for")
    path = where.workspace / "go on"
    plan = waits.prepare({"path": str(path)}, where)
    task = asyncio.create_task(run(waits, plan, where))
    await until(Path(f"{path}.begun").exists)
    assert warm.pid is not None
    os.kill(warm.pid, signal.SIGKILL)
    path.touch()
    done = await task
    assert (done.status, done.text) == ("ok", "there it was")


async def test_c9_a_call_from_a_template_that_is_gone_can_still_be_cancelled(
    warm: Warm, where: Room
) -> None:
    leaves = tool(warm, f"{HERE}:wait_for")
    path = where.workspace / "never"
    task = asyncio.create_task(run(leaves, leaves.prepare({"path": str(path)}, where), where))
    await until(Path(f"{path}.begun").exists)
    assert warm.pid is not None
    os.kill(warm.pid, signal.SIGKILL)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_template_nobody_asks_leaves(where: Room) -> None:
    warm = Warm(idle_seconds=0.5)
    try:
        await surroundings(warm, where)
        pid = warm.pid
        assert pid is not None
        await until(lambda: is_gone(pid))
        assert (await surroundings(warm, where))["loaded_by"] != pid
    finally:
        await warm.close()


async def test_changed_code_is_loaded_anew(warm: Warm, where: Room, tmp_path: Path) -> None:
    module = tmp_path / "of_the_user.py"
    module.write_text("def say(): return 'old'")
    spec = ToolSpec("say", "", {"type": "object"}, "none", "allow", 60.0, 30_000, exclusive=False)
    says = python_tool("of_the_user:say", spec, (str(tmp_path),), None, warm)
    assert (await call(says, where)).text == "old"
    module.write_text("def say(): return 'quite new'")
    assert (await call(says, where)).text == "quite new"


@pytest.mark.parametrize(
    ("does", "status", "kind"),
    [
        (
            "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()",
            "ok",
            None,
        ),
        ("import os; os._exit(3)", "error", "exit"),
        ("import ctypes; ctypes.string_at(0)", "error", "signal"),
        ("raise SystemExit('no')", "error", "exit"),
        ("import no_such_module_at_all", "error", "not_found"),
        ("while True: pass", "timed_out", "timeout"),
        (
            (
                "hog = bytearray(400 << 20)\nfor n in range(0, len(hog), 4096): hog[n] = 1\n"
                "import time; time.sleep(99)"
            ),
            "limit_exceeded",
            "memory",
        ),
    ],
    ids=["thread", "exit", "segfault", "leave", "import", "loop", "memory"],
)
async def test_f4_whatever_a_module_does_while_it_is_imported_is_a_typed_result(
    warm: Warm, where: Room, tmp_path: Path, does: str, status: str, kind: str | None
) -> None:
    (tmp_path / "does_things.py").write_text(f"{does}\ndef say(): return 'said'")
    seconds = 3.0 if status == "timed_out" else 60.0
    spec = ToolSpec(
        "say", "", {"type": "object"}, "none", "allow", seconds, 30_000, exclusive=False
    )
    limits = Limits(memory_bytes=200 << 20)
    says = python_tool("does_things:say", spec, (str(tmp_path),), limits, warm)
    done = await call(says, where)
    assert (done.status, done.error_kind) == (status, kind), done.text


async def test_f5_a_template_ends_with_its_worker(warm: Warm, where: Room) -> None:
    pid = (await surroundings(warm, where))["loaded_by"]
    await warm.close()
    assert is_gone(pid)
    assert warm.pid is None
