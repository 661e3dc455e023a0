"""A place to run tools in, for tests."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from paddock.session_worker.toolbox.contract import Plan, Progress, Room, Tool, ToolOutcome

DEADLINE_SECONDS = 30.0


def room(folder: Path, owner: str | None = None, *, jail: bool = False) -> Room:
    """Return a room in ``folder``, with a workspace and a scratch folder side by side.

    Its owner is like no other's on this host: tests look for what it left.
    """
    owner = owner or f"{folder.name}-{os.getpid()}.1"
    workspace, scratch = folder / "workspace", folder / "scratch"
    workspace.mkdir(exist_ok=True)
    scratch.mkdir(mode=0o700, exist_ok=True)
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PADDOCK_TEST")
    } | {"LANG": "C.UTF-8", "GIT_CONFIG_GLOBAL": os.devnull}
    return Room(workspace, environment, owner, scratch, jail=jail)


async def call(tool: Tool, where: Room, **arguments: object) -> ToolOutcome:
    """Prepare a call and run it."""
    return await run(tool, tool.prepare(arguments, where), where)


async def run(
    tool: Tool, plan: Plan, where: Room, progress: Progress = lambda _: None
) -> ToolOutcome:
    """Run a prepared call."""
    return await tool.run(plan, where, progress)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; a test whose condition never comes fails here."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; one that only waits to be reaped by init has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    fields = stat.rpartition(")")[2].split()
    return fields[0] in ("Z", "X") and int(fields[17]) <= 1  # the number of its threads


def pids_in(path: Path, count: int = 1) -> list[int]:
    """Return the pids that a command wrote into a file, once there are ``count`` of them."""
    words = path.read_text().split() if path.exists() else []
    return [int(word) for word in words] if len(words) >= count else []
