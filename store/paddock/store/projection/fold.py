"""What the rows of a log add up to in the views: a pure function of rows in order.

:class:`Folded` is one session as far as it can still change: its row of ``sessions``, its open
entities, and what the next event needs. :func:`apply` takes rows of the log and adds what is closed
by them to :class:`Batch`. It reads payloads as they are and not as models, since a catch-up
takes 50,000 events a second and more: a field that is missing is None, and a kind that a newer
Paddock wrote is a row of ``events`` and nothing else. What each kind changes stands in ``lives``,
``turns`` and ``calls``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from paddock.store.events import Row
from paddock.store.projection import calls, lives, turns
from paddock.store.projection.folded import Batch, Folded, Take
from paddock.store.projection.host_log import HostRow
from paddock.store.upcast import upcast

# Kinds that tell of the worker's life and nothing of what the session does.
_NO_ACTIVITY = frozenset(
    {
        "worker_started",
        "worker_exited",
        "session_suspended",
        "session_resumed",
        "session_failed",
        "workspace_changed",
        "mcp_server_changed",
    }
)
# Kinds whose columns say all that is asked here, so that their payload need not be read.
_BARE = frozenset(
    {
        "assistant_message_interrupted",
        "budget_exceeded",
        "conversation_head_changed",
        "session_deleted",
        "session_resumed",
        "tool_call_started",
    }
)
_NOTHING: dict[str, Any] = {}

_TAKES: Mapping[str, Take] = {**lives.TAKES, **turns.TAKES, **calls.TAKES}
"""What each kind does; kinds that are not here show in ``events`` and nowhere else."""


def apply(folded: Folded, rows: Sequence[Row], batch: Batch) -> None:
    """Take the next rows of a session's log in.

    Raises:
        ValueError: A payload is no JSON; ``folded`` and ``batch`` are of no use any more.
        KeyError, TypeError, AttributeError: One is not of the form of its kind; likewise.
    """
    # The hottest loop of a catch-up: what the last row decides is written once, behind it.
    session_id, session = folded.session_id, folded.session
    add_event, take_of = batch.events.append, _TAKES.get
    position, size = batch.position, 0
    active_at, generation = session["last_activity_at"], session["generation"]
    row = None
    for row in rows:
        sequence, started, at, kind, operation, message, call, command, text, _ = row
        position += 1
        size += len(text)
        add_event(
            (
                position,
                session_id,
                sequence,
                started,
                at,
                kind,
                operation,
                message,
                call,
                command,
                text,
            )
        )
        if started > generation:
            generation = session["generation"] = started
        if kind not in _NO_ACTIVITY:
            active_at = at
        take = take_of(kind)
        if take is not None:
            take(folded, row, _NOTHING if kind in _BARE else upcast(kind, from_json(text)), batch)
            generation = session["generation"]
    if row is not None:
        batch.position = position
        batch.size_bytes += size
        folded.sequence = row.sequence
        folded.hash = row.hash
        session["updated_at"] = row.occurred_at
        session["last_activity_at"] = active_at


def apply_host(folded: Folded, row: HostRow, batch: Batch) -> None:
    """Take the next event of the host's own log in: it shows in ``host_events`` alone."""
    folded.sequence = row.number
    batch.size_bytes += len(row.detail)
    batch.host_events.append((row.epoch, row.at, row.kind, row.subject, row.detail))
