"""What an engine does with commands that come at a bad time, played with values."""

from paddock.session_worker.acts import RunCall
from paddock.session_worker.model import ModelFailed
from paddock.session_worker.protocol import Command, NotAccepted
from paddock.session_worker.stimuli import Delivered, LacksCredentials
from paddock.session_worker.turn import AskModel
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
