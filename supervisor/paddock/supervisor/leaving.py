"""Transitions: a session is suspended or deleted, asked first and killed at the deadline. Pure."""

from paddock.supervisor.errors import SessionNotActive
from paddock.supervisor.life import BEAT_CHECKS, KILL_SHARE, KILL_WAIT_SECONDS, Life
from paddock.supervisor.stimuli import (
    DeleteAsked,
    Deliver,
    LeaveAsked,
    SaidBye,
    Stage,
    Stayed,
    TimerFired,
    WasBusy,
)


def leave(life: Life, stimulus: LeaveAsked) -> None:
    """Ask it to leave; without force, only if nothing waits for it."""
    if not stimulus.force and not life.queue.is_empty:
        life.stay("commands wait for it", stimulus.ticket)
        return
    if stimulus.ticket is not None:
        life.waiting_gone.append(stimulus.ticket)
    life.ask_to_leave(stimulus, stimulus.at)


def leave_when_up(life: Life, stimulus: LeaveAsked) -> None:
    """It is just starting: it is asked as soon as it is there."""
    if stimulus.ticket is not None:
        life.waiting_gone.append(stimulus.ticket)
    life.leaving = stimulus


def leave_too(life: Life, stimulus: LeaveAsked) -> None:
    """It is leaving: whoever insists makes it leave in earnest."""
    if stimulus.ticket is not None:
        life.waiting_gone.append(stimulus.ticket)
    was_forced = life.leaving is None or life.leaving.force or life.deletion is not None
    if stimulus.force and not was_forced and life.cause is None:
        life.ask_to_leave(stimulus, stimulus.at)
    elif stimulus.is_final:
        life.leaving = stimulus


def leave_dead(life: Life, stimulus: LeaveAsked) -> None:
    """It is being buried: it is not started again."""
    leave_when_up(life, stimulus)
    life.is_wanted = False


def leave_unborn(life: Life, stimulus: LeaveAsked) -> None:
    """There is no process; whoever waits for one is told."""
    if life.owes_start:
        leave_backing_off(life, stimulus)
        return
    message = f"session {life.session_id!r} was suspended meanwhile: ask again"
    life.refuse_all(SessionNotActive(message, session_id=life.session_id))
    life.rest_as_before()
    is_gone(life, stimulus)


def leave_backing_off(life: Life, stimulus: LeaveAsked) -> None:
    """There is no process, but its file says that it is started again: the burial says it rests."""
    message = f"session {life.session_id!r} was suspended meanwhile: ask again"
    life.refuse_all(SessionNotActive(message, session_id=life.session_id))
    life.return_room()  # or the place in the line for one
    life.is_wanted = False
    leave_when_up(life, stimulus)
    life.start += 1
    life.pid = life.generation = None
    life.bury(stimulus.at)


def is_gone(life: Life, stimulus: LeaveAsked) -> None:
    """It has no process."""
    if stimulus.ticket is not None:
        life.reply(stimulus.ticket, {"was_live": False})


def busy(life: Life, stimulus: WasBusy) -> None:
    """It has work and was only asked: it stays, and gets what came meanwhile."""
    if life.leaving is None or life.leaving.force or life.deletion is not None:
        return
    life.leaving = None
    life.be_live(stimulus.at)
    gone, life.waiting_gone = life.waiting_gone, []
    for ticket in gone:
        life.stay(stimulus.reason, ticket)
    if not gone:
        life.do(Stayed())
    for ticket in life.waiting_up:
        life.reply(ticket, {"was_live": True, "generation": life.generation})
    life.waiting_up = []
    # Also what a worker before it, or a lost line, was handed: asked to leave as it greeted, it was
    # told of nothing.
    life.deliver(life.queue.hand_over_anew())


def bye(life: Life, stimulus: SaidBye) -> None:
    """It leaves of its own accord (nobody was there for long, its session was deleted)."""
    life.leaving = LeaveAsked(stimulus.at, stimulus.reason, KILL_WAIT_SECONDS, is_own=True)
    life.head = max(life.head, stimulus.head)
    life.stage = Stage.SUSPENDING
    life.deadline = stimulus.at + KILL_WAIT_SECONDS


def bye_while_leaving(life: Life, stimulus: SaidBye) -> None:
    """It closed its file; its death is next."""
    life.head = max(life.head, stimulus.head)


def not_gone(life: Life, stimulus: TimerFired) -> None:
    """It did not leave in time: kill it; if it is there still, say so.

    One that was only asked stays: whether it hangs is told by its beat.
    """
    is_asked = life.leaving is not None and not life.leaving.force and life.deletion is None
    if is_asked and life.cause is None:
        missed = 0 if life.has_beaten else life.missed_beats + 1
        busy(life, WasBusy(stimulus.at, "it did not answer in time"))
        # Who wants its room asks again at once: without a check here it is never judged.
        life.missed_beats, life.has_beaten = missed, False
        if missed >= BEAT_CHECKS:
            life.kill(stimulus.at, "hang", wants_stacks=True)
    elif life.cause is None:
        life.kill(stimulus.at, "suspend_timeout", wants_stacks=True)
        asked = life.deletion or life.leaving
        seconds = asked.deadline_seconds if asked is not None else KILL_WAIT_SECONDS
        life.deadline = stimulus.at + max(seconds * (1 - KILL_SHARE), 0.5)
    else:
        life.be_stuck(stimulus.at)


def delete_live(life: Life, stimulus: DeleteAsked) -> None:
    """The worker writes its own end; what it cannot, the supervisor does when it is gone."""
    life.note_deletion(stimulus)
    life.stage = Stage.SUSPENDING
    life.deadline = stimulus.at + stimulus.deadline_seconds * KILL_SHARE
    life.do(Deliver(stimulus.command))


def delete_starting(life: Life, stimulus: DeleteAsked) -> None:
    """A worker that has not begun is not needed for it."""
    life.note_deletion(stimulus)
    life.kill(stimulus.at, "deleted")


def delete_leaving(life: Life, stimulus: DeleteAsked) -> None:
    """It is on its way out already; the burial deletes."""
    life.note_deletion(stimulus)


def delete_cold(life: Life, stimulus: DeleteAsked) -> None:
    """There is no worker: the supervisor writes the end itself."""
    life.note_deletion(stimulus)
    life.return_room()  # or the place in the line for one
    life.start += 1
    life.pid = life.generation = None
    life.bury(stimulus.at)


def delete_again(life: Life, stimulus: DeleteAsked) -> None:
    """The same deletion again gets the same answer."""
    life.tell_deleted(stimulus)
