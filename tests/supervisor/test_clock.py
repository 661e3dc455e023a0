"""The clock of a host, with times passed in: what it did not see happen counts against nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.store.ids import SessionId
from paddock.supervisor.clock import GRACE_SECONDS, TICK_SECONDS, Clock
from paddock.supervisor.life import BEAT_CHECKS, Life, Patience
from paddock.supervisor.machine import step
from paddock.supervisor.stimuli import (
    Beaten,
    Effect,
    Greeted,
    RoomGiven,
    Spawned,
    Stage,
    TimerFired,
    Wanted,
)

HOURS = 8 * 3600.0


def test_a_machine_that_slept_lost_no_time_and_says_how_long_it_slept() -> None:
    clock = Clock(100.0, 100.0)
    gap = clock.look(100.5, 100.5 + HOURS)
    assert gap is not None
    assert (gap.stood_seconds, gap.slept_seconds) == (0.0, HOURS)
    assert clock.now == 100.5


def test_a_host_that_was_stopped_lost_all_but_a_tick() -> None:
    clock = Clock(100.0, 100.0)
    gap = clock.look(100.0 + HOURS, 100.0 + HOURS)
    assert gap is not None
    assert gap.stood_seconds == HOURS - TICK_SECONDS
    assert clock.now == pytest.approx(100.0 + TICK_SECONDS)
    assert clock.due(200.0) == 200.0 + HOURS - TICK_SECONDS


def test_a_busy_host_is_not_stopped() -> None:
    clock = Clock(0.0, 0.0)
    assert clock.look(TICK_SECONDS + GRACE_SECONDS, TICK_SECONDS + GRACE_SECONDS) is None
    assert clock.now == TICK_SECONDS + GRACE_SECONDS


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), max_size=50))
def test_it_goes_forward_and_never_faster_than_the_monotonic_clock(
    steps: list[tuple[float, float]],
) -> None:
    monotonic = boot = 1000.0
    clock = Clock(monotonic, boot)
    for runs, sleeps in steps:
        before = clock.now
        monotonic += runs
        boot += runs + sleeps
        clock.look(monotonic, boot)
        assert before <= clock.now <= before + max(runs, TICK_SECONDS) + 1e-6
        assert clock.due(clock.now) == pytest.approx(monotonic)


def played(life: Life, clock: Clock, monotonic: float) -> list[Effect]:
    """Do as the loop does when a timer of the system fires: look, and judge only who is due."""
    clock.look(monotonic, monotonic)
    if life.deadline is None or clock.now < life.deadline:
        return []
    return step(life, TimerFired(clock.now))


@pytest.mark.parametrize("stage", [Stage.STARTING, Stage.LIVE])
def test_f6_hours_in_which_everything_stood_still_kill_nobody(stage: Stage) -> None:
    clock, life = Clock(0.0, 0.0), Life(SessionId("s"), Patience())
    for stimulus in (Wanted(0.0, "test"), RoomGiven(0.0), Spawned(0.1, 1, 77)):
        step(life, stimulus)
    if stage is Stage.LIVE:
        step(life, Greeted(0.2, 1, 77, 2, "working"))
        step(life, Beaten(0.3, "working", 2))
    for night in range(1, 1 + 2 * BEAT_CHECKS):
        assert played(life, clock, night * HOURS) == []
    assert life.stage is stage
    assert life.cause is None
