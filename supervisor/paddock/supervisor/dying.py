"""Transitions: a worker died; after its burial the session rests, starts again, or fails. Pure."""

from paddock.supervisor.errors import HostGone
from paddock.supervisor.life import KILL_WAIT_SECONDS, Life, is_left_down, was_deleted
from paddock.supervisor.stimuli import (
    Buried,
    Commanded,
    DeleteAsked,
    Exited,
    Kill,
    LeaveAsked,
    NotBuried,
    Notify,
    Stayed,
    TimerFired,
    Wanted,
)


def died(life: Life, stimulus: Exited) -> None:
    """Death is proven; what follows has its order."""
    life.owes_news = True
    life.bury(stimulus.at)


def buried(life: Life, stimulus: Buried) -> None:
    """The certificate is durable: rest, start again, or be left down."""
    life.head = max(life.head, stimulus.head)
    life.pid = life.error = None
    for answer in stimulus.answers:  # durable, and the worker that was to tell it is dead
        life.settle(answer)
    life.is_found = False  # till here: a burial that failed is tried again as what it was
    if stimulus.deleted_by is not None:
        life.end(stimulus.deleted_by)
        return
    if life.deletion is not None:
        life.bury(stimulus.at)  # asked for after the burial had begun
        return
    if stimulus.restart_seconds is not None and _rests_instead(life):
        life.bury(stimulus.at)  # asked for after the burial had begun: it is written down, too
        return
    if stimulus.ending == "crashed" and life.owes_news:
        life.owes_news = False
        detail: dict[str, object] = {"generation": life.generation, "reason": stimulus.reason}
        life.do(Notify("died", detail))
    life.tell_gone({"was_live": True})
    if stimulus.failed is not None:
        life.fail(is_left_down(life.session_id, stimulus.failed))
        return
    leaving, life.leaving = life.leaving, None
    was_asked = leaving is not None and not leaving.is_own
    if leaving is not None and leaving.is_final:
        life.refuse_all(HostGone("the host ends: ask again when it is back, by the same id"))
        life.is_wanted = False
    is_wanted = life.is_wanted or not life.queue.is_empty
    if is_wanted or (stimulus.restart_seconds is not None and not was_asked):
        if was_asked:
            life.do(Stayed())  # it keeps its room: who waits for that is to ask anew
        life.start_again(stimulus)
        return
    if leaving is not None:
        life.do(Notify("suspended", {"reason": stimulus.reason}))
    life.rest()


def _rests_instead(life: Life) -> bool:
    """Whether it was asked to leave and nobody wants it: it is not started again."""
    if life.leaving is None or life.leaving.is_own or life.is_buried_as_asked:
        return False  # or the burial knew it already
    return life.leaving.is_final or (not life.is_wanted and life.queue.is_empty)


def not_buried(life: Life, stimulus: NotBuried) -> None:
    """Somebody holds the lock still (stuck), or the file is damaged (failed)."""
    if stimulus.is_final:
        if life.deletion is not None and not life.is_buried_to_delete:
            life.bury(stimulus.at)  # asked for after the burial had begun: that needs no file
            return
        life.do(Notify("damaged", {"reason": stimulus.error.message}))
        life.tell_gone_error(stimulus.error)
        life.deletion = None
        life.fail(stimulus.error)
        return
    life.pid = stimulus.pid
    life.be_stuck(stimulus.at, stimulus.error)


def backed_off(life: Life, stimulus: TimerFired) -> None:
    """It has waited long enough."""
    life.seek_or_spawn(stimulus.at)


def start_late(life: Life, stimulus: TimerFired) -> None:
    """No Hello in time: kill it; if that does nothing, the kernel has it."""
    if life.cause is None:
        life.kill(stimulus.at, "start_timeout", wants_stacks=True)
    elif life.pid is None:
        # The fork was not answered yet: a next start now might come beside a late worker.
        life.deadline = stimulus.at + KILL_WAIT_SECONDS
    else:
        life.be_stuck(stimulus.at)


def try_again(life: Life, stimulus: TimerFired) -> None:
    """Look whether the one who holds it is gone."""
    if life.cause is not None:
        life.do(Kill(life.start, life.cause))
    life.bury(stimulus.at)


def refuse_stuck(life: Life, stimulus: Wanted | Commanded | LeaveAsked | DeleteAsked) -> None:
    """Nothing can be done for it now; the answer says why."""
    life.refuse(stimulus.ticket, life.failure())


def refuse_deleted(life: Life, stimulus: Wanted | Commanded | LeaveAsked) -> None:
    """It is no more."""
    life.refuse(stimulus.ticket, was_deleted(life.session_id))
