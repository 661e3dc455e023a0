"""Commands on their way to a session, as values: what waits, what passes by, who is told."""

import pytest

from paddock.session_worker.commands import digest_of_words
from paddock.session_worker.protocol import Command, Settled
from paddock.store.ids import CommandId, SessionId
from paddock.supervisor.commands import Queue, Ticket
from paddock.supervisor.errors import TooManyWaiting
from paddock.supervisor.life import Life, Patience
from paddock.supervisor.machine import step
from paddock.supervisor.stimuli import (
    Commanded,
    Deliver,
    Greeted,
    Reply,
    ReplyError,
    RoomGiven,
    TellSettled,
    Wanted,
    WasAccepted,
    WasNotAccepted,
    WasSettled,
)

TICKET = Ticket(b"client", 1)


def command(number: int, verb: str = "send_input") -> Command:
    return Command(command_id=CommandId(f"c{number}"), verb=verb)


def test_an_interrupt_is_taken_though_as_many_commands_wait_as_may() -> None:
    queue = Queue(limit=2)
    for number in range(3):
        queue.add(command(number), None)
        queue.hand_over()
    with pytest.raises(TooManyWaiting):
        queue.add(command(3), None)
    queue.add(command(4, "interrupt"), None)
    assert queue.hand_over() == [command(4, "interrupt")]


def test_p11_what_passes_by_has_a_bound_of_its_own() -> None:
    queue = Queue(limit=2)
    for number in range(2):
        queue.add(command(number, "interrupt"), None)
        queue.hand_over()
    with pytest.raises(TooManyWaiting):
        queue.add(command(2, "interrupt"), None)
    queue.settled(CommandId("c0"))
    queue.add(command(2, "interrupt"), None)


def test_p14_a_command_accepted_before_our_time_and_asked_again_is_answered() -> None:
    life = Life(SessionId("01890000-0000-7000-8000-000000000001"), Patience())
    step(life, Wanted(1.0, "test"))
    step(life, RoomGiven(1.0))
    step(life, Greeted(1.1, 1, 77, 2, "working", unanswered=(CommandId("c1"),)))
    again = command(1, "interrupt")
    assert step(life, Commanded(1.2, again, TICKET)) == [Deliver(again)]
    told = step(life, WasAccepted(1.3, CommandId("c1"), 7))
    assert told == [Reply(TICKET, {"command_id": "c1", "sequence": 7})]
    settled = Settled(command_id=CommandId("c1"), sequence=9, kind="operation_cancelled")
    assert step(life, WasSettled(1.4, settled)) == [TellSettled((TICKET,), settled)]


def test_p14_other_words_by_a_known_id_are_not_told_the_answer_of_the_first() -> None:
    """The worker says it again because it heard the first words twice, or greeted anew."""
    life = Life(SessionId("01890000-0000-7000-8000-000000000001"), Patience())
    step(life, Wanted(1.0, "test"))
    step(life, RoomGiven(1.0))
    step(life, Greeted(1.1, 1, 77, 2, "working", unanswered=(CommandId("c1"),)))
    first, other = command(1), command(1, "annotate")
    assert step(life, Commanded(1.2, other, TICKET)) == [Deliver(other)]
    digest = digest_of_words(first)
    settled = Settled(command_id=CommandId("c1"), sequence=9, kind="input_queued", digest=digest)
    assert step(life, WasAccepted(1.3, CommandId("c1"), 7, digest)) == []
    assert step(life, WasSettled(1.4, settled)) == []
    refused = (CommandId("c1"), "already_exists", "known with another payload")
    (told,) = step(life, WasNotAccepted(1.5, *refused, digest_of_words(other)))
    assert isinstance(told, ReplyError)
    assert told.ticket == TICKET
    assert life.queue.is_empty


def test_p14_the_first_words_are_not_refused_for_what_was_said_by_their_id_before() -> None:
    life = Life(SessionId("01890000-0000-7000-8000-000000000001"), Patience())
    step(life, Wanted(1.0, "test"))
    step(life, RoomGiven(1.0))
    step(life, Greeted(1.1, 1, 77, 2, "working"))
    first, other = command(1), command(1, "annotate")
    step(life, Commanded(1.2, first, TICKET))
    refused = (CommandId("c1"), "already_exists", "known with another payload")
    assert step(life, WasNotAccepted(1.3, *refused, digest_of_words(other))) == []
    told = step(life, WasAccepted(1.4, CommandId("c1"), 7, digest_of_words(first)))
    assert told == [Reply(TICKET, {"command_id": "c1", "sequence": 7})]
