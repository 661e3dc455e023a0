"""A death as a person reads it, played with values."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from paddock.store.events import Stored, StruckCall, WorkerExited
from paddock.store.ids import OperationId, SessionId, ToolCallId
from paddock.supervisor.cli.certificate import (
    Death,
    OpenCall,
    cause,
    doing,
    done,
    in_one_line,
    lines,
    of_certificate,
)
from paddock.supervisor.cli.common import BadArgument
from paddock.supervisor.cli.deaths import begin_of

AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
BASH = OpenCall("c1", "bash", {"command": "make all"}, is_running=True)
DEATH = Death(at=AT, what="worker", pid=77, name="fixer", generation=3)
AT_TURN = replace(DEATH, operation="turn", last_stage="working")
SEGFAULT = """\
Fatal Python error: Segmentation fault

Thread 0x01 (most recent call first):
  File "/usr/lib/python3.13/threading.py", line 12 in wait

Current thread 0x02 (most recent call first):
  File "/home/me/agents/mine.py", line 7 in crash
  File "/home/me/agents/mine.py", line 9 in agent

Extension modules: zmq (total: 1)
"""


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (replace(DEATH, reason="signal", signal=9), "killed by SIGKILL"),
        (replace(DEATH, reason="signal", signal=11), "crashed with SIGSEGV"),
        (replace(DEATH, reason="signal", signal=999), "killed by signal 999"),
        (replace(DEATH, reason="exit_code", exit_code=3), "left with exit code 3"),
        (replace(DEATH, reason="exit_code", exit_code=70), "a fault of Paddock's own"),
        (replace(DEATH, reason="hang"), "hung"),
        (replace(DEATH, reason="stopped"), "SIGSTOP"),
        (
            replace(
                DEATH,
                reason="out_of_memory",
                peak_rss_bytes=600_000_000,
                memory_limit_bytes=512_000_000,
            ),
            "out of memory (peak 600 MB of 512 MB)",
        ),
        (replace(DEATH, reason="start_timeout"), "did not come up in time"),
        (replace(DEATH, reason="suspend_timeout"), "did not come to rest in time"),
        (replace(DEATH, reason="host_lost"), "lost with the whole machine"),
        (replace(DEATH, reason="unknown"), "nobody can tell"),
        (replace(DEATH, reason="of_a_newer_kind"), "of_a_newer_kind"),
    ],
)
def test_p13_each_cause_is_told_in_words(death: Death, words: str) -> None:
    assert words in cause(death)
    assert words in lines(death)[0]


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (replace(DEATH, calls=(BASH,)), "bash make all"),
        (replace(DEATH, calls=(BASH,) * 5), "2 calls more"),
        (replace(DEATH, calls=(replace(BASH, is_running=False),)), "1 call not begun"),
        (replace(AT_TURN, agent="builtin"), "asking its model"),
        (replace(AT_TURN, agent="support:support"), "running support:support"),
        (replace(AT_TURN, agent=None), "its turn"),
        (replace(DEATH, last_stage="starting"), "starting"),
        (replace(DEATH, last_stage="resting"), "nothing: it was at rest"),
        (replace(DEATH, in_delivery_command_id="x"), "taking a command in"),
        (DEATH, None),
    ],
)
def test_p13_what_it_was_at_is_told(death: Death, words: str | None) -> None:
    told = doing(death)
    assert (told is None) if words is None else (told is not None and words in told)


def test_p13_what_was_done_is_told() -> None:
    killed = replace(DEATH, action="restarted", tools_killed=2, restarted_after_ms=48.2)
    assert done(killed) == "2 processes of its tools killed; started again, there after 48 ms"
    assert "is started again" in done(replace(DEATH, action="restarted"))
    assert "resume --reset" in done(replace(DEATH, action="left_down"))
    assert "not started again" in done(DEATH)


def test_p13_what_nobody_saw_is_told_by_the_moments_between_which_it_was() -> None:
    found = replace(DEATH, what="supervisor", found_at=AT + timedelta(seconds=4))
    told = lines(replace(found, action="restarted", restarted_after_ms=4_000.0))
    assert told[1].startswith("    when    between then and 2026-01-31 ")
    assert told[-1] == "    then    started again, there after at most 4000 ms"


def test_p13_of_a_crash_in_native_code_the_words_and_the_stack_of_its_thread_are_shown() -> None:
    told = lines(replace(DEATH, reason="signal", signal=11, last_words=SEGFAULT))
    assert "    said    Fatal Python error: Segmentation fault" in told
    assert "    stack   agents/mine.py:7 in crash" in told
    assert not any("threading" in line for line in told)
    full = lines(replace(DEATH, last_words=SEGFAULT), is_full=True)
    assert any("threading" in line for line in full)


def test_f15_the_last_words_of_a_worker_move_no_cursor() -> None:
    told = lines(replace(DEATH, last_words="\x1b[2Jgone\x07", name="\x1b[31mred"))
    assert not any("\x1b" in line or "\x07" in line for line in told)


def test_p13_whoever_is_attached_reads_one_line_with_the_call_that_ran() -> None:
    call_id, operation_id = ToolCallId("c1"), OperationId("o1")
    event = WorkerExited(
        worker_generation=3,
        ending="crashed",
        reason="signal",
        signal=9,
        last_stage="working",
        operation_id=operation_id,
        open_tool_call_ids=(call_id,),
        struck_calls=(StruckCall(tool_call_id=call_id, tool="bash", arguments_digest=""),),
        action="restarted",
    )
    death = of_certificate(
        Stored(SessionId("s"), 9, 3, 1_000_000, event), event, {"c1": {"command": "make all"}}
    )
    assert in_one_line(death) == (
        "the session's process died: killed by SIGKILL while at bash make all; is started again"
    )


def test_since_is_a_span_or_a_date() -> None:
    assert begin_of("30m", AT) == AT - timedelta(minutes=30)
    assert begin_of("1.5d", AT) == AT - timedelta(hours=36)
    assert begin_of("2026-01-30T00:00:00Z", AT) == datetime(2026, 1, 30, tzinfo=UTC)
    assert begin_of(None, AT).year == 1970
    with pytest.raises(BadArgument, match="neither a span"):
        begin_of("yesterday", AT)
