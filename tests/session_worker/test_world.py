"""What became of a call is told whatever becomes of keeping its output."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from paddock.session_worker import world as world_module
from paddock.session_worker.journal import Journal
from paddock.session_worker.model import Called, ModelAnswer, ModelRequest, OnDelta
from paddock.session_worker.stimuli import CallEnded, NotAnswered, Stimulus
from paddock.session_worker.tools import Plan, Progress, Room, ToolOutcome, ToolSpec
from paddock.session_worker.turn import AskModel
from paddock.session_worker.world import World, empty_spool
from paddock.store.events import SessionConfig, SessionCreated
from paddock.store.ids import CommandId, MessageId, ModelCallId, SessionId, ToolCallId
from paddock.store.session import Session
from paddock.store.session_file import SessionFile, folder_of

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
CALL = ToolCallId("call")
PLAN = Plan("loud", {}, None, "call")
DEADLINE_SECONDS = 20.0


class Loud:
    """A tool whose whole output is where the test says."""

    spec = ToolSpec("loud", "", {}, "none", "allow", 1.0, 1, exclusive=False)

    def __init__(self, spool: Path) -> None:
        self.spool = spool

    def prepare(self, _arguments: Mapping[str, object], _room: Room) -> Plan:
        return PLAN

    async def run(self, _plan: Plan, _room: Room, _progress: Progress) -> ToolOutcome:
        return ToolOutcome("ok", "head and tail", output_bytes=100, spool=self.spool)

    def happened(self, _intent: Mapping[str, object], _room: Room) -> bool | None:
        return None


class Stage:
    """A world with one tool, on a real file."""

    def __init__(self, home: Path, spool: Path) -> None:
        self.file = SessionFile.create(folder_of(home, SESSION), SESSION, at_us=1)
        self.journal = Journal(self.file)
        self.arrived: asyncio.Queue[Stimulus] = asyncio.Queue()
        room = Room(home, {}, f"{SESSION}.1", home)
        self.world = World(
            self.journal,
            {"loud": Loud(spool)},
            room,
            {},
            self.arrived.put_nowait,
            lambda _delta: None,
        )

    async def ended(self) -> CallEnded:
        async with asyncio.timeout(DEADLINE_SECONDS):
            stimulus = await self.arrived.get()
        assert isinstance(stimulus, CallEnded)
        return stimulus

    async def close(self) -> None:
        await self.world.close()
        await self.journal.close(clean=True)


def test_a_call_whose_output_cannot_be_kept_ends_as_it_ended(tmp_path: Path) -> None:
    async def play() -> None:
        stage = Stage(tmp_path, tmp_path / "not-there")
        stage.world.run_call(CALL, PLAN)
        ended = await stage.ended()
        assert ended.outcome is not None
        assert (ended.outcome.status, ended.blob) == ("ok", None)
        await stage.close()

    asyncio.run(play())


def test_c1_a_call_stopped_while_its_output_is_kept_ends_and_commits_go_on(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    os.mkfifo(spool)  # whoever reads it waits for the test

    async def play() -> None:
        stage = Stage(tmp_path, spool)
        stage.world.run_call(CALL, PLAN)
        writer = await asyncio.to_thread(os.open, spool, os.O_WRONLY)  # it is being kept
        config = SessionConfig(workspace="/w")
        created = SessionCreated(config=config, command_id=CommandId(SESSION))
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await stage.journal.append([created], 0, 1) == 1
        stage.world.stop()
        ended = await stage.ended()
        assert ended.outcome is not None
        assert ended.outcome.status == "ok"
        os.close(writer)
        await stage.close()

    asyncio.run(play())


def test_what_a_dead_worker_left_in_its_spool_is_gone_at_the_next_start(ground: Path) -> None:
    with empty_spool(ground / "spool") as folder:
        (folder / "0123.out").write_text("half of an output")
        with empty_spool(ground / "spool") as again:  # as after a kill
            assert list(again.iterdir()) == []
    assert not folder.exists()


class OffTheScale:
    """A model that calls a tool with a number that no log can hold."""

    provider = name = "stub"
    context_limit = None

    async def answer(self, _request: ModelRequest, _on_delta: OnDelta) -> ModelAnswer:
        call = Called("c", "loud", {"x": [float("inf")]})
        return ModelAnswer((call,), "stub", "stub")

    async def close(self) -> None:
        pass


def test_an_answer_that_no_log_can_hold_is_a_bad_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_module, "open_model", lambda *_: OffTheScale())

    async def play() -> None:
        stage = Stage(tmp_path, tmp_path / "spool")
        stage.world.ask_model(
            Session(SESSION), AskModel(ModelCallId("m"), MessageId("n"), 1), "stub:"
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            told = await stage.arrived.get()
        assert isinstance(told, NotAnswered)
        assert told.failure is not None
        assert told.failure.kind == "bad_answer"
        assert "holds inf, which is no number in JSON" in told.failure.message
        await stage.close()

    asyncio.run(play())
