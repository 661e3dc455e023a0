"""Events made by our own code are what pydantic would make of the same values."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from paddock.store.events import (
    KINDS,
    CommandAccepted,
    EventBase,
    ModelCallFinished,
    SessionAnnotated,
    TextPart,
    ToolCallFinished,
    ToolCallPart,
    ToolCallStarted,
    Usage,
    UserMessageAdded,
    WorkerExited,
)
from paddock.store.ids import CommandId, MessageId, ModelCallId, OperationId, ToolCallId
from tests.store.any_event import of_type

OPERATION, MESSAGE, CALL = OperationId("o"), MessageId("m"), ToolCallId("c")


@st.composite
def fields_of_some_kind(draw: st.DrawFn) -> tuple[type[EventBase], dict[str, Any]]:
    model = draw(st.sampled_from(list(KINDS.values())))
    fields = {
        name: draw(of_type(field.annotation))
        for name, field in model.model_fields.items()
        if name != "kind" and (field.is_required() or draw(st.booleans()))
    }
    return model, fields


@given(some=fields_of_some_kind())
def test_what_is_made_is_what_would_be_read(some: tuple[type[EventBase], dict[str, Any]]) -> None:
    model, fields = some
    made, read = model(**fields), model.model_validate(fields)
    assert made == read
    assert made.model_dump() == read.model_dump()
    assert repr(made) == repr(read)


def test_nearly_every_kind_has_a_quick_constructor() -> None:
    slow_constructor = vars(BaseModel)["__init__"]
    slow = {kind for kind, model in KINDS.items() if vars(model)["__init__"] is slow_constructor}
    assert slow <= {"session_configured", "todos_updated"}


def finished(**fields: Any) -> ToolCallFinished:
    given: dict[str, Any] = {
        "operation_id": OPERATION,
        "tool_call_id": CALL,
        "status": "ok",
        "text": "",
    }
    return ToolCallFinished(**{**given, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "fine"},
        {"status": ["ok"]},
        {"text": 3},
        {"text": None},
        {"exit_code": "many"},
        {"duration_ms": float("nan")},
        {"duration_ms": float("inf")},
        {"value": {"deep": [float("-inf")]}},
        {"value": {1, 2}},
        {"happened": "perhaps"},
        {"kind": "tool_call_started"},
    ],
    ids=str,
)
def test_what_is_no_value_of_its_field_is_refused_where_the_event_is_made(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        finished(**fields)


def test_what_can_be_converted_is() -> None:
    made = finished(duration_ms=3, exit_code="4", value=[1, {"a": None}])
    assert (made.duration_ms, made.exit_code, made.value) == (3.0, 4, [1, {"a": None}])
    assert type(made.duration_ms) is float
    fields: Any = {"message_id": MESSAGE, "operation_id": OPERATION, "parts": [TextPart(text="x")]}
    assert UserMessageAdded(**fields).parts == (TextPart(text="x"),)


def test_a_field_that_is_missing_is_refused() -> None:
    fields: Any = {"operation_id": OPERATION}
    with pytest.raises((ValidationError, TypeError)):
        ToolCallStarted(**fields)


def test_what_a_maker_does_later_with_its_dict_does_not_change_the_event() -> None:
    arguments: dict[str, Any] = {"path": "a"}
    deep: dict[str, Any] = {"edits": [{"old": "a"}]}
    part = ToolCallPart(tool_call_id=CALL, provider_call_id="p", tool="t", arguments=arguments)
    other = ToolCallPart(tool_call_id=CALL, provider_call_id="p", tool="t", arguments=deep)
    nothing: dict[str, Any] = {}
    accepted = CommandAccepted(command_id=CommandId("k"), verb="v", digest="d", arguments=nothing)
    arguments["path"], nothing["x"] = "b", 1
    deep["edits"].append({})
    assert part.arguments == {"path": "a"}
    assert other.arguments == {"edits": [{"old": "a"}]}
    assert accepted.arguments == {}
    one, other_one = (
        CommandAccepted(command_id=CommandId("k"), verb="v", digest="d") for _ in range(2)
    )
    assert one.arguments == other_one.arguments == {}
    assert one.arguments is not other_one.arguments


def test_defaults_of_models_are_their_own() -> None:
    call = ModelCallFinished(
        operation_id=OPERATION, message_id=MESSAGE, model_call_id=ModelCallId("x"), duration_ms=1.0
    )
    assert call.usage == Usage()
    assert WorkerExited(worker_generation=1, ending="crashed", reason="signal").struck_calls == ()


def test_a_copy_with_changes_leaves_the_original() -> None:
    first = SessionAnnotated(key="a", value=1)
    second = first.model_copy(update={"value": 2})
    assert (first.value, second.value) == (1, 2)
    assert first.model_fields_set == second.model_fields_set
