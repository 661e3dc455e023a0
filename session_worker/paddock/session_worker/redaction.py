"""Events without secrets: the one place that every event passes before it is folded or written."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, from_json, to_json

from paddock.session_worker.redact import MARK_START, redact, redact_json
from paddock.store.events import Event, decode, payload_of
from paddock.store.text import whole_object

UNTOUCHED = ("signature", "details")
"""Signatures and encrypted reasoning must come back to their maker bit by bit."""


def without_secrets[E: Event](event: E, secrets: Sequence[str]) -> E:
    """Return the event with known forms of keys and the given values taken out; often itself."""
    payload = payload_of(event)
    if redact(payload, [*secrets, *map(_as_written, secrets)]) == payload:
        return event
    cleaned = redact_json(from_json(payload), secrets, UNTOUCHED)
    return decode(  # type: ignore[return-value]  # of the same kind
        event.kind,
        to_json(cleaned),
        operation_id=event.operation_id,
        message_id=event.message_id,
        tool_call_id=event.tool_call_id,
        command_id=event.command_id,
    )


def storable[E: Event](event: E) -> E:
    """Return the event, with U+FFFD for lone surrogates: no log can hold those (F16)."""
    try:
        payload_of(event)
    except PydanticSerializationError:
        fields = whole_object(event.model_dump(exclude_none=True))
        ids = {name: getattr(event, name) for name in _IDS if getattr(event, name) is not None}
        return type(event).model_validate({**fields, **ids})  # type: ignore[return-value]  # the same
    return event


_IDS = ("operation_id", "message_id", "tool_call_id", "command_id")


def holds_mark(arguments: Mapping[str, JsonValue]) -> bool:
    """Return whether something was taken out of a call's arguments."""
    return MARK_START in to_json(arguments).decode()


def _as_written(secret: str) -> str:
    """Return a secret as it stands inside a JSON text, where quotes and line ends are escaped."""
    return to_json(secret).decode()[1:-1]
