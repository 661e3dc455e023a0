"""Python functions as tools: whatever one does to its process is a typed result."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from paddock.session_worker.toolbox.json_schema import faults
from paddock.session_worker.tools import (
    BadCall,
    BadSignature,
    Limits,
    Room,
    Tool,
    ToolOutcome,
    ToolSpec,
    Warm,
    python_tool,
    schema_of,
)
from tests.session_worker import toolbox_functions as functions
from tests.session_worker.toolbench import call, is_gone, pids_in, room, run, until

HERE = "tests.session_worker.toolbox_functions"
ROOT = Path(__file__).resolve().parents[2]
ANYTHING: dict[str, object] = {"type": "object"}


@pytest.fixture
def where(tmp_path: Path) -> Room:
    return room(tmp_path)


@dataclass
class Road:
    """How the calls of a test start: each by an interpreter of its own, or from a template."""

    warm: Warm | None = None


ROAD = Road()


@pytest.fixture(params=["cold", "warm"], autouse=True)
async def road(request: pytest.FixtureRequest) -> AsyncIterator[Road]:
    """Have what is promised of a call kept by both."""
    ROAD.warm = Warm() if request.param == "warm" else None
    yield ROAD
    if ROAD.warm is not None:
        await ROAD.warm.close()


def tool(name: str, parameters: object = None, limits: Limits | None = None, **more: Any) -> Tool:
    spec = ToolSpec(
        name=name,
        description="",
        parameters=ANYTHING if parameters is None else parameters,  # type: ignore[arg-type]
        effects="write",
        approval="ask",
        timeout_seconds=30.0,
        output_limit_bytes=30_000,
        exclusive=True,
    )
    spec = replace(spec, **more)
    return python_tool(f"{HERE}:{name}", spec, (str(ROOT),), limits, ROAD.warm)


async def result(where: Room, name: str, **arguments: object) -> ToolOutcome:
    return await call(tool(name), where, **arguments)


async def test_a_function_is_called_and_its_value_comes_back(where: Room) -> None:
    done = await result(where, "add", a=40)
    assert (done.status, done.text, done.value, done.exit_code) == ("ok", "42", 42, 0)


async def test_an_async_function_is_awaited(where: Room) -> None:
    assert (await result(where, "add_later", a=1, b=2)).value == 3


async def test_arguments_become_what_the_annotations_say(where: Room) -> None:
    done = await result(
        where, "place", order={"name": "tea", "cents": 5}, kind="fast", tags=["b", "a"]
    )
    assert done.text == "tea 5 fast ['a', 'b']"
    assert (await result(where, "half", of=3)).value == 1.5
    assert (await result(where, "positional", a=5, b=3)).value == 2
    assert (await result(where, "anything", a=1, z=[2])).value == {"a": 1, "z": [2]}
    assert (await result(where, "shadowing", copy=1, model_fields=2, validate=3)).value == 6


async def test_a_qualified_name_is_followed(where: Room) -> None:
    assert (await result(where, "Desk.ring", times=2)).text == "ring ring "


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("add", {}, "'a'"),
        ("add", {"a": "many"}, "'a'"),
        ("add", {"a": 1, "c": 2}, "'c'"),
        ("place", {"order": {"cents": 1}}, "'order.name'"),
        ("place", {"order": {"name": "x"}, "kind": "medium"}, "'kind'"),
        ("bounded", {"count": 4}, "'count'"),
    ],
)
async def test_a7_malformed_arguments_are_named_before_and_within(
    where: Room, name: str, arguments: dict[str, object], named: str
) -> None:
    schema = schema_of(getattr(functions, name))
    with pytest.raises(BadCall, match=named):
        tool(name, schema).prepare(arguments, where)
    done = await result(where, name, **arguments)
    assert (done.status, done.error_kind) == ("error", "bad_arguments")
    assert named in done.text


async def test_a_value_that_is_no_text_comes_as_json(where: Room) -> None:
    done = await result(where, "rich")
    assert json.loads(done.text) == done.value
    assert done.value == {
        "at": "2026-01-01T00:00:00Z",
        "point": {"x": 1.0, "y": 2.0},
        "nan": None,
    }
    assert (await result(where, "nothing")).value is None


async def test_f16_texts_that_cannot_be_stored_are_replaced_visibly(where: Room) -> None:
    assert (await result(where, "texts")).value == ["�", "a␀b", "é", str(2**70)]


async def test_what_is_printed_does_not_touch_the_result(where: Room) -> None:
    told: list[str] = []
    plan = tool("chatter").prepare({"text": "hello"}, where)
    done = await run(tool("chatter"), plan, where, told.append)
    assert (done.text, done.value) == ("hello", "hello")
    # A template imports once, for all calls: what a module says then is no call's output.
    imported = ("when it is imported",) if ROAD.warm is None else ()
    for words in (*imported, "about to say", "on stderr too", "and below Python"):
        assert words in done.printed
        assert words in "".join(told)


async def test_an_exception_is_told_with_its_trace(where: Room) -> None:
    done = await result(where, "fail", message="no tea")
    assert (done.status, done.error_kind, done.error) == (
        "error",
        "exception",
        "ValueError: no tea",
    )
    assert "toolbox_functions.py" in done.text
    assert "python_child.py" not in done.text


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("leave", {"code": 3}, "exit"),
        ("leave", {"code": 0}, "exit"),
        ("vanish", {"code": 0}, "exit"),
        ("vanish", {"code": 7}, "exit"),
        ("crash", {}, "signal"),
        ("unserialisable", {}, "bad_result"),
        ("circular", {}, "bad_result"),
        ("deep", {"levels": 101}, "bad_result"),
        ("deep", {"levels": 900}, "bad_result"),
        ("many_digits", {}, "bad_result"),
        ("leave", {"code": 2**70}, "exit"),
        ("close_everything", {}, "exit"),
        ("ask", {}, "exception"),
        ("absent", {}, "not_found"),
        ("Order.name", {}, "not_found"),
        ("rest", {"many": [1]}, "bad_signature"),
        ("unreadable", {"a": 1}, "bad_signature"),
    ],
)
async def test_f4_whatever_a_function_does_to_its_process_is_a_typed_result(
    where: Room, name: str, arguments: dict[str, object], kind: str
) -> None:
    done = await result(where, name, **arguments)
    assert (done.status, done.error_kind) == ("error", kind)
    assert done.error
    assert -255 <= (done.exit_code or 0) <= 255
    assert list(where.scratch.iterdir()) == []


async def test_a_module_that_is_not_there_is_said(where: Room) -> None:
    missing = python_tool("no.such.module:f", tool("add").spec)
    assert (await call(missing, where)).error_kind == "not_found"


@pytest.mark.parametrize("name", ["spin", "hold_the_interpreter"])
async def test_f4_a_loop_that_keeps_the_interpreter_is_ended(where: Room, name: str) -> None:
    done = await call(tool(name, timeout_seconds=1.0), where)
    assert (done.status, done.error_kind) == ("timed_out", "timeout")


async def test_f4_a_function_over_its_limits_is_ended(where: Room) -> None:
    done = await call(tool("spin", limits=Limits(cpu_seconds=1)), where)
    assert (done.status, done.error_kind) == ("limit_exceeded", "cpu")


async def test_c9_a_cancelled_function_is_gone(where: Room) -> None:
    leaves = tool("leave_a_process")
    path = where.workspace / "pid"
    plan = leaves.prepare({"pid_file": str(path)}, where)
    task = asyncio.create_task(run(leaves, plan, where))
    await until(lambda: pids_in(path))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert is_gone(*pids_in(path))


async def test_f5_threads_and_processes_that_a_function_left_end_with_it(where: Room) -> None:
    assert (await result(where, "leave_a_thread")).text == "done"
    path = where.workspace / "pid"
    assert (await result(where, "leave_a_process", pid_file=str(path))).text == "done"
    assert is_gone(*pids_in(path))


async def test_a_large_text_is_cut_and_kept_whole(where: Room) -> None:
    done = await result(where, "large")
    assert done.output_bytes == 100_000
    assert "bytes cut here" in done.text
    assert len(done.text) < 31_000
    assert done.value == "x" * 100_000
    assert done.spool is not None
    assert done.spool.read_text() == "x" * 100_000


@pytest.mark.parametrize(("kind", "size"), [("text", 20 << 20), ("list", 20_971_524)])
async def test_f10_a_result_that_is_larger_than_a_value_may_be_is_kept_whole(
    where: Room, kind: str, size: int
) -> None:
    """The call was an error, though its effect was done."""
    done = await result(where, "huge", kind=kind)
    assert (done.status, done.error, done.exit_code) == ("ok", None, 0)
    assert (done.value, done.error_kind) == (None, "value_too_large")
    assert done.output_bytes == size
    assert "bytes cut here" in done.text
    assert len(done.text) < 31_000
    assert done.printed.endswith("it was done\n")
    assert done.spool is not None
    assert list(where.scratch.iterdir()) == [done.spool]
    assert (done.spool.stat().st_size, done.spool.stat().st_mode & 0o777) == (size, 0o600)
    kept = done.spool.read_text()
    assert done.text.startswith(kept[:1000])
    assert done.text.endswith(kept[-1000:])


async def test_f10_a_result_over_the_limit_of_outputs_is_an_error(where: Room) -> None:
    small = Limits(spool_bytes=17 << 20)
    done = await call(tool("huge", limits=small), where, kind="text")
    assert (done.status, done.error_kind) == ("error", "bad_result")
    assert done.error == (
        "the function returned, but its result has 20,971,520 bytes, over 17,825,792"
    )


async def test_f10_of_a_large_exception_the_kind_and_the_head_arrive(where: Room) -> None:
    """It was told as something else that was written in the answer's place."""
    done = await result(where, "fail_at_length", size=20 << 20)
    assert (done.status, done.error_kind) == ("error", "exception")
    assert done.error is not None
    assert done.error.startswith("ValueError: no tea no tea")
    assert done.error.endswith("characters cut here]")
    assert len(done.error) < 70_000
    assert "in fail_at_length" in done.text
    assert len(done.text) < 70_000


async def test_what_else_is_written_in_an_answers_place_is_no_answer(where: Room) -> None:
    done = await result(where, "forge")
    assert (done.status, done.error_kind) == ("error", "exit")
    assert list(where.scratch.iterdir()) == []


async def test_a_function_runs_in_the_workspace_with_the_room_s_environment_alone(
    where: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not for tools")
    (where.workspace / "json.py").write_text("raise SystemExit('a module of the workspace')")
    done = await result(where, "where_am_i")
    assert isinstance(done.value, dict)
    assert done.value["folder"] == str(where.workspace.resolve())
    environment = done.value["environment"]
    assert environment.pop("PADDOCK_CALL")
    assert environment.pop("PADDOCK_OWNER") == where.owner
    environment.pop("LC_CTYPE", None)  # Python's own, where the locale is C
    assert environment == dict(where.environment)
    assert str(where.workspace) not in done.value["path"]


def test_p6_a_function_with_effects_has_an_intent(where: Room) -> None:
    plan = tool("add").prepare({"a": 1}, where)
    assert plan.intent == {"function": f"{HERE}:add", "arguments": {"a": 1}}
    assert tool("add").happened(plan.intent, where) is None
    assert tool("add", effects="none").prepare({"a": 1}, where).intent is None


# -- schemas ---------------------------------------------------------------------------------------


def test_a_schema_says_what_the_signature_says() -> None:
    assert schema_of(functions.add) == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }
    place: Any = schema_of(functions.place)
    assert place["properties"]["order"] == {"$ref": "#/$defs/Order"}
    assert place["$defs"]["Order"]["required"] == ["name"]
    assert place["properties"]["kind"]["enum"] == ["fast", "slow"]
    bounded: Any = schema_of(functions.bounded)
    assert bounded["properties"]["count"]["maximum"] == 3
    assert bounded["properties"]["count"]["description"] == "How many."
    assert schema_of(functions.anything)["additionalProperties"] is True
    assert schema_of(functions.nothing)["properties"] == {}


def takes_a_lock(lock: asyncio.Lock) -> None: ...


@pytest.mark.parametrize("function", [functions.rest, functions.unreadable, takes_a_lock])
def test_a_function_that_cannot_be_a_tool_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(BadSignature, match=function.__name__):
        schema_of(function)


@pytest.mark.parametrize(
    ("value", "schema", "named"),
    [
        (3, {"type": "string"}, "type string"),
        (True, {"type": "integer"}, "type integer"),
        (1.0, {"type": "integer"}, None),
        (1.5, {"type": "integer"}, "type integer"),
        (None, {"type": ["string", "null"]}, None),
        ("c", {"enum": ["a", "b"]}, "one of 'a', 'b'"),
        ("c", {"const": "a"}, "must be 'a'"),
        ({"a": 1}, {"required": ["b"]}, "missing argument 'b'"),
        ({"a": 1}, {"additionalProperties": False}, "unknown argument 'a'"),
        ({"a": "x"}, {"additionalProperties": {"type": "integer"}}, "'a'"),
        ({"a": {"b": 1}}, {"properties": {"a": {"additionalProperties": False}}}, "'a.b'"),
        ([1, "x"], {"items": {"type": "integer"}}, "'1'"),
        ("x", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "none of the forms"),
        (4, {"allOf": [{"maximum": 3}]}, "at most 3"),
        ("", {"minLength": 1}, "at least 1 long"),
        ("x", {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, "type integer"),
        ("x", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, None),
        ("x", {"$ref": "elsewhere"}, None),
        (float("inf"), {"type": "integer"}, "type integer"),
        ("x", {"type": "unheard of"}, None),
    ],
)
def test_a_value_is_checked_against_its_schema(
    value: object, schema: dict[str, object], named: str | None
) -> None:
    found = faults(value, schema)
    if named is None:
        assert found == []
    else:
        assert named in found[0]
