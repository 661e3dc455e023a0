"""How a generation begins and ends in the log, and what of a dead one is carried out again. Pure.

The worker's start (``main``) and its loop read and write what is said here.
"""

from paddock.session_worker.answers import read_command
from paddock.session_worker.protocol import Command
from paddock.session_worker.stimuli import Interpret
from paddock.store.events import (
    CommandAccepted,
    Ending,
    Event,
    SessionResumed,
    SessionSuspended,
    WorkerExited,
    WorkerStarted,
)
from paddock.store.session import Session


def may_begin(session: Session) -> bool:
    """Return whether a worker may live on this log: it is not deleted, and every death certified.

    Who may not leaves having written nothing (DESIGN §5).
    """
    return session.life.status != "deleted" and session.life.worker is None


def begins_with(
    session: Session, started: WorkerStarted, *, reason: str | None, reset: bool
) -> list[Event]:
    """Return what the first commit of a generation begins with."""
    if session.life.status in {"suspended", "failed"}:
        return [SessionResumed(reason=reason or "command", reset=reset), started]
    return [started]


def ends_with(exited: WorkerExited) -> list[Event]:
    """Return the last commit of a worker that leaves in good order."""
    if exited.ending == "suspended":
        return [SessionSuspended(reason=exited.reason), exited]
    return [exited]


def ending_word(ending: str) -> Ending:
    """Return the word of the certificate for why the engine ended."""
    return "suspended" if ending == "suspended" else "finished"


def interpretation(accepted: CommandAccepted) -> Interpret:
    """Return the carrying out of a command that a dead worker had accepted and not answered."""
    command = Command(
        command_id=accepted.command_id, verb=accepted.verb, arguments=accepted.arguments
    )
    return Interpret(accepted.command_id, read_command(command), accepted.by)
