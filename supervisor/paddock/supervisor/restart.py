"""When a dead worker is started again, and when no more: one pure rule over the log's own record.

The budget is counted from the ``worker_exited`` events of the log, so it holds over restarts of the
host (F7). Two limits: ``restarts`` crashes without progress in between, and ``restarts_an_hour`` in
any case. The first restart comes at once; the later ones wait, twice as long each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from paddock.store.session import Exit

HOUR_US = 3_600_000_000

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
JITTER = 0.2
"""A wait is up to a fifth longer, so that many sessions felled at once do not come back at once."""

CONFIGURATION_EXIT_CODE = 64
"""A worker that cannot run as it is configured leaves with it (``session_worker.exits``)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How often a worker may be started again."""

    restarts: int = 3
    restarts_an_hour: int = 20


@dataclass(frozen=True, slots=True)
class Again:
    """Start it, after so long."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class NoMore:
    """Leave it down; ``reason`` is for people, ``error_kind`` for programs."""

    reason: str
    error_kind: str


type Verdict = Again | NoMore


def decide(
    exits: Sequence[Exit], *, progress: int, reset: int, at_us: int, chance: float, budget: Budget
) -> Verdict:
    """Return whether the last of ``exits``, a crash, is followed by another start.

    ``exits`` come oldest first, as the fold keeps them; ``progress`` and ``reset`` are the
    sequences of the last real progress and of the last ``resume --reset``; ``at_us`` is UTC
    microseconds and ``chance`` lies in [0, 1).
    """
    counted = [exit_ for exit_ in exits if exit_.ending == "crashed" and exit_.sequence > reset]
    if not counted:
        return Again(0.0)
    last = counted[-1]
    if last.reason == "configuration":
        return NoMore("it cannot run as it is configured", "configuration")
    in_the_hour = [exit_ for exit_ in counted if exit_.occurred_at > at_us - HOUR_US]
    if len(in_the_hour) > budget.restarts_an_hour:
        reason = f"{len(in_the_hour)} crashes within an hour ({_kinds(in_the_hour)})"
        return NoMore(reason, "restarts_an_hour")
    fruitless = [exit_ for exit_ in counted if exit_.sequence > progress and not _was_idle(exit_)]
    if len(fruitless) > budget.restarts:
        reason = f"{len(fruitless)} crashes without progress between ({_kinds(fruitless)})"
        return NoMore(reason, "restarts")
    return Again(wait_seconds(len(fruitless), chance))


def wait_seconds(crashes: int, chance: float) -> float:
    """Return how long to wait before the start after so many crashes without progress."""
    if crashes <= 1:
        return 0.0
    plain = min(FIRST_WAIT_SECONDS * 2.0 ** (crashes - 2), LONGEST_WAIT_SECONDS)
    return plain * (1.0 + JITTER * chance)


def action_of(verdict: Verdict) -> str:
    """Return the word for it in the certificate."""
    match verdict:
        case Again():
            return "restarted"
        case NoMore():
            return "left_down"
        case _:
            assert_never(verdict)


def _was_idle(exit_: Exit) -> bool:
    """Whether the worker was ready and had nothing to do: whatever felled it, it was not its work.

    Such a death counts against the hour alone; there was no progress to make.
    """
    return exit_.last_stage in {"resting", "waiting", "needs_credentials"} and not (
        exit_.struck_operation_id or exit_.struck_command_ids or exit_.struck_calls
    )


def _kinds(exits: Sequence[Exit]) -> str:
    """Return the reasons with their counts: ``3 signal, 1 hang``."""
    reasons = [exit_.reason for exit_ in exits]
    return ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
