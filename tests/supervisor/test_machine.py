"""The life of a session's worker, played with values: no process, no clock, no socket."""

from collections.abc import Iterable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.session_worker.protocol import Command, Fault, Settled
from paddock.store.errors import Bug, Damaged
from paddock.store.ids import CommandId, SessionId
from paddock.supervisor.children import ZygoteBroke
from paddock.supervisor.commands import Ticket, Unsettled
from paddock.supervisor.errors import CapacityExceeded, OwnerStuck
from paddock.supervisor.life import BEAT_CHECKS, RIVALS, Life, Patience
from paddock.supervisor.machine import LATE, TABLE, step
from paddock.supervisor.stimuli import (
    AskToLeave,
    Beaten,
    Buried,
    Bury,
    Commanded,
    CredentialsPut,
    DeleteAsked,
    Deliver,
    Effect,
    Exited,
    FoundAlive,
    FoundOpen,
    GiveBackRoom,
    Greeted,
    GreetedInAnotherVersion,
    Grew,
    Kill,
    LeaveAsked,
    NotBuried,
    Notify,
    NotSpawned,
    Reply,
    ReplyError,
    RoomGiven,
    RoomRefused,
    SaidBye,
    SeekRoom,
    SendCredentials,
    Spawn,
    Spawned,
    Stage,
    Stayed,
    Stimulus,
    TellSettled,
    TimerFired,
    Touched,
    Wanted,
    WasAccepted,
    WasBusy,
    WasNotAccepted,
    WasSettled,
    Weighed,
)

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
STIMULI: tuple[type, ...] = get_args(Stimulus.__value__)
PATIENCE = Patience()


def ticket(number: int) -> Ticket:
    return Ticket(b"client", number)


def command(number: int, verb: str = "send_input") -> Command:
    return Command(command_id=CommandId(f"c{number}"), verb=verb)


def settled(number: int) -> Settled:
    return Settled(command_id=CommandId(f"c{number}"), sequence=9, kind="operation_started")


def example(kind: type, life: Life) -> Any:
    """Return a stimulus of the kind that speaks of the present start."""
    now, start = 10.0, life.start
    examples: dict[type, Any] = {
        Wanted: Wanted(now, "test", ticket(1)),
        Commanded: Commanded(now, command(1), ticket(2)),
        RoomGiven: RoomGiven(now),
        RoomRefused: RoomRefused(now, CapacityExceeded("full", current=1, max=1)),
        Spawned: Spawned(now, start, 77),
        NotSpawned: NotSpawned(now, start, ZygoteBroke("no fork")),
        FoundAlive: FoundAlive(now, 77, 5.0),
        FoundOpen: FoundOpen(now),
        Greeted: Greeted(now, 1, 77, 2, "resting"),
        GreetedInAnotherVersion: GreetedInAnotherVersion(now, start),
        Beaten: Beaten(now, "resting", 2),
        Weighed: Weighed(now, start, 100),
        Grew: Grew(now, 3),
        Touched: Touched(now),
        WasAccepted: WasAccepted(now, CommandId("c1"), 3),
        WasSettled: WasSettled(now, settled(1)),
        WasNotAccepted: WasNotAccepted(now, CommandId("c1"), "disk_full", "no room"),
        LeaveAsked: LeaveAsked(now, "asked", 10.0, ticket=ticket(3)),
        DeleteAsked: DeleteAsked(now, command(9, "delete"), 10.0, ticket(4)),
        WasBusy: WasBusy(now, "working"),
        SaidBye: SaidBye(now, "suspended", 4),
        Exited: Exited(now, start),
        Buried: Buried(now, start, 5, "crashed", "signal", restart_seconds=0.0),
        NotBuried: NotBuried(now, start, OwnerStuck("held", pid=5), 5),
        TimerFired: TimerFired(now),
        CredentialsPut: CredentialsPut(now),
    }
    return examples[kind]


def play(life: Life, *stimuli: Stimulus) -> list[Effect]:
    """Take in the stimuli; return the effects of the last one."""
    effects: list[Effect] = []
    for stimulus in stimuli:
        effects = step(life, stimulus)
    return effects


def lived(worker_stage: Any = "resting") -> Life:
    life = Life(SESSION, PATIENCE)
    play(
        life,
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Spawned(1.1, 1, 77),
        Greeted(1.2, 1, 77, 2, worker_stage),
    )
    return life


WAYS: dict[Stage, list[Stimulus]] = {
    Stage.COLD: [],
    Stage.SEEKING: [Wanted(1.0, "test")],
    Stage.STARTING: [Wanted(1.0, "test"), RoomGiven(1.0), Spawned(1.1, 1, 77)],
    Stage.LIVE: [
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Spawned(1.1, 1, 77),
        Greeted(1.2, 1, 77, 2, "resting"),
    ],
    Stage.NEEDS_CREDENTIALS: [
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Spawned(1.1, 1, 77),
        Greeted(1.2, 1, 77, 2, "needs_credentials"),
    ],
    Stage.SUSPENDING: [
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Greeted(1.2, 1, 77, 2, "resting"),
        LeaveAsked(2.0, "idle", 10.0, force=False),
    ],
    Stage.BURYING: [
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Greeted(1.2, 1, 77, 2, "resting"),
        Exited(2.0, 1),
    ],
    Stage.BACKING_OFF: [
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Greeted(1.2, 1, 77, 2, "resting"),
        Exited(2.0, 1),
        Buried(2.1, 1, 3, "crashed", "signal", restart_seconds=1.0),
    ],
    Stage.STUCK: [
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Greeted(1.2, 1, 77, 2, "resting"),
        Exited(2.0, 1),
        NotBuried(2.1, 1, OwnerStuck("held", pid=5), 5),
    ],
    Stage.FAILED: [
        Wanted(1.0, "test"),
        RoomGiven(1.0),
        Exited(2.0, 1),
        Buried(2.1, 1, 3, "crashed", "signal", failed="too often"),
    ],
    Stage.DELETED: [
        DeleteAsked(1.0, command(8, "delete"), 10.0),
        Buried(2.1, 1, 3, "finished", "deleted", deleted_by=command(8, "delete").command_id),
    ],
}


LEAVE = LeaveAsked(2.5, "asked", 10.0)


def in_stage(stage: Stage) -> Life:
    life = Life(SESSION, PATIENCE)
    play(life, *WAYS[stage])
    assert life.stage is stage
    return life


# --- the table ---


@pytest.mark.parametrize("kind", STIMULI, ids=lambda kind: str(kind.__name__))
@pytest.mark.parametrize("stage", Stage)
def test_every_stimulus_in_every_stage_is_handled_or_late_or_a_fault_that_changes_nothing(
    stage: Stage, kind: type
) -> None:
    life = in_stage(stage)
    stimulus = example(kind, life)
    if kind in TABLE[stage]:
        step(life, stimulus)
    elif issubclass(kind, LATE):
        assert step(life, stimulus) == []
        assert life.stage is stage
    else:
        before = list(life.story)
        with pytest.raises(Bug, match=f"cannot happen while {stage}"):
            step(life, stimulus)
        assert life.stage is stage
        assert list(life.story) == before


@pytest.mark.parametrize("stage", Stage)
def test_each_stage_is_reached_and_is_in_the_diagram(stage: Stage) -> None:
    from paddock.supervisor import machine

    assert in_stage(stage).stage is stage
    drawn = (machine.__doc__ or "").replace("\n     ", "")
    assert str(stage).split("_", maxsplit=1)[0] in drawn


def test_what_clients_ask_is_answered_in_every_stage() -> None:
    for kind in (Wanted, Commanded, LeaveAsked, DeleteAsked):
        for stage in Stage:
            assert kind in TABLE[stage], f"{kind.__name__} in {stage}"


def test_a_fault_tells_the_story() -> None:
    life = lived()
    with pytest.raises(Bug) as caught:
        step(life, RoomGiven(2.0))
    assert "Wanted: cold→seeking SeekRoom" in str(caught.value)
    assert "Greeted: starting→live" in str(caught.value)


# --- coming to life ---


def test_a_command_to_a_session_at_rest_wakes_it_and_is_delivered_when_it_is_live() -> None:
    life = Life(SESSION, PATIENCE)
    assert step(life, Commanded(1.0, command(1), ticket(1))) == [SeekRoom()]
    assert step(life, RoomGiven(1.0)) == [Spawn(1, "command send_input", reset=False)]
    step(life, Spawned(1.1, 1, 77))
    effects = step(life, Greeted(1.2, 1, 77, 2, "resting"))
    assert Deliver(command(1)) in effects
    assert step(life, WasAccepted(1.3, CommandId("c1"), 3)) == [
        Reply(ticket(1), {"command_id": "c1", "sequence": 3})
    ]
    assert step(life, WasSettled(1.4, settled(1))) == [TellSettled((ticket(1),), settled(1))]


def test_l22_two_concurrent_resumes_start_one_worker_and_both_are_answered() -> None:
    life = Life(SESSION, PATIENCE)
    effects = play(life, Wanted(1.0, "resume", ticket(1)), Wanted(1.0, "resume", ticket(2)))
    assert effects == []
    assert step(life, RoomGiven(1.0)) == [Spawn(1, "resume", reset=False)]
    replies = [e for e in step(life, Greeted(1.2, 1, 77, 2, "resting")) if isinstance(e, Reply)]
    assert [reply.ticket for reply in replies] == [ticket(1), ticket(2)]


def test_a_refused_room_is_told_to_all_who_wait_and_leaves_the_session_at_rest() -> None:
    life = Life(SESSION, PATIENCE)
    play(life, Commanded(1.0, command(1), ticket(1)), Wanted(1.0, "resume", ticket(2)))
    error = CapacityExceeded("full", current=1, max=1)
    effects = step(life, RoomRefused(1.1, error))
    assert {e.ticket for e in effects if isinstance(e, ReplyError)} == {ticket(1), ticket(2)}
    assert life.stage is Stage.COLD
    assert life.queue.is_empty


def test_a_start_without_a_greeting_is_killed_and_buried() -> None:
    life = in_stage(Stage.STARTING)
    assert life.deadline == 1.1 + PATIENCE.start_seconds
    assert step(life, TimerFired(31.1)) == [Kill(1, "start_timeout", wants_stacks=True)]
    (bury,) = step(life, Exited(31.3, 1))
    assert isinstance(bury, Bury)
    assert (bury.cause, bury.last_stage) == ("start_timeout", "starting")


def test_p3_a_fork_that_is_not_answered_is_waited_for_and_what_comes_late_is_killed() -> None:
    life = Life(SESSION, PATIENCE)
    play(life, Wanted(1.0, "resume", ticket(1)), RoomGiven(1.0))
    assert step(life, TimerFired(31.0)) == [Kill(1, "start_timeout", wants_stacks=True)]
    assert step(life, TimerFired(36.0)) == []
    assert life.stage is Stage.STARTING
    assert step(life, Spawned(37.0, 1, 77)) == [Kill(1, "start_timeout")]
    (bury,) = step(life, Exited(37.1, 1))
    assert isinstance(bury, Bury)


def test_a_start_is_judged_from_its_process_on_and_given_up_without_one() -> None:
    life = Life(SESSION, PATIENCE)
    play(life, Wanted(1.0, "resume"), RoomGiven(1.0))
    assert life.deadline == 1.0 + PATIENCE.fork_seconds
    assert life.awaits(1)
    step(life, TimerFired(61.0))
    assert not life.awaits(1)  # a process that comes now gets no orders
    assert step(life, TimerFired(66.0)) == []
    step(life, NotSpawned(67.0, 1, ZygoteBroke("given up")))
    assert life.stage is Stage.COLD


def test_a_host_that_cannot_fork_says_so_and_counts_it_against_nobody() -> None:
    life = Life(SESSION, PATIENCE)
    play(life, Wanted(1.0, "resume", ticket(1)), RoomGiven(1.0))
    effects = step(life, NotSpawned(2.0, 1, ZygoteBroke("no fork")))
    assert [e.error.code for e in effects if isinstance(e, ReplyError)] == ["zygote_broke"]
    assert life.stage is Stage.COLD


def test_a_host_that_cannot_fork_tries_again_what_it_owes() -> None:
    life = in_stage(Stage.BACKING_OFF)
    step(life, TimerFired(3.1))
    step(life, NotSpawned(4.0, 2, ZygoteBroke("no fork")))
    assert life.stage is Stage.BACKING_OFF
    assert [type(e) for e in step(life, TimerFired(life.deadline or 0.0))] == [Spawn]


@pytest.mark.parametrize(
    "refusal", [RoomRefused(3.0, CapacityExceeded("full", current=1, max=1)), TimerFired(40.0)]
)
def test_what_was_found_open_on_a_full_host_is_started_when_there_is_room(
    refusal: Stimulus,
) -> None:
    life = Life(SESSION, PATIENCE)
    play(life, FoundOpen(1.0), Buried(2.0, 1, 5, "crashed", "unknown", restart_seconds=0.0))
    assert step(life, refusal) == []
    assert life.stage is Stage.BACKING_OFF
    assert life.deadline is not None
    assert step(life, TimerFired(life.deadline)) == [SeekRoom()]
    assert [type(effect) for effect in step(life, RoomGiven(80.0))] == [Spawn]


# --- commands ---


def test_one_command_is_in_delivery_and_the_next_follows_its_answer() -> None:
    life = lived()
    assert step(life, Commanded(2.0, command(1))) == [Deliver(command(1))]
    assert step(life, Commanded(2.1, command(2))) == []
    step(life, WasAccepted(2.2, CommandId("c1"), 3))
    assert Deliver(command(2)) in step(life, WasSettled(2.3, settled(1)))


@pytest.mark.parametrize("verb", ["interrupt", "decide", "dequeue_input"])
def test_an_interrupt_a_decision_and_a_removal_pass_by(verb: str) -> None:
    life = lived()
    step(life, Commanded(2.0, command(1)))
    assert step(life, Commanded(2.1, command(2, verb))) == [Deliver(command(2, verb))]


def test_p14_a_command_in_delivery_at_a_death_is_handed_to_the_next_worker() -> None:
    life = lived()
    play(life, Commanded(2.0, command(1), ticket(1)), Commanded(2.0, command(2), ticket(2)))
    (bury,) = step(life, Exited(3.0, 1))
    assert isinstance(bury, Bury)
    assert bury.in_delivery == ("c1",)
    effects = play(
        life,
        Buried(3.1, 1, 4, "crashed", "signal", restart_seconds=0.0),
        Spawned(3.2, 2, 78),
        Greeted(3.3, 2, 78, 5, "resting"),
    )
    assert [e.command for e in effects if isinstance(e, Deliver)] == [command(1)]


def test_p14_an_accepted_command_is_handed_over_again_and_told_accepted_once() -> None:
    life = lived()
    play(
        life,
        Commanded(2.0, command(1), ticket(1)),
        WasAccepted(2.1, CommandId("c1"), 3),
        Exited(3.0, 1),
        Buried(3.1, 1, 4, "crashed", "signal", restart_seconds=0.0),
        Spawned(3.2, 2, 78),
    )
    effects = step(life, Greeted(3.3, 2, 78, 5, "resting", unanswered=(CommandId("c1"),)))
    assert Deliver(command(1)) in effects
    assert step(life, WasAccepted(3.4, CommandId("c1"), 3)) == []
    assert step(life, WasSettled(3.5, settled(1))) == [TellSettled((ticket(1),), settled(1))]


@pytest.mark.parametrize("is_told_accepted", [True, False])
def test_p14_an_answer_that_only_the_log_has_is_told_though_the_session_fails(
    is_told_accepted: bool,
) -> None:
    """Its worker died of its configuration in the moment in which it had committed the answer."""
    life = lived()
    play(life, Commanded(2.0, command(1), ticket(1)))
    if is_told_accepted:
        play(life, WasAccepted(2.1, CommandId("c1"), 8))
    (bury,) = play(life, Exited(3.0, life.start))
    assert isinstance(bury, Bury)
    assert bury.unsettled == (Unsettled(CommandId("c1"), command(1)),)
    failed = Buried(
        4.0, life.start, 12, "crashed", "configuration", failed="no", answers=(settled(1),)
    )
    effects = play(life, failed)
    assert TellSettled((ticket(1),), settled(1)) in effects
    kinds = {type(effect) for effect in effects}
    assert ReplyError not in kinds
    assert (Reply in kinds) is not is_told_accepted


def test_p14_a_deletion_leaves_what_was_handed_over_to_what_the_log_says_of_it() -> None:
    life = lived()
    play(life, Commanded(2.0, command(1), ticket(1)), WasAccepted(2.1, CommandId("c1"), 8))
    play(life, Commanded(2.0, command(2), ticket(2)))
    effects = play(life, DeleteAsked(3.0, command(9, "delete"), 10.0, ticket(9)))
    assert [e.ticket for e in effects if isinstance(e, ReplyError)] == [ticket(2)]
    play(life, Exited(4.0, life.start))
    gone = Buried(
        5.0,
        life.start,
        12,
        "finished",
        "deleted",
        deleted_by=CommandId("c9"),
        answers=(settled(1),),
    )
    assert TellSettled((ticket(1),), settled(1)) in play(life, gone)


def test_a_command_accepted_before_our_time_holds_the_next_back_until_it_is_answered() -> None:
    life = Life(SESSION, PATIENCE)
    play(life, Commanded(1.0, command(1)), RoomGiven(1.0), Spawned(1.1, 1, 77))
    effects = step(life, Greeted(1.2, 3, 77, 9, "working", unanswered=(CommandId("c0"),)))
    assert not [e for e in effects if isinstance(e, Deliver)]
    assert Deliver(command(1)) in step(life, WasSettled(1.3, settled(0)))


def test_the_sixty_fifth_waiting_command_is_refused() -> None:
    life = Life(SESSION, PATIENCE)
    for number in range(64):
        step(life, Commanded(1.0, command(number), ticket(number)))
    (effect,) = step(life, Commanded(1.0, command(64), ticket(64)))
    assert isinstance(effect, ReplyError)
    assert effect.error.code == "too_many_waiting"
    assert effect.error.facts == {"waiting": 64, "limit": 64}


def test_the_same_id_with_another_payload_is_refused_and_with_the_same_one_told_twice() -> None:
    life = lived()
    step(life, Commanded(2.0, command(1), ticket(1)))
    (effect,) = step(life, Commanded(2.0, command(1, "annotate"), ticket(2)))
    assert isinstance(effect, ReplyError)
    assert effect.error.code == "already_exists"
    step(life, Commanded(2.0, command(1), ticket(3)))
    effects = step(life, WasAccepted(2.1, CommandId("c1"), 3))
    assert [e.ticket for e in effects if isinstance(e, Reply)] == [ticket(1), ticket(3)]


# --- leaving ---


def test_l2_a_session_that_was_asked_to_leave_rests_when_its_worker_is_buried() -> None:
    life = lived()
    effects = step(life, LeaveAsked(2.0, "asked", 10.0, ticket=ticket(1)))
    assert [type(effect) for effect in effects] == [AskToLeave]
    play(life, SaidBye(2.1, "suspended", 4), Exited(2.2, 1))
    effects = step(life, Buried(2.3, 1, 4, "suspended", "asked"))
    assert Reply(ticket(1), {"was_live": True}) in effects
    assert GiveBackRoom() in effects
    assert life.stage is Stage.COLD


def test_a_worker_with_work_stays_when_it_was_only_asked() -> None:
    life = lived("working")
    step(life, LeaveAsked(2.0, "capacity", 10.0, force=False))
    assert Stayed() in step(life, WasBusy(2.1, "working"))
    assert life.stage is Stage.LIVE


def test_who_left_to_make_room_and_is_wanted_again_keeps_it_and_says_so() -> None:
    """Who waited for that room waited in vain, for 30 s, while others could have left."""
    life = lived()
    step(life, LeaveAsked(2.0, "capacity", 10.0, force=False))
    step(life, Commanded(2.1, command(1)))
    play(life, SaidBye(2.2, "suspended", 4), Exited(2.3, 1))
    effects = step(life, Buried(2.4, 1, 4, "suspended", "capacity"))
    assert Stayed() in effects
    assert GiveBackRoom() not in effects
    assert life.stage is Stage.STARTING


def test_who_was_only_asked_and_does_not_answer_in_time_stays() -> None:
    life = lived()
    step(life, LeaveAsked(2.0, "capacity", 10.0, force=False, ticket=ticket(1)))
    step(life, Commanded(2.1, command(1)))
    effects = step(life, TimerFired(life.deadline or 0.0))
    assert [e.error.code for e in effects if isinstance(e, ReplyError)] == ["busy"]
    assert Stayed() in effects
    assert Deliver(command(1)) in effects
    assert life.stage is Stage.LIVE


def test_a_command_that_arrives_while_it_leaves_goes_to_the_next_generation() -> None:
    life = lived()
    play(life, LeaveAsked(2.0, "idle", 10.0, force=False))
    assert step(life, Commanded(2.1, command(1))) == []
    play(life, SaidBye(2.2, "suspended", 4), Exited(2.3, 1))
    effects = step(life, Buried(2.4, 1, 4, "suspended", "idle"))
    # It keeps its room: who waited for that asks anew, and does not wait for it till the deadline.
    assert [type(effect) for effect in effects] == [Stayed, Spawn]


def test_who_does_not_leave_is_killed_and_who_survives_that_is_stuck_with_its_pid() -> None:
    life = lived()
    step(life, LeaveAsked(2.0, "asked", 10.0, ticket=ticket(1)))
    (kill,) = step(life, TimerFired(life.deadline or 0.0))
    assert isinstance(kill, Kill)
    effects = step(life, TimerFired(life.deadline or 0.0))
    errors = [e.error for e in effects if isinstance(e, ReplyError)]
    assert [error.code for error in errors] == ["owner_stuck"]
    assert errors[0].facts["pid"] == 77
    assert (life.deadline or 0.0) > 12.0


def test_the_host_that_ends_starts_nothing_whatever_waits() -> None:
    life = lived()
    step(life, Commanded(1.9, command(1), ticket(1)))
    play(life, LeaveAsked(2.0, "shutdown", 10.0, is_final=True), Exited(2.2, 1))
    effects = step(life, Buried(2.3, 1, 4, "suspended", "shutdown"))
    assert [e.error.code for e in effects if isinstance(e, ReplyError)] == ["host_gone"]
    assert life.stage is Stage.COLD


# --- a disk that refuses ---


def test_f2_what_waits_behind_an_answer_that_cannot_be_written_is_refused() -> None:
    life = lived()
    step(life, Commanded(2.0, command(1), ticket(1)))
    step(life, WasAccepted(2.1, CommandId("c1"), 3))
    step(life, Commanded(2.2, command(2), ticket(2)))
    refused = step(life, Beaten(2.3, "working", 3, fault=Fault(code="disk_full", reason="no room")))
    assert [(effect.ticket, effect.error.code) for effect in told(refused)] == [
        (ticket(2), "disk_full")
    ]
    (late,) = told(step(life, Commanded(2.4, command(3), ticket(3))))
    assert (late.ticket, late.error.message) == (ticket(3), "no room")
    interrupt = Commanded(2.5, command(4, "interrupt"), ticket(4))
    assert step(life, interrupt) == [Deliver(interrupt.command)], "its worker refuses it itself"
    assert step(life, Beaten(2.6, "working", 4)) == []
    assert not told(step(life, Commanded(2.7, command(5), ticket(5))))
    effects = step(life, WasSettled(2.8, settled(1)))
    assert Deliver(command(5)) in effects, "the one in delivery was answered when there was room"


def told(effects: list[Effect]) -> list[ReplyError]:
    return [effect for effect in effects if isinstance(effect, ReplyError)]


# --- hanging ---


def test_f6_a_hang_is_a_number_of_checks_in_a_row_without_a_beat() -> None:
    life = lived()
    for _ in range(BEAT_CHECKS):
        assert step(life, TimerFired(life.deadline or 0.0)) == []  # the greeting was a beat
    assert step(life, TimerFired(life.deadline or 0.0)) == [Kill(1, "hang", wants_stacks=True)]


def test_a_closed_lid_is_no_hang() -> None:
    life = lived()
    for day in range(1, 20):
        step(life, TimerFired(day * 86_400.0))
        step(life, Beaten(day * 86_400.0 + 1.0, "resting", 2))
    assert life.stage is Stage.LIVE


def test_a_worker_above_its_memory_limit_is_killed_once_with_that_reason() -> None:
    life = lived()
    life.memory_limit_bytes = 100
    assert step(life, Beaten(2.0, "working", 3, rss_bytes=80)) == []
    assert step(life, Beaten(3.0, "working", 3, rss_bytes=101)) == [Kill(1, "out_of_memory")]
    assert step(life, Beaten(3.1, "working", 3, rss_bytes=102)) == []


def test_a_session_near_its_memory_limit_is_warned_once_until_it_is_calm_again() -> None:
    life = lived()
    life.memory_limit_bytes = 100
    warning = [Notify("memory", {"used_bytes": 81, "limit_bytes": 100})]
    assert step(life, Weighed(2.0, 1, 81)) == warning
    assert step(life, Weighed(3.0, 1, 95)) == []
    assert step(life, Weighed(4.0, 1, 75)) == []
    assert step(life, Weighed(5.0, 1, 81)) == []
    assert step(life, Weighed(6.0, 1, 60)) == []
    assert step(life, Weighed(7.0, 1, 81)) == warning


def test_what_a_sessions_tools_use_counts_against_its_limit_and_stands_in_its_certificate() -> None:
    life = lived()
    life.memory_limit_bytes = 100
    step(life, Beaten(2.0, "working", 3, rss_bytes=10))
    step(life, Weighed(3.0, 1, 101))
    assert life.cause is None, "a call that outgrew its limit may be ended by its keeper"
    assert step(life, Weighed(4.0, 1, 101)) == [Kill(1, "out_of_memory")]
    (bury,) = step(life, Exited(3.1, 1))
    assert isinstance(bury, Bury)
    assert (bury.cause, bury.peak_rss_bytes) == ("out_of_memory", 101)


def test_what_was_weighed_of_an_earlier_start_changes_nothing() -> None:
    life = lived()
    life.memory_limit_bytes = 100
    assert step(life, Weighed(3.0, 0, 101)) == []
    assert life.memory_bytes is None


def test_a_commit_is_a_sign_of_life_too() -> None:
    life = lived()
    for number in range(20):
        step(life, Grew(2.0 + number, number))
        assert step(life, TimerFired(life.deadline or 0.0)) == []


# --- dying ---


def test_nothing_starts_before_the_burial_is_over() -> None:
    life = lived()
    step(life, Exited(2.0, 1))
    for stimulus in (
        Wanted(2.1, "resume"),
        Commanded(2.1, command(1)),
        Greeted(2.2, 1, 77, 3, "resting"),
        TimerFired(99.0),
    ):
        assert not [e for e in step(life, stimulus) if isinstance(e, Spawn)]
    assert life.stage is Stage.BURYING


def test_a_crash_is_followed_by_a_pause_and_a_start() -> None:
    life = in_stage(Stage.BACKING_OFF)
    assert life.deadline == pytest.approx(3.1)
    assert step(life, TimerFired(3.1)) == [Spawn(2, "restart after signal", reset=False)]


def test_f7_a_session_whose_budget_is_spent_stays_down_until_one_reset() -> None:
    life = in_stage(Stage.FAILED)
    (effect,) = step(life, Commanded(5.0, command(1), ticket(1)))
    assert isinstance(effect, ReplyError)
    assert effect.error.code == "session_failed"
    (effect,) = step(life, Wanted(5.0, "resume", ticket(2)))
    assert isinstance(effect, ReplyError)
    assert step(life, Wanted(5.0, "resume", ticket(3), reset=True)) == [SeekRoom()]
    assert step(life, RoomGiven(5.0)) == [Spawn(2, "resume", reset=True)]


def test_a_failed_session_that_finds_no_room_is_as_failed_as_before() -> None:
    life = in_stage(Stage.FAILED)
    step(life, Wanted(5.0, "resume", reset=True))
    step(life, RoomRefused(5.0, CapacityExceeded("full")))
    assert life.stage is Stage.FAILED


def test_while_the_lock_is_held_the_session_is_stuck_and_names_the_holder() -> None:
    life = in_stage(Stage.STUCK)
    (effect,) = step(life, Commanded(3.0, command(1), ticket(1)))
    assert isinstance(effect, ReplyError)
    assert effect.error.facts["pid"] == 5
    (bury,) = step(life, TimerFired(life.deadline or 0.0))
    assert isinstance(bury, Bury)


def test_f1_a_damaged_file_fails_its_session_and_says_so() -> None:
    life = in_stage(Stage.BURYING)
    error = Damaged("event 7 is not what was written", sequence=7)
    effects = step(life, NotBuried(3.0, 1, error, is_final=True))
    assert [e.what for e in effects if isinstance(e, Notify)] == ["damaged", "failed"]
    assert life.stage is Stage.FAILED


def test_f1_a_deletion_that_comes_during_the_burial_of_a_damaged_file_is_buried_for() -> None:
    life = in_stage(Stage.BURYING)
    error = Damaged("event 7 is not what was written", sequence=7)
    step(life, DeleteAsked(2.5, command(9, "delete"), 10.0, ticket(1)))
    (bury,) = step(life, NotBuried(3.0, 1, error, is_final=True))
    assert isinstance(bury, Bury)
    assert bury.delete == command(9, "delete")
    effects = step(life, NotBuried(3.0, 1, error, is_final=True))  # newer, say, than we are
    assert [e.ticket for e in effects if isinstance(e, ReplyError)] == [ticket(1)]
    assert life.stage is Stage.FAILED
    (effect,) = step(life, Commanded(4.0, command(2), ticket(2)))
    assert isinstance(effect, ReplyError)
    assert effect.error is error, "it was not deleted"


def test_what_comes_late_about_an_earlier_start_changes_nothing() -> None:
    life = in_stage(Stage.BACKING_OFF)
    play(life, TimerFired(3.1), Spawned(3.2, 2, 78))
    assert step(life, Exited(3.3, 1)) == []
    assert life.stage is Stage.STARTING


@pytest.mark.parametrize("stage", [Stage.BACKING_OFF, Stage.BURYING])
def test_a_session_suspended_between_two_starts_is_written_down_as_suspended(stage: Stage) -> None:
    # Its log went on saying that a start is owed, and a later host gave it one.
    life = in_stage(stage)
    step(life, LeaveAsked(2.5, "asked", 10.0, ticket=ticket(1)))
    if stage is Stage.BURYING:
        (bury,) = step(life, Buried(2.6, life.start, 3, "crashed", "signal", restart_seconds=1.0))
    else:
        bury = next(e for e in play(in_stage(stage), LEAVE) if isinstance(e, Bury))
    assert isinstance(bury, Bury)
    assert bury.is_asked
    assert bury.pid is None
    effects = step(life, Buried(2.7, life.start, 4, "crashed", "signal"))
    assert life.stage is Stage.COLD
    assert any(isinstance(e, Reply) and e.ticket == ticket(1) for e in effects)
    notices = [e.what for e in effects if isinstance(e, Notify)]
    assert notices == (["died", "suspended"] if stage is Stage.BURYING else ["suspended"])


# --- deleting ---


def test_l16_a_deletion_of_a_live_session_is_the_workers_own_last_word() -> None:
    life = lived()
    delete = DeleteAsked(2.0, command(9, "delete"), 10.0, ticket(1))
    assert step(life, delete) == [Deliver(command(9, "delete"))]
    play(life, SaidBye(2.1, "deleted", 5), Exited(2.2, 1))
    effects = step(
        life, Buried(2.3, 1, 5, "finished", "deleted", deleted_by=delete.command.command_id)
    )
    assert Reply(ticket(1), {"deleted": True}) in effects
    (effect,) = step(life, Wanted(3.0, "resume", ticket(2)))
    assert isinstance(effect, ReplyError)
    assert effect.error.code == "session_not_found"


def test_l17_deleting_again_is_not_found_and_the_same_deletion_gets_the_same_answer() -> None:
    life = in_stage(Stage.DELETED)
    same = DeleteAsked(3.0, command(8, "delete"), 10.0, ticket(1))
    other = DeleteAsked(3.0, command(7, "delete"), 10.0, ticket(2))
    assert step(life, same) == [Reply(ticket(1), {"deleted": True})]
    (effect,) = step(life, other)
    assert isinstance(effect, ReplyError)
    assert effect.error.code == "session_not_found"


def test_l17_a_deletion_that_comes_while_another_is_found_is_told_that_it_was_too_late() -> None:
    """A host that finds a deletion without its tombstone buries; another one asks meanwhile."""
    life = in_stage(Stage.COLD)
    step(life, FoundOpen(2.0))
    step(life, DeleteAsked(2.1, command(7, "delete"), 10.0, ticket(1)))
    by = command(8, "delete").command_id
    effects = step(life, Buried(2.2, life.start, 3, "finished", "deleted", deleted_by=by))
    (told,) = [effect for effect in effects if isinstance(effect, Reply | ReplyError)]
    assert isinstance(told, ReplyError)
    assert told.error.code == "session_not_found"
    same = DeleteAsked(3.0, command(8, "delete"), 10.0, ticket(2))
    assert step(life, same) == [Reply(ticket(2), {"deleted": True})]


def test_l17_the_deletion_that_an_earlier_host_began_is_told_done_whoever_asks_first() -> None:
    life = in_stage(Stage.COLD)
    step(life, FoundOpen(2.0))
    step(life, DeleteAsked(2.1, command(7, "delete"), 10.0, ticket(1)))
    assert step(life, DeleteAsked(2.2, command(8, "delete"), 10.0, ticket(2))) == []
    by = command(8, "delete").command_id
    effects = step(life, Buried(2.3, life.start, 3, "finished", "deleted", deleted_by=by))
    assert Reply(ticket(2), {"deleted": True}) in effects
    (refused,) = [effect for effect in effects if isinstance(effect, ReplyError)]
    assert refused.ticket == ticket(1)


def test_p11_deletions_that_wait_behind_another_are_bounded() -> None:
    life = in_stage(Stage.COLD)
    step(life, FoundOpen(2.0))
    step(life, DeleteAsked(2.1, command(1, "delete"), 10.0, ticket(1)))
    for number in range(RIVALS):
        rival = DeleteAsked(2.2, command(number + 2, "delete"), 10.0, ticket(number + 2))
        assert step(life, rival) == []
    (told,) = step(life, DeleteAsked(2.3, command(999, "delete"), 10.0, ticket(999)))
    assert isinstance(told, ReplyError)
    assert told.error.code == "busy"


def test_p14_a_worker_that_stays_gets_what_was_in_delivery_when_it_was_asked_to_leave() -> None:
    """Asked as it greeted, it was told of nothing else: the command waited for ever."""
    life = lived()
    step(life, Commanded(2.0, command(5), ticket(1)))
    play(life, Exited(2.1, 1), Buried(2.2, 1, 3, "crashed", "signal", restart_seconds=0.0))
    step(life, Spawned(2.3, life.start, 78))
    step(life, LeaveAsked(2.4, "asked", 10.0, force=False))
    assert Deliver(command(5)) not in step(life, Greeted(2.5, 2, 78, 4, "working"))
    assert Deliver(command(5)) in step(life, WasBusy(2.6, "working"))


def test_f6_a_worker_that_hangs_is_found_however_often_it_is_asked_to_leave() -> None:
    """Each asking began the count anew, and a session that wants its room asks often."""
    life = lived()
    at = 10.0
    killed: list[Effect] = []
    for _ in range(BEAT_CHECKS + 1):
        step(life, LeaveAsked(at, "capacity", 10.0, force=False))
        killed += [each for each in step(life, TimerFired(at + 9)) if isinstance(each, Kill)]
        at += 9.0
    assert [kill.reason for kill in killed if isinstance(kill, Kill)] == ["hang"]


def test_a_burial_that_failed_is_tried_again_as_what_it_was() -> None:
    """A death that was found is finished in another way than one that was seen."""
    life = in_stage(Stage.COLD)
    step(life, FoundOpen(2.0))
    step(life, NotBuried(2.1, life.start, OwnerStuck("disk full")))
    (bury,) = step(life, TimerFired(9.0))
    assert isinstance(bury, Bury)
    assert bury.is_found
    step(life, Buried(9.1, life.start, 3, "crashed", "signal"))
    (later,) = step(life, DeleteAsked(9.2, command(9, "delete"), 10.0, ticket(1)))[-1:]
    assert isinstance(later, Bury)
    assert not later.is_found


def test_a_deletion_asked_for_during_a_burial_follows_it() -> None:
    life = in_stage(Stage.BURYING)
    step(life, DeleteAsked(2.5, command(9, "delete"), 10.0, ticket(1)))
    (bury,) = step(life, Buried(2.6, 1, 4, "crashed", "signal", restart_seconds=0.0))
    assert isinstance(bury, Bury)
    assert bury.delete == command(9, "delete")


def test_credentials_reach_a_worker_that_rests_for_want_of_them() -> None:
    life = in_stage(Stage.NEEDS_CREDENTIALS)
    assert step(life, CredentialsPut(3.0)) == [SendCredentials()]
    step(life, Beaten(3.1, "working", 3))
    assert life.stage is Stage.LIVE


# --- properties ---

SMALL = st.integers(0, 3)
NUMBERS = st.integers(0, 4)
STAGES: Any = st.sampled_from(["resting", "working", "waiting", "needs_credentials"])


@st.composite
def stimuli(draw: st.DrawFn, at: float = 1.0) -> Stimulus:
    """Return any stimulus, also such as cannot come here and now."""
    kind = draw(st.sampled_from(STIMULI))
    life = Life(SESSION, PATIENCE)
    life.start = draw(SMALL)
    number = draw(NUMBERS)
    made: Any = example(kind, life)
    match made:
        case Commanded():
            return Commanded(at, command(number), ticket(number))
        case Wanted():
            return Wanted(at, "x", ticket(number), draw(st.booleans()))
        case Greeted():
            return Greeted(at, number, 77, number, draw(STAGES))
        case Buried():
            return Buried(
                at,
                life.start,
                number,
                "crashed",
                "signal",
                restart_seconds=draw(st.sampled_from([None, 0.0, 1.0])),
                failed=draw(st.sampled_from([None, "often"])),
                deleted_by=draw(st.sampled_from([None, command(9, "delete").command_id])),
            )
        case LeaveAsked():
            return LeaveAsked(at, "x", 1.0, force=draw(st.booleans()), ticket=ticket(number))
        case WasAccepted():
            return WasAccepted(at, CommandId(f"c{number}"), 3)
        case WasSettled():
            return WasSettled(at, settled(number))
        case _:
            return made  # type: ignore[no-any-return]


def spawns(effects: Iterable[Effect]) -> int:
    return sum(isinstance(effect, Spawn) for effect in effects)


@settings(max_examples=150, deadline=None)
@given(st.lists(stimuli(), max_size=60))
def test_p3_no_list_of_stimuli_makes_two_live_owners(happened: list[Stimulus]) -> None:
    """Between two starts the first is buried, or never came to be, whatever comes in what order."""
    life = Life(SESSION, PATIENCE)
    unburied = 0
    for stimulus in happened:
        buried = isinstance(stimulus, Buried | NotSpawned) and stimulus.start == life.start
        try:
            effects = step(life, stimulus)
        except Bug:
            continue
        if buried and life.story and life.story[-1].stimulus in {"Buried", "NotSpawned"}:
            unburied = 0
        unburied += spawns(effects)
        assert unburied <= 1, "\n".join(map(str, life.story))


@settings(max_examples=150, deadline=None)
@given(st.lists(stimuli(), max_size=60))
def test_nobody_is_forgotten_where_nothing_can_happen_any_more(happened: list[Stimulus]) -> None:
    life = Life(SESSION, PATIENCE)
    for stimulus in happened:
        try:
            step(life, stimulus)
        except Bug:
            continue
        if life.stage in {Stage.COLD, Stage.FAILED, Stage.DELETED}:
            assert not life.waiting_up
            assert not life.waiting_gone
            assert life.queue.is_empty
            assert not life.has_room


class World:
    """Processes, a zygote and a lock as they can behave, around one life."""

    def __init__(self) -> None:
        self.life = Life(SESSION, PATIENCE)
        self.asked: list[int] = []
        self.alive: set[int] = set()
        self.exited: set[int] = set()
        self.burials: list[Bury] = []
        self.seeking = 0
        self.generation = 0

    def take(self, stimulus: Stimulus) -> None:
        for effect in step(self.life, stimulus):
            match effect:
                case Spawn():
                    assert not self.alive, f"{self.alive} lives: {list(map(str, self.life.story))}"
                    assert not self.asked
                    self.asked.append(effect.start)
                case Bury():
                    self.burials.append(effect)
                    assert len(self.burials) == 1, "one burial at a time"
                case SeekRoom():
                    self.seeking = 1
                case GiveBackRoom():
                    self.seeking = 0
                case _:
                    pass

    def happens(self, what: str, number: int) -> None:  # noqa: C901, PLR0912 - one arm each
        at, life = 1.0, self.life
        match what:
            case "want":
                self.take(Wanted(at, "x", ticket(number), reset=number == 0))
            case "command":
                self.take(Commanded(at, command(number), ticket(number)))
            case "leave":
                self.take(LeaveAsked(at, "x", 1.0, force=number > 1, ticket=ticket(number)))
            case "shutdown":
                asked = LeaveAsked(at, "shutdown", 1.0, ticket=ticket(number), is_final=True)
                self.take(asked)
            case "delete":
                self.take(DeleteAsked(at, command(9, "delete"), 1.0, ticket(number)))
            case "timer":
                if life.deadline is not None:
                    self.take(TimerFired(life.deadline))
            case "room" if self.seeking:
                self.seeking = 0
                self.take(RoomGiven(at) if number else RoomRefused(at, CapacityExceeded("full")))
            case "fork" if self.asked:
                start = self.asked.pop()
                if number == 0:
                    self.take(NotSpawned(at, start, ZygoteBroke("no fork")))
                else:
                    self.alive.add(start)
                    self.take(Spawned(at, start, 100 + start))
            case "greet" if self.alive:
                start = max(self.alive)
                if start == life.start:
                    self.generation += 1
                    self.take(Greeted(at, self.generation, 100 + start, 2, "resting"))
            case "busy" if self.alive:
                self.take(WasBusy(at, "x"))
            case "bye" if self.alive:
                self.take(SaidBye(at, "x", 3))
            case "die" if self.alive:
                start = self.alive.pop()
                self.take(Exited(at, start))
            case "bury" if self.burials:
                bury = self.burials.pop()
                if self.alive:
                    self.take(NotBuried(at, bury.start, OwnerStuck("held", pid=1), 1))
                    return
                deleted = None if bury.delete is None else bury.delete.command_id
                again = None if bury.is_asked or number == 0 else float(number - 1)
                failed = "often" if number == 4 and not deleted else None
                self.take(
                    Buried(
                        at, bury.start, 3, "crashed", "signal", again, failed, deleted_by=deleted
                    )
                )
            case _:
                pass


HAPPENINGS = st.sampled_from(
    "want command leave shutdown delete timer room fork greet busy bye die bury".split()  # noqa: SIM905
)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(HAPPENINGS, NUMBERS), max_size=80))
def test_p3_in_a_world_with_a_lock_no_worker_is_started_while_another_lives(
    happened: list[tuple[str, int]],
) -> None:
    world = World()
    for what, number in happened:
        world.happens(what, number)
    # Whatever happened, a world in which everything ends in time brings the life to an end, too.
    for _ in range(40):
        for what in ("room", "fork", "greet", "die", "bury"):
            world.happens(what, 1)
        world.happens("shutdown", 3)
        if world.life.stage in {Stage.COLD, Stage.FAILED, Stage.DELETED}:
            break
        world.happens("timer", 0)
    assert world.life.stage in {Stage.COLD, Stage.FAILED, Stage.DELETED}
    assert not world.alive


# --- leaving in the midst of something ---


def test_a_suspension_while_backing_off_is_written_into_the_file() -> None:
    life = in_stage(Stage.BACKING_OFF)
    effects = step(life, LeaveAsked(3.0, "asked", 10.0, ticket=ticket(5)))
    (bury,) = [effect for effect in effects if isinstance(effect, Bury)]
    assert (bury.is_asked, bury.leave_reason, bury.pid) == (True, "asked", None)
    assert not [effect for effect in effects if isinstance(effect, Reply)]
    effects = step(life, Buried(3.1, life.start, 5, "crashed", "signal"))
    assert Reply(ticket(5), {"was_live": True}) in effects
    assert life.stage is Stage.COLD


def test_a_worker_that_left_by_itself_with_work_is_followed_by_the_next() -> None:
    life = lived()
    play(life, SaidBye(3.0, "suspended", 9), Exited(3.1, 1))
    effects = step(life, Buried(3.2, 1, 9, "suspended", "agent_stuck", restart_seconds=0.0))
    assert [effect for effect in effects if isinstance(effect, Spawn)]
    assert life.stage is Stage.STARTING


def test_a_worker_that_was_asked_to_leave_is_not_followed_by_the_next() -> None:
    life = lived()
    play(life, LeaveAsked(2.0, "asked", 10.0), SaidBye(3.0, "suspended", 9), Exited(3.1, 1))
    step(life, Buried(3.2, 1, 9, "suspended", "asked", restart_seconds=0.0))
    assert life.stage is Stage.COLD


# --- versions ---


def test_a_worker_of_another_protocol_is_left_alone_as_long_as_it_greets() -> None:
    life = Life(SESSION, PATIENCE)
    play(life, FoundAlive(1.0, 77, 10.0), Commanded(2.0, command(1), ticket(1)))
    for at in range(5, 500, 5):
        assert step(life, GreetedInAnotherVersion(float(at), life.start)) == []
        assert life.deadline is not None
        assert life.deadline > at + 5
    effects = play(life, Exited(500.0, life.start))
    assert [type(effect) for effect in effects] == [Bury]
    effects = step(life, Buried(500.1, life.start, 9, "suspended", "orphaned"))
    assert [effect for effect in effects if isinstance(effect, Spawn)]


def test_a_worker_of_another_protocol_that_falls_silent_is_ended() -> None:
    life = Life(SESSION, PATIENCE)
    play(life, FoundAlive(1.0, 77, 10.0), GreetedInAnotherVersion(5.0, 1))
    assert life.deadline is not None
    effects = step(life, TimerFired(life.deadline))
    assert [type(effect) for effect in effects] == [Kill]
