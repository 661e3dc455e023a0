"""The life of one session's worker: a pure machine, stimulus in, effects out.

::

    cold ──Wanted, Commanded──► seeking ──RoomGiven──► starting ──Greeted──► live ◄──► needs_
     ▲ ▲                          │  ▲                    │  │               │ ▲     credentials
     │ └──────RoomRefused─────────┘  │ TimerFired         │  └─Exited─┐  Leave │ │ WasBusy
     │                               │                    │           │  Asked ▼ │
     │                          backing_off ◄─────────────┼──┐   ┌────┼── suspending
     │                                             Exited │  │   │    │      (and DeleteAsked)
     │  Buried, asked to leave                            ▼  │   ▼    ▼
     └─────────────────────────────────────────────────── burying ◄──────── stuck
                                   Buried, budget spent │    │ NotBuried ────► ▲
                                                        ▼    ▼ Buried, deleted
                                        Wanted(reset) failed  deleted
                                          └─► seeking

A session that owes a start and is asked to leave is buried once more, so that its log says that it
rests. Where no worker can be any more, nothing starts before ``burying`` is over: the dead one's
tools killed, its lock taken, its certificate durable (DESIGN §2). A start is numbered; what speaks
of an earlier one is late and changes nothing. ``TABLE`` says who handles what; what it does not
name is late (``LATE``) and passed over, or a fault of the caller and raised with the story of the
life.
"""

from collections.abc import Callable, Mapping
from typing import Any

from paddock.store.errors import Bug
from paddock.supervisor import arriving, dying, leaving, living
from paddock.supervisor.life import Life, Transition
from paddock.supervisor.stimuli import (
    Beaten,
    Buried,
    Commanded,
    CredentialsPut,
    DeleteAsked,
    Effect,
    Exited,
    FoundAlive,
    FoundOpen,
    Greeted,
    GreetedInAnotherVersion,
    Grew,
    LeaveAsked,
    NotBuried,
    NotSpawned,
    RoomGiven,
    RoomRefused,
    SaidBye,
    Spawned,
    Stage,
    Stimulus,
    TimerFired,
    Touched,
    Wanted,
    WasAccepted,
    WasBusy,
    WasNotAccepted,
    WasSettled,
    Weighed,
)


def step(life: Life, stimulus: Stimulus) -> list[Effect]:
    """Take in what happened; return what is to be done, in order.

    Raises:
        Bug: It cannot happen here. Nothing is changed; the message tells the story.
    """
    handle = TABLE[life.stage].get(type(stimulus))
    if handle is None:
        if isinstance(stimulus, LATE):
            return []
        story = "; ".join(map(str, life.story))
        name = type(stimulus).__name__
        message = f"{name} cannot happen while {life.stage} in {life.session_id}: {story}"
        raise Bug(message, session_id=life.session_id)
    if getattr(stimulus, "start", life.start) != life.start:
        return []
    before = life.stage
    life.effects = []
    handle(life, stimulus)
    effects = life.effects
    if before != life.stage or effects:
        names = tuple(type(effect).__name__ for effect in effects)
        name = type(stimulus).__name__
        life.story.append(Transition(stimulus.at, name, before, life.stage, names))
    return effects


LATE = (
    Spawned,
    NotSpawned,
    Greeted,
    GreetedInAnotherVersion,
    Beaten,
    Weighed,
    Grew,
    Touched,
    WasAccepted,
    WasSettled,
    WasNotAccepted,
    WasBusy,
    SaidBye,
    Exited,
    TimerFired,
    CredentialsPut,
)
"""What may arrive when it means nothing any more: messages, deaths, timers overtake each other."""

type Handler = Callable[[Life, Any], None]
type Row = dict[type, Handler]

_NEWS: Row = {
    # What a worker says is taken in wherever its words may still count.
    Beaten: living.beat,
    Weighed: living.weighed,
    Grew: living.grew,
    WasAccepted: living.accepted,
    WasSettled: living.settled,
    WasNotAccepted: living.not_accepted,
    Touched: living.touched,
}
_LIVE: Row = _NEWS | {
    Wanted: arriving.is_up,
    Commanded: living.command,
    LeaveAsked: leaving.leave,
    DeleteAsked: leaving.delete_live,
    Greeted: arriving.greeted_again,
    SaidBye: leaving.bye,
    Exited: dying.died,
    TimerFired: living.check_beat,
    CredentialsPut: living.give_credentials,
}

TABLE: Mapping[Stage, Row] = {
    Stage.COLD: {
        Wanted: arriving.want,
        Commanded: arriving.wake_for,
        LeaveAsked: leaving.is_gone,
        DeleteAsked: leaving.delete_cold,
        FoundAlive: arriving.found_alive,
        FoundOpen: arriving.found_open,
        Greeted: arriving.greeted_unasked,
    },
    Stage.SEEKING: {
        Wanted: arriving.note_wanted,
        Commanded: living.wait_in_queue,
        LeaveAsked: leaving.leave_unborn,
        DeleteAsked: leaving.delete_cold,
        RoomGiven: arriving.room_given,
        RoomRefused: arriving.room_refused,
        TimerFired: arriving.no_room_in_time,
        Greeted: arriving.greeted_unasked,
    },
    Stage.STARTING: {
        Wanted: arriving.note_wanted,
        Commanded: living.wait_in_queue,
        LeaveAsked: leaving.leave_when_up,
        DeleteAsked: leaving.delete_starting,
        Spawned: arriving.spawned,
        NotSpawned: arriving.not_spawned,
        Greeted: arriving.greeted,
        GreetedInAnotherVersion: arriving.greeted_in_another_version,
        Exited: dying.died,
        TimerFired: dying.start_late,
    },
    Stage.LIVE: _LIVE,
    Stage.NEEDS_CREDENTIALS: _LIVE,
    Stage.SUSPENDING: _NEWS
    | {
        Wanted: arriving.note_wanted,
        Commanded: living.wait_in_queue,
        LeaveAsked: leaving.leave_too,
        DeleteAsked: leaving.delete_leaving,
        Greeted: arriving.greeted_while_leaving,
        WasBusy: leaving.busy,
        SaidBye: leaving.bye_while_leaving,
        Exited: dying.died,
        TimerFired: leaving.not_gone,
    },
    Stage.BURYING: {
        Wanted: arriving.note_wanted,
        Commanded: living.wait_in_queue,
        LeaveAsked: leaving.leave_dead,
        DeleteAsked: leaving.delete_leaving,
        Buried: dying.buried,
        NotBuried: dying.not_buried,
        # Words that a dead worker had sent before, still in the socket.
        Grew: living.grew,
        WasAccepted: living.accepted,
        WasSettled: living.settled,
    },
    Stage.BACKING_OFF: {
        Wanted: arriving.want_again,
        Commanded: living.wait_in_queue,
        LeaveAsked: leaving.leave_backing_off,
        DeleteAsked: leaving.delete_cold,
        # From the line for a room that it stood in before.
        RoomGiven: arriving.room_given,
        RoomRefused: arriving.still_no_room,
        TimerFired: dying.backed_off,
    },
    Stage.STUCK: {
        Wanted: dying.refuse_stuck,
        Commanded: dying.refuse_stuck,
        LeaveAsked: dying.refuse_stuck,
        DeleteAsked: dying.refuse_stuck,
        Exited: dying.died,
        TimerFired: dying.try_again,
    },
    Stage.FAILED: {
        Wanted: arriving.want_failed,
        Commanded: dying.refuse_stuck,
        LeaveAsked: leaving.is_gone,
        DeleteAsked: leaving.delete_cold,
    },
    Stage.DELETED: {
        Wanted: dying.refuse_deleted,
        Commanded: dying.refuse_deleted,
        LeaveAsked: dying.refuse_deleted,
        DeleteAsked: leaving.delete_again,
    },
}
"""Who handles what in which stage."""
