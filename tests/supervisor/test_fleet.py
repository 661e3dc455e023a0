"""Rooms: reserved before anything is created, given back on every way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.store.ids import SessionId
from paddock.supervisor.errors import BadConfiguration
from paddock.supervisor.fleet import Candidate, Fleet, Given, NoRoom, Wait

A, B, C, D = (SessionId(letter) for letter in "abcd")


def test_l27_a_limit_of_zero_is_a_configuration_error() -> None:
    with pytest.raises(BadConfiguration, match="max_live_sessions is 0"):
        Fleet(0)


def test_l3_with_limit_one_the_second_is_refused_with_current_and_maximum() -> None:
    fleet = Fleet(1, "refuse")
    assert fleet.ask(A, []) == Given()
    refusal = fleet.ask(B, [Candidate(A, 0.0)])
    assert refusal == NoRoom(1, 1)
    assert isinstance(refusal, NoRoom)
    assert refusal.error().facts == {"current": 1, "max": 1}


def test_l27_past_the_limit_the_least_recently_used_at_rest_makes_room() -> None:
    fleet = Fleet(2)
    fleet.ask(A, [])
    fleet.ask(B, [])
    assert fleet.ask(C, [Candidate(A, 5.0), Candidate(B, 3.0)]) == Wait(B)
    assert fleet.give_back(B) == [C]
    assert fleet.has_room(C)
    assert fleet.current == 2


def test_two_who_seek_room_wait_for_two_different_ones() -> None:
    fleet = Fleet(2)
    fleet.ask(A, [])
    fleet.ask(B, [])
    at_rest = [Candidate(A, 1.0), Candidate(B, 2.0)]
    assert fleet.ask(C, at_rest) == Wait(A)
    assert fleet.ask(D, at_rest) == Wait(B)


def test_if_nobody_can_leave_there_is_no_room() -> None:
    fleet = Fleet(1)
    fleet.ask(A, [])
    assert fleet.ask(B, []) == NoRoom(1, 1)
    assert fleet.waiters() == []


def test_who_waited_for_one_that_stays_asks_anew() -> None:
    fleet = Fleet(1)
    fleet.ask(A, [])
    fleet.ask(B, [Candidate(A, 0.0)])
    assert fleet.victim_stayed(A) == [B]
    assert fleet.ask(B, []) == NoRoom(1, 1)


def test_who_waits_for_one_whose_room_went_to_who_came_first_waits_for_the_other_instead() -> None:
    """That other one was wanted again and stayed, and nobody was told: it waited in vain."""
    fleet = Fleet(2)
    first, second = SessionId("first"), SessionId("second")
    fleet.take(A)
    fleet.take(B)
    assert fleet.ask(first, [Candidate(A, 0.0)]) == Wait(A)
    assert fleet.ask(second, [Candidate(B, 0.0)]) == Wait(B)
    assert fleet.give_back(B) == [first]
    assert fleet.victim_stayed(A) == [second]


def test_adoption_may_exceed_the_limit_and_nobody_gets_room_until_it_is_below_again() -> None:
    fleet = Fleet(1)
    fleet.take(A)
    fleet.take(B)
    assert fleet.current == 2
    assert fleet.ask(C, [Candidate(A, 0.0)]) == Wait(A)
    assert fleet.give_back(A) == []
    assert fleet.give_back(B) == [C]


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "back", "stayed"]), st.integers(0, 6), st.booleans())
)


@given(st.integers(1, 3), STEPS)
def test_l5_the_limit_is_never_exceeded_and_no_room_is_lost(
    limit: int, steps: list[tuple[str, int, bool]]
) -> None:
    fleet = Fleet(limit)
    having: set[SessionId] = set()
    for what, number, idle in steps:
        who = SessionId(str(number))
        match what:
            case "ask" if who not in fleet.waiters():
                at_rest = [Candidate(each, 0.0) for each in sorted(having)] if idle else []
                if fleet.ask(who, at_rest) == Given():
                    having.add(who)
            case "back":
                having.discard(who)
                having.update(fleet.give_back(who))
            case "stayed":
                fleet.victim_stayed(who)
            case _:
                pass
        assert having == {each for each in having if fleet.has_room(each)}
        assert fleet.current == len(having) <= limit
    for who in list(having):
        having.discard(who)
        having.update(fleet.give_back(who))
    for who in list(having) + fleet.waiters():
        fleet.give_back(who)
    assert fleet.current == 0
