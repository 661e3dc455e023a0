"""When a dead worker is started again, and when no more."""

from paddock.store.ids import OperationId
from paddock.store.session import Exit
from paddock.supervisor.restart import (
    HOUR_US,
    JITTER,
    LONGEST_WAIT_SECONDS,
    Again,
    Budget,
    NoMore,
    Verdict,
    decide,
    wait_seconds,
)

NOW = 10 * HOUR_US
BUDGET = Budget(restarts=3, restarts_an_hour=20)


def crash(
    sequence: int, *, at_us: int = NOW, stage: str = "working", reason: str = "signal"
) -> Exit:
    struck = OperationId("o") if stage == "working" else None
    return Exit(
        sequence,
        at_us,
        sequence,
        "crashed",
        reason,
        struck_operation_id=struck,
        last_stage=stage,
    )


def verdict(*exits: Exit, progress: int = 0, reset: int = 0, budget: Budget = BUDGET) -> Verdict:
    return decide(exits, progress=progress, reset=reset, at_us=NOW, chance=0.0, budget=budget)


def test_the_first_restart_comes_at_once_and_later_ones_wait_twice_as_long_each() -> None:
    assert [wait_seconds(number, 0.0) for number in (1, 2, 3, 4)] == [0.0, 0.5, 1.0, 2.0]
    assert wait_seconds(30, 0.0) == LONGEST_WAIT_SECONDS
    assert wait_seconds(2, 0.5) == 0.5 * (1 + JITTER / 2)


def test_f7_after_three_restarts_without_progress_it_is_left_down_with_the_reason() -> None:
    assert verdict(*map(crash, (1, 2, 3))) == Again(1.0)
    last = verdict(*map(crash, (1, 2, 3)), crash(4, reason="hang"))
    assert last == NoMore("4 crashes without progress between (3 signal, 1 hang)", "restarts")


def test_progress_between_crashes_begins_the_count_anew() -> None:
    assert verdict(*map(crash, range(1, 9)), progress=7) == Again(0.0)


def test_a_reset_begins_the_count_anew() -> None:
    assert verdict(*map(crash, range(1, 9)), reset=7) == Again(0.0)


def test_more_than_twenty_crashes_an_hour_are_too_many_whatever_the_progress() -> None:
    twenty = [crash(number) for number in range(1, 21)]
    assert verdict(*twenty, progress=19) == Again(0.0)
    last = verdict(*twenty, crash(21), progress=20)
    assert isinstance(last, NoMore)
    assert last.error_kind == "restarts_an_hour"


def test_crashes_of_more_than_an_hour_ago_do_not_count_for_the_hour() -> None:
    old = [crash(number, at_us=NOW - HOUR_US - 1) for number in range(1, 40)]
    assert verdict(*old, crash(40), progress=39) == Again(0.0)


def test_a_session_that_is_killed_at_rest_comes_back_each_time_until_the_hour_is_full() -> None:
    at_rest = [crash(number, stage="resting") for number in range(1, 21)]
    assert verdict(*at_rest) == Again(0.0)
    assert isinstance(verdict(*at_rest, crash(21, stage="resting")), NoMore)


def test_a_session_that_crashes_at_every_start_is_left_down() -> None:
    assert isinstance(verdict(*[crash(number, stage="starting") for number in range(1, 5)]), NoMore)


def test_a_configuration_error_is_never_retried() -> None:
    last = verdict(crash(1, reason="configuration"))
    assert isinstance(last, NoMore)
    assert last.error_kind == "configuration"


def test_what_left_in_good_order_does_not_count() -> None:
    good = Exit(9, NOW, 9, "suspended", "idle")
    assert verdict(*map(crash, (1, 2, 3)), good) == Again(1.0)
    assert verdict(good) == Again(0.0)
