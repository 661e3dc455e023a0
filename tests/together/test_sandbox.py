"""P12, F11: what a session starts sees nothing of its host, and is ended with its session."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.session_worker.toolbox import sandbox
from paddock.store.events import ToolCallFinished
from paddock.supervisor.confinement import Trial
from paddock.testing import HostForTests, call, turn
from tests.crash import judge

SECONDS = 60.0
LOOK = """
import os, socket, sys
for folder in sys.argv[1:]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                if name.endswith('.sock'):
                    socket.socket(socket.AF_UNIX).connect(path)
                else:
                    open(path).close()
            except OSError:
                continue
            print('seen', path)
print('looked')
"""


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


async def test_f11_a_tool_sees_neither_files_nor_sockets_of_its_host(
    made: HostForTests, ground: Path
) -> None:
    if not Trial().walls().is_veiled:
        pytest.skip("this machine does not let folders be hidden")
    workspace = ground / "work"
    workspace.mkdir()
    (workspace / "look.py").write_text(LOOK)
    places = made.places
    command = f"python3 look.py {places.data} {places.runtime}"
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        status = await host.status()
        assert sandbox.VEIL in str(status["sandbox"])
        model = made.script(turn(call("bash", command=command)), turn("done"))
        session = await host.new(model=model, mode="yolo", cwd=workspace)
        await (await session.send("look")).wait(SECONDS)
        log = judge.read_log(made.data, session.session_id)
    results = [one.event for one in log if isinstance(one.event, ToolCallFinished)]
    assert [result.text for result in results] == ["looked\n"]


async def test_a_host_whose_sandbox_is_off_says_so(home: Path) -> None:
    made = HostForTests(home, sandbox="off", cgroups="off")
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            status = await host.status()
            assert (status["sandbox"], status["cgroup"]) == ("off", None)
    finally:
        await asyncio.to_thread(made.end)
