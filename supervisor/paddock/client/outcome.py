"""How an operation ended: read off the events of its session, one after another."""

from dataclasses import dataclass, field
from typing import Literal

from paddock.store.events import (
    AssistantMessageAdded,
    InputDequeued,
    ModelCallFailed,
    ModelCallFinished,
    ModelCallStarted,
    OperationCancelled,
    OperationCompleted,
    OperationFailed,
    OperationInterrupted,
    OperationStarted,
    SessionDeleted,
    SessionFailed,
    Stored,
    TextPart,
    ToolCallFinished,
    Usage,
)
from paddock.store.ids import CommandId, MessageId, OperationId, SessionId

type OutcomeStatus = Literal[
    "completed", "failed", "cancelled", "interrupted", "removed", "session_failed", "deleted"
]
"""removed: the words were taken out of the queue before any operation began."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an operation."""

    session_id: SessionId
    operation_id: OperationId | None
    status: OutcomeStatus
    sequence: int
    final_message: str | None = None
    """The words of the answer that it ended with, if it did; of a shell command, its output."""
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    """None when a part of it is not known."""
    model_calls: int = 0
    duration_ms: float = 0.0
    error_kind: str | None = None
    error: str | None = None


class Watch:
    """Waits, in a session's events, for the end of the operation that a command began.

    Give it every event from the command's answer on, in order. An operation is named by its id, or
    (for words that were queued) by the command that queued them.
    """

    def __init__(self, command_id: CommandId, operation_id: OperationId | None = None) -> None:
        self.command_id = command_id
        self.operation_id = operation_id
        self._began_at: int | None = None
        self._words: dict[MessageId, str] = {}
        self._last_words: str | None = None
        self._used: dict[str, int] = {}
        self._cost: float | None = 0.0
        self._model_calls = 0
        self._is_shell = False
        self.lacks: str | None = None
        """What credentials its model lacks, in words: nothing moves until somebody brings them."""

    def take(self, stored: Stored) -> Outcome | None:
        """Take the next event in; return the outcome if it is the end."""
        event = stored.event
        match event:
            case InputDequeued(input_id=self.command_id):
                if event.reason == "removed":
                    return self._ended(stored, "removed")
                self.operation_id = event.operation_id
            case OperationStarted() if (
                self.operation_id is None and self.command_id in event.input_ids
            ):
                self.operation_id = event.operation_id
            case SessionDeleted():
                return self._ended(stored, "deleted", "session_deleted", "the session was deleted")
            case SessionFailed():
                return self._ended(stored, "session_failed", event.error_kind, event.reason)
            case _:
                pass
        if self.operation_id is None or event.operation_id != self.operation_id:
            return None
        if self._began_at is None:
            self._began_at = stored.occurred_at
        return self._of_operation(stored)

    def gone(self, session_id: SessionId, sequence: int) -> Outcome:
        """Return the outcome where the session was deleted before its last event could be read."""
        return Outcome(
            session_id=session_id,
            operation_id=self.operation_id,
            status="deleted",
            sequence=sequence,
            error_kind="session_deleted",
            error="the session was deleted",
        )

    def _of_operation(self, stored: Stored) -> Outcome | None:
        event = stored.event
        match event:
            case OperationStarted():
                self._is_shell = event.operation == "shell"
            case ToolCallFinished() if self._is_shell:
                self._last_words = event.text
            case AssistantMessageAdded():
                words = [part.text for part in event.parts if isinstance(part, TextPart)]
                self._words[event.message_id] = "".join(words)
                self._last_words = "".join(words) or self._last_words
            case ModelCallStarted():
                self.lacks = None
            case ModelCallFailed(error_kind="needs_credentials"):
                self.lacks = event.error
            case ModelCallFinished():
                self._count(event)
            case OperationCompleted():
                return self._ended(stored, "completed", final=event.final_message_id)
            case OperationFailed():
                return self._ended(stored, "failed", event.error_kind, event.error)
            case OperationCancelled():
                return self._ended(stored, "cancelled", "cancelled", event.reason)
            case OperationInterrupted():
                return self._ended(stored, "interrupted", event.error_kind, event.reason)
            case _:
                pass
        return None

    def _count(self, event: ModelCallFinished) -> None:
        self._model_calls += 1
        for name, value in event.usage:
            if value is not None:
                self._used[name] = self._used.get(name, 0) + value
        if event.cost_usd is None or self._cost is None:
            self._cost = None
        else:
            self._cost += event.cost_usd

    def _ended(
        self,
        stored: Stored,
        status: OutcomeStatus,
        error_kind: str | None = None,
        error: str | None = None,
        *,
        final: MessageId | None = None,
    ) -> Outcome:
        words = self._words.get(final) if final is not None else self._last_words
        began_at = self._began_at if self._began_at is not None else stored.occurred_at
        return Outcome(
            session_id=stored.session_id,
            operation_id=self.operation_id,
            status=status,
            sequence=stored.sequence,
            final_message=words,
            usage=Usage(**self._used),
            cost_usd=self._cost,
            model_calls=self._model_calls,
            duration_ms=max(0.0, (stored.occurred_at - began_at) / 1000),
            error_kind=error_kind,
            error=error,
        )
