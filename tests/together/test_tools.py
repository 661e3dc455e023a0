"""Tools against a real host: what they do to themselves stays theirs, and what they say is kept."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from paddock.client import Host, Previewed, Session
from paddock.session_worker.toolbox.processes import owned_processes
from paddock.store.events import Limits, ToolCallFinished
from paddock.store.ids import SessionId
from paddock.testing import HostForTests, call, turn, wait_until_async, write_script
from tests.together.cli import PADDOCK, environment
from tests.together.hosting import host_for_tests

ROOT = Path(__file__).resolve().parents[2]
AGENT = "tests.together.hazard_agents:hazards"
STRAYS = "tests.together.hazard_agents:strays"
SECONDS = 120.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def host() -> Iterator[HostForTests]:
    with host_for_tests("tools") as made:
        yield made


@pytest.fixture
async def paddock(host: HostForTests, ground: Path) -> AsyncIterator[Host]:
    client = await host.connect()
    yield client
    for life in await client.lives():  # their workers stand in this test's folder
        await Session(client, SessionId(life["session_id"])).delete(deadline_seconds=1)
    await client.close()


async def hazards(paddock: Host, folder: Path) -> Session:
    return await paddock.new(
        agent=AGENT,
        cwd=folder,
        python_path=(str(ROOT),),
        limits=Limits(memory_mb=256),
    )


async def result_of(session: Session) -> ToolCallFinished:
    found = [
        stored.event
        async for stored in session.events(follow=False)
        if isinstance(stored.event, ToolCallFinished)
    ]
    return found[-1]


async def test_f10_a_large_value_of_a_python_tool_is_its_output_and_the_call_is_ok(
    paddock: Host, ground: Path
) -> None:
    """It did what it does, and was an error all the same; so it would have been done again."""
    session = await paddock.new(
        agent="tests.together.hazard_agents:taker", cwd=ground, python_path=(str(ROOT),)
    )
    outcome = await (await session.send("take")).wait(SECONDS)
    assert outcome.final_message == "ok too_large  and the end"
    assert (ground / "done").read_text() == "once\n"
    result = await result_of(session)
    assert (result.status, result.output_bytes, result.value) == ("ok", 20_000_011, None)
    end = "output_text(session_id, output_blob, 19999995)"
    query = f"SELECT {end} FROM tool_calls WHERE session_id = ?"
    assert (await paddock.sql(query, [session.session_id])).one() == "much and the end"


@pytest.mark.timeout(400)
async def test_f4_whatever_a_python_tool_does_is_a_typed_result_and_the_session_goes_on(
    paddock: Host, ground: Path
) -> None:
    session = await hazards(paddock, ground)
    found = {}
    for name in ("segfault", "leave", "ask", "hold_the_interpreter", "fork_bomb", "eat_memory"):
        done = await (await session.send(name)).wait(SECONDS)
        assert done.status == "completed", done
        result = await result_of(session)
        found[name] = (result.status, result.error_kind)
    bomb = found.pop("fork_bomb")  # it meets the limit of processes, or of their memory, first
    assert bomb in {("limit_exceeded", "processes"), ("limit_exceeded", "memory")}
    assert found == {
        "segfault": ("error", "signal"),
        "leave": ("error", "exit"),
        "ask": ("error", "exception"),
        "hold_the_interpreter": ("timed_out", "timeout"),
        "eat_memory": ("limit_exceeded", "memory"),
    }
    assert (await session.state()).life.generation == 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["suspend", "delete", "die"])
async def test_f5_what_an_agent_itself_started_ends_with_its_worker(
    paddock: Host, ground: Path, how: str
) -> None:
    session = await paddock.new(agent=STRAYS, cwd=ground, python_path=(str(ROOT),))
    told = ground / "strays"
    operation = await session.send(f"{how} {told}")
    await operation.wait(SECONDS)  # what kills its worker twice is ended: each life left some
    if how != "die":
        pids = [int(word) for word in told.read_text().split()]
        assert all(map(psutil.pid_exists, pids))
        await (session.suspend() if how == "suspend" else session.delete())
    pids = [int(word) for word in told.read_text().split()]
    assert len(pids) == (4 if how == "die" else 2)

    async def are_gone() -> bool:
        return not any(map(is_running, pids))

    await wait_until_async(are_gone, SECONDS, what="what it started is gone")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(400)
async def test_f4_a_session_and_its_neighbours_answer_while_a_tool_holds_its_interpreter(
    paddock: Host, ground: Path
) -> None:
    session = await hazards(paddock, ground)
    neighbour = await paddock.new(cwd=ground, mode="yolo")
    operation = await session.send("hold_for_long")

    async def holds() -> bool:
        return (ground / "held").exists()

    await wait_until_async(holds, SECONDS, what="the tool holds its interpreter")
    await session.annotate("asked", "while it holds")
    await neighbour.annotate("asked", "while it holds")
    assert (await (await neighbour.shell("echo hi")).wait(SECONDS)).status == "completed"
    at_work = (await session.state()).conversation.operation
    assert at_work is not None
    assert len(at_work.open_calls) == 1  # all this was answered before it ended
    await session.interrupt()
    assert (await operation.wait(SECONDS)).status == "cancelled"
    assert (await result_of(session)).status == "cancelled"
    left = [one for one in owned_processes(f"{session.session_id}.1") if _is_call(one.pid)]
    assert left == []


def _is_call(pid: int) -> bool:
    """Whether a process is more than the template, which waits for the next call."""
    try:
        words = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return False
    parent = next(line.split()[1] for line in words.splitlines() if line.startswith("PPid:"))
    command = Path(f"/proc/{parent}/cmdline")
    return "template.py" in command.read_text(encoding="utf-8") if command.exists() else False


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["python", "bash"])
async def test_a_long_call_shows_how_far_it_is(paddock: Host, ground: Path, kind: str) -> None:
    if kind == "python":
        session = await hazards(paddock, ground)
        words = "take_steps"
    else:
        command = "echo 'half way, é'; until [ -e seen ]; do sleep 0.05; done; echo done"
        model = write_script(
            ground / "script.json", (turn(call("bash", command=command)), turn("ok"))
        )
        session = await paddock.new(model=model, cwd=ground, mode="yolo")
        words = "go"
    after = (await session.state()).sequence
    seen = ""
    async with asyncio.timeout(SECONDS), session.follow(after=after) as feed:
        operation = await session.send(words)
        async for told in feed:
            if isinstance(told, Previewed) and told.channel == "output":
                seen += told.text
                if "half way, é" in seen:
                    break
    assert (await session.state()).conversation.operation is not None  # it had not ended
    (ground / "seen").touch()
    assert (await operation.wait(SECONDS)).status == "completed"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_f10_a_result_of_a_gigabyte_is_kept_whole_in_bounded_memory(
    host: HostForTests, paddock: Host, ground: Path
) -> None:
    size = 1_000_000_000
    command = f"yes 'a line of the flood' | head -c {size}"
    script = (
        turn(call("bash", command=command, timeout_seconds=400)),
        turn(call("ls", path=".")),
        turn("done"),
    )
    model = write_script(ground / "script.json", script)
    session = await paddock.new(model=model, cwd=ground, mode="yolo")
    done = await (await session.send("go")).wait(500)
    assert done.status == "completed"
    worker = host.worker_pid(session.session_id)
    assert worker is not None
    for pid in (worker, host.pid):
        assert peak_bytes(pid) < 160 * MIB
    ((known, blob),) = await paddock.sql(
        "SELECT output_bytes, output_blob FROM tool_calls WHERE session_id = $1 AND tool = 'bash'",
        [session.session_id],
    )
    assert known == size
    words = [*PADDOCK, "output", "--offset", str(size - 20), session.session_id, blob]
    said = await asyncio.to_thread(
        subprocess.run, words, env=environment(host.home), capture_output=True, check=True
    )
    assert said.stdout == (b"a line of the flood\n" * 2)[size % 20 :][:20]


def peak_bytes(pid: int) -> int:
    """Return how much memory a process had at most."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


SECRET = "correct-horse-battery"


@pytest.mark.timeout(400)
async def test_secrets_are_in_no_file_of_a_session(
    host: HostForTests, paddock: Host, ground: Path
) -> None:
    key = "ghp" + "_" + "a1B2" * 9
    (ground / "noise").write_text(f"{SECRET} {key}\n" * 5000, encoding="utf-8")
    model = write_script(
        ground / "script.json", (turn(call("bash", command="cat noise")), turn("k"))
    )
    session = await paddock.new(
        model=model,
        cwd=ground,
        mode="yolo",
        system_prompt=f"use {key} and {SECRET}",
        environment={"PATH": "/usr/bin:/bin", "TOKEN": SECRET},
        labels={"key": key},
        credentials={"env:SOME_SECRET": SECRET},
    )
    assert (await (await session.send("go")).wait(SECONDS)).status == "completed"
    result = await result_of(session)
    assert result.output_blob is not None
    config = (await session.state()).life.config
    assert config is not None
    assert config.environment["TOKEN"] == "[redacted:secret]"
    await session.suspend()
    for file in host.data.rglob("*"):
        if file.is_file() and not file.name.endswith(".duckdb"):
            data = file.read_bytes()
            assert SECRET.encode() not in data, file
            assert key.encode() not in data, file
    said = await asyncio.to_thread(
        subprocess.run,
        [*PADDOCK, "output", session.session_id],
        env=environment(host.home),
        capture_output=True,
        check=True,
    )
    assert said.stdout == b"[redacted:secret] [redacted:github-token]\n" * 5000
    assert not list(host.data.rglob("spool"))


# --- F16: what no UTF-8 can hold, by each road ---


async def test_f16_a_message_arrives_with_what_cannot_be_stored_replaced_visibly(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "script.json", (turn("heard"),))
    session = await paddock.new(model=model, cwd=ground)
    done = await (await session.send(f"half \ud800, nul \0, {2**64}")).wait(SECONDS)
    assert done.status == "completed"
    ((text,),) = await paddock.sql(
        "SELECT text FROM messages WHERE session_id = $1 AND role = 'user'", [session.session_id]
    )
    assert text.startswith("half \ufffd, nul ")
    assert text.endswith(f", {2**64}")
    # The log has the character, DuckDB too, or its picture: it is there to be seen.
    assert text[len("half \ufffd, nul ")] in "\0\u2400\ufffd"


async def test_f16_arguments_and_output_of_a_tool_survive_or_are_replaced_visibly(
    paddock: Host, ground: Path
) -> None:
    write = call("write_file", path="big.txt", content=f"é {2**63} \u2028 end\n")
    show = call("bash", command="cat big.txt; printf 'a\\0b\\377c\\355\\240\\200d'")
    turns = (turn(write), turn(show), turn("done"))
    session = await paddock.new(
        model=write_script(ground / "script.json", turns), cwd=ground, mode="yolo"
    )
    assert (await (await session.send("go")).wait(SECONDS)).status == "completed"
    assert (ground / "big.txt").read_text("utf-8") == f"é {2**63} \u2028 end\n"
    result = await result_of(session)
    assert result.text == f"é {2**63} \u2028 end\na\u2400b\ufffdc\ufffd\ufffd\ufffdd"


async def test_f16_numbers_of_any_size_come_back_from_a_tool(paddock: Host, ground: Path) -> None:
    session = await hazards(paddock, ground)
    assert (await (await session.send("numbers")).wait(SECONDS)).status == "completed"
    result = await result_of(session)
    assert result.value == [2**53 + 1, 2**63, -(2**63), 2**70, 1e308, "\ufffd", "\u2400"]
    ((value,),) = await paddock.sql(
        "SELECT payload->>'$.value[1]' FROM events"
        " WHERE session_id = $1 AND kind = 'tool_call_finished'",
        [session.session_id],
    )
    assert value == str(2**63)
