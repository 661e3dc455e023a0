"""How each event changes a session: :func:`evolve` is the only way it does.

A session is (life, conversation). Lifecycle events change only the first, all others only the
second, and the two commute: each keeps the sequence of what it saw where order matters. Live state
equals the fold of the log at every prefix (P1), so nothing here may depend on anything but events.
"""

from itertools import islice
from typing import Literal

from paddock.store.events import (
    LIFECYCLE_KINDS,
    ApprovalDecided,
    CommandAccepted,
    Event,
    SessionConfigured,
    Stored,
    ToolCallFinished,
    ToolCallRequested,
    Usage,
)
from paddock.store.ids import CommandId, MessageId, OperationId
from paddock.store.session import (
    Acceptance,
    Call,
    CommandAnswer,
    Compaction,
    Conversation,
    EndedOperation,
    Exit,
    Life,
    McpServer,
    Message,
    ModelCall,
    OpenApproval,
    Operation,
    QueuedInput,
    Session,
    Step,
    Worker,
)

FOLD_VERSION = 5
"""Raised with every change of what the fold gives, so that older snapshots are thrown away."""

_NO_ANSWERS = frozenset({"command_accepted", "session_created"})
"""Kinds that carry the id of a command which they take in, and do not answer."""

REMEMBERED_COMMANDS = 1000
"""By count, not by clock; an unknown id older than the newest forgotten one may have run.

Half as many again are remembered beyond those, all of them answered: a worker that dies may have
answered one of them last, and nobody was told yet. What it took in since then is what may wait.
"""

REMEMBERED_EXITS = 50
"""More than twice the restarts allowed an hour."""

REMEMBERED_CANCELLED = 100
"""C8."""


# Kinds are told apart by their word: a comparison of two texts. To ask ``isinstance`` of a pydantic
# class is a call into Python for each class that it is not, and took two thirds of the fold's time.


def evolve(session: Session, stored: Stored) -> None:
    """Take one event in. The caller gives them in order, each once.

    Raises:
        ValueError: The event is not the next one. The caller's fault.
    """
    if stored.sequence != session.sequence + 1:
        message = f"event {stored.sequence} does not follow {session.sequence}"
        raise ValueError(message)
    session.sequence = stored.sequence
    session.last_at = stored.occurred_at
    event = stored.event
    if event.kind in LIFECYCLE_KINDS:
        _evolve_life(session.life, stored, event)
    else:
        _evolve_conversation(session.conversation, stored, event)


def _evolve_life(life: Life, stored: Stored, event: Event) -> None:
    at, sequence = stored.occurred_at, stored.sequence
    match event.kind:
        case "session_created":
            life.config = event.config
            life.digest = event.digest
            life.created_at = at
            life.title = event.config.title
        case "worker_started":
            life.status = "live"
            life.generation = stored.generation
            life.reason = None
            life.worker = Worker(
                stored.generation,
                event.pid,
                event.start_ticks,
                event.boot_id,
                at,
                event.paddock_version,
            )
        case "worker_exited":
            life.generation = max(life.generation, event.worker_generation)
            life.worker = None
            if life.status == "live":
                life.status = "down"
            life.exits.append(
                Exit(
                    sequence,
                    at,
                    event.worker_generation,
                    event.ending,
                    event.reason,
                    event.struck_operation_id,
                    event.struck_command_ids,
                    event.struck_calls,
                    event.last_stage,
                )
            )
            del life.exits[:-REMEMBERED_EXITS]
        case "session_suspended":
            life.status = "suspended"
            life.reason = event.reason
        case "session_resumed":
            if event.reset:
                life.reset_sequence = sequence
            if life.status in {"suspended", "failed"}:
                life.status = "down"
            life.reason = None
        case "session_failed":
            life.status = "failed"
            life.reason = event.reason
        case "session_deleted":
            life.status = "deleted"
            life.erase = event.erase
        case "session_configured":
            _configure(life, event)
        case "session_titled":
            life.title = event.title
        case "command_accepted":
            _remember(life, event, sequence)
        case _:
            pass  # remarks, forks, rejections: nothing of the folded state but their answer
    if event.command_id is not None and event.kind not in _NO_ANSWERS:
        _answer_in_life(life, event, sequence)


def _configure(life: Life, event: SessionConfigured) -> None:
    if life.config is None:
        return
    changes = {
        name: getattr(event, name)
        for name in ("name", "labels", "project", "owner", "approvals", "limits")
        if getattr(event, name) is not None
    }
    life.config = life.config.model_copy(update=changes)


def _remember(life: Life, event: CommandAccepted, sequence: int) -> None:
    life.accepted[event.command_id] = Acceptance(sequence, event.verb, event.digest)
    if event.verb == "delete" and life.deletion is None:
        life.deletion = sequence
    while len(life.accepted) > REMEMBERED_COMMANDS + REMEMBERED_COMMANDS // 2:
        oldest = next(iter(life.accepted))
        del life.accepted[oldest]
        life.newest_forgotten = max(life.newest_forgotten or oldest, oldest)


def would_forget(session: Session) -> bool:
    """Return whether one more command would leave one behind that has no answer yet.

    Its owner waits with what is new until that one has its answer: who dies before would leave it
    without any (P14).
    """
    accepted = session.life.accepted
    behind = len(accepted) - REMEMBERED_COMMANDS
    return behind >= 0 and session.answer_to(next(islice(accepted, behind, None))) is None


def _answer_in_life(life: Life, event: Event, sequence: int) -> None:
    """Keep a command's answer; a deletion that has one is no longer open."""
    _answer(life.answers, event, sequence)
    accepted = life.accepted.get(event.command_id) if event.command_id else None
    if accepted is not None and accepted.sequence == life.deletion:
        life.deletion = None


def _answer(answers: dict[CommandId, CommandAnswer], event: Event, sequence: int) -> None:
    """Keep the first event that carries a command's id as its answer."""
    command_id = event.command_id
    if command_id is None or command_id in answers:
        return
    code = reason = None
    if event.kind == "command_rejected":
        code, reason = event.code, event.reason
    elif event.kind == "command_quarantined":
        code, reason = "quarantined", event.reason
    answers[command_id] = CommandAnswer(sequence, event.kind, event.operation_id, code, reason)
    # Twice as many as commands are remembered, so that no remembered command loses its answer.
    while len(answers) > 2 * REMEMBERED_COMMANDS:
        del answers[next(iter(answers))]


def _evolve_conversation(  # noqa: C901, PLR0912, PLR0915 - one arm a kind
    conversation: Conversation, stored: Stored, event: Event
) -> None:
    at, sequence = stored.occurred_at, stored.sequence
    match event.kind:
        case "user_message_added":
            _add_message(
                conversation,
                Message(
                    event.message_id,
                    event.parent_message_id,
                    event.operation_id,
                    "user",
                    sequence,
                    at,
                    user_parts=event.parts,
                ),
            )
            conversation.progress_sequence = sequence
        case "assistant_message_added":
            _add_message(
                conversation,
                Message(
                    event.message_id,
                    event.parent_message_id,
                    event.operation_id,
                    "assistant",
                    sequence,
                    at,
                    assistant_parts=event.parts,
                    model=event.model,
                    provider=event.provider,
                    model_state=event.model_state,
                ),
            )
            if not any(part.type == "tool_call" for part in event.parts):
                conversation.progress_sequence = sequence
        case "operation_started":
            conversation.operation = Operation(
                event.operation_id, event.operation, at, event.input_ids
            )
        case "operation_completed":
            _end(conversation, "completed", event.operation_id, sequence, event.final_message_id)
        case "operation_failed":
            _end(conversation, "failed", event.operation_id, sequence)
            if conversation.ended is not None:
                conversation.ended.error_kind = event.error_kind
                conversation.ended.error = event.error
        case "operation_cancelled":
            _end(conversation, "cancelled", event.operation_id, sequence)
            conversation.cancelled.append(event.operation_id)
            del conversation.cancelled[:-REMEMBERED_CANCELLED]
        case "operation_interrupted":
            _end(conversation, "interrupted", event.operation_id, sequence)
            if conversation.ended is not None:
                conversation.ended.error_kind = event.error_kind
                conversation.ended.error = event.reason
        case "input_queued":
            conversation.queue[event.command_id] = QueuedInput(
                event.command_id, event.operation, event.parts, at
            )
        case "input_dequeued":
            conversation.queue.pop(event.input_id, None)
        case "model_call_started":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                operation.model_calls += 1
                operation.model_call = ModelCall(
                    event.model_call_id, event.message_id, event.attempt, at
                )
        case "model_call_finished":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                operation.model_call = None
            _count(conversation, operation, event.usage, event.cost_usd)
        case "model_call_failed":
            operation = _open(conversation, event.operation_id)
            if operation is not None and operation.model_call is not None:
                operation.model_call.failed = True
                operation.model_call.retry_in_ms = event.retry_in_ms
                operation.model_call.error_kind = event.error_kind
                operation.model_call.error = event.error
        case "tool_call_requested":
            _request(conversation, event, at)
        case "approval_requested":
            call = conversation.calls[event.tool_call_id]
            call.stage = "waiting"
            call.approval_id = event.approval_id
            conversation.approvals[event.approval_id] = OpenApproval(
                event.approval_id, event.tool_call_id, event.operation_id, at
            )
        case "approval_decided":
            _decide(conversation, event, at)
        case "tool_call_started":
            call = conversation.calls[event.tool_call_id]
            call.stage = "started"
            call.started_at = at
            call.intent = event.intent
        case "tool_call_finished":
            _finish(conversation, event, at, sequence)
        case "step_started":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                operation.steps[event.step_key] = Step(
                    event.step_key, event.arguments_digest, event.effects, attempt=event.attempt
                )
        case "step_finished":
            operation = _open(conversation, event.operation_id)
            if operation is not None:
                step = operation.steps[event.step_key]
                step.status, step.value, step.error = event.status, event.value, event.error
            if event.status != "interrupted":
                conversation.progress_sequence = sequence
        case "conversation_head_changed":
            conversation.head = event.message_id
        case "conversation_compacted":
            conversation.compaction = Compaction(event.message_id, event.summary)
        case "model_changed":
            conversation.model = event.model
        case "mode_changed":
            conversation.mode = event.mode
        case "state_saved":
            conversation.state = event.state
        case "todos_updated":
            conversation.todos = event.todos
        case "mcp_server_changed":
            conversation.mcp_servers[event.server] = McpServer(
                event.state, event.error, event.tools
            )
        case "workspace_changed":
            conversation.workspace = event
        case _:
            _note_budget(conversation, event)
    if event.command_id is not None:
        _answer(conversation.answers, event, sequence)


def _note_budget(conversation: Conversation, event: Event) -> None:
    operation = _open(conversation, event.operation_id) if event.operation_id else None
    if event.kind == "budget_exceeded" and operation is not None:
        operation.budget_exceeded = getattr(event, "limit", None)


def _open(conversation: Conversation, operation_id: OperationId) -> Operation | None:
    """Return the open operation if it is that one; an older one changes nothing (T7)."""
    operation = conversation.operation
    return operation if operation is not None and operation.operation_id == operation_id else None


def _add_message(conversation: Conversation, message: Message) -> None:
    conversation.messages[message.message_id] = message
    conversation.head = message.message_id
    conversation.message_count += 1


def _end(
    conversation: Conversation,
    status: Literal["completed", "failed", "cancelled", "interrupted"],
    operation_id: OperationId,
    sequence: int,
    final_message_id: MessageId | None = None,
) -> None:
    if _open(conversation, operation_id) is None:
        return
    conversation.operation = None
    conversation.ended = EndedOperation(operation_id, status, final_message_id)
    conversation.progress_sequence = sequence
    # A request dies with its operation (P7).
    conversation.approvals = {
        approval_id: approval
        for approval_id, approval in conversation.approvals.items()
        if approval.operation_id != operation_id
    }


def _count(
    conversation: Conversation, operation: Operation | None, usage: Usage, cost_usd: float | None
) -> None:
    totals = conversation.totals
    totals.input_tokens += usage.input_tokens or 0
    totals.cache_read_tokens += usage.cache_read_tokens or 0
    totals.cache_write_tokens += usage.cache_write_tokens or 0
    totals.output_tokens += usage.output_tokens or 0
    totals.reasoning_tokens += usage.reasoning_tokens or 0
    totals.uncounted_input_calls += usage.input_tokens is None
    totals.uncounted_output_calls += usage.output_tokens is None
    totals.cost_usd += cost_usd or 0.0
    totals.unpriced_calls += cost_usd is None
    if operation is not None:
        operation.tokens += (usage.input_tokens or 0) + (usage.output_tokens or 0)
        operation.cost_usd += cost_usd or 0.0


def _request(conversation: Conversation, event: ToolCallRequested, at: int) -> None:
    conversation.calls[event.tool_call_id] = Call(
        event.tool_call_id,
        event.operation_id,
        event.message_id,
        event.tool,
        event.arguments,
        event.arguments_digest,
        event.effects,
        event.custody,
        at,
        call_key=event.call_key,
    )
    operation = _open(conversation, event.operation_id)
    if operation is not None:
        operation.open_calls.append(event.tool_call_id)
        operation.calls.append(event.tool_call_id)
        if event.call_key is not None:
            operation.keyed_calls[event.call_key] = event.tool_call_id


def _decide(conversation: Conversation, event: ApprovalDecided, at: int) -> None:
    call = conversation.calls[event.tool_call_id]
    call.stage = event.decision
    call.decided_at = at
    if event.decision == "denied":
        call.denial = event.note or event.rule or "denied"
    if event.approval_id is not None:
        conversation.approvals.pop(event.approval_id, None)
    if event.decision == "allowed" and event.door in {"cli", "client"}:
        if event.scope == "tool" and call.tool not in conversation.allowed_tools:
            conversation.allowed_tools.append(call.tool)
        if (
            event.scope == "pattern"
            and event.pattern
            and event.pattern not in conversation.allowed_patterns
        ):
            conversation.allowed_patterns.append(event.pattern)


def _finish(conversation: Conversation, event: ToolCallFinished, at: int, sequence: int) -> None:
    call = conversation.calls[event.tool_call_id]
    call.stage = "finished"
    call.status, call.text, call.happened = event.status, event.text, event.happened
    call.value, call.error_kind, call.error = event.value, event.error_kind, event.error
    call.finished_at, call.finished_sequence = at, sequence
    conversation.message_count += 1
    if call.approval_id is not None:
        conversation.approvals.pop(call.approval_id, None)
    operation = _open(conversation, event.operation_id)
    if operation is not None and event.tool_call_id in operation.open_calls:
        operation.open_calls.remove(event.tool_call_id)
    if event.status not in {"interrupted", "cancelled"}:
        conversation.progress_sequence = sequence
