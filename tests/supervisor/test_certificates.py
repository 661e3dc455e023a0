"""What is written of deaths, of workers and of the host itself: played with values (P13)."""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from paddock.store.events import (
    Event,
    SessionConfig,
    SessionCreated,
    Stored,
    WorkerExited,
    WorkerStarted,
)
from paddock.store.fold import evolve
from paddock.store.ids import CommandId, SessionId
from paddock.store.projection import host_log
from paddock.store.session import Session
from paddock.supervisor.certificate import Known, ending_of
from paddock.supervisor.home import HostFile, write_host_file
from paddock.supervisor.processes import Status
from paddock.supervisor.registry import Former, Registry
from paddock.supervisor.restart import Budget
from paddock.supervisor.stimuli import Bury
from paddock.supervisor.traces import Traces

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
STACKS = 'Current thread 0x01 (most recent call first):\n  File "a.py", line 1 in spin\n'


def lived() -> Session:
    """Return a session whose worker has no certificate."""
    session = Session(SESSION)
    events: tuple[Event, ...] = (
        SessionCreated(config=SessionConfig(workspace="/w")),
        WorkerStarted(pid=7, start_ticks=1, boot_id="b", agent="builtin", paddock_version="0"),
    )
    for sequence, event in enumerate(events, start=1):
        evolve(session, Stored(SESSION, sequence, sequence - 1, 1, event))
    return session


def known(status: Status, *, words: str = "", boot_id: str = "b", **facts: Any) -> Known:
    bury = Bury(
        **{
            "start": 1,
            "pid": 7,
            "generation": 1,
            "cause": None,
            "is_asked": False,
            "last_stage": "working",
            "peak_rss_bytes": 5,
            "in_delivery": (CommandId("c1"),),
            "delete": None,
            **{name: value for name, value in facts.items() if name != "was_stopped"},
        }
    )
    return Known(
        bury=bury,
        status=status,
        was_stopped=bool(facts.get("was_stopped")),
        boot_id=boot_id,
        budget=Budget(),
        memory_limit_bytes=9,
        tools_killed=2,
        last_generation=1,
        words=words,
        deletion=None,
        at_us=1,
        chance=0.0,
    )


@pytest.mark.parametrize(
    ("death", "reason", "has_stacks"),
    [
        (known(Status(signal=9)), "signal", False),
        (known(Status(exit_code=3)), "exit_code", False),
        (known(Status(signal=9, was_out_of_memory=True)), "out_of_memory", False),
        (known(Status(signal=9), cause="out_of_memory"), "out_of_memory", False),
        (known(Status(signal=9), cause="hang", words=STACKS), "hang", True),
        (known(Status(signal=9), was_stopped=True, cause="hang", words=STACKS), "stopped", True),
        (known(Status(signal=9), cause="suspend_timeout"), "suspend_timeout", False),
        (known(Status(), boot_id="another boot"), "host_lost", False),
        (known(Status()), "unknown", False),
    ],
)
def test_p13_each_ending_has_a_certificate_with_all_that_is_known(
    death: Known, reason: str, has_stacks: bool
) -> None:
    (exit_,) = ending_of(lived(), death).events
    assert isinstance(exit_, WorkerExited)
    assert (exit_.ending, exit_.reason, exit_.pid) == ("crashed", reason, 7)
    assert (exit_.stacks is not None) is has_stacks
    assert (exit_.peak_rss_bytes, exit_.memory_limit_bytes, exit_.tools_killed) == (5, 9, 2)
    assert exit_.in_delivery_command_id == "c1"
    assert exit_.action == "restarted"
    # Nothing is to blame for what the whole machine was lost with.
    assert exit_.struck_command_ids == (() if reason == "host_lost" else ("c1",))


def test_a_session_that_rests_since_its_host_was_ended_says_so_however_its_worker_went() -> None:
    late = known(Status(signal=9), cause="suspend_timeout", is_asked=True, leave_reason="shutdown")
    *_, last = ending_of(lived(), late).events
    assert (last.kind, getattr(last, "reason", None)) == ("session_suspended", "shutdown")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "host.sqlite"
    with closing(Registry(path)) as first:
        first.begin_epoch(77, "b", 1_000)
    return path


@pytest.mark.parametrize(
    ("boot_id", "former", "at_us", "told"),
    [
        ("b", Former(77, -9, 2_000), 2_000, '"signal": 9'),
        ("b", Former(77, 4, 2_000), 2_000, '"exit_code": 4'),
        ("b", Former(66, -9, 2_000), 1_001, '"signal": null'),
        ("b", None, 1_001, '"found_at": 3000'),
        ("c", None, 1_001, "whole machine"),
    ],
)
def test_p13_a_supervisor_that_did_not_end_its_term_is_certified_by_the_next(
    file: Path, boot_id: str, former: Former | None, at_us: int, told: str
) -> None:
    with closing(Registry(file)) as second:
        second.begin_epoch(78, boot_id, 3_000, former)
    (died,) = [row for row in host_log.read(file, 0, 100) if row.kind == "died"]
    assert (died.subject, died.at) == ("supervisor", at_us)
    assert told in died.detail
    assert '"pid": 77' in died.detail


def host_json(runtime: Path, pid: int, touched_at_us: int) -> None:
    host = HostFile(pid, 1, 1, "ipc://w", "ipc://c", "ipc://s", "0", str(runtime))
    write_host_file(runtime, host)
    os.utime(runtime / "host.json", ns=(touched_at_us * 1000, touched_at_us * 1000))


@pytest.mark.parametrize(("pid", "at_us"), [(77, 2_500), (66, 1_001)])
def test_p13_a_death_that_nobody_saw_is_dated_by_the_last_sign_of_life(
    file: Path, tmp_path: Path, pid: int, at_us: int
) -> None:
    """Its watcher was killed with it: it was dated by the time of discovery, seconds later."""
    host_json(tmp_path, pid, 2_500)
    with closing(Registry(file)) as second:
        second.begin_epoch(78, "b", 3_000, traces=Traces(tmp_path, tmp_path / "host.log"))
    (died,) = [row for row in host_log.read(file, 0, 100) if row.kind == "died"]
    assert died.at == at_us
    assert json.loads(died.detail)["found_at"] == 3_000


BEGUN = '{"subject": "supervisor", "pid": %d, "epoch": 1, "event": "started"}\n'


@pytest.mark.parametrize(
    ("log", "old", "told"),
    [
        (BEGUN % 66 + "before\n" + BEGUN % 77 + "Bad address\n\n", "", "Bad address"),
        (BEGUN % 77 + "last\nwatch: the host ended with -6: started again in 0.1 s\n", "", "last"),
        (BEGUN % 77 + "words\n" + BEGUN % 66 + "of another\n", "", ""),
        (BEGUN % 77, "", ""),
        ("and now\n", BEGUN % 77 + "put aside\n", "put aside\nand now"),
        ("the log of an older version\n", "", "the log of an older version"),
        (BEGUN % 77 + "key sk-ant-api03-" + "x" * 40 + "\n", "", "key [redacted:anthropic-key]"),
        (BEGUN % 77 + "\n".join(map(str, range(90))), "", "\n".join(map(str, range(70, 90)))),
    ],
)
def test_p13_the_last_words_of_a_supervisor_are_the_last_lines_that_it_wrote(
    file: Path, tmp_path: Path, log: str, old: str, told: str
) -> None:
    (tmp_path / "host.log").write_text(log)
    (tmp_path / "host.log.old").write_text(old)
    with closing(Registry(file)) as second:
        traces = Traces(tmp_path, tmp_path / "host.log")
        second.begin_epoch(78, "b", 3_000, Former(77, -6, 2_000), traces=traces)
    (died,) = [row for row in host_log.read(file, 0, 100) if row.kind == "died"]
    assert json.loads(died.detail).get("last_words", "") == told


def test_a_supervisor_that_ended_its_term_did_not_die(tmp_path: Path) -> None:
    path = tmp_path / "host.sqlite"
    with closing(Registry(path)) as first:
        first.begin_epoch(77, "b", 1_000)
        first.end_epoch("asked", 2_000)
    with closing(Registry(path)) as second:
        second.begin_epoch(78, "b", 3_000)
    assert "died" not in [row.kind for row in host_log.read(path, 0, 100)]
