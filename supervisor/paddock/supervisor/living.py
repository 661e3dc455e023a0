"""Transitions: what a live worker says and is asked, and whether it still beats. Pure."""

from paddock.store.errors import PaddockError, Refused
from paddock.supervisor.life import BEAT_CHECKS, CALM_SHARE, WARN_SHARE, Life
from paddock.supervisor.stimuli import (
    Beaten,
    Commanded,
    CredentialsPut,
    Grew,
    Notify,
    SendCredentials,
    Stage,
    TimerFired,
    Touched,
    WasAccepted,
    WasNotAccepted,
    WasSettled,
    Weighed,
)


def command(life: Life, stimulus: Commanded) -> None:
    """A command for a live session."""
    if life.enqueue(stimulus):
        life.deliver(life.queue.hand_over())
        if life.fault is not None:
            life.refuse_waiting(life.fault)


def wait_in_queue(life: Life, stimulus: Commanded) -> None:
    """It goes to the next generation."""
    if life.enqueue(stimulus):
        life.why, life.is_wanted = f"command {stimulus.command.verb}", True


def beat(life: Life, stimulus: Beaten) -> None:
    """Take note of what it does, and that it beats."""
    life.has_beaten = True
    life.worker_stage, life.operation_id = stimulus.stage, stimulus.operation_id
    life.head = max(life.head, stimulus.head)
    life.peak_rss_bytes = max(life.peak_rss_bytes or 0, stimulus.rss_bytes) or None
    limit = life.memory_limit_bytes
    summed = 0 if limit is None else min(life.memory_bytes or 0, limit)  # see ``weighed``
    judge_memory(life, stimulus.at, max(stimulus.rss_bytes, summed))
    if stimulus.stage == "working":
        life.last_active_at = stimulus.at
    fault = stimulus.fault
    life.fault = None if fault is None else _coded(fault.code, fault.reason)
    if life.fault is not None:
        # The one in delivery was accepted, and its answer waits for the disk: those behind it
        # would wait with it, and nobody be told.
        life.refuse_waiting(life.fault)
    if life.is_live:
        needs = stimulus.stage == "needs_credentials"
        life.stage = Stage.NEEDS_CREDENTIALS if needs else Stage.LIVE


def weighed(life: Life, stimulus: Weighed) -> None:
    """Take note of what it uses with its tools, and hold that against its limit."""
    life.memory_bytes = stimulus.total_bytes
    life.peak_rss_bytes = max(life.peak_rss_bytes or 0, stimulus.total_bytes) or None
    limit, used = life.memory_limit_bytes, stimulus.total_bytes
    if limit is None:
        return
    was_over, life.is_over = life.is_over, used > limit
    # Above it once is only warned of: a call that outgrows its own limit is ended by its keeper
    # before the next look, and the session goes on.
    judge_memory(life, stimulus.at, used if was_over else min(used, limit))


def judge_memory(life: Life, at: float, used: int) -> None:
    """Warn who comes near its limit, once; kill who is above it."""
    limit = life.memory_limit_bytes
    if limit is None or life.cause is not None:
        return
    if used > limit:
        life.kill(at, "out_of_memory")
    elif used > limit * WARN_SHARE and not life.is_warned:
        life.is_warned = True
        life.do(Notify("memory", {"used_bytes": used, "limit_bytes": limit}))
    elif used < limit * CALM_SHARE:
        life.is_warned = False


def grew(life: Life, stimulus: Grew) -> None:
    """Its log has grown: that is activity, and a sign of life."""
    life.head = max(life.head, stimulus.head)
    life.last_active_at = stimulus.at
    life.has_beaten = True  # a commit tells that its loop runs, too


def touched(life: Life, stimulus: Touched) -> None:
    """Somebody uses it."""
    life.last_active_at = stimulus.at


def accepted(life: Life, stimulus: WasAccepted) -> None:
    """A command is durable: tell who waits for that."""
    result = {"command_id": stimulus.command_id, "sequence": stimulus.sequence}
    for ticket in life.queue.accepted(stimulus.command_id, stimulus.sequence, stimulus.digest):
        life.reply(ticket, result)


def settled(life: Life, stimulus: WasSettled) -> None:
    """A command has its answer: tell it, and hand over the next one."""
    life.last_active_at = stimulus.at
    life.settle(stimulus.answer)
    if life.is_live:
        life.deliver(life.queue.hand_over())


def not_accepted(life: Life, stimulus: WasNotAccepted) -> None:
    """A command was not taken in; nothing of it is stored."""
    pending = life.queue.settled(stimulus.command_id, stimulus.digest)
    error = _coded(stimulus.code, stimulus.reason)
    for ticket in pending.tickets if pending is not None else ():
        life.refuse(ticket, error)
    if life.is_live:
        life.deliver(life.queue.hand_over())


def check_beat(life: Life, stimulus: TimerFired) -> None:
    """Count the checks in a row without a beat; at the last of them it hangs."""
    if life.cause is not None:
        life.be_stuck(stimulus.at)
        return
    life.missed_beats = 0 if life.has_beaten else life.missed_beats + 1
    life.has_beaten = False
    if life.missed_beats >= BEAT_CHECKS:
        life.kill(stimulus.at, "hang", wants_stacks=True)
    else:
        life.deadline = stimulus.at + life.patience.hang_after_seconds / BEAT_CHECKS


def give_credentials(life: Life, _: CredentialsPut) -> None:
    """Hand on secrets that came while it lives."""
    life.do(SendCredentials())


class _Coded(Refused):
    """An error that a worker told by its code."""


def _coded(code: str, reason: str) -> PaddockError:
    error = _Coded(reason)
    error.code = code  # type: ignore[misc]  # the code is the worker's own, known only now
    return error
