"""What events of a session's own life change in the views: its births, rests and deaths."""

from collections.abc import Mapping

from pydantic_core import to_json

from paddock.store.events import Row
from paddock.store.projection.calls import close_model_call
from paddock.store.projection.folded import EMPTY, ROW_OF, Batch, Folded, Take, Values
from paddock.store.projection.turns import end_operation, fail_operations, take_up_operations

# Reasons of a rest from which only a client that has the secrets can wake the session.
_NEEDS_CREDENTIALS = frozenset({"needs_credentials", "credentials"})


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
    _free(folded)
    folded.worker_runs[str(row.generation)] = {
        **EMPTY["worker_runs"],
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
            **EMPTY["worker_runs"],
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
    batch.worker_runs.append(ROW_OF["worker_runs"](run))
    # An answer in the making dies with the process that was receiving it.
    for call in list(folded.model_calls.values()):
        close_model_call(folded, call, "interrupted", row.occurred_at, batch)


def _session_suspended(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    if payload.get("reason") in _NEEDS_CREDENTIALS:
        folded.memory.credentials_at = row.occurred_at


def _session_resumed(folded: Folded, _row: Row, _payload: Values, _batch: Batch) -> None:
    _free(folded)


def _free(folded: Folded) -> None:
    memory = folded.memory
    if memory.failed_at is not None:
        take_up_operations(folded)
    memory.failed_at = memory.credentials_at = None


def _session_failed(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    folded.memory.failed_at = row.occurred_at
    fail_operations(folded, row.occurred_at, payload.get("error_kind"), payload.get("reason"))


def _session_deleted(folded: Folded, row: Row, _payload: Values, batch: Batch) -> None:
    folded.memory.deleted = True
    # A deleted session is the end of its operations (P4).
    for operation in list(folded.operations.values()):
        end_operation(
            folded, operation, "cancelled", row.occurred_at, batch, kind="session_deleted"
        )


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


TAKES: Mapping[str, Take] = {
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
}
