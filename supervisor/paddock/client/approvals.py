"""Open questions over all sessions: read from the sessions' own files, so that none is missed."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from paddock.client.files import read_state
from paddock.session_worker.errors import NothingToDecide
from paddock.store.errors import Damaged, SessionNotFound
from paddock.store.ids import ApprovalId, OperationId, SessionId, ToolCallId
from paddock.store.session import Session as State

if TYPE_CHECKING:
    from paddock.client.host import Host
    from paddock.client.session import Session
    from paddock.client.store import Store

SHORTEST_PART = 4
"""Of an id: less, or a shell's variable that is not set, would find the only one that is open."""


@dataclass(frozen=True, slots=True)
class OpenApproval:
    """A call that waits for somebody to decide."""

    approval_id: ApprovalId
    session_id: SessionId
    operation_id: OperationId
    tool_call_id: ToolCallId
    tool: str
    arguments: dict[str, JsonValue]
    requested_at: int
    """UTC microseconds."""


@dataclass(frozen=True, slots=True)
class Found:
    """An open approval and its session."""

    approval_id: ApprovalId
    session: "Session"


def open_in(state: State) -> list[OpenApproval]:
    """Return a session's open approvals, oldest first (A3)."""
    conversation = state.conversation
    return [
        OpenApproval(
            approval_id=asked.approval_id,
            session_id=state.session_id,
            operation_id=asked.operation_id,
            tool_call_id=asked.tool_call_id,
            tool=conversation.calls[asked.tool_call_id].tool,
            arguments=conversation.calls[asked.tool_call_id].arguments,
            requested_at=asked.requested_at,
        )
        for asked in sorted(conversation.approvals.values(), key=lambda asked: asked.requested_at)
    ]


async def open_approvals(store: "Store", data: Path) -> list[OpenApproval]:
    """Return what waits for a decision in all sessions of a data folder, oldest first."""
    rows = await store.sql(
        "SELECT DISTINCT session_id FROM approvals JOIN sessions USING (session_id)"
        " WHERE decided_at IS NULL AND sessions.status <> 'deleted'"
    )
    return await _open_in_files(data, [str(session_id) for (session_id,) in rows])


async def _open_in_files(data: Path, session_ids: Iterable[str]) -> list[OpenApproval]:
    """Return what waits in these sessions, as their own files tell it, oldest first.

    They know best: a request dies with its operation. One that cannot be read, or was erased
    meanwhile, has nothing that could be decided.
    """
    found: list[OpenApproval] = []
    for session_id in session_ids:
        with suppress(SessionNotFound, Damaged):
            found += open_in(await asyncio.to_thread(read_state, data, SessionId(session_id)))
    return sorted(found, key=lambda asked: asked.requested_at)


async def find_approval(host: "Host", text: str) -> Found:
    """Return the open approval whose id is ``text``, or has it as a part that no other has.

    Raises:
        NothingToDecide: None has, or several, or it is too short to be meant.
    """
    if len(text) < SHORTEST_PART:
        message = f"{text!r} is no approval's id, nor enough of one; see `paddock approvals`"
        raise NothingToDecide(message, approval_id=text)
    found = _named(text, await open_approvals(await host.store(), host.data))
    if not found:  # it may be so new that nobody has told the store of it
        live = [str(life["session_id"]) for life in await host.lives()]
        found = _named(text, await _open_in_files(host.data, live))
    if len(found) != 1:
        what = f"several open approvals match {text!r}" if found else f"no open approval {text!r}"
        message = f"{what}; see `paddock approvals`"
        raise NothingToDecide(message, approval_id=text)
    from paddock.client.session import Session

    return Found(found[0].approval_id, Session(host, found[0].session_id))


def _named(text: str, asked: list[OpenApproval]) -> list[OpenApproval]:
    exact = [one for one in asked if one.approval_id == text]
    return exact or [one for one in asked if text in one.approval_id]
