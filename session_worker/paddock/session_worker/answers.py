"""Commands read, and the forms in which they and calls are answered. Pure."""

from pydantic import ValidationError

from paddock.session_worker.errors import BadArgument
from paddock.session_worker.ledger import Moment, result
from paddock.session_worker.protocol import COMMANDS, Arguments, Command, Settled
from paddock.session_worker.stimuli import CallEnded
from paddock.store.events import CommandQuarantined, CommandRejected, Event, ToolCallFinished
from paddock.store.ids import CommandId
from paddock.store.session import Call, CommandAnswer
from paddock.store.text import ALL_IS_KEPT

DIGITS_SHOWN = 12
"""Of a blob's digest in a result: enough to name it in its session."""


def read_command(command: Command) -> Arguments:
    """Return a command's words.

    Raises:
        BadArgument: The verb is unknown, or an argument is missing, unknown or of the wrong form.
    """
    kind = COMMANDS.get(command.verb)
    if kind is None:
        message = f"there is no command {command.verb!r}; known are {', '.join(sorted(COMMANDS))}"
        raise BadArgument(message, verb=command.verb)
    try:
        return kind.model_validate(command.arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{command.verb}: {where}: {first['msg']}"
        raise BadArgument(message, verb=command.verb, argument=where) from error


def answer_in(event: Event, sequence: int) -> CommandAnswer:
    """Return the answer to a command that an event is."""
    code = reason = None
    if isinstance(event, CommandRejected):
        code, reason = event.code, event.reason
    elif isinstance(event, CommandQuarantined):
        code, reason = "quarantined", event.reason
    return CommandAnswer(sequence, event.kind, event.operation_id, code, reason)


def settled(command_id: CommandId, answer: CommandAnswer, digest: str = "") -> Settled:
    """Return the word that tells a command's answer; the digest is that of its words."""
    return Settled(
        command_id=command_id,
        sequence=answer.sequence,
        kind=answer.kind,
        operation_id=answer.operation_id,
        code=answer.code,
        reason=answer.reason,
        digest=digest,
    )


def result_of(call: Call, ended: CallEnded, now: Moment) -> ToolCallFinished:
    """Return the result of a call that came to an outcome."""
    outcome = ended.outcome
    assert outcome is not None, "a call without an outcome has no result of its own"
    text = outcome.text
    if ended.blob is not None:
        text += f"\n{ALL_IS_KEPT}read_output with output={ended.blob[:DIGITS_SHOWN]}]"
    return result(
        call,
        outcome.status,
        text,
        now_us=now.at_us,
        exit_code=outcome.exit_code,
        error_kind=outcome.error_kind,
        error=outcome.error,
        output_bytes=outcome.output_bytes,
        output_blob=ended.blob,
        value=outcome.value,  # type: ignore[arg-type]  # JSON-able by contract
    )


def lost(call: Call, words: str | None) -> ToolCallFinished:
    """Return the result of a call that died with a worker before it began."""
    text = f"The call of {call.tool} was interrupted before it ran: {words}"
    return result(call, "interrupted", text, happened=False, error_kind="interrupted")


def stopped(call: Call, ended: CallEnded, now: Moment) -> ToolCallFinished:
    """Return the result of a call that was cut off by a suspension."""
    return result(
        call,
        "interrupted",
        f"The call of {call.tool} was interrupted: its session was suspended while it ran.",
        now_us=now.at_us,
        happened=ended.happened,
        error_kind="suspended",
    )
