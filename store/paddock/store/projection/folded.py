"""One session as far as it can still change, and the rows that are closed for good.

:class:`Folded` is what the fold keeps of a session between two batches: its row of ``sessions``,
its open entities, and what the next event needs. :class:`Batch` gathers what is to be written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from pydantic_core import from_json, to_json

from paddock.store.events import Row
from paddock.store.projection import schema

HOST = schema.HOST


type Values = dict[str, Any]
"""A row of a view in the making; times are microseconds since 1970."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    view.name: tuple(column.name for column in view.columns if column.stored)
    for view in schema.VIEWS
}
EMPTY: Mapping[str, Values] = {view: dict.fromkeys(names) for view, names in _NAMES.items()}
ROW_OF: Mapping[str, Callable[[Values], tuple[Any, ...]]] = {
    view: itemgetter(*names) for view, names in _NAMES.items()
}


@dataclass(slots=True)
class Memory:
    """What the fold of a session remembers besides what its views show."""

    head: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted_input_calls: int = 0
    uncounted_output_calls: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0
    failed_at: int | None = None
    deleted: bool = False
    budget_at: int | None = None
    credentials_at: int | None = None


@dataclass(slots=True)
class Folded:
    """One session, up to ``sequence``."""

    session_id: str
    sequence: int = 0
    hash: bytes = b""
    session: Values = field(default_factory=dict)
    operations: dict[str, Values] = field(default_factory=dict)
    model_calls: dict[str, Values] = field(default_factory=dict)
    tool_calls: dict[str, Values] = field(default_factory=dict)
    approvals: dict[str, Values] = field(default_factory=dict)
    worker_runs: dict[str, Values] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        """Begin with a row in which nothing is known."""
        if not self.session:
            self.session = {
                **EMPTY["sessions"],
                "session_id": self.session_id,
                "status": "suspended",
                "stage": "resting",
                "labels": {},
                "generation": 0,
                "message_count": 0,
                "input_tokens": 0,
                "output_tokens": 0,
                "cost_usd": 0.0,
            }


@dataclass(slots=True)
class Batch:
    """Rows to add to the tables, in their columns' order, and sessions whose thread changed."""

    position: int = 0
    """Of the last event that was projected."""
    events: list[tuple[Any, ...]] = field(default_factory=list)
    messages: list[tuple[Any, ...]] = field(default_factory=list)
    operations: list[tuple[Any, ...]] = field(default_factory=list)
    model_calls: list[tuple[Any, ...]] = field(default_factory=list)
    tool_calls: list[tuple[Any, ...]] = field(default_factory=list)
    approvals: list[tuple[Any, ...]] = field(default_factory=list)
    worker_runs: list[tuple[Any, ...]] = field(default_factory=list)
    file_changes: list[tuple[Any, ...]] = field(default_factory=list)
    compactions: list[tuple[Any, ...]] = field(default_factory=list)
    annotations: list[tuple[Any, ...]] = field(default_factory=list)
    host_events: list[tuple[Any, ...]] = field(default_factory=list)
    branched: dict[str, str] = field(default_factory=dict)
    """Session to head: whose ``on_active_thread`` has to be worked out anew."""
    size_bytes: int = 0


type Take = Callable[[Folded, Row, Values, Batch], None]
"""How one kind of event is taken in: what it changes, its row, its payload, what it closes."""


_OPEN = ("operations", "model_calls", "tool_calls", "approvals", "worker_runs")


type State = tuple[str, int, bytes, str | None, str | None, str]
"""A row of ``internal.state``."""


def dump(folded: Folded) -> State:
    """Return the session's row of ``internal.state``; call :func:`summarize` before."""
    opened = {name: list(rows.values()) for name in _OPEN if (rows := getattr(folded, name))}
    memory = folded.memory
    return (
        folded.session_id,
        folded.sequence,
        folded.hash,
        None if folded.session_id == HOST else to_json(folded.session).decode(),
        to_json(opened).decode() if opened else None,
        to_json({name: getattr(memory, name) for name in Memory.__slots__}).decode(),
    )


def load(row: State) -> Folded:
    """Return the session of its row of ``internal.state``."""
    session_id, sequence, digest, session, opened, memory = row
    folded = Folded(session_id, sequence, digest, from_json(session) if session else {})
    folded.memory = Memory(**from_json(memory))
    for name, rows in (from_json(opened) if opened else {}).items():
        key = _KEYS[name]
        getattr(folded, name).update({str(values[key]): values for values in rows})
    return folded


_KEYS = {
    "operations": "operation_id",
    "model_calls": "model_call_id",
    "tool_calls": "tool_call_id",
    "approvals": "approval_id",
    "worker_runs": "generation",
}


def summarize(folded: Folded) -> None:
    """Bring the session's own row up to its last event: what follows from all the rest."""
    session, memory = folded.session, folded.memory
    session["last_sequence"] = folded.sequence
    session["input_tokens"] = None if memory.uncounted_input_calls else memory.input_tokens
    session["output_tokens"] = None if memory.uncounted_output_calls else memory.output_tokens
    session["cost_usd"] = None if memory.unpriced_calls else memory.cost_usd
    # What a failed session left open is taken up again when that is freed; until then it ended.
    at_work = {} if memory.failed_at is not None else folded.operations
    session["open_operation_id"] = next(iter(at_work), None)
    if memory.deleted:
        session["status"] = "deleted"
    elif memory.failed_at is not None:
        session["status"] = "failed"
    else:
        session["status"] = "live" if folded.worker_runs else "suspended"
    asked = [values["requested_at"] for values in folded.approvals.values()]
    if asked and at_work:
        session["stage"] = "waiting"
    else:
        session["stage"] = "working" if at_work else "resting"
    session["attention"], session["waiting_since"] = _attention(memory, asked)


def _attention(memory: Memory, asked: list[int]) -> tuple[str | None, int | None]:
    if memory.deleted:
        return None, None
    if memory.failed_at is not None:
        return "failed", memory.failed_at
    if asked:
        return "approval", min(asked)
    if memory.budget_at is not None:
        return "budget", memory.budget_at
    if memory.credentials_at is not None:
        return "credentials", memory.credentials_at
    return None, None
