"""What an engine does with commands that come at a bad time, played with values."""

import pytest

from paddock.session_worker.acts import RunCall
from paddock.session_worker.commands import digest_of_words
from paddock.session_worker.model import ModelFailed
from paddock.session_worker.protocol import Accepted, Command, NotAccepted, Settled
from paddock.session_worker.stimuli import CallEnded, Delivered, LacksCredentials, Stimulus
from paddock.session_worker.turn import AskModel
from paddock.store import fold
from paddock.store.ids import CommandId
from tests.session_worker.play import Play, call


def running_call() -> Play:
    """Return a play whose only call runs."""
    play = Play()
    play.send("read it")
    play.model_says(call("read_file", path="a"))
    play.prepare_all()
    assert play.has(RunCall)
    return play


def test_c1_an_interrupt_of_another_operation_stops_nothing() -> None:
    play = running_call()
    answered = play.command("interrupt", operation_id="an-operation-that-ended-before")
    assert answered.code == "nothing_to_interrupt"
    assert play.has(RunCall)
    play.finish()
    assert play.has(AskModel)
    play.model_says("done")
    assert play.kinds[-1] == "operation_completed"


def test_c1_a_late_interrupt_leaves_the_next_operations_request_alone() -> None:
    play = Play()
    first = play.send("one")
    play.model_says("done")
    play.send("two")
    answered = play.command("interrupt", operation_id=first.operation_id)
    assert answered.code == "nothing_to_interrupt"
    play.model_says("done as well")
    assert play.count("operation_completed") == 2


def lacking() -> Play:
    """Return a play whose model cannot be asked for want of secrets."""
    play = Play()
    play.send("hello")
    asked = play.one(AskModel)
    play.take(LacksCredentials(asked.model_call_id, "no key", 1.0))
    assert play.engine.stage() == "needs_credentials"
    return play


def test_an_operation_that_lacked_secrets_leaves_the_next_one_as_it_is() -> None:
    play = lacking()
    play.command("interrupt")
    play.send("again")
    assert play.engine.stage() == "working"
    assert not play.engine.is_at_rest()
    play.model_fails(ModelFailed("overloaded", "try later"))
    play.retry()
    play.model_says("done")
    assert play.engine.stage() == "resting"


def test_another_model_is_asked_without_the_secrets_that_the_first_one_lacked() -> None:
    play = lacking()
    play.command("set_model", model="script:other")
    play.model_says("done")
    assert play.count("operation_completed") == 1


def test_l17_an_accepted_deletion_refuses_all_that_comes_while_its_work_is_stopped() -> None:
    """Another supervisor hands over what its clients want; it does not know of the deletion."""
    play = running_call()

    def delivered(verb: str) -> Delivered:
        return Delivered(Command(command_id=CommandId(play.mint()), verb=verb, arguments={}))

    first, other, late = delivered("delete"), delivered("delete"), delivered("interrupt")
    play.take(first, other, late)
    assert play.kinds.count("session_deleted") == 1
    assert play.kinds[-1] == "session_deleted"
    assert play.session.answer_to(other.command.command_id) is None
    refused = [word for word in play.said if isinstance(word, NotAccepted)]
    assert {word.command_id for word in refused} == {
        other.command.command_id,
        late.command.command_id,
    }
    assert {word.code for word in refused} == {"session_not_found"}


class Lingering(Play):
    """A play whose calls do not end when they are told to stop."""

    def _stopped(self, prefix: str) -> list[Stimulus]:
        del prefix
        return []


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Lingering:
    """Return a play whose interrupt waits for its call, in a session that remembers three."""
    monkeypatch.setattr(fold, "REMEMBERED_COMMANDS", 3)
    play = Lingering()
    play.send("read it")
    play.model_says(call("read_file", path="a"))
    play.prepare_all()
    return play


def test_p14_an_interrupt_keeps_its_answer_where_more_commands_follow_than_are_remembered(
    stopping: Lingering,
) -> None:
    interrupt = stopping.deliver("interrupt")
    notes = [stopping.deliver("annotate", key="k", value=n) for n in range(5)]
    accepted = list(stopping.session.life.accepted)
    assert interrupt in accepted
    assert accepted[-2:] == notes[:2]

    stopping.take(CallEnded(stopping.one(RunCall).tool_call_id, None))
    answer = stopping.session.answer_to(interrupt)
    assert answer is not None
    assert answer.kind == "operation_cancelled"
    assert list(stopping.session.life.accepted) == notes[1:]
    assert stopping.session.unanswered() == []
    annotated = [row.command_id for row in stopping.log if row.kind == "session_annotated"]
    assert annotated == notes


def test_p14_an_interrupt_that_many_followed_is_answered_by_the_next_worker(
    stopping: Lingering,
) -> None:
    interrupt = stopping.deliver("interrupt")
    for number in range(5):
        stopping.deliver("annotate", key="k", value=number)
    stopping.crash()
    stopping.start()
    answer = stopping.session.answer_to(interrupt)
    assert answer is not None
    assert answer.kind in {"operation_cancelled", "command_rejected"}


def test_commands_that_wait_for_room_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes in the batch in which there is room again is not before those that wait."""
    monkeypatch.setattr(fold, "REMEMBERED_COMMANDS", 3)
    play = Play()
    notes = [
        Command(
            command_id=CommandId(play.mint()),
            verb="annotate",
            arguments={"key": "k", "value": number},
        )
        for number in range(6)
    ]
    play.engine.take(map(Delivered, notes[:-1]), play.now())
    interpreted = play._commit()
    assert len(interpreted) == 3
    play.take(*interpreted, Delivered(notes[-1]))
    annotated = [row.command_id for row in play.log if row.kind == "session_annotated"]
    assert annotated == [note.command_id for note in notes]


def test_what_is_said_of_a_command_names_its_words() -> None:
    play = Play()
    words = Command(
        command_id=CommandId(play.mint()), verb="annotate", arguments={"key": "k", "value": 1}
    )
    other = words.model_copy(update={"verb": "set_mode", "arguments": {"mode": "yolo"}})
    play.take(Delivered(words))
    play.take(Delivered(words), Delivered(other))
    told = [
        word
        for word in play.said
        if isinstance(word, Accepted | Settled | NotAccepted)
        and word.command_id == words.command_id
    ]
    kinds = [Accepted, Settled, Accepted, Settled, NotAccepted]
    assert [type(word) for word in told] == kinds
    assert [word.digest for word in told] == [digest_of_words(words)] * 4 + [digest_of_words(other)]
