"""What a burial writes, from values: a log, and what is known beside it."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from paddock.session_worker.ledger import digest_of
from paddock.session_worker.protocol import Command
from paddock.store.events import (
    ApprovalDecided,
    ApprovalRequested,
    CommandAccepted,
    Event,
    OperationStarted,
    SessionAnnotated,
    SessionConfig,
    SessionCreated,
    SessionDeleted,
    Stored,
    ToolCallRequested,
    WorkerStarted,
)
from paddock.store.fold import evolve
from paddock.store.ids import ApprovalId, CommandId, OperationId, SessionId, ToolCallId
from paddock.store.session import Session
from paddock.supervisor.certificate import Known, ending_of, struck_by_death
from paddock.supervisor.commands import Unsettled
from paddock.supervisor.processes import Status
from paddock.supervisor.restart import CONFIGURATION_EXIT_CODE, Budget
from paddock.supervisor.stimuli import Bury

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
COMMAND = CommandId("c1")
OPERATION = OperationId("o1")
STARTED = WorkerStarted(pid=77, start_ticks=1, boot_id="boot", agent="builtin", paddock_version="0")
KNOWN = Known(
    bury=Bury(1, 77, 1, None, False, "working", None, (), None),
    status=Status(signal=9),
    was_stopped=False,
    boot_id="boot",
    budget=Budget(),
    memory_limit_bytes=None,
    tools_killed=0,
    last_generation=1,
    words="",
    deletion=None,
    at_us=9,
    chance=0.0,
)


def fold(*events: Event) -> Session:
    session = Session(SESSION)
    first: list[Event] = [SessionCreated(config=SessionConfig(workspace="/")), STARTED]
    for sequence, event in enumerate([*first, *events], 1):
        evolve(session, Stored(SESSION, sequence, 1, sequence, event))
    return session


def requested(*names: str) -> Iterable[Event]:
    for name in names:
        yield ToolCallRequested(
            operation_id=OPERATION,
            tool_call_id=ToolCallId(name),
            tool="bash",
            arguments={},
            arguments_digest="d",
            effects="write",
        )


def accepted() -> CommandAccepted:
    return CommandAccepted(command_id=COMMAND, verb="annotate", digest="d")


def test_p13_a_worker_killed_after_its_sessions_end_has_a_certificate() -> None:
    # It is the worker that writes the end, and then its own; killed between, it had none.
    session = fold(SessionDeleted(command_id=COMMAND, erase=True))
    ending = ending_of(session, KNOWN)
    assert [event.kind for event in ending.events] == ["worker_exited"]
    assert ending.outcome.deleted_by == COMMAND
    assert ending.outcome.erase
    assert ending.outcome.head == session.sequence + 1


def test_p14_an_answered_command_is_not_struck_though_its_answer_was_on_the_way() -> None:
    session = fold(accepted(), SessionAnnotated(command_id=COMMAND, key="k"))
    known = replace(KNOWN, bury=replace(KNOWN.bury, in_delivery=(COMMAND,)))
    exited = ending_of(session, known).exit
    assert exited is not None
    assert exited.struck_command_ids == ()
    assert exited.in_delivery_command_id is None


@pytest.mark.parametrize("is_behind", [False, True])
def test_p14_an_operation_that_waits_for_an_approval_is_not_struck(is_behind: bool) -> None:
    # Nor where an allowed call stands behind the one that is asked about.
    asked = ApprovalRequested(
        operation_id=OPERATION, tool_call_id=ToolCallId("t1"), approval_id=ApprovalId("a1")
    )
    allowed = ApprovalDecided(
        operation_id=OPERATION, tool_call_id=ToolCallId("t2"), decision="allowed", door="policy"
    )
    begun = OperationStarted(operation_id=OPERATION)
    more = [allowed] if is_behind else []
    names = ("t1", "t2") if is_behind else ("t1",)
    session = fold(begun, *requested(*names), asked, *more)
    assert struck_by_death(session, ()).operation_id is None


def test_p14_an_operation_at_work_is_struck() -> None:
    session = fold(OperationStarted(operation_id=OPERATION), *requested("t1"))
    assert struck_by_death(session, ()).operation_id == OPERATION


def test_p14_a_command_that_a_struck_worker_held_back_is_not_struck() -> None:
    """After a strike its worker takes nothing new: what was handed over has not been tried."""
    begun = OperationStarted(operation_id=OPERATION)
    session = fold(begun, *requested("t1"))
    known = replace(KNOWN, bury=replace(KNOWN.bury, in_delivery=(COMMAND,)))
    first = ending_of(session, known).exit
    assert first is not None
    assert first.struck_command_ids == (COMMAND,)
    second = ending_of(fold(begun, *requested("t1"), first, STARTED), known).exit
    assert second is not None
    assert second.struck_operation_id == OPERATION
    assert second.struck_command_ids == ()
    assert second.in_delivery_command_id == COMMAND


def test_p14_what_a_failing_session_had_accepted_is_refused_in_the_log() -> None:
    session = fold(accepted())
    bury = replace(KNOWN.bury, unsettled=(Unsettled(COMMAND), Unsettled(CommandId("c2"))))
    status = Status(exit_code=CONFIGURATION_EXIT_CODE)
    ending = ending_of(session, replace(KNOWN, bury=bury, status=status))
    kinds = [event.kind for event in ending.events]
    assert kinds == ["worker_exited", "command_rejected", "session_failed"]
    (answer,) = ending.outcome.answers
    assert (answer.command_id, answer.code) == (COMMAND, "session_failed")
    assert answer.sequence == session.sequence + 2


def test_p14_the_answers_that_the_log_has_are_told_by_the_burial() -> None:
    session = fold(accepted(), OperationStarted(command_id=COMMAND, operation_id=OPERATION))
    bury = replace(KNOWN.bury, unsettled=(Unsettled(COMMAND),))
    for status in (Status(exit_code=CONFIGURATION_EXIT_CODE), Status(signal=9)):
        (answer,) = ending_of(session, replace(KNOWN, bury=bury, status=status)).outcome.answers
        assert (answer.kind, answer.operation_id) == ("operation_started", OPERATION)
        assert answer.sequence == session.sequence


def test_p14_other_words_by_an_id_that_has_its_answer_are_not_told_that_answer() -> None:
    """A client used an id twice, and the worker that would have refused it died before it could."""
    first = Command(command_id=COMMAND, verb="annotate", arguments={"key": "a"})
    other = first.model_copy(update={"arguments": {"key": "b"}})
    digest = digest_of([first.verb, first.arguments])
    taken_in = CommandAccepted(command_id=COMMAND, verb=first.verb, digest=digest)
    session = fold(taken_in, SessionAnnotated(command_id=COMMAND, key="a", value=1))
    for words, answers in ((first, 1), (other, 0)):
        bury = replace(KNOWN.bury, unsettled=(Unsettled(COMMAND, words),))
        outcome = ending_of(session, replace(KNOWN, bury=bury)).outcome
        assert len(outcome.answers) == answers
    del session.life.accepted[COMMAND]  # forgotten by now: who asks is told Forgotten
    assert not ending_of(session, replace(KNOWN, bury=bury)).outcome.answers


def test_p4_a_burial_whose_sync_failed_starts_the_next_worker_when_it_is_tried_again() -> None:
    """Its certificate was written, though the disk told a failure: the log holds it by then."""
    begun = OperationStarted(operation_id=OPERATION)
    first = ending_of(fold(begun), KNOWN)
    assert first.starts_again
    again = ending_of(fold(begun, *first.events), KNOWN)
    assert again.events == []
    assert again.starts_again
    asked = replace(KNOWN, bury=replace(KNOWN.bury, is_asked=True, leave_reason="asked"))
    assert not ending_of(fold(begun, *first.events), asked).starts_again
