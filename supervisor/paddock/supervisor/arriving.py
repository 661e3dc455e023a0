"""Transitions: a session is wanted, gets a room, a process, a greeting. Pure."""

from paddock.store.errors import TimedOut
from paddock.supervisor.life import GREETS_WITHIN_SECONDS, LEAVE_SHARE, START_AGAIN_SECONDS, Life
from paddock.supervisor.stimuli import (
    AskToLeave,
    Commanded,
    Deliver,
    FoundAlive,
    FoundOpen,
    Greeted,
    GreetedInAnotherVersion,
    Kill,
    Notify,
    NotSpawned,
    RoomGiven,
    RoomRefused,
    Spawned,
    Stage,
    TakeRoom,
    TimerFired,
    Wanted,
)


def want(life: Life, stimulus: Wanted) -> None:
    """Somebody wants it live: note who, and go for a room if it has none."""
    note_wanted(life, stimulus)
    if stimulus.has_room:
        life.has_room = True
    life.seek_or_spawn(stimulus.at)


def note_wanted(life: Life, stimulus: Wanted) -> None:
    """Note who waits for it to be live; it is under way."""
    life.last_active_at = stimulus.at
    life.why, life.is_wanted = stimulus.why, True
    life.reset = life.reset or stimulus.reset
    if stimulus.ticket is not None:
        life.waiting_up.append(stimulus.ticket)


def want_again(life: Life, stimulus: Wanted) -> None:
    """Backing off: only a reset makes it come sooner."""
    note_wanted(life, stimulus)
    if stimulus.reset:
        life.seek_or_spawn(stimulus.at)


def want_failed(life: Life, stimulus: Wanted) -> None:
    """A failed session comes back only by a reset."""
    if not stimulus.reset:
        life.refuse(stimulus.ticket, life.failure())
        return
    want(life, stimulus)


def is_up(life: Life, stimulus: Wanted) -> None:
    """It is live already."""
    life.last_active_at = stimulus.at
    if stimulus.ticket is not None:
        life.reply(stimulus.ticket, {"was_live": True, "generation": life.generation})


def wake_for(life: Life, stimulus: Commanded) -> None:
    """A command to a session at rest starts it."""
    if life.enqueue(stimulus):
        life.why = f"command {stimulus.command.verb}"
        life.seek_or_spawn(stimulus.at)


def room_given(life: Life, stimulus: RoomGiven) -> None:
    """There is room: start it."""
    life.has_room = True
    life.spawn(stimulus.at)


def room_refused(life: Life, stimulus: RoomRefused) -> None:
    """There is none: whoever waits is told why."""
    life.refuse_all(stimulus.error)
    _start_later_or_rest(life, stimulus.at)


def no_room_in_time(life: Life, stimulus: TimerFired) -> None:
    """Nobody made room in time."""
    seconds = life.patience.room_seconds
    message = f"no session made room within {seconds:g} s: suspend one, or ask again"
    life.refuse_all(TimedOut(message, seconds=seconds))
    _start_later_or_rest(life, stimulus.at)


def still_no_room(life: Life, _: RoomRefused) -> None:
    """Its place in the line is gone; it asks again when its time comes."""


def _start_later_or_rest(life: Life, at: float) -> None:
    """What was cut off is started again sooner or later; a start that was only asked for is not."""
    if life.owes_start:
        life.stage = Stage.BACKING_OFF
        life.deadline = at + START_AGAIN_SECONDS
    else:
        life.rest_as_before()


def spawned(life: Life, stimulus: Spawned) -> None:
    """Its process is there; Hello comes next."""
    life.pid = stimulus.pid
    life.deadline = stimulus.at + life.patience.start_seconds
    if life.cause is not None:  # it was to be killed before it was there
        life.do(Kill(life.start, life.cause))


def not_spawned(life: Life, stimulus: NotSpawned) -> None:
    """The host could not fork: there is no process, and nothing of it counts as a crash."""
    life.refuse_all(stimulus.error)
    if life.leaving is not None or life.deletion is not None:
        life.bury(stimulus.at)  # what was asked for meanwhile is carried out there
    else:
        _start_later_or_rest(life, stimulus.at)


def found_alive(life: Life, stimulus: FoundAlive) -> None:
    """A worker of an earlier supervisor lives: it has some time to greet."""
    life.begin_start(stimulus.at, stimulus.patience_seconds)
    life.pid = stimulus.pid
    life.has_room = True
    life.do(TakeRoom())


def found_open(life: Life, stimulus: FoundOpen) -> None:
    """Its last worker died unseen, or left something undone."""
    life.start += 1
    life.pid = life.generation = None
    life.is_found = life.owes_news = True
    life.bury(stimulus.at)


def greeted(life: Life, stimulus: Greeted) -> None:
    """The worker is there: hand it what waits, tell who waits for it."""
    life.note_greeting(stimulus)
    if not life.has_room:
        life.has_room = True
        life.do(TakeRoom())
    if life.deletion is not None:
        life.cause = "deleted"
        life.do(Kill(life.start, "deleted"))
        return
    life.be_live(stimulus.at)
    life.is_wanted = life.reset = life.owes_start = False
    for ticket in life.waiting_up:
        life.reply(ticket, {"was_live": False, "generation": life.generation})
    life.waiting_up = []
    life.do(Notify("live", {"generation": life.generation}))
    if life.leaving is not None:
        life.ask_to_leave(life.leaving, stimulus.at)
        return
    life.deliver(life.queue.hand_over_again(stimulus.unanswered))


def greeted_in_another_version(life: Life, stimulus: GreetedInAnotherVersion) -> None:
    """It is alive, of another version: it goes on with its work and rests by itself, unwelcomed.

    What is asked of it meanwhile waits for the worker after it. As long as it greets it is left
    alone; one that falls silent is judged like any that does not come up.
    """
    if life.cause is None:
        life.was_live = True
        life.deadline = stimulus.at + GREETS_WITHIN_SECONDS


def greeted_unasked(life: Life, stimulus: Greeted) -> None:
    """A worker of an earlier supervisor that nobody knew of: it owns the file, so it is it."""
    life.begin_start(stimulus.at, life.patience.start_seconds)
    greeted(life, stimulus)


def greeted_again(life: Life, stimulus: Greeted) -> None:
    """The same worker on a new connection: what was on the way may be lost, so say it again."""
    life.note_greeting(stimulus)
    life.deliver(life.queue.hand_over_again(stimulus.unanswered))


def greeted_while_leaving(life: Life, stimulus: Greeted) -> None:
    """The same worker on a new connection: it is asked to leave again."""
    life.note_greeting(stimulus)
    if life.deletion is not None:
        life.do(Deliver(life.deletion.command))
    elif life.leaving is not None:
        left = max(0.0, (life.deadline or stimulus.at) - stimulus.at)
        life.do(AskToLeave(life.leaving.reason, left * LEAVE_SHARE, life.leaving.force))
