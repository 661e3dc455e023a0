"""Shell commands: what they print, how they end, and that nothing of them stays."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.session_worker.toolbox import processes
from paddock.session_worker.tools import BadCall, Limits, Room, Tool, builtin_tools
from tests.session_worker.toolbench import call, is_gone, pids_in, room, run, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def where(tmp_path: Path) -> Room:
    return room(tmp_path)


@pytest.fixture
def bash() -> Tool:
    return builtin_tools()["bash"]


def small(**limits: object) -> Tool:
    return builtin_tools(Limits(**limits))["bash"]  # type: ignore[arg-type]  # tests' numbers


async def test_output_of_both_streams_comes_back_in_its_order(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command="echo one; echo two >&2; echo three")
    assert (done.status, done.text, done.exit_code) == ("ok", "one\ntwo\nthree\n", 0)
    assert done.spool is None


async def test_silence_is_said(bash: Tool, where: Room) -> None:
    assert (await call(bash, where, command="true")).text == "(no output)"


async def test_w15_a_command_runs_in_its_workspace(bash: Tool, where: Room) -> None:
    assert (await call(bash, where, command="pwd -P")).text.strip() == str(
        where.workspace.resolve()
    )


async def test_w5_a_normal_exit_is_not_marked_as_timed_out(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command="echo partial; exit 124")
    assert (done.status, done.error_kind, done.exit_code) == ("error", "exit_code", 124)


async def test_w5_a_timeout_keeps_the_partial_output_with_exit_code_124(
    bash: Tool, where: Room
) -> None:
    done = await call(bash, where, command="echo partial; sleep 1000", timeout_seconds=0.5)
    assert (done.status, done.exit_code, done.error_kind) == ("timed_out", 124, "timeout")
    assert "partial" in done.text
    assert "124" in done.text


async def test_a_timeout_in_milliseconds_is_understood(bash: Tool, where: Room) -> None:
    assert (await call(bash, where, command="sleep 1000", timeout=300)).status == "timed_out"


async def test_a_timeout_is_capped(where: Room) -> None:
    bash = small(seconds=0.2, seconds_at_most=0.4)
    assert (await call(bash, where, command="sleep 99", timeout_seconds=90)).status == "timed_out"


async def test_a_failing_command_says_its_exit_code(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command="echo why >&2; exit 3")
    assert (done.status, done.exit_code, done.error_kind) == ("error", 3, "exit_code")
    assert done.text == "Exit code 3\nwhy\n"


async def test_f4_a_segfault_is_a_typed_result(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command="kill -SEGV $$")
    assert (done.status, done.error_kind, done.exit_code) == ("error", "signal", 139)
    assert "SIGSEGV" in done.text


async def test_f4_a_command_that_reads_its_input_finds_it_empty(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command="cat; read line; echo read said $?")
    assert done.text == "read said 1\n"


async def test_f4_a_flood_is_kept_as_head_tail_and_a_whole_file(bash: Tool, where: Room) -> None:
    script = "echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last"
    done = await call(bash, where, command=script)
    assert done.status == "ok"
    assert done.output_bytes == 100_000_012
    assert done.text.startswith("first\nxxx")
    assert done.text.endswith("xxx\nlast\n")
    assert "bytes cut here" in done.text
    assert len(done.text) < 31_000
    assert done.spool is not None
    assert done.spool.stat().st_size == 100_000_012
    done.spool.unlink()


async def test_f2_a_full_disk_costs_the_middle_of_an_output_and_not_the_call(
    bash: Tool, where: Room
) -> None:
    """A link to /dev/full stands in for it: opening is refused there, as writing is elsewhere."""
    plan = bash.prepare({"command": "seq 100000; echo last; exit 3"}, where)
    (where.scratch / f"{plan.call}.out").symlink_to("/dev/full")
    done = await run(bash, plan, where)
    assert (done.status, done.exit_code, done.spool) == ("error", 3, None)
    assert done.text.startswith("Exit code 3\n1\n2\n")
    assert "99999\n100000\nlast\n" in done.text
    assert "could not be kept" in done.text
    assert list(where.scratch.iterdir()) == []


async def test_f4_a_flood_without_end_is_stopped(where: Room) -> None:
    done = await call(small(spool_bytes=5_000_000), where, command="yes")
    assert (done.status, done.error_kind) == ("limit_exceeded", "output")
    assert done.spool is not None
    done.spool.unlink()


async def test_f4_a_fork_bomb_is_stopped(where: Room) -> None:
    # Bounded in itself: 300 processes at the most, if the limit should not work.
    script = "for i in $(seq 300); do sleep 60 & done; wait"
    done = await call(small(processes=40), where, command=script)
    assert (done.status, done.error_kind) == ("limit_exceeded", "processes")
    assert processes.owned_processes(where.owner) == []


async def test_f4_a_command_that_burns_its_processor_time_is_stopped(where: Room) -> None:
    done = await call(small(cpu_seconds=1), where, command="while :; do :; done")
    assert (done.status, done.error_kind) == ("limit_exceeded", "cpu")


async def test_f4_a_memory_hog_is_stopped(where: Room) -> None:
    hog = "import time; block = bytearray(400 << 20); time.sleep(60)"
    done = await call(
        small(memory_bytes=100 << 20), where, command=f'python3 -I -S -c "{hog}" | cat'
    )
    assert (done.status, done.error_kind) == ("limit_exceeded", "memory")


async def test_f16_bytes_that_are_no_text_show_as_such(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command=r"printf 'a\xff\0b\xc3\xa9'")
    assert done.text == "a�␀bé"


async def test_a_background_child_does_not_hang_the_call_and_ends_with_it(
    bash: Tool, where: Room
) -> None:
    done = await call(bash, where, command="sleep 1000 & echo $!")
    assert done.status == "ok"
    assert is_gone(int(done.text))


async def test_what_a_pipeline_says_after_the_shell_has_ended_is_still_read(
    bash: Tool, where: Room
) -> None:
    done = await call(bash, where, command="echo said > >(sleep 0.05; cat)")
    assert done.text == "said\n"


DAEMONS = {
    "in a new session": "setsid sleep 1000 & echo $! > pids",
    "forked twice": "(setsid sh -c 'echo $$ > pids; exec sleep 1000' > /dev/null 2>&1 &)",
    "with a cleared environment": (
        "(env -i setsid /bin/sh -c 'echo $$ > pids; exec /bin/sleep 1000' >/dev/null 2>&1 &)"
    ),
    "deaf to SIGTERM": "(trap '' TERM; sh -c 'echo $$ > pids; exec sleep 1000' &)",
}


@pytest.mark.parametrize("daemon", DAEMONS.values(), ids=DAEMONS)
async def test_f5_no_daemon_outlives_its_call(bash: Tool, where: Room, daemon: str) -> None:
    written = where.workspace / "pids"
    done = await call(bash, where, command=f"{daemon}; while ! test -s pids; do sleep 0.01; done")
    assert done.status == "ok"
    assert is_gone(*pids_in(written))


@pytest.mark.parametrize("daemon", DAEMONS.values(), ids=DAEMONS)
async def test_c9_cancelling_ends_the_whole_tree(bash: Tool, where: Room, daemon: str) -> None:
    written = where.workspace / "pids"
    plan = bash.prepare({"command": f"{daemon}; echo $$ > shell; sleep 1000"}, where)
    task = asyncio.create_task(run(bash, plan, where))
    await until(lambda: pids_in(written) and pids_in(where.workspace / "shell"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pids = pids_in(written) + pids_in(where.workspace / "shell")
    assert all(is_gone(pid) for pid in pids)
    assert processes.owned_processes(where.owner) == []


async def test_c9_cancelling_again_and_again_still_ends_the_tree(bash: Tool, where: Room) -> None:
    plan = bash.prepare({"command": "echo $$ > pids; trap '' TERM; sleep 1000; sleep 1000"}, where)
    task = asyncio.create_task(run(bash, plan, where))
    await until(lambda: pids_in(where.workspace / "pids"))
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_gone(*pids_in(where.workspace / "pids"))


async def test_a_cancelled_command_may_tidy_up(bash: Tool, where: Room) -> None:
    script = "trap 'touch tidied; exit' TERM; touch ready; while :; do sleep 0.01; done"
    task = asyncio.create_task(run(bash, bash.prepare({"command": script}, where), where))
    await until((where.workspace / "ready").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (where.workspace / "tidied").exists()


async def test_a_command_that_kills_its_keeper_ends_all_the_same(bash: Tool, where: Room) -> None:
    told: list[str] = []
    script = "echo $$ > pids; echo said; until test -e go; do :; done; kill -9 $PPID; sleep 1000"
    task = asyncio.create_task(
        run(bash, bash.prepare({"command": script}, where), where, told.append)
    )
    await until(lambda: told)
    (where.workspace / "go").touch()
    done = await task
    assert (done.status, done.error_kind) == ("error", "lost")
    assert "said" in done.text
    assert is_gone(*pids_in(where.workspace / "pids"))


async def test_a_command_that_stops_its_keeper_ends_all_the_same(bash: Tool, where: Room) -> None:
    done = await call(
        bash, where, command="echo $$ > pids; kill -STOP $PPID; sleep 1000", timeout_seconds=0.3
    )
    assert (done.status, done.exit_code) == ("timed_out", 124)
    assert is_gone(*pids_in(where.workspace / "pids"))


async def test_the_loop_runs_on_while_a_command_runs(bash: Tool, where: Room) -> None:
    plan = bash.prepare({"command": "touch ready; while test ! -e go; do sleep 0.01; done"}, where)
    task = asyncio.create_task(run(bash, plan, where))
    await until((where.workspace / "ready").exists)
    (where.workspace / "go").touch()
    assert (await task).status == "ok"


async def test_output_is_told_while_the_command_runs(bash: Tool, where: Room) -> None:
    told: list[str] = []
    script = "echo early; while test ! -e go; do sleep 0.01; done; echo late"
    plan = bash.prepare({"command": script}, where)
    task = asyncio.create_task(run(bash, plan, where, told.append))
    await until(lambda: "early" in "".join(told))
    (where.workspace / "go").touch()
    await task
    assert "".join(told) == "early\nlate\n"


async def test_a_command_longer_than_an_argument_may_be_is_run(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command=f": {'x' * 300_000}; echo done")
    assert (done.status, done.text) == ("ok", "done\n")
    assert list(where.scratch.iterdir()) == []


async def test_children_see_the_room_s_environment_their_mark_and_nothing_else(
    bash: Tool, where: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not for tools")
    where = Room(
        where.workspace,
        {**where.environment, "ASKED_FOR": "yes", "PADDOCK_HOME": "/secret"},
        where.owner,
        where.scratch,
    )
    plan = bash.prepare({"command": "env"}, where)
    lines = (await run(bash, plan, where)).text.splitlines()
    assert "ASKED_FOR=yes" in lines
    assert f"PADDOCK_OWNER={where.owner}" in lines
    assert f"PADDOCK_CALL={plan.call}" in lines
    assert not [line for line in lines if line.startswith(("OPENAI_", "PADDOCK_HOME"))]


async def test_a_workspace_that_is_gone_is_said(bash: Tool, where: Room) -> None:
    where.workspace.rmdir()
    done = await call(bash, where, command="true")
    assert (done.status, done.error_kind) == ("error", "not_started")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "command"),
        ({"command": ""}, "command"),
        ({"command": 3}, "command"),
        ({"command": "true", "comand": "x"}, "comand"),
        ({"command": "true", "timeout_seconds": "soon"}, "timeout_seconds"),
        ({"command": "true", "timeout_seconds": -1}, "timeout_seconds"),
        ({"command": "echo \0"}, "NUL"),
        ({"command": "true", "run_in_background": True}, "run_in_background"),
    ],
)
def test_a7_malformed_arguments_are_named(
    bash: Tool, where: Room, arguments: dict[str, object], named: str
) -> None:
    with pytest.raises(BadCall, match=named):
        bash.prepare(arguments, where)


def test_p6_a_command_has_an_intent_and_nobody_knows_whether_it_happened(
    bash: Tool, where: Room
) -> None:
    plan = bash.prepare({"command": "true"}, where)
    assert plan.intent == {"command": "true", "folder": str(where.workspace)}
    assert bash.happened(plan.intent, where) is None


async def test_f5_all_processes_of_an_owner_are_killed_and_only_those(
    bash: Tool, tmp_path: Path
) -> None:
    own = f"mine-{os.getpid()}"
    mine, other = room(tmp_path, f"{own}.1"), room(tmp_path, f"{own}.10")
    script = "echo $$ >> {0}; setsid sleep 1000 & echo $! >> {0}; sleep 1000"
    tasks = [
        asyncio.create_task(call(bash, where, command=script.format(where.owner)))
        for where in (mine, other)
    ]
    pids = [mine.workspace / where.owner for where in (mine, other)]
    await until(lambda: all(pids_in(path, 2) for path in pids))
    killed = await asyncio.to_thread(processes.kill_owned, mine.owner, deadline_seconds=10)
    assert killed >= 3  # the shell, its child in a session of its own, and their keeper
    assert all(is_gone(pid) for pid in pids_in(pids[0]))
    assert not any(is_gone(pid) for pid in pids_in(pids[1]))
    assert (await tasks[0]).error_kind == "lost"
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


WORKER = """
import asyncio, sys
from pathlib import Path
from tests.session_worker.toolbench import call, room
from paddock.session_worker.tools import builtin_tools
where = room(Path(sys.argv[1]), sys.argv[2])
daemon = "echo $$ >> pids; trap : TERM; while :; do /bin/sleep 1; done"
script = f"(env -i setsid /bin/sh -c '{daemon}' > /dev/null 2>&1 &)"
script += "; setsid sleep 1000 & echo $$ $! >> pids; sleep 1000"
asyncio.run(call(builtin_tools()["bash"], where, command=script))
"""


@pytest.mark.parametrize("is_swept", [False, True], ids=["by themselves", "and are swept up"])
async def test_f5_the_death_of_the_worker_ends_its_commands(where: Room, is_swept: bool) -> None:
    """The keeper's leash breaks with whoever held it, however it died.

    A sweep by environment that comes right then leaves the keeper its time: the daemon that cleared
    its environment is seen by nobody else.
    """
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(where.workspace.parent), where.owner, cwd=ROOT
    )
    written = where.workspace / "pids"
    await until(lambda: pids_in(written, 3))
    os.kill(worker.pid, signal.SIGKILL)
    await worker.wait()
    if is_swept:
        await asyncio.to_thread(processes.kill_owned, where.owner)
        assert all(is_gone(pid) for pid in pids_in(written))
    await until(lambda: all(is_gone(pid) for pid in pids_in(written)))
    await until(lambda: processes.owned_processes(where.owner) == [])


async def test_a_sweep_spares_what_it_is_told_to(where: Room) -> None:
    program = await asyncio.create_subprocess_exec(
        "sleep", "1000", env={**where.environment, "PADDOCK_OWNER": where.owner}
    )
    assert processes.kill_owned(where.owner, deadline_seconds=0.2, spare=[program.pid]) == 0
    assert processes.kill_owned(where.owner, "a call", deadline_seconds=0.2) == 0
    assert [found.pid for found in processes.owned_processes(where.owner)] == [program.pid]
    assert processes.kill_owned(where.owner) == 1
    assert await program.wait() == -signal.SIGKILL


async def test_f14_a_process_that_got_the_number_of_another_is_not_signalled(where: Room) -> None:
    program = await asyncio.create_subprocess_exec(
        "sleep", "1000", env={**where.environment, "PADDOCK_OWNER": where.owner}
    )
    (found,) = processes.owned_processes(where.owner)
    before = processes.OwnedProcess(found.pid, found.start_time - 1)
    assert not processes._end(before, where.owner, mercy=False)
    assert not processes._end(found, "somebody.else", mercy=False)
    assert processes._end(found, where.owner, mercy=False)
    assert await program.wait() == -signal.SIGKILL
    assert not processes._end(found, where.owner, mercy=False)


async def test_p9_a_command_lets_the_sessions_go_first(bash: Tool, where: Room) -> None:
    done = await call(bash, where, command="nice; cat /proc/self/autogroup 2>/dev/null")
    niceness, *group = done.text.splitlines()
    assert int(niceness) >= 10
    if group and os.geteuid() == 0:  # without privileges the kernel takes it only now and then
        assert group[0].endswith("nice 10")


async def test_p9_who_reads_a_flood_lets_the_sessions_go_first_but_none_of_its_own(
    where: Room,
) -> None:
    niceness = "cut -d' ' -f19 /proc/$PPID/stat"  # of the keeper: proc(5)
    group = "grep -q 'nice 10' /proc/$PPID/autogroup"
    wait = f"if [ -e /proc/$PPID/autogroup ]; then until {group}; do sleep 0.02; done; fi"
    command = f"seq 100000; {wait}; {niceness}"
    done = await call(small(output_bytes=10_000), where, command=command)
    assert (done.status, done.text.splitlines()[-1]) == ("ok", str(os.nice(0)))
    assert done.spool is not None
    done.spool.unlink()


async def test_a_variable_that_no_process_can_be_given_is_said(bash: Tool, where: Room) -> None:
    odd = replace(where, environment={**where.environment, "A": "x\0"})
    done = await call(bash, odd, command="true")
    assert (done.status, done.error_kind) == ("error", "not_started")
