"""Who is let in at the workers' door, and what a worker's word means for its life. Pure."""

from paddock.session_worker.protocol import (
    Accepted,
    Beat,
    BusyNow,
    Bye,
    Durable,
    FromWorker,
    Hello,
    NotAccepted,
    Refuse,
    Settled,
)
from paddock.supervisor.life import Life
from paddock.supervisor.stimuli import (
    Beaten,
    Greeted,
    Grew,
    SaidBye,
    Stage,
    Stimulus,
    WasAccepted,
    WasBusy,
    WasNotAccepted,
    WasSettled,
)

UNSTARTED = frozenset({Stage.COLD, Stage.SEEKING})
"""Where a worker of an earlier supervisor may turn up unasked."""


def why_not(
    word: Hello, life: Life | None, *, known_start: str | None, held_pid: int | None
) -> Refuse | None:
    """Return why a greeting is not answered with a welcome, or None.

    ``known_start`` is the start that the host counts as the session's last, ``held_pid`` the
    process that it holds for it. Token and sender of the word were checked before.
    """
    if life is None:
        return None
    if known_start is None and life.stage in UNSTARTED:
        return None
    if known_start is None and held_pid is not None and held_pid == word.pid:
        return None  # found alive by its lock, for a client that asked before it greeted
    if known_start == word.start_id and life.has_process:
        return None
    return Refuse(code="not_wanted", reason=f"the session is {life.stage}")


def adopted_start(life: Life) -> int:
    """Return which start a worker is that greets and is not held: a new one, or the present."""
    return life.start + 1 if life.stage in UNSTARTED else life.start


def greeted(word: Hello, at: float) -> Greeted:
    """Return a greeting that is welcome as what befalls the life."""
    return Greeted(
        at,
        word.generation,
        word.pid,
        word.head,
        word.stage,
        word.operation_id,
        word.unanswered,
    )


def meaning_of(word: FromWorker, at: float) -> Stimulus | None:
    """Return what a word of a worker that was welcomed means for its life; None: nothing."""
    match word:
        case Durable():
            return Grew(at, word.first + word.count - 1)
        case Beat():
            doing = (word.stage, word.head, word.operation_id)
            return Beaten(at, *doing, word.rss_bytes, word.fault)
        case Accepted():
            return WasAccepted(at, word.command_id, word.sequence, word.digest)
        case Settled():
            return WasSettled(at, word)
        case NotAccepted():
            return WasNotAccepted(at, word.command_id, word.code, word.reason, word.digest)
        case BusyNow():
            return WasBusy(at, word.reason)
        case Bye():
            return SaidBye(at, word.reason, word.head)
        case _:
            return None
