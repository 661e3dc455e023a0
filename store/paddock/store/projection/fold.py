"""What the rows of a log add up to in the views: a pure function of rows in order.

:class:`Folded` is one session as far as it can still change: its row of ``sessions``, its open
entities, and what the next event needs. :func:`apply` takes rows of the log and adds what is closed
by them to :class:`Batch`. It reads payloads as they are and not as models, since a catch-up
takes 50,000 events a second and more: a field that is missing is None, and a kind that a newer
Paddock wrote is a row of ``events`` and nothing else.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from pydantic_core import from_json, to_json

from paddock.store.events import MOST_TOKENS, Row
from paddock.store.projection import schema
from paddock.store.projection.host_log import HostRow
from paddock.store.upcast import upcast

HOST = schema.HOST

type Values = dict[str, Any]
"""A row of a view in the making; times are microseconds since 1970."""

OUTPUT_HEAD_CHARACTERS = 2_000
ARGUMENT_CHARACTERS = 10_000
LONG_PAYLOAD = 65_536
SIGNATURE_CHARACTERS = 160

_NAMES: Mapping[str, tuple[str, ...]] = {
    view.name: tuple(column.name for column in view.columns if column.stored)
    for view in schema.VIEWS
}
_EMPTY: Mapping[str, Values] = {view: dict.fromkeys(names) for view, names in _NAMES.items()}
_ROW_OF: Mapping[str, Callable[[Values], tuple[Any, ...]]] = {
    view: itemgetter(*names) for view, names in _NAMES.items()
}

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
# Reasons of a rest from which only a client that has the secrets can wake the session.
_NEEDS_CREDENTIALS = frozenset({"needs_credentials", "credentials"})


@dataclass(slots=True)
class Memory:
    """What the fold of a session remembers besides what its views show."""

    head: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted_calls: int = 0
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
                **_EMPTY["sessions"],
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


def apply(folded: Folded, rows: Sequence[Row], batch: Batch) -> None:
    """Take the next rows of a session's log in.

    Raises:
        ValueError: A payload is no JSON; ``folded`` and ``batch`` are of no use any more.
        KeyError, TypeError, AttributeError: One is not of the form of its kind; likewise.
    """
    # The hottest loop of a catch-up: what the last row decides is written once, behind it.
    session_id, session = folded.session_id, folded.session
    add_event, take_of = batch.events.append, _TAKE.get
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


# --- what is kept between batches ---

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
    session["input_tokens"] = None if memory.uncounted_calls else memory.input_tokens
    session["output_tokens"] = None if memory.uncounted_calls else memory.output_tokens
    session["cost_usd"] = None if memory.unpriced_calls else memory.cost_usd
    session["open_operation_id"] = next(iter(folded.operations), None)
    if memory.deleted:
        session["status"] = "deleted"
    elif memory.failed_at is not None:
        session["status"] = "failed"
    else:
        session["status"] = "live" if folded.worker_runs else "suspended"
    asked = [values["requested_at"] for values in folded.approvals.values()]
    if asked:
        session["stage"] = "waiting"
    else:
        session["stage"] = "working" if folded.operations else "resting"
    session["attention"], session["waiting_since"] = _attention(memory, asked)


def _attention(memory: Memory, asked: list[int]) -> tuple[str | None, int | None]:
    if memory.deleted:
        return None, None
    if asked:
        return "approval", min(asked)
    if memory.failed_at is not None:
        return "failed", memory.failed_at
    if memory.budget_at is not None:
        return "budget", memory.budget_at
    if memory.credentials_at is not None:
        return "credentials", memory.credentials_at
    return None, None


# --- lifecycle ---


def _session_created(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    config = payload.get("config") or {}
    session = folded.session
    for name in (
        "name",
        "title",
        "agent_version",
        "project",
        "owner",
        "model",
        "workspace",
        "repo",
        "branch",
        "parent_session_id",
        "forked_from_sequence",
    ):
        session[name] = config.get(name)
    session["agent"] = config.get("agent", "builtin")
    session["source"] = config.get("source", "paddock")
    session["labels"] = config.get("labels") or {}
    session["commit_start"] = session["commit_end"] = config.get("commit")
    session["created_at"] = row.occurred_at


def _session_configured(folded: Folded, _row: Row, payload: Values, _batch: Batch) -> None:
    for name in ("name", "labels", "project", "owner"):
        if payload.get(name) is not None:
            folded.session[name] = payload[name]


def _session_titled(folded: Folded, _row: Row, payload: Values, _batch: Batch) -> None:
    folded.session["title"] = payload.get("title")


def _worker_started(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    memory = folded.memory
    memory.failed_at = memory.credentials_at = None
    folded.worker_runs[str(row.generation)] = {
        **_EMPTY["worker_runs"],
        "session_id": folded.session_id,
        "generation": row.generation,
        "pid": payload.get("pid"),
        "agent": payload.get("agent"),
        "paddock_version": payload.get("paddock_version"),
        "started_at": row.occurred_at,
        "ready_ms": payload.get("ready_ms"),
        "memory_limit_bytes": payload.get("memory_limit_bytes"),
    }
    if payload.get("agent_version") is not None:
        folded.session["agent_version"] = payload["agent_version"]


_CERTIFICATE = (
    "ending",
    "signal",
    "exit_code",
    "reason",
    "last_stage",
    "peak_rss_bytes",
    "cpu_seconds",
    "last_words",
    "stacks",
    "in_delivery_command_id",
)


def _worker_exited(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    generation = payload.get("worker_generation", row.generation)
    folded.session["generation"] = max(folded.session["generation"], generation)
    run = folded.worker_runs.pop(str(generation), None)
    if run is None:
        # It died before its first commit, so nobody but this certificate tells of it.
        run = {
            **_EMPTY["worker_runs"],
            "session_id": folded.session_id,
            "generation": generation,
            "agent": folded.session["agent"],
        }
    for name in _CERTIFICATE:
        run[name] = payload.get(name)
    for name in ("memory_limit_bytes", "pid"):
        if payload.get(name) is not None:
            run[name] = payload[name]
    run["ended_at"] = row.occurred_at
    run["open_operation_id"] = row.operation_id
    run["open_tool_call_ids"] = payload.get("open_tool_call_ids") or []
    run["tools_killed"] = payload.get("tools_killed", 0)
    run["action"] = payload.get("action", "none")
    batch.worker_runs.append(_ROW_OF["worker_runs"](run))
    # An answer in the making dies with the process that was receiving it.
    for call in list(folded.model_calls.values()):
        _close_model_call(folded, call, "interrupted", row.occurred_at, batch)


def _session_suspended(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    if payload.get("reason") in _NEEDS_CREDENTIALS:
        folded.memory.credentials_at = row.occurred_at


def _session_resumed(folded: Folded, _row: Row, _payload: Values, _batch: Batch) -> None:
    folded.memory.failed_at = folded.memory.credentials_at = None


def _session_failed(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    folded.memory.failed_at = row.occurred_at
    _end_all(folded, row, "failed", payload.get("error_kind"), payload.get("reason"), batch)


def _session_deleted(folded: Folded, row: Row, _payload: Values, batch: Batch) -> None:
    folded.memory.deleted = True
    _end_all(folded, row, "cancelled", "session_deleted", None, batch)


def _end_all(
    folded: Folded, row: Row, status: str, kind: str | None, error: str | None, batch: Batch
) -> None:
    """End what is open: a failed or deleted session is the end of its operations (P4)."""
    for operation in list(folded.operations.values()):
        _end_operation(folded, operation, status, row.occurred_at, batch, kind=kind, error=error)


def _session_annotated(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    batch.annotations.append(
        (
            folded.session_id,
            row.operation_id,
            payload.get("key"),
            to_json(payload.get("value")).decode(),
            payload.get("by"),
            row.occurred_at,
        )
    )


# --- conversation ---


def _words(payload: Values) -> str:
    parts = payload.get("parts") or ()
    return "\n".join(part.get("text", "") for part in parts if part.get("type") == "text")


def _add_message(folded: Folded, row: Row, payload: Values, role: str, batch: Batch) -> None:
    parent = payload.get("parent_message_id")
    memory = folded.memory
    if row.message_id is not None:
        if parent != memory.head or folded.session_id in batch.branched:
            batch.branched[folded.session_id] = row.message_id
        memory.head = row.message_id
    model = payload.get("model")
    if model is not None:
        folded.session["model"] = model
    folded.session["message_count"] += 1
    batch.messages.append(
        (
            folded.session_id,
            row.sequence,
            row.message_id,
            parent,
            row.operation_id,
            role,
            _words(payload),
            model,
            True,
            row.occurred_at,
        )
    )


def _user_message(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    _add_message(folded, row, payload, "user", batch)


def _assistant_message(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    _add_message(folded, row, payload, "assistant", batch)


def _assistant_interrupted(folded: Folded, row: Row, _payload: Values, batch: Batch) -> None:
    for call in list(folded.model_calls.values()):
        if call["message_id"] == row.message_id:
            _close_model_call(folded, call, "interrupted", row.occurred_at, batch)


def _head_changed(folded: Folded, row: Row, _payload: Values, batch: Batch) -> None:
    if row.message_id is not None and row.message_id != folded.memory.head:
        folded.memory.head = row.message_id
        batch.branched[folded.session_id] = row.message_id


def _compacted(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    batch.compactions.append(
        (
            folded.session_id,
            row.operation_id,
            row.sequence,
            payload.get("trigger", "manual"),
            payload.get("tokens_before"),
            payload.get("tokens_after"),
            row.occurred_at,
        )
    )


def _model_changed(folded: Folded, _row: Row, payload: Values, _batch: Batch) -> None:
    folded.session["model"] = payload.get("model")


def _workspace_changed(folded: Folded, _row: Row, payload: Values, _batch: Batch) -> None:
    session = folded.session
    session["workspace"] = payload.get("workspace") or session["workspace"]
    session["repo"], session["branch"] = payload.get("repo"), payload.get("branch")
    if payload.get("commit") is not None:
        session["commit_end"] = payload["commit"]
        if session["commit_start"] is None:
            session["commit_start"] = payload["commit"]


# --- operations ---


def _operation_started(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    if row.operation_id is None:
        return
    folded.memory.budget_at = None
    folded.operations[row.operation_id] = {
        **_EMPTY["operations"],
        "session_id": folded.session_id,
        "operation_id": row.operation_id,
        "kind": payload.get("operation", "turn"),
        "status": "running",
        "started_at": row.occurred_at,
        "model_calls": 0,
        "tool_calls": 0,
        "model_ms": 0.0,
        "tool_ms": 0.0,
        "wait_ms": 0.0,
        "cost_usd": 0.0,
    }


def _operation_ended(status: str) -> "_Take":
    def take(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
        operation = folded.operations.get(row.operation_id or "")
        if operation is not None:
            error = payload.get("error") or payload.get("reason")
            kind = payload.get("error_kind")
            _end_operation(
                folded, operation, status, row.occurred_at, batch, kind=kind, error=error
            )

    return take


def _end_operation(
    folded: Folded,
    operation: Values,
    status: str,
    at: int,
    batch: Batch,
    *,
    kind: str | None = None,
    error: str | None = None,
) -> None:
    operation_id = operation["operation_id"]
    left = "cancelled" if status == "cancelled" else "interrupted"
    for call in [c for c in folded.model_calls.values() if c["operation_id"] == operation_id]:
        _close_model_call(folded, call, left, at, batch)
    # Each call has its result by now, unless the session itself came to its end (P4, P5).
    for call in [c for c in folded.tool_calls.values() if c["operation_id"] == operation_id]:
        _close_tool_call(folded, call, left, at, batch)
    for approval in [a for a in folded.approvals.values() if a["operation_id"] == operation_id]:
        del folded.approvals[approval["approval_id"]]
        batch.approvals.append(_ROW_OF["approvals"](approval))
    del folded.operations[operation_id]
    operation.update(
        status=status,
        ended_at=at,
        duration_ms=(at - operation["started_at"]) / 1000,
        error_kind=kind,
        error=error,
    )
    batch.operations.append(_ROW_OF["operations"](operation))


def _budget_exceeded(folded: Folded, row: Row, _payload: Values, _batch: Batch) -> None:
    folded.memory.budget_at = row.occurred_at


# --- model calls ---


def _model_call_started(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    key = str(payload.get("model_call_id"))
    earlier = folded.model_calls.get(key)
    if earlier is not None:
        _close_model_call(folded, earlier, "interrupted", row.occurred_at, batch)
    folded.model_calls[key] = {
        **_EMPTY["model_calls"],
        "session_id": folded.session_id,
        "model_call_id": key,
        "operation_id": row.operation_id,
        "message_id": row.message_id,
        "purpose": payload.get("purpose", "turn"),
        "provider": payload.get("provider"),
        "model": payload.get("model"),
        "attempt": payload.get("attempt", 1),
        "status": "running",
        "started_at": row.occurred_at,
        "context_limit": payload.get("context_limit"),
    }
    if payload.get("model") is not None and payload.get("purpose", "turn") == "turn":
        folded.session["model"] = payload["model"]
    operation = folded.operations.get(row.operation_id or "")
    if operation is not None:
        operation["model_calls"] += 1


_USAGE = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def _model_call_finished(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    usage = payload.get("usage") or {}
    cost = payload.get("cost_usd")
    memory = folded.memory
    tokens = {name: _tokens(usage.get(name)) for name in _USAGE}
    memory.input_tokens += tokens["input_tokens"] or 0
    memory.output_tokens += tokens["output_tokens"] or 0
    memory.uncounted_calls += tokens["input_tokens"] is None or tokens["output_tokens"] is None
    operation = folded.operations.get(row.operation_id or "")
    if cost is None:
        memory.unpriced_calls += 1
        if operation is not None:
            operation["cost_usd"] = None
    else:
        memory.cost_usd += cost
        if operation is not None and operation["cost_usd"] is not None:
            operation["cost_usd"] += cost
    call = folded.model_calls.get(str(payload.get("model_call_id")))
    if call is None:
        return
    call.update(tokens)
    call["cost_usd"] = cost
    call["context_tokens"] = _tokens(payload.get("context_tokens"))
    for name in ("ttft_ms", "duration_ms", "http_status"):
        call[name] = payload.get(name)
    call["context_limit"] = payload.get("context_limit") or call["context_limit"]
    _close_model_call(folded, call, "ok", row.occurred_at, batch)


def _tokens(told: object) -> int | None:
    """Return how many tokens were told; what is no such number is not known."""
    return told if type(told) is int and 0 <= told <= MOST_TOKENS else None


def _model_call_failed(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    call = folded.model_calls.get(str(payload.get("model_call_id")))
    if call is None:
        return
    for name in ("http_status", "retry_after_ms", "duration_ms"):
        call[name] = payload.get(name)
    call["error"] = payload.get("error")
    _close_model_call(folded, call, "error", row.occurred_at, batch)


def _close_model_call(folded: Folded, call: Values, status: str, at: int, batch: Batch) -> None:
    del folded.model_calls[call["model_call_id"]]
    call["status"] = status
    if call["duration_ms"] is None:
        call["duration_ms"] = (at - call["started_at"]) / 1000
    operation = folded.operations.get(call["operation_id"] or "")
    if operation is not None:
        operation["model_ms"] += call["duration_ms"]
    batch.model_calls.append(_ROW_OF["model_calls"](call))


# --- tool calls ---


def _tool_call_requested(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    if row.tool_call_id is None:
        return
    arguments = payload.get("arguments") or {}
    folded.tool_calls[row.tool_call_id] = {
        **_EMPTY["tool_calls"],
        "session_id": folded.session_id,
        "operation_id": row.operation_id,
        "message_id": row.message_id,
        "tool_call_id": row.tool_call_id,
        "tool": payload.get("tool"),
        "mcp_server": payload.get("mcp_server"),
        "arguments": shorten(arguments) if len(row.payload) > LONG_PAYLOAD else arguments,
        "command_head": payload.get("command_head"),
        "effects": payload.get("effects", "write"),
        "custody": payload.get("custody", "executed"),
        "status": "requested",
        "generation": row.generation,
        "requested_at": row.occurred_at,
    }
    operation = folded.operations.get(row.operation_id or "")
    if operation is not None:
        operation["tool_calls"] += 1


def _approval_requested(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    call = folded.tool_calls.get(row.tool_call_id or "")
    if call is not None:
        call["status"] = "waiting"
    approval_id = str(payload.get("approval_id"))
    folded.approvals[approval_id] = {
        **_EMPTY["approvals"],
        "approval_id": approval_id,
        "session_id": folded.session_id,
        "operation_id": row.operation_id,
        "tool_call_id": row.tool_call_id,
        "requested_at": row.occurred_at,
    }


def _approval_decided(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    approval = folded.approvals.pop(payload.get("approval_id") or "", None)
    if approval is None:
        approval = {
            **_EMPTY["approvals"],
            "approval_id": payload.get("approval_id"),
            "session_id": folded.session_id,
            "operation_id": row.operation_id,
            "tool_call_id": row.tool_call_id,
        }
    for name in ("decision", "rule", "decided_by", "door"):
        approval[name] = payload.get(name)
    approval["scope"] = payload.get("scope", "once")
    approval["decided_at"] = row.occurred_at
    batch.approvals.append(_ROW_OF["approvals"](approval))
    call = folded.tool_calls.get(row.tool_call_id or "")
    if call is not None:
        call["decided_at"] = row.occurred_at
        call["status"] = "requested"
        if approval["requested_at"] is not None:
            call["wait_ms"] = (row.occurred_at - approval["requested_at"]) / 1000


def _tool_call_started(folded: Folded, row: Row, _payload: Values, _batch: Batch) -> None:
    call = folded.tool_calls.get(row.tool_call_id or "")
    if call is not None:
        call["status"] = "started"
        call["started_at"] = row.occurred_at
        call["generation"] = row.generation


def _tool_call_finished(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    call = folded.tool_calls.get(row.tool_call_id or "")
    text = payload.get("text") or ""
    folded.session["message_count"] += 1
    batch.messages.append(
        (
            folded.session_id,
            row.sequence,
            row.tool_call_id,
            None if call is None else call["message_id"],
            row.operation_id,
            "tool",
            text,
            None,
            True,
            row.occurred_at,
        )
    )
    if call is None:
        return
    for name in ("exit_code", "error_kind", "error", "output_blob"):
        call[name] = payload.get(name)
    call["output_bytes"] = payload.get("output_bytes", 0)
    call["output_head"] = text[:OUTPUT_HEAD_CHARACTERS]
    for name in ("wait_ms", "duration_ms"):
        if payload.get(name) is not None:
            call[name] = payload[name]
    _close_tool_call(folded, call, str(payload.get("status")), row.occurred_at, batch)


def _close_tool_call(folded: Folded, call: Values, status: str, at: int, batch: Batch) -> None:
    del folded.tool_calls[call["tool_call_id"]]
    call["status"] = status
    call["is_error"] = status != "ok"
    call["finished_at"] = at
    if call["duration_ms"] is None and call["started_at"] is not None:
        call["duration_ms"] = (at - call["started_at"]) / 1000
    if status != "ok":
        call["error_signature"] = signature(
            call["error_kind"] or status, call["error"] or call["output_head"] or ""
        )
    operation = folded.operations.get(call["operation_id"] or "")
    if operation is not None:
        operation["tool_ms"] += call["duration_ms"] or 0.0
        operation["wait_ms"] += call["wait_ms"] or 0.0
    arguments = call["arguments"]
    call["arguments"] = to_json(arguments).decode()
    batch.tool_calls.append(_ROW_OF["tool_calls"](call))


def _file_changed(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    batch.file_changes.append(
        (
            folded.session_id,
            row.operation_id,
            row.tool_call_id,
            payload.get("path"),
            payload.get("change"),
            payload.get("lines_added", 0),
            payload.get("lines_removed", 0),
            row.occurred_at,
        )
    )


# --- texts ---

_VARYING = re.compile(
    r"(?P<id>\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{12,}\b)"
    r"|(?P<path>(?:[\w.~-]*/)+[\w.~-]+)"
    r"|(?P<number>\d+(?:[.,:]\d+)*)"
)
_STAND_INS = {"id": "<id>", "path": "<path>", "number": "<n>"}


def signature(kind: str, text: str) -> str:
    """Return an error as ``kind: its telling line``, without what differs from time to time.

    The telling line is the last that is not blank: of a traceback the exception, of a command's
    output what it said before it went.
    """
    lines = [line.strip() for line in text[-4_000:].splitlines() if line.strip()]
    line = lines[-1][:400] if lines else ""
    told = _VARYING.sub(lambda found: _STAND_INS[str(found.lastgroup)], line)
    return f"{kind}: {told}"[:SIGNATURE_CHARACTERS] if told else kind


def shorten(value: Any) -> Any:
    """Return a JSON value with its long texts cut; how much is missing is told in their place."""
    match value:
        case str() if len(value) > ARGUMENT_CHARACTERS:
            left = len(value) - ARGUMENT_CHARACTERS
            return f"{value[:ARGUMENT_CHARACTERS]}… ({left} more characters, see events)"
        case dict():
            return {key: shorten(item) for key, item in value.items()}
        case list():
            return [shorten(item) for item in value]
        case _:
            return value


type _Take = Callable[[Folded, Row, Values, Batch], None]

_TAKE: Mapping[str, _Take] = {
    "session_created": _session_created,
    "session_configured": _session_configured,
    "session_titled": _session_titled,
    "worker_started": _worker_started,
    "worker_exited": _worker_exited,
    "session_suspended": _session_suspended,
    "session_resumed": _session_resumed,
    "session_failed": _session_failed,
    "session_deleted": _session_deleted,
    "session_annotated": _session_annotated,
    "user_message_added": _user_message,
    "assistant_message_added": _assistant_message,
    "assistant_message_interrupted": _assistant_interrupted,
    "conversation_head_changed": _head_changed,
    "conversation_compacted": _compacted,
    "model_changed": _model_changed,
    "workspace_changed": _workspace_changed,
    "operation_started": _operation_started,
    "operation_completed": _operation_ended("completed"),
    "operation_failed": _operation_ended("failed"),
    "operation_cancelled": _operation_ended("cancelled"),
    "operation_interrupted": _operation_ended("interrupted"),
    "budget_exceeded": _budget_exceeded,
    "model_call_started": _model_call_started,
    "model_call_finished": _model_call_finished,
    "model_call_failed": _model_call_failed,
    "tool_call_requested": _tool_call_requested,
    "approval_requested": _approval_requested,
    "approval_decided": _approval_decided,
    "tool_call_started": _tool_call_started,
    "tool_call_finished": _tool_call_finished,
    "file_changed": _file_changed,
}
"""What each kind does; kinds that are not here show in ``events`` and nowhere else."""
