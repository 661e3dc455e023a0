"""The client library against a real host: words, decisions, questions, and hosts that go away."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paddock.client import Host, Noticed, Previewed, Session, approvals, connect, sync
from paddock.client.approvals import OpenApproval
from paddock.client.keys import new_id
from paddock.client.places import announced
from paddock.client.session import Operation
from paddock.session_worker.errors import (
    BadArgument,
    InputNotFound,
    NothingToDecide,
    NothingToInterrupt,
    UnknownModel,
    WorkspaceMissing,
)
from paddock.session_worker.protocol import Interrupt
from paddock.store.errors import AlreadyExists, SessionNotFound, SqlRefused, StoreError, TimedOut
from paddock.store.events import SessionConfig, Stored, UserMessageAdded
from paddock.store.ids import ApprovalId, CommandId, SessionId
from paddock.store.protocol import SessionFilter
from paddock.store.session_file import folder_of
from paddock.supervisor.cli.run import Watching
from paddock.supervisor.errors import BadConfiguration, HostGone, NoHost, PathTooLong
from paddock.supervisor.protocol import Alive, Leave, Status
from paddock.testing import HostForTests, call, turn, wait_until, wait_until_async, write_script
from tests.together.hosting import host_for_tests


@pytest.fixture(scope="module")
def host() -> Iterator[HostForTests]:
    with host_for_tests("client") as made:
        yield made


@pytest.fixture
def lone_host(home: Path) -> Iterator[HostForTests]:
    """Give a host that may be killed."""
    made = HostForTests(home)
    yield made
    made.end()


@pytest.fixture
async def paddock(host: HostForTests, ground: Path) -> AsyncIterator[Host]:
    client = await host.connect()
    yield client
    for life in await client.lives():  # their workers stand in this test's folder
        await Session(client, SessionId(life["session_id"])).delete(deadline_seconds=1)
    await client.close()


QUIET_AGENT = """
from paddock.agent import agent

@agent("quiet")
async def quiet(s):
    async for turn in s.turns():
        await turn.reply("")
"""
SLOW = turn("slow", call("bash", command="sleep 30"))


async def test_a_session_does_what_it_is_told(paddock: Host, ground: Path) -> None:
    model = write_script(
        ground / "s.json",
        [turn("look", call("bash", command="echo hi > note; cat note")), turn("ok")],
    )
    session = await paddock.new(model=model, cwd=ground, mode="yolo")
    operation = await session.send("leave a note")
    outcome = await operation.wait(60)
    assert (outcome.status, outcome.final_message) == ("completed", "ok")
    assert outcome.operation_id == operation.operation_id
    assert (ground / "note").read_text() == "hi\n"


async def test_p1_state_is_the_same_for_a_live_and_a_stored_session(
    paddock: Host, ground: Path
) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
    await (await session.send("hello")).wait(60)
    live = await session.state()
    await session.suspend()
    stored = await session.state()
    assert live.conversation == stored.conversation
    assert (live.life.status, stored.life.status) == ("live", "suspended")


async def test_p14_a_key_sends_words_once(paddock: Host, host: HostForTests, ground: Path) -> None:
    model = write_script(ground / "s.json", [turn("one"), turn("two")])
    session = await paddock.new(model=model, cwd=ground)
    first = await session.send("go", key="monday")
    async with await host.connect() as another:  # a script that was started again
        again = await (await another.session(session.session_id)).send("go", key="monday")
    assert (again.command_id, again.operation_id) == (first.command_id, first.operation_id)
    await first.wait(60)
    words = [
        stored
        async for stored in session.events(follow=False)
        if isinstance(stored.event, UserMessageAdded)
    ]
    assert len(words) == 1


async def test_p14_a_key_that_is_sent_many_times_at_once_has_one_answer_for_each(
    paddock: Host, ground: Path
) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", [turn("one")]), cwd=ground)
    sends = [session.send("go", key="monday", deadline_seconds=20) for _ in range(10)]
    others = [session.send("stop", key="monday", deadline_seconds=20) for _ in range(2)]
    begun = await asyncio.gather(*sends, *others, return_exceptions=True)
    assert {type(each) for each in begun[:10]} == {Operation}
    assert len({each.operation_id for each in begun if isinstance(each, Operation)}) == 1
    assert [type(each) for each in begun[10:]] == [AlreadyExists] * 2
    # One that is waited for no more takes the answer from none of the others.
    left = asyncio.create_task(session.send("go", key="tuesday"))
    stays = asyncio.create_task(session.send("go", key="tuesday", deadline_seconds=20))
    await asyncio.sleep(0)
    left.cancel()
    assert isinstance(await stays, Operation)


async def test_p14_a_key_with_other_words_is_refused(paddock: Host, ground: Path) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
    await session.send("go", key="monday")
    with pytest.raises(AlreadyExists):
        await session.send("stop", key="monday")


async def test_a_key_is_erased_with_its_session(
    paddock: Host, host: HostForTests, ground: Path
) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
    await (await session.send("go", key="monday")).wait(60)
    assert list(host.data.glob(f"sessions/*/{session.session_id}/keys/*"))
    await session.delete(erase=True)
    assert not list(host.data.glob(f"sessions/*/{session.session_id}"))


async def test_s4_an_erasure_that_fails_is_not_told_as_done_whenever_it_is_asked_for(
    paddock: Host, host: HostForTests, ground: Path
) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
    await session.suspend()
    folder = folder_of(host.data, session.session_id)
    in_the_way = folder.with_name(f".{folder.name}.erased")  # where a folder goes to be erased
    in_the_way.touch()
    command_id = paddock.new_command_id()
    for _ in range(3):
        with pytest.raises(StoreError, match="cannot erase"):
            await session.delete(erase=True, command_id=command_id)
    assert folder.exists()
    in_the_way.unlink()
    await session.delete(erase=True, command_id=command_id)
    assert not folder.exists()

    async def is_over() -> bool:
        lives = await paddock.lives()
        return session.session_id not in {life["session_id"] for life in lives}

    await wait_until_async(is_over, what="its host has seen that it is gone")


async def test_s4_sql_shows_nothing_of_a_session_once_it_is_erased(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "s.json", [turn("ok")])
    for _ in range(5):
        session = await paddock.new(model=model, cwd=ground)
        await (await session.send("go")).wait(60)
        assert session.session_id in await paddock.heads()
        await session.delete(erase=True)
        query = "SELECT session_id FROM sessions WHERE session_id = ?"
        rows = await paddock.sql(query, [session.session_id])
        assert not list(rows)
        assert not (await paddock.heads()).get(session.session_id)


async def test_ensure_gives_the_session_of_a_name_to_all_who_ask_at_once(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "s.json", [])
    found = await asyncio.gather(
        *(paddock.ensure("everybody", model=model, cwd=ground) for _ in range(5))
    )
    assert len({one.session_id for one in found}) == 1


async def test_ensure_never_takes_another_session_for_one_whose_name_is_in_its_id(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "s.json", [])
    other = await paddock.new("another", model=model, cwd=ground)
    name = other.session_id[-6:]
    named = await paddock.ensure(name, model=model, cwd=ground)
    assert named.session_id != other.session_id
    again = await paddock.ensure(name, model=model, cwd=ground)
    assert again.session_id == named.session_id
    assert (await paddock.ensure(other.session_id)).session_id == other.session_id


async def test_l27_the_same_id_and_configuration_give_the_same_session(
    paddock: Host, ground: Path
) -> None:
    session_id = SessionId(new_id())
    config = SessionConfig(workspace=str(ground), labels={"a": "1"})
    await paddock.create_session(config, session_id=session_id)
    again = await paddock.create_session(config, session_id=session_id)
    assert again.session_id == session_id
    with pytest.raises(AlreadyExists):
        await paddock.create_session(
            config.model_copy(update={"labels": {"a": "2"}}), session_id=session_id
        )


async def test_l20_an_unknown_session_is_a_typed_not_found(paddock: Host) -> None:
    with pytest.raises(SessionNotFound):
        await paddock.session("nobody-is-called-that")
    with pytest.raises(SessionNotFound):
        await paddock.get_session(SessionId(new_id()))
    with pytest.raises(SessionNotFound):
        await Session(paddock, SessionId(new_id())).send("hello?", key="once")


async def test_l20_whatever_is_asked_of_a_deleted_session_is_a_typed_not_found(
    paddock: Host, ground: Path
) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", []), cwd=ground)
    await session.delete()
    for asked in (
        session.touch(),
        session.put_credentials({"env:KEY": "value"}),
        session.resume(),
        session.follow().begin(),
    ):
        with pytest.raises(SessionNotFound):
            await asked


async def test_a_part_of_an_id_is_enough(paddock: Host, ground: Path) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", []), cwd=ground)
    found = await paddock.session(session.session_id[-12:])
    assert found.session_id == session.session_id


async def test_a_workspace_that_is_missing_makes_no_session(paddock: Host, ground: Path) -> None:
    with pytest.raises(WorkspaceMissing):
        await paddock.new("homeless", cwd=ground / "nowhere")
    with pytest.raises(SessionNotFound):
        await paddock.session("homeless")


async def test_what_can_be_no_session_is_refused_and_makes_none(
    paddock: Host, ground: Path
) -> None:
    with pytest.raises(TypeError, match="configuration has no sytem_prompt"):
        await paddock.new("misspelt", cwd=ground, sytem_prompt="Be brief.")
    with pytest.raises(BadArgument, match="'TERM' holds a NUL"):
        await paddock.new("nul", cwd=ground, environment={"TERM": "x\0"})
    with pytest.raises(BadArgument, match="name needs"):
        await paddock.new("", cwd=ground)
    for name in ("misspelt", "nul", ""):
        with pytest.raises(SessionNotFound):
            await paddock.session(name)


@pytest.mark.parametrize("model", ["script:nowhere.json", "hal-9000"])
async def test_a_model_that_is_not_there_makes_no_session_and_changes_none(
    paddock: Host, ground: Path, model: str
) -> None:
    with pytest.raises(UnknownModel, match=r"nowhere\.json|hal-9000"):
        await paddock.new("modelless", model=model, cwd=ground)
    with pytest.raises(SessionNotFound):
        await paddock.session("modelless")
    session = await paddock.new(cwd=ground)
    with pytest.raises(UnknownModel):
        await session.set_model(model)
    write_script(ground / "later.json", [turn("hello")])
    await session.set_model("script:later.json")
    assert (await (await session.send("hi")).wait(60)).final_message == "hello"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": 5}, "name: Input should be a valid string, not 5"),
        ({"mode": "quick"}, "mode: Input should be 'normal', 'plan' or 'yolo', not 'quick'"),
        ({"labels": {"a": 1}}, "labels.a: Input should be a valid string, not 1"),
        ({"model": 5}, "model: Input should be a valid string, not 5"),
        ({"agent": write_script}, "an agent is named by a text, 'MODULE:FUNCTION'; not by <func"),
        ({"python_path": "/a"}, "python_path is a list of folders; not '/a'"),
    ],
)
async def test_a_session_of_what_is_no_configuration_is_told_in_one_line(
    paddock: Host, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadArgument, match=re.escape(told)) as error:
        await paddock.new(**fields)
    assert "\n" not in str(error.value)


async def test_what_can_be_no_words_or_decision_is_told_in_one_line(
    paddock: Host, ground: Path
) -> None:
    session: Any = await paddock.new(cwd=ground)
    said = {
        "words are a text, or a list of TextPart and ImagePart; not 5": session.send(5),
        "words are a text, or a list of TextPart and ImagePart; not ['a']": session.send(["a"]),
        "a key is a text; not 4711": session.send("go", key=4711),
        "command: Input should be a valid string, not 5": session.shell(5),
        "decision: Input should be 'allowed' or 'denied', not 'yes'": session.decide("x", "yes"),
        "after: Input should be a valid integer": session.follow(after="one").begin(),
        "text: Input should be a valid string, not None": session.host.session(None),
        "query: Input should be a valid string, not 5": session.host.sql(5),
        "model: Input should be a valid string, not 5": session.set_model(5),
        "a whole number of more than 64 bits cannot be sent": session.annotate("n", 2**70),
    }
    for told, saying in said.items():
        with pytest.raises(BadArgument, match=re.escape(told)):
            await saying


async def test_an_agent_is_found_in_a_folder_that_is_named_by_a_path(
    paddock: Host, ground: Path
) -> None:
    (ground / "agents").mkdir()
    (ground / "agents" / "quiet_agent.py").write_text(QUIET_AGENT)
    await paddock.new(agent="quiet_agent:quiet", python_path=[ground / "agents"], cwd=ground)


async def test_a_session_that_does_not_come_up_in_time_is_named(
    paddock: Host, ground: Path
) -> None:
    (ground / "slow_agent.py").write_text(
        "import pathlib, time\n"
        f"while not pathlib.Path({str(ground / 'go')!r}).exists(): time.sleep(0.01)\n" + QUIET_AGENT
    )
    config = SessionConfig(
        agent="slow_agent:quiet", python_path=(str(ground),), workspace=str(ground)
    )
    with pytest.raises(TimedOut, match=r"paddock show [0-9a-f-]+` tells") as error:
        await paddock.create_session(config, deadline_seconds=0.05)
    (ground / "go").touch()
    made = SessionId(str(error.value.facts["session_id"]))
    assert (await paddock.create_session(config, session_id=made)).session_id == made


async def test_f16_a_session_is_found_by_a_name_with_half_a_character(
    paddock: Host, ground: Path
) -> None:
    made = await paddock.new("half \udcff", cwd=ground, environment={"PATH": "/bin:/\udcff"})
    assert (await paddock.session("half \udcff")).session_id == made.session_id
    await made.configure(name="other \udcff")
    with pytest.raises(BadArgument, match="name needs"):
        await made.configure(name="")
    assert (await paddock.session("other \udcff")).session_id == made.session_id
    with pytest.raises(SessionNotFound):
        await paddock.session("third \udcff")
    done = await (await made.shell("echo it runs", key="key \udcff")).wait(60)
    assert done.status == "completed"
    await made.delete()


async def test_words_to_a_busy_session_wait_and_can_be_removed(paddock: Host, ground: Path) -> None:
    session = await paddock.new(
        model=write_script(ground / "s.json", [SLOW]), cwd=ground, mode="yolo"
    )
    busy = await session.send("work")
    waiting = await session.send("and then")
    assert waiting.is_queued
    await session.dequeue(waiting.command_id)
    assert (await waiting.wait(30)).status == "removed"
    with pytest.raises(InputNotFound):
        await session.dequeue(waiting.command_id)
    await busy.interrupt()
    assert (await busy.wait(30)).status == "cancelled"
    with pytest.raises(NothingToInterrupt):
        await session.interrupt()


async def test_c9_an_interrupt_at_any_moment_ends_what_is_at_work(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "s.json", [SLOW for _ in range(20)])
    session = await paddock.new(model=model, cwd=ground, mode="yolo")
    for number in range(20):
        operation = await session.send("work")
        await asyncio.sleep(number / 400)  # in the model, the approval, the start, the call …
        await session.command(
            Interrupt(operation_id=operation.operation_id), deadline_seconds=20
        )  # sleeping for 30 s, it would not be over by itself
        assert (await operation.wait(20)).status == "cancelled"


async def test_q4_words_that_waited_have_an_operation_of_their_own(
    paddock: Host, ground: Path
) -> None:
    model = write_script(
        ground / "s.json", [turn(call("bash", command="sleep 0.5")), turn("one"), turn("two")]
    )
    session = await paddock.new(model=model, cwd=ground, mode="yolo")
    first = await session.send("first")
    second = await session.send("second")
    assert second.is_queued
    one, two = await asyncio.gather(first.wait(60), second.wait(60))
    assert (one.final_message, two.final_message) == ("one", "two")
    assert one.operation_id != two.operation_id


async def test_a_wait_with_a_deadline_lets_the_operation_go_on(paddock: Host, ground: Path) -> None:
    session = await paddock.new(
        model=write_script(ground / "s.json", [SLOW]), cwd=ground, mode="yolo"
    )
    operation = await session.send("work")
    with pytest.raises(TimedOut):
        await operation.wait(0.1)
    assert (await session.state()).conversation.operation is not None
    await operation.interrupt()


async def test_p4_an_operation_of_a_session_that_is_deleted_is_waited_for_no_more(
    paddock: Host, ground: Path
) -> None:
    session = await paddock.new(
        model=write_script(ground / "s.json", [SLOW]), cwd=ground, mode="yolo"
    )
    operation = await session.send("work")
    await session.delete()
    outcome = await operation.wait(60)
    assert (outcome.status, outcome.error_kind) == ("deleted", "session_deleted")


async def test_an_approval_is_found_by_a_part_of_its_id_and_decided_once(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "s.json", [turn(call("bash", command="echo > made")), turn("ok")])
    session = await paddock.new(model=model, cwd=ground)
    operation = await session.send("make it")
    approval_id = await wait_until_async(lambda: open_approval(session))
    assert not (ground / "made").exists()
    await paddock.decide(approval_id[-12:], "allowed", note="go ahead")
    assert (await operation.wait(60)).status == "completed"
    assert (ground / "made").exists()
    with pytest.raises(NothingToDecide):
        await session.approve(approval_id)
    rows = await paddock.sql(
        "SELECT decision, door, decided_by FROM approvals WHERE approval_id = ?", [approval_id]
    )
    assert list(rows) == [("allowed", "client", f"uid:{os.getuid()}")]


async def test_an_approval_is_found_that_the_store_was_not_told_of_yet(
    paddock: Host, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found_nothing(*_: object) -> list[OpenApproval]:
        return []

    monkeypatch.setattr(approvals, "open_approvals", found_nothing)
    model = write_script(ground / "s.json", [turn(call("bash", command="echo > made")), turn("ok")])
    session = await paddock.new(model=model, cwd=ground)
    operation = await session.send("make it")
    approval_id = await wait_until_async(lambda: open_approval(session))
    await paddock.decide(approval_id, "allowed")
    assert (await operation.wait(60)).status == "completed"


async def test_approvals_are_told_though_a_session_that_has_one_is_damaged(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "s.json", [turn(call("bash", command="echo > made")), turn("ok")])
    sessions = [await paddock.new(model=model, cwd=ground) for _ in range(2)]
    for session in sessions:
        await session.send("make it")
        await wait_until_async(partial(open_approval, session))
        await session.suspend()
    hurt, whole = (session.session_id for session in sessions)
    database = folder_of(paddock.data, hurt) / "session.sqlite"
    content = bytearray(database.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    database.write_bytes(content)
    asked = await approvals.open_approvals(await paddock.store(), paddock.data)
    told = [one.session_id for one in asked]
    assert whole in told
    assert hurt not in told


@pytest.mark.parametrize("part", ["", "01", "-"])
async def test_the_only_open_approval_is_not_found_by_next_to_nothing(
    paddock: Host, ground: Path, part: str
) -> None:
    model = write_script(ground / "s.json", [turn(call("bash", command="echo > made")), turn("ok")])
    session = await paddock.new(model=model, cwd=ground)
    await session.send("make it")
    await wait_until_async(lambda: open_approval(session))
    with pytest.raises(NothingToDecide, match="nor enough of one"):
        await paddock.decide(part, "allowed")


async def open_approval(session: object) -> ApprovalId | None:
    state = await session.state()  # type: ignore[attr-defined]
    return next(iter(state.conversation.approvals), None)


async def test_a6_a_denied_call_is_told_to_the_agent_which_goes_on(
    paddock: Host, ground: Path
) -> None:
    model = write_script(ground / "s.json", [turn(call("bash", command="echo > made")), turn("ok")])
    session = await paddock.new(model=model, cwd=ground)
    operation = await session.send("make it")
    approval_id = await wait_until_async(lambda: open_approval(session))
    await session.deny(approval_id, note="not here")
    assert (await operation.wait(60)).final_message == "ok"
    assert not (ground / "made").exists()


async def test_previews_come_before_the_message_and_add_up_to_it(
    paddock: Host, ground: Path
) -> None:
    words = "one two three four five six"
    session = await paddock.new(
        model=write_script(ground / "s.json", [turn(words, delay_ms=50)]), cwd=ground
    )
    after = (await session.state()).sequence
    pieces: list[Previewed] = []
    async with session.follow(after=after) as feed:
        await session.send("count")
        async for told in feed:
            if isinstance(told, Previewed) and told.channel == "text":
                pieces.append(told)
            if isinstance(told, Stored) and told.event.kind == "assistant_message_added":
                break
    assert "".join(piece.text for piece in pieces) == words
    assert pieces[0].message_id == told.event.message_id  # type: ignore[union-attr]


async def test_a_feed_ends_when_its_session_is_deleted(paddock: Host, ground: Path) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", []), cwd=ground)
    heard: list[str] = []

    async def listen() -> None:
        async with session.follow() as feed:
            async for told in feed:
                what = told.what if isinstance(told, Noticed) else type(told).__name__
                heard.append(what)

    listening = asyncio.create_task(listen())
    await wait_until_async(lambda: some(heard))
    await session.delete()
    await asyncio.wait_for(listening, 30)
    assert heard[-1] == "deleted"
    with pytest.raises(SessionNotFound):
        await session.send("hello?")


async def test_l10_a_subscription_that_was_given_up_before_its_answer_is_none(
    paddock: Host, ground: Path
) -> None:
    """It was the host's for as long as the client was there: its session was never idle again."""
    session = await paddock.new(model=write_script(ground / "s.json", []), cwd=ground)
    for turns_of_the_loop in range(8):
        feed = session.follow(exclusive=True)
        beginning = asyncio.create_task(feed.begin())
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        if not beginning.cancel():  # it had its answer already
            feed.close()
        await asyncio.gather(beginning, return_exceptions=True)

    async def is_alone() -> bool:
        (life,) = await paddock.lives()
        return bool(life["subscribers"] == 0)

    await wait_until_async(is_alone)
    async with session.follow(exclusive=True):  # who listens alone is let in
        pass


async def some[T](things: list[T]) -> list[T]:
    return things


async def test_l2_a_command_wakes_a_suspended_session(paddock: Host, ground: Path) -> None:
    session = await paddock.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
    assert await session.suspend() is True
    assert await session.suspend() is False
    assert session.session_id not in {life["session_id"] for life in await paddock.lives()}
    assert (await (await session.send("wake up")).wait(60)).final_message == "ok"
    assert session.session_id in {life["session_id"] for life in await paddock.lives()}


async def test_one_reads_ones_own_writes_in_sql(paddock: Host, ground: Path) -> None:
    session = await paddock.new("known", model=write_script(ground / "s.json", []), cwd=ground)
    await session.annotate("outcome", {"good": True})
    found = await paddock.sql(
        "SELECT s.name, a.key FROM annotations a JOIN sessions s USING (session_id)"
        " WHERE session_id = ?",
        [session.session_id],
    )
    assert found.columns == ("name", "key")
    assert list(found) == [("known", "outcome")]
    assert found.dicts() == [{"name": "known", "key": "outcome"}]


async def test_sql_that_writes_is_refused(paddock: Host) -> None:
    with pytest.raises(SqlRefused):
        await paddock.sql("DELETE FROM events")


async def test_s5_sessions_are_listed_by_what_is_known_of_them(paddock: Host, ground: Path) -> None:
    model = write_script(ground / "s.json", [])
    for number in ("1", "2"):
        await paddock.new(model=model, cwd=ground, labels={"batch": "x", "number": number})
    found = await paddock.list_sessions(labels={"batch": "x"}, order_by="created", descending=False)
    assert [row["labels"]["number"] for row in found] == ["1", "2"]
    assert await paddock.list_sessions(labels={"batch": "y"}) == []
    chosen = SessionFilter(labels={"batch": "x"}, order_by="created")
    (second,) = await paddock.list_sessions(chosen, status="live", limit=1)
    assert second["labels"]["number"] == "2"
    assert await paddock.list_sessions(chosen, status=("failed", "deleted")) == []


async def test_secrets_are_given_by_reference_and_never_logged(
    paddock: Host, host: HostForTests, ground: Path
) -> None:
    secret = "sk-ant-this-is-a-secret-value-0123456789"
    session = await paddock.new(
        model=write_script(ground / "s.json", []),
        cwd=ground,
        credentials={"env:ANTHROPIC_API_KEY": secret},
    )
    config = (await session.state()).life.config
    assert config is not None
    assert config.credentials == ("env:ANTHROPIC_API_KEY",)
    files = [file for file in host.data.rglob("*") if file.is_file()]
    assert not [file for file in files if secret.encode() in file.read_bytes()]


def test_plain_programs_have_the_same_without_a_loop(host: HostForTests, ground: Path) -> None:
    model = write_script(ground / "s.json", [turn("ok")])
    with sync.connect(host.home, start=False) as paddock:
        session = paddock.ensure("plain", model=model, cwd=ground)
        assert session.send("hello", key="k").wait(60).final_message == "ok"
        kinds = [stored.event.kind for stored in session.events(follow=False)]
        assert kinds[0] == "session_created"
        assert kinds[-1] == "operation_completed"
        name = paddock.sql("SELECT name FROM sessions WHERE session_id = ?", [session.session_id])
        assert name.one() == "plain"
        for stored in session.events():  # left in the middle
            assert stored.sequence == 1
            break
        assert session.suspend() is True


# --- hosts that go away, or are not there ---


AFTER_A_FORK = """
import os, sys, warnings
from paddock.client.sync import connect
from paddock.supervisor.errors import HostGone

warnings.simplefilter("ignore")  # that a process with threads forks
with connect(sys.argv[1], start=False) as host:
    if os.fork() == 0:
        try:
            host.status()
        except HostGone:
            os._exit(0)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.wait()[1]), host.status()["pid"] > 0)
host.close()
try:
    host.status()
except HostGone as error:
    print(error.code)
"""


async def test_a_plain_client_that_is_closed_or_behind_a_fork_says_so(host: HostForTests) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AFTER_A_FORK, str(host.home), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
    assert out.decode().split() == ["0", "True", "host_gone"]


async def test_a_connection_is_awaited_or_entered_or_both(host: HostForTests) -> None:
    async with connect(host.home, start=False) as entered:
        assert await entered.lives() == []
    with pytest.raises(HostGone, match="closed"):
        await entered.lives()
    async with await connect(host.home, start=False) as awaited:
        assert await awaited.lives() == []
    task = asyncio.create_task(connect(host.home, start=False))
    await (await task).close()


async def test_who_asks_while_no_host_is_there_is_told_when_the_client_is_closed(
    lone_host: HostForTests,
) -> None:
    client = await lone_host.connect()
    connection = await client._link.connection(60)
    lone_host.kill()
    await connection.wait_ended()
    asked = asyncio.create_task(client.lives())
    await asyncio.sleep(0)  # it looks for the next host now
    await client.close()
    with pytest.raises(HostGone, match="closed"):
        await asked


async def test_what_is_asked_of_a_connection_that_nobody_awaited_is_told(
    host: HostForTests,
) -> None:
    forgotten: Any = connect(host.home, start=False)
    with pytest.raises(AttributeError, match=r"'status' .* `await connect"):
        forgotten.status()
    forgotten.close()


def test_a_client_of_another_loop_says_so_and_goes_on_in_its_own(host: HostForTests) -> None:
    async def ask(client: Host) -> list[dict[str, Any]]:
        return await client.lives()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        client = first.run(connect(host.home, start=False))
        with pytest.raises(HostGone, match="another event loop"):
            second.run(ask(client))
        assert first.run(ask(client)) == []
        first.run(client.close())


async def test_without_a_host_and_leave_to_start_one_it_says_so(home: Path) -> None:
    with pytest.raises(NoHost):
        await connect(home, start=False)


async def test_connecting_starts_a_host_and_only_one(home: Path) -> None:
    found = await asyncio.gather(*(connect(home) for _ in range(3)))
    try:
        pids = {(await one.status())["pid"] for one in found}
        assert len(pids) == 1
        assert f"{pids.pop()}" in (found[0].data / "host.lock").read_text()
    finally:
        await found[0].down()
        for one in found:
            await one.close()
    for pid in pids:
        await wait_until_async(lambda pid=pid: is_gone(pid))  # type: ignore[misc]


async def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_socket_path_that_is_too_long_is_told_by_its_class(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_RUNTIME", str(home / ("long" * 30)))
    with pytest.raises(PathTooLong):
        await connect(home)


async def test_a_wrong_setting_is_told_by_its_class(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_MAX_LIVE_SESSIONS", "many")
    with pytest.raises(BadConfiguration, match="many"):
        await connect(home)


@pytest.fixture
def small_host(home: Path) -> Iterator[HostForTests]:
    """Give a host in which one session may live at once."""
    made = HostForTests(home, max_live_sessions=1)
    yield made
    made.end()


async def test_l27_who_hears_that_an_operation_has_ended_may_have_the_room_of_its_session(
    small_host: HostForTests, ground: Path
) -> None:
    """Its worker told some milliseconds later that it was at rest, and there was no room yet."""
    async with await small_host.connect() as paddock:
        model = write_script(ground / "s.json", [turn("ok")] * 20)
        sessions = []
        for _ in range(2):
            session = await paddock.new(model=model, cwd=ground)
            await (await session.send("first")).wait(60)
            sessions.append(session)
        for session in sessions * 8:
            outcome = await (await session.send("and on")).wait(60)
            assert outcome.status == "completed"


async def test_p11_who_waits_for_the_room_of_one_that_comes_back_is_told_that_there_is_none(
    small_host: HostForTests, ground: Path
) -> None:
    """It waited till its deadline for a session that had left, and lived again in its room."""
    async with await small_host.connect() as paddock:
        model = write_script(ground / "s.json", [turn("ok", delay_ms=1)] * 20)
        cold = await paddock.new(model=model, cwd=ground)
        live = await paddock.new(model=model, cwd=ground)
        for _ in range(4):
            came = await asyncio.gather(
                *(one.send("go", deadline_seconds=20) for one in (cold, live)),
                return_exceptions=True,
            )
            assert not [error for error in came if isinstance(error, TimedOut)], came
            for operation in came:
                if isinstance(operation, Operation):
                    await operation.wait(60)
            if isinstance(came[0], Operation):
                cold, live = live, cold


async def test_r8_a_client_whose_host_is_killed_sees_every_event_once_and_in_order(
    lone_host: HostForTests,
    ground: Path,
) -> None:
    turns = [turn(call("bash", command=f"sleep 0.2; echo {number}")) for number in range(12)]
    client = await lone_host.connect()
    session = await client.new(
        model=write_script(ground / "s.json", [*turns, turn("done")]), cwd=ground, mode="yolo"
    )
    operation = await session.send("count")
    waiting = asyncio.create_task(operation.wait(120))
    seen: list[Stored] = []
    async for stored in session.events():
        seen.append(stored)
        calls = sum(one.event.kind == "tool_call_started" for one in seen)
        if stored.event.kind == "tool_call_started" and calls in (2, 6):
            await asyncio.to_thread(lone_host.kill)
            await asyncio.to_thread(lone_host.start)
        if stored.event.kind == "operation_completed":
            break
    assert [stored.sequence for stored in seen] == list(range(1, len(seen) + 1))
    assert (await waiting).final_message == "done"
    state = await session.state()
    assert (state.life.generation, len(state.conversation.calls)) == (1, len(turns))
    await client.close()


async def test_p14_words_sent_while_the_host_dies_are_said_exactly_once(
    lone_host: HostForTests,
    ground: Path,
) -> None:
    client = await lone_host.connect()
    model = write_script(ground / "s.json", [turn("ok") for _ in range(20)])
    session = await client.new(model=model, cwd=ground)
    for round_number in range(3):
        sending = [
            asyncio.create_task(session.send(f"words {round_number}.{number}"))
            for number in range(4)
        ]
        await asyncio.sleep(0)  # they are on their way
        await asyncio.to_thread(lone_host.kill)
        await asyncio.to_thread(lone_host.start)
        for operation in await asyncio.gather(*sending):
            await operation.wait(60)
    said = [
        part.text
        async for stored in session.events(follow=False)
        if isinstance(stored.event, UserMessageAdded)
        for part in stored.event.parts
        if part.type == "text"
    ]
    words = sorted(word for text in said for word in text.split("\n\n"))
    assert words == sorted(f"words {a}.{b}" for a in range(3) for b in range(4))
    await client.close()


async def test_l27_a_session_asked_for_while_the_host_dies_is_made_exactly_once(
    lone_host: HostForTests,
    ground: Path,
) -> None:
    client = await lone_host.connect()
    model = write_script(ground / "s.json", [turn("ok")])
    for number in range(3):
        making = asyncio.create_task(client.new(f"made-{number}", model=model, cwd=ground))
        await asyncio.sleep(0)  # it is on its way
        await asyncio.to_thread(lone_host.kill)
        await asyncio.to_thread(lone_host.start)
        session = await making
        assert (await (await session.send("hello")).wait(60)).status == "completed"
        assert (await client.session(f"made-{number}")).session_id == session.session_id
    rows = await client.sql("SELECT name FROM sessions ORDER BY name")
    assert [name for (name,) in rows] == ["made-0", "made-1", "made-2"]
    await client.close()


async def test_who_has_left_a_host_that_ends_asks_the_next_one(lone_host: HostForTests) -> None:
    """Tasks that shared the client with the one that ended the host were told ``bad_message``."""
    client = await lone_host.connect()
    connection = await client._link.connection(60)
    connection.leave()  # as `Host.down` does once it has its answer
    with pytest.raises(HostGone):
        await connection.ask(Status(), deadline_seconds=60)
    asked = asyncio.create_task(client.status())
    await asyncio.to_thread(lone_host.kill)
    await asyncio.to_thread(lone_host.start)
    assert (await asked)["pid"] == lone_host.pid
    await client.close()


async def test_f9_a_client_that_the_host_has_let_go_greets_it_anew(
    paddock: Host, ground: Path
) -> None:
    """As one too slow is let go of: all that it asked was refused ever after, its feeds silent."""
    session = await paddock.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
    feed = session.events()
    assert (await anext(feed)).sequence == 1
    connection = await paddock._link.connection(60)
    connection._say(Leave())  # what the host does by itself, it does here because it is told so
    connection._say(Alive())
    async with asyncio.timeout(60):
        await connection.wait_ended()  # the beat of one that only listens is answered
        assert (await (await session.send("hello")).wait(60)).status == "completed"
        kinds = [stored.event.kind async for stored in until_completed(feed)]
    assert kinds[-1] == "operation_completed"
    again = await paddock._link.connection(60)
    again._say(Leave())
    assert (await paddock.status())["clients"] >= 1


async def until_completed(feed: AsyncIterator[Stored]) -> AsyncIterator[Stored]:
    async for stored in feed:
        yield stored
        if stored.event.kind == "operation_completed":
            return


async def test_a_host_whose_runtime_folder_is_taken_away_stands_there_again(
    lone_host: HostForTests, ground: Path
) -> None:
    """By ``rm``, a cleaner of temporary folders: nobody reached it, and no other could start."""
    runtime = lone_host.places.runtime
    async with await lone_host.connect() as first:
        session = await first.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
        pid = lone_host.pid
        for number in range(2):
            runtime.rename(ground / f"taken-{number}")
            await asyncio.to_thread(wait_until, lambda: announced(lone_host.places), 60)
            async with asyncio.timeout(60), await connect(lone_host.home, start=False) as second:
                assert (await second.status())["pid"] == pid
                made = await second.new(model=f"script:{ground / 's.json'}", cwd=ground)
                assert (await (await made.send("hello")).wait(60)).status == "completed"
                assert len(await second.sql("SELECT 1 FROM sessions")) >= 2
            shutil.rmtree(ground / f"taken-{number}", ignore_errors=True)
        assert {entry.stat().st_mode & 0o077 for entry in runtime.glob("*.sock")} == {0}
        assert (await (await session.send("hello")).wait(60)).status == "completed"


async def test_what_a_killed_session_did_can_be_read_without_a_host(
    lone_host: HostForTests,
    ground: Path,
) -> None:
    client = await lone_host.connect()
    session = await client.new(
        model=write_script(ground / "s.json", [SLOW]), cwd=ground, mode="yolo"
    )
    await session.send("work")
    await wait_until_async(lambda: begun(session))
    await asyncio.to_thread(lone_host.kill)
    await asyncio.to_thread(lone_host.kill_worker, session.session_id)
    state = await session.state()
    assert state.conversation.operation is not None
    await client.close()


async def begun(session: Session) -> bool:
    operation = (await session.state()).conversation.operation
    return operation is not None and bool(operation.open_calls)


async def test_a_client_goes_on_after_its_worker_was_killed(
    lone_host: HostForTests,
    ground: Path,
) -> None:
    client = await lone_host.connect()
    model = write_script(ground / "s.json", [turn(call("bash", command="sleep 1")), turn("ok")])
    session = await client.new(model=model, cwd=ground, mode="yolo")
    operation = await session.send("sleep")
    async for stored in session.events():
        if stored.event.kind == "tool_call_started":
            break
    await asyncio.to_thread(lone_host.kill_worker, session.session_id, signal.SIGKILL)
    assert (await operation.wait(60)).final_message == "ok"
    deaths = await client.sql("SELECT signal FROM worker_runs WHERE ending = 'crashed'")
    assert list(deaths) == [(9,)]
    await client.close()


async def test_an_unknown_command_id_is_the_clients_own(
    lone_host: HostForTests,
    ground: Path,
) -> None:
    client = await lone_host.connect()
    session = await client.new(model=write_script(ground / "s.json", [turn("ok")]), cwd=ground)
    mine = CommandId(new_id())
    first = await session.send("hello", command_id=mine)
    again = await session.send("hello", command_id=mine)
    assert first.command_id == again.command_id == mine
    assert first.operation_id == again.operation_id
    await client.close()


async def test_ctrl_c_before_it_is_known_what_was_begun_ends_that_and_leaves_nothing_running(
    paddock: Host, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_script(ground / "s.json", [turn(call("bash", command="sleep 100"))])
    session = await paddock.new(model=model, mode="yolo", cwd=ground)
    watching = Watching(session, attended=False, is_quiet=True)
    send = session.send

    async def send_and_be_pressed(words: str) -> Operation:
        operation = await send(words)
        watching._interrupt()
        return operation

    monkeypatch.setattr(session, "send", send_and_be_pressed)
    async with asyncio.timeout(60):
        outcome = await watching.run("go")
    assert outcome is not None
    assert outcome.status == "cancelled"
