"""What events of the conversation and of operations change in the views."""

from collections.abc import Mapping

from paddock.store.events import Row
from paddock.store.projection.calls import (
    close_approvals,
    close_model_call,
    close_tool_call,
    end_tool_call,
    take_up_tool_call,
)
from paddock.store.projection.folded import EMPTY, ROW_OF, Batch, Folded, Take, Values

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
            close_model_call(folded, call, "interrupted", row.occurred_at, batch)


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
        **EMPTY["operations"],
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


def _operation_ended(status: str) -> "Take":
    def take(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
        operation = folded.operations.get(row.operation_id or "")
        if operation is not None:
            error = payload.get("error") or payload.get("reason")
            kind = payload.get("error_kind")
            end_operation(folded, operation, status, row.occurred_at, batch, kind=kind, error=error)

    return take


def end_operation(
    folded: Folded,
    operation: Values,
    status: str,
    at: int,
    batch: Batch,
    *,
    kind: str | None = None,
    error: str | None = None,
) -> None:
    """End an operation with all that is open in it; its row is closed.

    What a failed session left open keeps its end, whatever becomes of the session.
    """
    operation_id = operation["operation_id"]
    left = "cancelled" if status == "cancelled" else "interrupted"
    for call in [c for c in folded.model_calls.values() if c["operation_id"] == operation_id]:
        close_model_call(folded, call, left, at, batch)
    # Each call has its result by now, unless the session itself came to its end (P4, P5).
    for call in [c for c in folded.tool_calls.values() if c["operation_id"] == operation_id]:
        close_approvals(folded, call["tool_call_id"], at, batch)
        has_run = call["started_at"] is not None
        close_tool_call(folded, call, left if has_run else "cancelled", at, batch)
    for approval in [a for a in folded.approvals.values() if a["operation_id"] == operation_id]:
        del folded.approvals[approval["approval_id"]]
        batch.approvals.append(ROW_OF["approvals"](approval))
    del folded.operations[operation_id]
    if operation["ended_at"] is None:
        _end(operation, status, at, kind, error)
    batch.operations.append(ROW_OF["operations"](operation))


def _end(operation: Values, status: str, at: int, kind: str | None, error: str | None) -> None:
    operation.update(
        status=status,
        ended_at=at,
        duration_ms=(at - operation["started_at"]) / 1000,
        error_kind=kind,
        error=error,
    )


def fail_operations(folded: Folded, at: int, kind: str | None, error: str | None) -> None:
    """Say that what is open ended with its session (P4), unless that is freed."""
    for operation in folded.operations.values():
        _end(operation, "failed", at, kind, error)
    for call in folded.tool_calls.values():
        if call["started_at"] is not None:
            end_tool_call(call, "interrupted", at)


def take_up_operations(folded: Folded) -> None:
    """Say that what a failed session left open goes on: it was freed."""
    for operation in folded.operations.values():
        operation.update(
            status="running", ended_at=None, duration_ms=None, error_kind=None, error=None
        )
    for call in folded.tool_calls.values():
        take_up_tool_call(call)


def _budget_exceeded(folded: Folded, row: Row, _payload: Values, _batch: Batch) -> None:
    folded.memory.budget_at = row.occurred_at


TAKES: Mapping[str, Take] = {
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
}
