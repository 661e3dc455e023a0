"""What the events of a session add up to (R1-R3), played with values."""

import pytest

from paddock.session_worker.model import UserWords
from paddock.store.events import ConversationCompacted, SessionConfig, SessionCreated, Stored
from paddock.store.fold import evolve
from paddock.store.ids import MessageId, OperationId
from paddock.store.session import Session, dump, load, thread
from tests.session_worker.play import SESSION, Play, call, fold


def compacted(play: Play, summary: str) -> Play:
    """Return the session after its conversation was compacted, started anew on the log."""
    head = play.session.conversation.head
    assert head is not None
    event = ConversationCompacted(
        message_id=MessageId(head), operation_id=OperationId("op"), summary=summary
    )
    play.engine.emit([event], play.now())
    play.take()
    play.crash()
    play.start()
    return play


def test_r1_the_fold_gives_back_all_that_happened() -> None:
    play = Play()
    play.send("one")
    play.model_says(call("bash", command="git status"), call("bash", command="ls"))
    play.prepare_all()
    first, second = list(play.session.conversation.approvals)
    play.command("decide", approval_id=first, decision="allowed", scope="pattern", pattern="git *")
    play.command("decide", approval_id=second, decision="allowed", scope="tool")
    play.prepare()
    play.finish()
    play.prepare()
    play.finish()
    play.model_says("done")
    play.send("two")
    play.command("interrupt")
    play = compacted(play, "they looked around")
    folded = fold(play.log).conversation
    assert folded.allowed_patterns == ["git *"]
    assert folded.allowed_tools == ["bash"]
    assert len(folded.cancelled) == 1
    assert folded.totals == play.session.conversation.totals
    assert folded.compaction is not None
    assert folded.compaction.summary == "they looked around"
    assert [m.role for m in thread(folded)] == ["user", "assistant", "assistant", "user"]
    assert list(folded.messages) == list(play.session.conversation.messages)


def test_r2_an_empty_fold_is_the_empty_session_and_a_dump_gives_it_back() -> None:
    assert fold([]) == Session(SESSION)
    assert load(dump(Session(SESSION))) == Session(SESSION)


def test_r3_after_a_compaction_the_next_request_is_summary_and_new_message() -> None:
    play = Play({"mode": "yolo"})
    play.send("a long story")
    play.model_says("indeed")
    play = compacted(play, "a story was told")
    play.send("and now?")
    said = [
        part.text
        for item in play.items()
        if isinstance(item, UserWords)
        for part in item.parts
        if part.type == "text"
    ]
    assert said == ["a story was told", "and now?"]
    assert len(play.items()) == 2


def test_an_event_that_is_not_the_next_one_is_refused_and_changes_nothing() -> None:
    session = Session(SESSION)
    created = SessionCreated(config=SessionConfig(workspace="/w"))
    with pytest.raises(ValueError, match="does not follow"):
        evolve(session, Stored(SESSION, 2, 0, 1, created))
    assert session == Session(SESSION)
