"""P12, F11: what a session starts sees nothing of its host, and is ended with its session."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.session_worker.toolbox import sandbox
from paddock.store.events import ToolCallFinished
from paddock.supervisor.confinement import Trial
from paddock.testing import HostForTests, call, turn
from tests.crash import judge

SECONDS = 60.0
ASKER = "tests.together.hazard_agents:asker"
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


async def test_p9_a_tool_cannot_give_the_next_host_other_settings(
    made: HostForTests, ground: Path
) -> None:
    """It wrote the file of settings, which nobody had, into the home, or into one of its own."""
    if not Trial().walls().is_veiled:
        pytest.skip("this machine does not let folders be hidden")
    home, workspace = made.home, ground / "work"
    workspace.mkdir()
    settings = '[host]\nsandbox = "off"\n'
    commands = (
        f"mkdir -p {home}/config; printf '{settings}' > {home}/config/config.toml",
        f"mv {home} {home}.away",
        f"mv {ground} {ground}.away",
    )
    calls = [call("bash", command=f"{{ {each}; }} && echo DONE") for each in commands]
    calls += [
        call("write_file", path=f"{home}/config/config.toml", content=settings),
        call("write_file", path=f"{home}/junk", content="x"),
    ]
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        model = made.script(*(turn(each) for each in calls), turn("done"))
        session = await host.new(model=model, mode="yolo", cwd=workspace)
        await (await session.send("attack")).wait(SECONDS)
        log = judge.read_log(made.data, session.session_id)
    results = [one.event for one in log if isinstance(one.event, ToolCallFinished)]
    assert len(results) == len(calls)
    assert all(result.status == "error" for result in results)
    assert not any("DONE" in result.text for result in results)
    config = made.places.config
    assert (config.stat().st_mode & 0o777, list(config.iterdir())) == (0o700, [])
    assert not (home / "junk").exists()


async def test_a_host_whose_sandbox_is_off_says_so(home: Path) -> None:
    made = HostForTests(home, sandbox="off", cgroups="off")
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            status = await host.status()
            assert (status["sandbox"], status["cgroup"]) == ("off", None)
    finally:
        await asyncio.to_thread(made.end)


ASK = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.together.hosting import PlainClient, Refusal
told = []
client = PlainClient(Path({runtime!r}))
def try_to(ask):
    try:
        ask()
        told.append("done")
    except Refusal as refusal:
        told.append(refusal.code)
for verb in ("decide", "configure", "annotate"):
    try_to(lambda: client.answer(client.command({other!r}, verb, key="k")[1]))
try_to(lambda: client.ask("suspend_session", session_id={other!r}))
try_to(lambda: client.ask("down", force=True))
client.close()
Path("told.new").write_text(" ".join(told))
Path("told.new").rename("told")
"""
HIDE = {
    "as it is": "",
    "forked twice in a session of its own": "setsid -f ",
    "without an environment": "env -i setsid -f ",
    "with the mark of another": "env PADDOCK_OWNER=other.1 setsid -f ",
}


@pytest.mark.parametrize("groups", ["auto", "off"])
async def test_p12_what_a_session_started_may_not_decide_however_it_hides(
    home: Path, ground: Path, groups: str
) -> None:
    """Without a sandbox, so that it reaches the socket at all."""
    made = HostForTests(home, sandbox="off", cgroups=groups)
    workspace = ground / "work"
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            other = await host.new(model=made.script(turn("x")), cwd=ground)
            for number, hide in enumerate(HIDE.values()):
                here = workspace / str(number)
                here.mkdir(parents=True)
                (here / "ask.py").write_text(
                    ASK.format(
                        root=str(Path(__file__).parents[2]),
                        runtime=str(made.places.runtime),
                        other=other.session_id,
                    )
                )
                command = f"{hide}{sys.executable} ask.py; until test -e told; do sleep 0.1; done"
                model = made.script(turn(call("bash", command=command)), turn("done"))
                session = await host.new(model=model, mode="yolo", cwd=here)
                await (await session.send("ask")).wait(SECONDS)
                assert (here / "told").read_text().split() == ["refused"] * 5, hide
            status = await host.status()
            assert status["refused_of_sessions"] == 5 * len(HIDE)
    finally:
        await asyncio.to_thread(made.end)


ASK_THE_STORE = """
import asyncio, sys
from pathlib import Path
from paddock.store.door import StoreClient
from paddock.store.errors import Refused
async def main():
    told = []
    async with StoreClient({address!r}) as client:
        for ask in (
            lambda: client.sql("SELECT * FROM sessions"),
            client.list_sessions,
            client.rebuild,
            lambda: client.erase({other!r}),
            lambda: client.snapshot("copied"),
        ):
            try:
                await ask()
                told.append("done")
            except Refused as refusal:
                told.append(refusal.code)
    Path("told.new").write_text(" ".join(told))
    Path("told.new").rename("told")
asyncio.run(main())
"""


@pytest.mark.parametrize("groups", ["auto", "off"])
async def test_p12_what_a_session_started_may_not_ask_the_store_however_it_hides(
    home: Path, ground: Path, groups: str
) -> None:
    """The store's door let in whoever was of the same user."""
    made = HostForTests(home, sandbox="off", cgroups=groups)
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            other = await host.new(model=made.script(turn("x")), cwd=ground)
            for number, hide in enumerate(HIDE.values()):
                here = ground / "work" / str(number)
                here.mkdir(parents=True)
                address = f"ipc://{made.places.runtime}/store.sock"
                text = ASK_THE_STORE.format(address=address, other=other.session_id)
                (here / "ask.py").write_text(text)
                command = f"{hide}{sys.executable} ask.py; until test -e told; do sleep 0.1; done"
                model = made.script(turn(call("bash", command=command)), turn("done"))
                session = await host.new(model=model, mode="yolo", cwd=here)
                await (await session.send("ask")).wait(SECONDS)
                assert (here / "told").read_text().split() == ["refused"] * 5, hide
                assert not (here / "copied").exists()
            status = await host.status()
            assert status["refused_of_sessions"] == 5 * len(HIDE)
            rows = await host.sql("SELECT count(*) FROM sessions")
            assert rows.one() == 1 + len(HIDE)
    finally:
        await asyncio.to_thread(made.end)


async def test_p12_code_of_a_function_agent_may_not_ask_the_store(home: Path, ground: Path) -> None:
    """It runs in the worker itself, which carries no mark: its session's lock tells."""
    made = HostForTests(home, sandbox="off", cgroups="off")
    try:
        async with await made.connect() as host, asyncio.timeout(SECONDS):
            root = str(Path(__file__).parents[2])
            session = await host.new(agent=ASKER, cwd=ground, python_path=(root,))
            sent = await session.send(f"ipc://{made.places.runtime}/store.sock")
            done = await sent.wait(SECONDS)
            assert done.final_message == "refused"
    finally:
        await asyncio.to_thread(made.end)
