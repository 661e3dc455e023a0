"""Approvals of sessions that ask at the same time: each reaches its own session alone (L24)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.client import Session
from paddock.session_worker.errors import NothingToDecide
from paddock.store.events import ApprovalDecided, ApprovalRequested, Stored
from paddock.store.ids import ApprovalId
from paddock.testing import HostForTests, call, turn, wait_until_async

SECONDS = 100.0
NAMES = ("left", "right")


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


async def follow(session: Session, shown: list[Stored]) -> None:
    async for stored in session.events():
        shown.append(stored)  # noqa: PERF401 - it is looked at meanwhile


async def test_l24_each_approval_request_and_each_decision_reaches_its_own_session_alone(
    made: HostForTests, ground: Path
) -> None:
    async with await made.connect() as host, asyncio.timeout(SECONDS):
        sessions: dict[str, Session] = {}
        shown: dict[str, list[Stored]] = {name: [] for name in NAMES}
        for name in NAMES:
            workspace = ground / name
            workspace.mkdir()
            model = made.script(turn(call("bash", command=f"echo {name} > did")), turn("over"))
            sessions[name] = await host.new(name, model=model, cwd=workspace)
        tasks = [asyncio.create_task(follow(sessions[name], shown[name])) for name in NAMES]
        try:
            operations = {name: await sessions[name].send("go") for name in NAMES}

            async def both_ask() -> bool:
                return all(asked(shown[name]) for name in NAMES)

            await wait_until_async(both_ask, what="both ask")
            left, right = (asked(shown[name])[0] for name in NAMES)
            assert left.session_id == sessions["left"].session_id
            assert right.session_id == sessions["right"].session_id
            with pytest.raises(NothingToDecide):
                await sessions["left"].approve(approval_of(right))
            await sessions["right"].deny(approval_of(right))
            assert (await operations["right"].wait(SECONDS)).status == "completed"
            assert not (ground / "right" / "did").exists()
            assert not decided(shown["left"])
            await sessions["left"].approve(approval_of(left))
            assert (await operations["left"].wait(SECONDS)).status == "completed"
            assert (ground / "left" / "did").read_text() == "left\n"
            for name in NAMES:
                assert len(asked(shown[name])) == 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def asked(shown: list[Stored]) -> list[Stored]:
    return [one for one in shown if isinstance(one.event, ApprovalRequested)]


def decided(shown: list[Stored]) -> list[Stored]:
    return [one for one in shown if isinstance(one.event, ApprovalDecided)]


def approval_of(stored: Stored) -> ApprovalId:
    assert isinstance(stored.event, ApprovalRequested)
    return stored.event.approval_id
