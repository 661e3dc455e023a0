"""A function agent in a real worker: steps and calls are done once, whatever dies (P4-P6)."""

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from pydantic import BaseModel

from paddock.agent import agent, tool
from paddock.agent.handed import same_in_every_process
from paddock.session_worker.protocol import Beat, Bye, Suspend
from paddock.store.events import TextPart
from paddock.store.session import thread
from paddock.store.session_file import folder_of
from tests.session_worker.bench_host import BenchHost, bench_host
from tests.session_worker.test_worker import certify, wait_until_started

MODULE = '''
from pathlib import Path
import asyncio
import fcntl
import time
from datetime import datetime
from pydantic import BaseModel, ConfigDict, Field, computed_field
from paddock.agent import Context, StepFailed, StepInterrupted, agent, tool

HERE = Path(__file__).parent

def note(what):
    with (HERE / "notes").open("a") as notes:
        notes.write(what + "\\n")

class Plan(BaseModel):
    order: str
    cents: int

def think(text: str) -> Plan:
    note("think")
    return Plan(order=text, cents=5)

@tool(effects="write", approval="allow", timeout_seconds=20)
def refund(order_id: str, cents: int) -> str:
    """Pay money back."""
    note("refund")
    for _ in range(400):
        if not (HERE / "slow").exists():
            break
        time.sleep(0.05)
    return f"{order_id} got {cents}"

@tool(effects="write", approval="allow")
def crash() -> str:
    """Die."""
    import os
    os._exit(3)

@agent("support", version="7")
async def support(s: Context) -> None:
    async for turn in s.turns():
        plan = await s.step("plan", think, turn.text, effects="idempotent")
        paid = await s.call(refund, order_id=plan.order, cents=plan.cents)
        s.state["paid"] = s.state.get("paid", 0) + plan.cents
        await turn.reply(f"{paid.status}: {paid.text} ({s.state['paid']} in all)")

@agent("crasher")
async def crasher(s: Context) -> None:
    async for turn in s.turns():
        died = await s.call(crash)
        await turn.reply(f"{died.status} {died.is_error}")

@agent("raiser")
async def raiser(s: Context) -> None:
    async for turn in s.turns():
        raise ValueError("no: " + turn.text)

@agent("nester")
async def nester(s: Context) -> None:
    async for turn in s.turns():
        if turn.text == "answered":
            await turn.reply("one")
        async for inner in s.turns():
            await inner.reply("two")

class Bank:
    def __init__(self, place):
        self.place = place

def total(bank, amounts):
    note("total")
    return sum(amounts)

@agent("carrier")
async def carrier(s: Context) -> None:
    async for turn in s.turns():
        bank = Bank(lambda: "here")
        sums = await s.step("sum", total, bank, (int(word) for word in turn.text.split()))
        paid = await s.call(refund, order_id="A", cents=sums)
        await turn.reply(f"{sums} {paid.status}")

@agent("once")
async def once(s: Context) -> None:
    async for turn in s.turns():
        paid = await s.call(refund, order_id=turn.text, cents=1)
        await turn.reply(paid.text)
        if turn.text == "last":
            raise ValueError("after the last word")
        return

@tool(effects="write", approval="allow", timeout_seconds=600)
def linger(what: str) -> str:
    held = (HERE / "held").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    note("lingers")
    time.sleep(600)
    return what

@agent("hasty")
async def hasty(s: Context) -> None:
    async for turn in s.turns():
        if turn.text == "more":
            await turn.reply("still here")
            return
        call = asyncio.create_task(s.call(linger, what=turn.text))
        while not (HERE / "notes").exists() or "lingers" not in (HERE / "notes").read_text():
            await asyncio.sleep(0.01)
        if turn.text == "raises":
            raise ValueError("enough")
        if turn.text == "returns":
            return
        if turn.text == "replies":
            await turn.reply("done with that")
            note((await call).status)

@agent("quitter")
async def quitter(s: Context) -> None:
    async for turn in s.turns():
        raise SystemExit("enough")

class OddError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

def leave(raised):
    raise raised

async def leave_soon(raised):
    raise raised

@agent("leaver")
async def leaver(s: Context) -> None:
    async for turn in s.turns():
        match turn.text:
            case "cancelled task":
                task = asyncio.ensure_future(asyncio.sleep(100))
                task.cancel()
                await task
            case "cancelled":
                raise asyncio.CancelledError
            case "keyboard":
                raise KeyboardInterrupt
            case "exit in a task":
                await asyncio.create_task(leave_soon(SystemExit("far away")))
            case "generator":
                raise GeneratorExit
            case "group":
                raise BaseExceptionGroup("two", [ValueError("one"), KeyboardInterrupt()])
            case "stop iteration":
                raise StopIteration
            case "stop async iteration":
                raise StopAsyncIteration("over")
            case "odd":
                raise OddError
            case "stopped loop":
                asyncio.get_running_loop().stop()
                await asyncio.sleep(100)
            case _:
                await turn.reply("still here")

@agent("stepper")
async def stepper(s: Context) -> None:
    async for turn in s.turns():
        told = []
        for raised in (
            SystemExit("enough"), KeyboardInterrupt(), StopIteration("x"), OddError(),
            asyncio.CancelledError(), BaseExceptionGroup("two", [ValueError("one")]),
        ):
            for function in (leave, leave_soon):
                try:
                    await s.step("leave", function, raised)
                except StepFailed as failed:
                    told.append(type(raised).__name__ in str(failed) or str(failed))
        await turn.reply(str(told))

@agent("stubborn")
async def stubborn(s: Context) -> None:
    async for turn in s.turns():
        note("entered " + turn.text)
        try:
            await s.call(refund, order_id=turn.text, cents=1)
        except asyncio.CancelledError:
            match turn.text:
                case "left":
                    return
                case "raised":
                    raise ValueError("I was cut off")
                case "next":
                    continue
        await turn.reply("came to its end")

def pair():
    return (1, 2)

def half():
    return "half \\ud800"

@agent("rounder")
async def rounder(s: Context) -> None:
    async for turn in s.turns():
        plan = await s.step("plan", think, turn.text)
        said = f"{await s.step('pair', pair)} {await s.step('half', half)} {type(plan).__name__}"
        await turn.reply(said)

class Invoice(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    number: str = Field(alias="invoiceNumber")
    at: datetime

    @computed_field
    @property
    def day(self) -> str:
        return self.at.date().isoformat()

def bill() -> Invoice:
    note("bill")
    return Invoice(invoiceNumber="I1", at=datetime(2026, 1, 2))

@agent("biller")
async def biller(s: Context) -> None:
    async for turn in s.turns():
        invoice = await s.step("bill", bill)
        await s.call(refund, order_id="A", cents=1)
        await turn.reply(f"{invoice.number} {invoice.day}")

class Opaque:
    pass

def hide() -> Opaque:
    note("hidden")
    return Opaque()

def unknown() -> "asyncio.Nothing":
    return 1

@agent("hider")
async def hider(s: Context) -> None:
    async for turn in s.turns():
        try:
            await s.step("hide", hide)
        except TypeError as error:
            await turn.reply(f"{await s.step('unknown', unknown)} {error}")

def deep(levels):
    return [] if levels == 1 else [deep(levels - 1)]

def circle():
    made = []
    made.append(made)
    return made

def give(value):
    return VALUES[value]

VALUES = {
    "number": float("inf"), "levels": deep(101), "digits": 10**5000, "circle": circle(),
    "key": {1: "a"}, "object": object(), "half": {"\\ud800": 1}, "bytes": b"\\xff",
    "abyss": deep(900),
}

@agent("clumsy")
async def clumsy(s: Context) -> None:
    async for turn in s.turns():
        async def try_all(what, tries):
            for name, attempt in tries.items():
                try:
                    await attempt()
                except (TypeError, ValueError, StepFailed) as error:
                    note(f"{what} {name}: {type(error).__name__}: {error}")
                else:
                    note(f"{what} {name}: nothing")

        async def with_state(value, action):
            s.state = value
            await action()

        if turn.text in VALUES:
            await s.call("bash", command=VALUES[turn.text])
        await try_all("reply", {
            "5": lambda: turn.reply(5),
            "object": lambda: turn.reply({"a": 1}),
            "None": lambda: turn.reply(None),
        })
        await try_all("step", {
            "5": lambda: s.step(5, think, "x"),
            "long": lambda: s.step("k" * 5000, think, "x"),
            "function": lambda: s.step("a", 5),
            "effects": lambda: s.step("a", think, "x", effects="maybe"),
            "arguments": lambda: s.step("a", think, VALUES["circle"]),
        })
        await try_all("tool", {"5": lambda: s.call(5), "think": lambda: s.call(think)})
        for action in (s.save, lambda: turn.reply("no")):
            await try_all("state", {
                "5": lambda: with_state(5, action),
                **{name: lambda v=v: with_state({"x": v}, action) for name, v in VALUES.items()},
            })
        s.state = {"fine": deep(98), "n": 2**70}
        await try_all("call", {
            name: lambda v=v: s.call("bash", command=v) for name, v in VALUES.items()
        })
        await try_all("value", {name: lambda n=name: s.step(n, give, n) for name in VALUES})
        await turn.reply("done")

def thick(text: str) -> str:
    return text * 40_000_000

@agent("hoarder")
async def hoarder(s: Context) -> None:
    async for turn in s.turns():
        told = []
        for what in (
            lambda: s.step("thick", thick, turn.text),
            lambda: s.call(refund, order_id=thick("o"), cents=1),
            lambda: turn.reply(thick("r")),
        ):
            try:
                await what()
            except Exception as error:
                told.append(str(error))
        s.state["much"] = thick("s")
        try:
            await s.save()
        except Exception as error:
            told.append(str(error))
        s.state["much"] = len(told)
        await turn.reply(" | ".join(told))

@agent("changing")
async def changing(s: Context) -> None:
    async for turn in s.turns():
        which = (HERE / "which").read_text() if (HERE / "which").exists() else "one"
        await s.step(which, think, which)
        (HERE / "which").write_text("two")
        await s.step("same", think, which)
        await s.call(refund, order_id="a", cents=1)
        await turn.reply("done")
'''


@pytest.fixture
def host(ground: Path) -> Iterator[BenchHost]:
    (ground / "agents").mkdir()
    (ground / "agents" / "desk.py").write_text(MODULE)
    with bench_host(ground) as made:
        yield made


def create(host: BenchHost, name: str) -> Path:
    folder = host.data.parent / "agents"
    host.create(agent=f"desk:{name}", python_path=[str(folder)])
    return folder


def replies(host: BenchHost) -> list[str]:
    return [
        part.text
        for message in thread(host.state().conversation)
        for part in message.assistant_parts
        if isinstance(part, TextPart)
    ]


def test_an_agent_answers_turn_after_turn_and_keeps_its_state(host: BenchHost) -> None:
    folder = create(host, "support")
    host.start()
    host.send("A1")
    host.rest()
    host.send("A2")
    host.rest()
    assert replies(host) == ["ok: A1 got 5 (5 in all)", "ok: A2 got 5 (10 in all)"]
    assert (folder / "notes").read_text().split() == ["think", "refund"] * 2
    assert host.state().conversation.state == {"paid": 10}
    host.suspend()
    host.start()
    host.send("A3")
    host.rest()
    assert replies(host)[-1] == "ok: A3 got 5 (15 in all)"
    host.suspend()


def test_p6_on_re_entry_a_recorded_step_is_not_run_again_and_a_killed_call_is_interrupted(
    host: BenchHost,
) -> None:
    folder = create(host, "support")
    (folder / "slow").touch()
    host.start()
    host.send("A1")
    wait_until_started(host)
    while "refund" not in ((folder / "notes").read_text() if (folder / "notes").exists() else ""):
        host.hear(0.1)
    host.kill()
    (folder / "slow").unlink()
    certify(host)
    host.start()
    host.rest()
    assert (folder / "notes").read_text().split() == ["think", "refund"]
    (answer,) = replies(host)
    assert answer.startswith("interrupted:")
    host.suspend()


def test_p9_a_tool_that_exits_is_a_typed_result_and_the_session_goes_on(host: BenchHost) -> None:
    create(host, "crasher")
    host.start()
    host.send("go")
    host.rest()
    assert replies(host) == ["error True"]
    host.suspend()


def test_f10_what_no_event_can_hold_is_an_error_where_the_agent_hands_it_over(
    host: BenchHost,
) -> None:
    create(host, "hoarder")
    host.start()
    host.send("x")
    host.rest()
    (answer,) = replies(host)
    told = answer.split(" | ")
    whats = ["the value of step 'thick'", "a call of 'refund'", "a reply", "the state"]
    assert len(told) == len(whats)
    for error, what in zip(told, whats, strict=True):
        assert what in error
        assert "keep it in a file" in error
    assert host.state().conversation.state == {"much": 4}
    host.suspend()


def test_an_agent_that_raises_fails_its_operation_and_takes_the_next(host: BenchHost) -> None:
    create(host, "raiser")
    host.start()
    host.send("one")
    host.rest()
    state = host.state()
    assert state.conversation.ended is not None
    assert state.conversation.ended.status == "failed"
    assert state.conversation.ended.error == "ValueError: no: one"
    host.send("two")
    host.wait_for(Beat, lambda beat: beat.stage == "resting")
    ended = host.state().conversation.ended
    assert ended is not None
    assert ended.error == "ValueError: no: two"
    host.suspend()
    said = (folder_of(host.data, host.session_id) / "stderr.1").read_text()
    assert said.count("Traceback (most recent call last):") == 2
    line = MODULE[: MODULE.index('raise ValueError("no: ')].count("\n") + 1
    assert f'desk.py", line {line}, in raiser' in said


def die_in_a_call(host: BenchHost, agent: str, words: str) -> Path:
    """Have a worker die in a slow call, and the next one come to rest; return their folder."""
    folder = create(host, agent)
    (folder / "slow").touch()
    host.start()
    host.send(words)
    wait_until_started(host)
    host.kill()
    (folder / "slow").unlink()
    certify(host)
    host.start()
    host.rest()
    return folder


def test_an_agent_that_takes_another_way_on_re_entry_ends_as_diverged(host: BenchHost) -> None:
    die_in_a_call(host, "changing", "go")
    ended = host.state().conversation.ended
    assert ended is not None
    assert (ended.status, ended.error_kind) == ("failed", "diverged")
    host.suspend()


def test_p6_a_step_is_known_again_by_arguments_that_json_cannot_hold_and_reads_them_itself(
    host: BenchHost,
) -> None:
    folder = die_in_a_call(host, "carrier", "1 2 3")
    assert replies(host) == ["6 interrupted"]
    assert (folder / "notes").read_text().splitlines().count("total") == 1
    host.suspend()


def test_turns_asked_for_within_a_turn_fail_where_none_could_come(host: BenchHost) -> None:
    create(host, "nester")
    host.start()
    host.send("open")
    host.rest()
    ended = host.state().conversation.ended
    assert ended is not None
    assert ended.error is not None
    assert ended.error.startswith("RuntimeError: s.turns() within a turn")
    for words in ("answered", "next"):
        host.send(words)
        host.rest()
    assert replies(host) == ["one", "two"]
    host.suspend()


class Nameless:
    pass


class Tagged(BaseModel):
    tags: frozenset[int]


@dataclass
class Kept:
    tags: set[int]


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Nameless(), Nameless(), object()),
        (Unspeakable(), Unspeakable(), Nameless()),
        ({0, 8}, {8, 0}, {0, 16}),
        ([frozenset({"b", (1, "a")})], [frozenset({(1, "a"), "b"})], [frozenset("b")]),
        (Tagged(tags=frozenset({0, 8})), Tagged(tags=frozenset({8, 0})), Tagged(tags=frozenset())),
        ([Kept({0, 8})], [Kept({8, 0})], [Kept({0})]),
        (b"\xff", bytearray(b"\xff"), b"\xfe"),
        (b"text", "text", b"other"),
        ({"many": iter([1])}, {"many": iter([2])}, {"many": map(int, "1")}),
        ({"a": 1, "b": 2.5}, {"b": 2.5, "a": 1}, {"a": 1}),
    ],
)
def test_arguments_of_a_step_are_told_from_others_alike_in_each_process(
    one: object, same: object, other: object
) -> None:
    assert same_in_every_process(one) == same_in_every_process(same)
    assert same_in_every_process(one) != same_in_every_process(other)


def test_an_agent_that_is_not_there_is_one_clear_line(host: BenchHost) -> None:
    folder = host.data.parent / "agents"
    host.create(agent="desk:nobody", python_path=[str(folder)])
    with pytest.raises(AssertionError, match="agents of that module: desk:support"):
        host.start()
    assert host.worker is not None
    assert host.worker.wait(30) == 64


def test_what_an_agent_prints_is_kept_beside_its_last_words_without_secrets(
    host: BenchHost,
) -> None:
    folder = host.data.parent / "agents"
    (folder / "chatty.py").write_text(CHATTY)
    host.create(agent="chatty", python_path=[str(folder)])
    host.start()
    host.send("hi")
    host.rest()
    host.suspend()
    said = (folder_of(host.data, host.session_id) / "stderr.1").read_text().splitlines()
    assert said == ["imported utf-8", "began with [redacted:anthropic-key]"]


@pytest.mark.parametrize("reference", ["json:mine", "email.mine:mine"])
def test_an_agent_whose_module_has_the_name_of_a_librarys_is_told_to_take_another(
    host: BenchHost, reference: str
) -> None:
    folder = host.data.parent / "agents"
    own = folder / f"{reference.partition(':')[0].replace('.', '/')}.py"
    own.parent.mkdir(exist_ok=True)
    (own.parent / "__init__.py").touch()
    own.write_text("raise RuntimeError('never imported')")
    host.create(agent=reference, python_path=[str(folder)])
    package = own if own.parent == folder else own.parent / "__init__.py"
    with pytest.raises(AssertionError, match=f"not {package}: give that another name"):
        host.start()
    assert host.worker is not None
    assert host.worker.wait(30) == 64


CHATTY = """
import os, sys
from paddock.agent import Context, agent

print("imported", sys.stdout.encoding)

@agent("chatty")
async def chatty(s: Context) -> None:
    print("began with", "sk-" + "ant-" + "api03-" + "0a1B2c3D" * 6)
    os.write(1, b"unseen")
    async for turn in s.turns():
        await turn.reply("done")
"""
TWIN = '''
from paddock.agent import Context, agent, tool

@tool(effects="none", approval="allow")
def tell() -> str:
    """Tell."""
    return "tool of {where}"

@agent("twin")
async def twin(s: Context) -> None:
    async for turn in s.turns():
        told = await s.call(tell)
        await turn.reply(f"agent of {where}, {{told.text}}")
'''


def test_an_agent_and_its_tools_are_of_the_first_folder_that_has_them(host: BenchHost) -> None:
    folders = [host.data.parent / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        (folder / "twin.py").write_text(TWIN.format(where=folder.name))
    host.create(agent="twin", python_path=[str(folder) for folder in folders])
    host.start()
    host.send("who?")
    host.rest()
    assert replies(host) == ["agent of first, tool of first"]
    host.suspend()


@pytest.mark.parametrize("first", ["one", "last"])
def test_p4_an_agent_that_ends_after_a_reply_is_entered_anew_for_what_was_queued(
    host: BenchHost, first: str
) -> None:
    folder = create(host, "once")
    (folder / "slow").touch()
    host.start()
    host.send(first)
    wait_until_started(host)
    assert host.send("two").kind == "input_queued"
    (folder / "slow").unlink()
    host.rest()
    assert replies(host) == [f"{first} got 1", "two got 1"]
    ended = host.state().conversation.ended
    assert ended is not None
    assert ended.status == "completed"
    host.suspend()


@pytest.mark.parametrize(
    ("way", "status"),
    [
        ("replies", "completed"),
        ("goes on", "completed"),
        ("returns", "completed"),
        ("raises", "failed"),
    ],
)
def test_p5_a_call_that_its_agent_left_open_is_cancelled_before_the_end_and_its_tool_ended(
    host: BenchHost, way: str, status: str
) -> None:
    folder = create(host, "hasty")
    host.start()
    host.send(way)
    host.rest()
    kinds = [str(stored.event.kind) for stored in host.events()]
    assert kinds.count("tool_call_finished") == 1
    assert kinds.index("tool_call_finished") < kinds.index(f"operation_{status}")
    (call,) = host.state().conversation.calls.values()
    assert call.status == "cancelled"
    with (folder / "held").open() as held:
        while not _is_free(held):
            host.hear(0.1)
    host.send("more")
    host.rest()
    assert replies(host)[-1] == "still here"
    if way == "replies":
        assert (folder / "notes").read_text().split() == ["lingers", "cancelled"]
    host.suspend()


def _is_free(held: IO[str]) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_an_agent_that_exits_fails_its_operation(host: BenchHost) -> None:
    create(host, "quitter")
    host.start()
    host.send("one")
    host.rest()
    ended = host.state().conversation.ended
    assert ended is not None
    assert (ended.status, ended.error) == ("failed", "SystemExit: enough")
    host.suspend()


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("cancelled task", "CancelledError: cancelled by its own code, nobody asked it to stop"),
        ("cancelled", "CancelledError: cancelled by its own code, nobody asked it to stop"),
        ("keyboard", "KeyboardInterrupt"),
        ("exit in a task", "SystemExit: far away"),
        ("generator", "GeneratorExit"),
        ("group", "BaseExceptionGroup: two (2 sub-exceptions): ValueError: one; KeyboardInterrupt"),
        ("stop iteration", "RuntimeError: coroutine raised StopIteration"),
        ("stop async iteration", "StopAsyncIteration: over"),
        ("odd", "OddError: (its words cannot be told)"),
        ("stopped loop", "RuntimeError: Event loop stopped before Future completed."),
    ],
)
def test_p4_whatever_escapes_from_an_agent_fails_its_operation_and_it_takes_the_next(
    host: BenchHost, way: str, error: str
) -> None:
    create(host, "leaver")
    host.start()
    operation = host.send(way).operation_id
    host.rest()
    ended = host.state().conversation.ended
    assert ended is not None
    assert (ended.operation_id, ended.status) == (operation, "failed")
    assert (ended.error_kind, ended.error) == ("agent_error", error)
    host.send("more")
    host.rest()
    assert replies(host) == ["still here"]
    host.suspend()


def test_whatever_escapes_from_a_step_is_recorded_and_raised_as_its_failure(
    host: BenchHost,
) -> None:
    create(host, "stepper")
    host.start()
    host.send("go")
    host.rest()
    assert replies(host) == [str([True] * 12)]
    steps = [s.event for s in host.events() if s.event.kind == "step_finished"]
    assert [step.status for step in steps] == ["error"] * 12
    host.suspend()


WAYS = ["left", "raised", "next"]


@pytest.mark.parametrize("way", WAYS)
def test_c1_an_interrupted_operation_is_cancelled_whatever_its_agent_makes_of_that(
    host: BenchHost, way: str
) -> None:
    folder = create(host, "stubborn")
    (folder / "slow").touch()
    host.start()
    host.send(way)
    wait_until_started(host)
    assert host.command("interrupt").kind == "operation_cancelled"
    (folder / "slow").unlink()
    host.send("more")
    host.rest()
    assert replies(host) == ["came to its end"]
    assert [s.event.kind for s in host.events()].count("operation_failed") == 0
    host.suspend()


@pytest.mark.parametrize("way", WAYS)
def test_a_suspended_operation_goes_on_at_the_next_start_whatever_its_agent_makes_of_that(
    host: BenchHost, way: str
) -> None:
    folder = create(host, "stubborn")
    (folder / "slow").touch()
    host.start()
    operation = host.send(way).operation_id
    wait_until_started(host)
    host.say(Suspend(reason="asked", force=True, deadline_seconds=0.5))
    host.wait_for(Bye)
    assert host.worker is not None
    assert host.worker.wait(30) == 0, host.last_words()
    open_ = host.state().conversation.operation
    assert open_ is not None
    assert open_.operation_id == operation
    (folder / "slow").unlink()
    host.start()
    host.rest()
    assert (folder / "notes").read_text().count(f"entered {way}") == 2
    assert replies(host) == ["came to its end"]
    host.suspend()


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("def one(s): ...", "is not async"),
        ("async def one(s): yield", "is a generator"),
        ("def one(s): yield", "is a generator"),
    ],
)
def test_a_function_that_can_be_no_agent_is_one_clear_line(
    host: BenchHost, function: str, what: str
) -> None:
    folder = host.data.parent / "agents"
    (folder / "odd.py").write_text(f"from paddock.agent import agent\n@agent('one')\n{function}\n")
    host.create(agent="odd:one", python_path=[str(folder)])
    with pytest.raises(AssertionError, match=rf"agent 'one': one {what}.*an agent is 'async def'"):
        host.start()
    assert host.worker is not None
    assert host.worker.wait(30) == 64


FLAWS = {
    "number": "holds inf, which is no number in JSON",
    "levels": "is nested more than 100 levels deep",
    "digits": "holds a whole number of more than 4,300 digits",
    "circle": "cannot be written as JSON: Circular reference detected",
    "key": "has a key that is no string",
    "object": "holds what JSON cannot hold: Unable to serialize unknown type",
    "half": "cannot be written as JSON: ",
    "bytes": "cannot be written as JSON: ",
    "abyss": "is nested too deeply",
}


def test_what_cannot_be_recorded_is_an_error_where_the_agent_hands_it_over(
    host: BenchHost,
) -> None:
    folder = create(host, "clumsy")
    host.start()
    host.send("go")
    host.rest()
    assert replies(host) == ["done"]
    lines = (folder / "notes").read_text().splitlines()
    told = dict(line.split(": ", 1) for line in lines)
    assert told["reply 5"] == "TypeError: a reply must be a string, not int"
    assert told["reply object"] == "TypeError: a reply must be a string, not dict"
    assert told["step 5"] == "TypeError: the key of a step must be a string, not int"
    assert "5,000 characters" in told["step long"]
    assert told["step function"] == "TypeError: step 'a' needs a function, not int"
    assert "must be one of none, idempotent, write" in told["step effects"]
    assert "cannot be told from others: Circular" in told["step arguments"]
    assert "mark it with @tool" in told["tool think"]
    assert told["state 5"] == "TypeError: the state must be a dict, not int"
    for name, flaw in FLAWS.items():
        assert f"Error: the state {flaw}" in told[f"state {name}"]
        assert f"Error: a call of 'bash' {flaw}" in told[f"call {name}"]
        assert f"Error: the value of step {name!r} {flaw}" in told[f"value {name}"]
        assert told[f"value {name}"].startswith("StepFailed: ")
    kinds = [stored.event.kind for stored in host.events()]
    assert kinds.count("step_started") == len(
        FLAWS
    )  # their functions ran, and what they gave is bad
    assert kinds.count("tool_call_requested") == 0
    host.suspend()
    host.start()
    assert host.state().conversation.state["n"] == 2**70
    host.send("number")
    host.rest()
    ended = host.state().conversation.ended
    assert ended is not None
    assert ended.error == "ValueError: a call of 'bash' holds inf, which is no number in JSON"
    host.suspend()
    assert [stored.event.kind for stored in host.events()].count("worker_started") == 2


@pytest.mark.parametrize(
    ("mark", "what"),
    [
        ("agent(5)", "an agent's name must be a string, not int"),
        ("agent('a', version=7)", "an agent's version must be a string, not int"),
        ("tool(effects='some')", "a tool's effects are one of"),
        ("tool(approval='no')", "its approval one of"),
        ("tool(timeout_seconds=float('nan'))", "timeout_seconds must be a number above 0, not nan"),
    ],
)
def test_a_mark_that_cannot_be_is_an_error_where_it_is_made(mark: str, what: str) -> None:
    with pytest.raises((TypeError, ValueError), match=what):
        eval(mark, {"agent": agent, "tool": tool})


def test_a_step_gives_the_first_time_what_it_gives_on_re_entry(host: BenchHost) -> None:
    create(host, "rounder")
    host.start()
    host.send("go")
    host.rest()
    assert replies(host) == ["[1, 2] half \ufffd Plan"]
    host.suspend()


def test_a_step_gives_a_model_back_by_its_fields_now_and_on_re_entry(host: BenchHost) -> None:
    """One with an alias, a computed field, or strict, was done and then failed to be read."""
    folder = create(host, "biller")
    (folder / "slow").touch()
    host.start()
    host.send("go")
    wait_until_started(host)
    host.kill()
    (folder / "slow").unlink()
    certify(host)
    host.start()
    host.rest()
    assert replies(host) == ["I1 2026-01-02"]
    assert (folder / "notes").read_text().split().count("bill") == 1
    host.suspend()


def test_a_step_whose_type_cannot_be_recorded_is_refused_before_it_runs(host: BenchHost) -> None:
    folder = create(host, "hider")
    host.start()
    host.send("go")
    host.rest()
    (said,) = replies(host)
    assert said.startswith("1 step 'hide': no value can be recorded of the type")
    assert not (folder / "notes").exists()
    host.suspend()


SHELF = """
from paddock.agent import tool

@tool(effects="none", approval="allow")
def take(what: str) -> str:
    return f"NAME: {what}"

class Box:
    @staticmethod
    @tool(effects="none", approval="allow")
    def lift(what: str) -> str:
        return what
"""
SHOP = """
from paddock.agent import agent
from . import near
from .far import take
from .far import Box

@agent("shop")
async def shop(s):
    async for turn in s.turns():
        told = [(await s.call(take, what="one")).text]
        for other in (near.take, near.give, Box.lift):
            try:
                told.append((await s.call(other, what="two")).text)
            except ValueError as error:
                told.append(str(error))
        await turn.reply("\\n".join(told))

the_same = shop
"""


def test_an_agents_tools_are_those_of_its_module_and_the_modules_it_names_and_never_another(
    host: BenchHost,
) -> None:
    """A tool by its module was unknown, and of two with one name the other was called."""
    package = host.data.parent / "agents" / "counter"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "far.py").write_text(SHELF.replace("NAME", "far"))
    near = SHELF.replace("NAME", "near")
    (package / "near.py").write_text(near + near.split("class")[0].replace("take", "give"))
    (package / "shop.py").write_text(SHOP)
    host.create(agent="counter.shop", python_path=[str(package.parent)])
    host.start()
    host.send("go")
    host.rest()
    (said,) = replies(host)
    assert said.splitlines() == [
        "far: one",
        (
            "two tools go by the name 'take', counter.far:take and counter.near:take:"
            " give one another, @tool(name=...)"
        ),
        "near: two",
        (
            "tool 'lift' (counter.far:Box.lift) is not one of its agent's: have it, or its module,"
            " as a name in the agent's module"
        ),
    ]
    host.suspend()
