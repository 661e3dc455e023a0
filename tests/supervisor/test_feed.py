"""Where each subscriber stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.supervisor.errors import SessionHasListener
from paddock.supervisor.feed import WINDOW_BYTES, WINDOW_EVENTS, Feed, Read, Subscriber


def subscriber(number: int = 1, after: int = 0, *, exclusive: bool = False) -> Subscriber:
    return Subscriber(number, b"c", position=after, consumed=after, is_exclusive=exclusive)


def test_who_joins_behind_the_head_is_read_for() -> None:
    feed = Feed(head=10)
    assert feed.join(subscriber(after=4)) == [Read(1, 4, 200)]


def test_who_is_up_to_date_gets_what_is_forwarded_as_it_is() -> None:
    feed = Feed(head=10)
    assert feed.join(subscriber(after=10)) == []
    direct, reads = feed.grew(11, 2, is_carried=True)
    assert [each.position for each in direct] == [12]
    assert reads == []


def test_what_is_not_contiguous_is_read_from_the_file() -> None:
    feed = Feed(head=10)
    feed.join(subscriber(after=10))
    direct, reads = feed.grew(13, 1, is_carried=True)
    assert direct == []
    assert reads == [Read(1, 10, 200)]


def test_what_was_too_large_to_be_carried_is_read_from_the_file() -> None:
    feed = Feed(head=10)
    feed.join(subscriber(after=10))
    assert feed.grew(11, 1, is_carried=False) == ([], [Read(1, 10, 200)])


def test_f9_nothing_is_sent_or_read_for_who_does_not_take_it_in() -> None:
    feed = Feed(head=WINDOW_EVENTS)
    slow = subscriber(after=0)
    feed.join(slow)
    for first in range(1, WINDOW_EVENTS, 200):
        feed.was_read(1, first, 200)
    assert slow.room == 0
    assert feed.grew(WINDOW_EVENTS + 1, 5, is_carried=True) == ([], [])
    assert feed.consumed(1, 100) == [Read(1, WINDOW_EVENTS, 100)]


def test_f9_large_events_on_the_way_to_a_slow_one_are_bounded_by_their_bytes() -> None:
    feed = Feed(head=100)
    slow = subscriber(after=0)
    feed.join(slow)
    assert feed.was_read(1, 1, 4, WINDOW_BYTES // 2) == [Read(1, 4, 200)]
    assert feed.was_read(1, 5, 4, WINDOW_BYTES // 2) == []
    assert feed.grew(101, 1, is_carried=True, size_bytes=10) == ([], [])
    assert feed.consumed(1, 3) == []
    assert feed.consumed(1, 4) == [Read(1, 8, 200)]


def test_a_file_that_is_behind_its_head_for_a_moment_is_read_again_at_the_next_news() -> None:
    feed = Feed(head=0)
    feed.join(subscriber(after=0))
    assert feed.head_is(3) == [Read(1, 0, 200)]
    assert feed.was_read(1, 1, 0) == []
    assert feed.head_is(3) == [Read(1, 0, 200)]


def test_deltas_go_only_to_those_who_are_up_to_date() -> None:
    feed = Feed(head=5)
    feed.join(subscriber(1, after=5))
    feed.join(subscriber(2, after=0))
    assert [each.subscription_id for each in feed.preview_to()] == [1]


def test_an_exclusive_subscription_is_the_only_one() -> None:
    feed = Feed()
    feed.join(subscriber(1, exclusive=True))
    with pytest.raises(SessionHasListener):
        feed.join(subscriber(2))
    feed.leave(1)
    feed.join(subscriber(2))
    with pytest.raises(SessionHasListener):
        feed.join(subscriber(3, exclusive=True))


MOVES = st.lists(
    st.tuples(st.sampled_from(["grow", "jump", "read", "consume", "lose"]), st.integers(1, 9))
)


@given(MOVES)
def test_r8_every_event_reaches_a_subscriber_exactly_once_in_order(
    moves: list[tuple[str, int]],
) -> None:
    feed, log = Feed(), 0
    one = subscriber()
    got: list[int] = []
    pending = feed.join(one)
    for move, number in moves:
        match move:
            case "grow" | "lose" | "jump":
                first, log = log + 1, log + number
                if move != "lose":
                    direct, reads = feed.grew(first, number, is_carried=move == "grow")
                    pending += reads
                    if direct:
                        got += range(first, log + 1)
            case "read" if pending:
                read = pending.pop()
                last = min(log, read.after + min(read.limit, number))
                got += range(read.after + 1, last + 1)
                pending += feed.was_read(1, read.after + 1, last - read.after)
            case "consume":
                pending += feed.consumed(1, len(got))
            case _:
                pass
        assert len(pending) <= 1, "one read at a time"
        assert got == list(range(1, len(got) + 1))
    pending += feed.head_is(log)
    while pending:
        read = pending.pop()
        last = min(log, read.after + read.limit)
        got += range(read.after + 1, last + 1)
        pending += feed.was_read(1, read.after + 1, last - read.after)
    assert got == list(range(1, log + 1))
