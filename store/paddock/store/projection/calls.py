"""What events of model calls, tool calls and approvals change in the views."""

from collections.abc import Mapping

from pydantic_core import to_json

from paddock.store.events import MOST_TOKENS, Row
from paddock.store.projection.folded import EMPTY, ROW_OF, Batch, Folded, Take, Values
from paddock.store.projection.texts import shorten, signature

OUTPUT_HEAD_CHARACTERS = 2_000
LONG_PAYLOAD = 65_536


# --- model calls ---


def _model_call_started(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    key = str(payload.get("model_call_id"))
    earlier = folded.model_calls.get(key)
    if earlier is not None:
        close_model_call(folded, earlier, "interrupted", row.occurred_at, batch)
    folded.model_calls[key] = {
        **EMPTY["model_calls"],
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
    memory.uncounted_input_calls += tokens["input_tokens"] is None
    memory.uncounted_output_calls += tokens["output_tokens"] is None
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
    close_model_call(folded, call, "ok", row.occurred_at, batch)


def _tokens(told: object) -> int | None:
    """Return how many tokens were told; what is no such number is not known."""
    return told if type(told) is int and 0 <= told <= MOST_TOKENS else None


_CUT_OFF = {"cancelled": "cancelled", "interrupted": "interrupted", "suspended": "interrupted"}
"""The status of a request that its model did not fail: we ended it. By its ``error_kind``."""


def _model_call_failed(folded: Folded, row: Row, payload: Values, batch: Batch) -> None:
    call = folded.model_calls.get(str(payload.get("model_call_id")))
    if call is None:
        return
    for name in ("http_status", "retry_after_ms", "duration_ms"):
        call[name] = payload.get(name)
    call["error"] = payload.get("error")
    status = _CUT_OFF.get(str(payload.get("error_kind")), "error")
    close_model_call(folded, call, status, row.occurred_at, batch)


def close_model_call(folded: Folded, call: Values, status: str, at: int, batch: Batch) -> None:
    """End an open model call: its row is closed, its operation took as long.

    How long one ran that died with its worker nobody saw: it is closed when that is found, which
    may be days later.
    """
    del folded.model_calls[call["model_call_id"]]
    call["status"] = status
    if call["duration_ms"] is None and status != "interrupted":
        call["duration_ms"] = (at - call["started_at"]) / 1000
    operation = folded.operations.get(call["operation_id"] or "")
    if operation is not None:
        operation["model_ms"] += call["duration_ms"] or 0.0
    batch.model_calls.append(ROW_OF["model_calls"](call))


# --- tool calls and their approvals ---


def _tool_call_requested(folded: Folded, row: Row, payload: Values, _batch: Batch) -> None:
    if row.tool_call_id is None:
        return
    arguments = payload.get("arguments") or {}
    folded.tool_calls[row.tool_call_id] = {
        **EMPTY["tool_calls"],
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
        **EMPTY["approvals"],
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
            **EMPTY["approvals"],
            "approval_id": payload.get("approval_id"),
            "session_id": folded.session_id,
            "operation_id": row.operation_id,
            "tool_call_id": row.tool_call_id,
        }
    for name in ("decision", "rule", "decided_by", "door"):
        approval[name] = payload.get(name)
    approval["scope"] = payload.get("scope", "once")
    approval["decided_at"] = row.occurred_at
    batch.approvals.append(ROW_OF["approvals"](approval))
    call = folded.tool_calls.get(row.tool_call_id or "")
    if call is not None:
        call["decided_at"] = row.occurred_at
        call["status"] = "requested"
        call["wait_ms"] = _waited(approval, row.occurred_at)


def _waited(approval: Values, until: int) -> float:
    """Return how long a call waited for somebody; where nobody was asked, not at all."""
    asked_at: int | None = approval["requested_at"]
    return 0.0 if asked_at is None else (until - asked_at) / 1000


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
    call["duration_ms"] = payload.get("duration_ms")
    close_approvals(folded, row.tool_call_id, row.occurred_at, batch)
    if call["wait_ms"] is None:
        # What is told counts from the request to the start: the wait for other calls is in it.
        call["wait_ms"] = payload.get("wait_ms")
    status = str(payload.get("status"))
    end_tool_call(call, status, row.occurred_at, text)
    close_tool_call(folded, call, status, row.occurred_at, batch)


def close_approvals(folded: Folded, tool_call_id: str | None, at: int, batch: Batch) -> None:
    """End what is asked about a call and was not answered: the call waited for nothing."""
    for approval in [a for a in folded.approvals.values() if a["tool_call_id"] == tool_call_id]:
        del folded.approvals[approval["approval_id"]]
        batch.approvals.append(ROW_OF["approvals"](approval))
        call = folded.tool_calls.get(tool_call_id or "")
        if call is not None:
            call["wait_ms"] = _waited(approval, at)


def close_tool_call(folded: Folded, call: Values, status: str, at: int, batch: Batch) -> None:
    """End an open tool call: its row is closed, its operation took and waited as long.

    Of one that died with its worker it is not known, as of a model call.
    """
    del folded.tool_calls[call["tool_call_id"]]
    if call["finished_at"] is None:
        end_tool_call(call, status, at)
    operation = folded.operations.get(call["operation_id"] or "")
    if operation is not None:
        operation["tool_ms"] += call["duration_ms"] or 0.0
        operation["wait_ms"] += call["wait_ms"] or 0.0
    arguments = call["arguments"]
    call["arguments"] = to_json(arguments).decode()
    batch.tool_calls.append(ROW_OF["tool_calls"](call))


def end_tool_call(call: Values, status: str, at: int, text: str = "") -> None:
    """Say how a call ended, and with what words; :func:`take_up_tool_call` undoes it."""
    call["status"] = status
    call["is_error"] = status != "ok"
    call["finished_at"] = at
    is_timed = call["started_at"] is not None and status != "interrupted"
    if call["duration_ms"] is None and is_timed:
        call["duration_ms"] = (at - call["started_at"]) / 1000
    if status != "ok":
        call["error_signature"] = signature(call["error_kind"] or status, _telling(call, text))


def _telling(call: Values, text: str) -> str:
    """Return the words that tell a call's error from others: of a command, those it wrote itself.

    That it left with a code stands above them, and says nothing that its kind does not.
    """
    error: str = call["error"] or ""
    if error and call["error_kind"] != "exit_code":
        return error
    return text.removeprefix(error).strip() or error


def take_up_tool_call(call: Values) -> None:
    """Say that a call that was running when its session failed has no result yet."""
    if call["finished_at"] is not None:
        call["status"] = "started"
        call["is_error"] = call["finished_at"] = call["error_signature"] = None


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


TAKES: Mapping[str, Take] = {
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
