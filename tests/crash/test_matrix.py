"""The matrix of crashes: every process, at every point of a session's life, by every fault.

Here the short form; the whole by ``./dev chaos --matrix``, which writes ``docs/CRASH_MATRIX.md``.
"""

import asyncio
import json
import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from paddock.client import Host
from paddock.client.keys import new_id
from paddock.store.ids import SessionId
from tests.crash.faults import ROLES
from tests.crash.faulty_host import FaultyHost
from tests.crash.matrix_cells import (
    AGENTS,
    all_groups,
    faultless,
    is_alone,
    named,
    points_of,
)
from tests.crash.matrix_life import Agent, Cell, Life

RESULTS = os.environ.get("PADDOCK_MATRIX_RESULTS")
"""The folder for what came of each cell; where it is named, the whole matrix is played."""
ONLY = os.environ.get("PADDOCK_MATRIX_ONLY", "")
"""Cells with these words in their name are played alone."""
GROUP_SECONDS = 900
HANG_SECONDS = 8
"""A worker that is only slow, on a machine that does much else, is not to be taken for one."""
GROUPS = all_groups(is_short=RESULTS is None and not ONLY, words=ONLY)


def name_of(group: Sequence[Cell]) -> str:
    first, last = group[0], group[-1]
    text = f"{first.role}-{first.agent}-{first.point}-{first.fault}-{last.point}-{last.fault}"
    return text.replace(" ", "_").replace("'", "")


@pytest.fixture
def made(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyHost]:
    made = FaultyHost(home, hang_after_seconds=HANG_SECONDS, start_timeout_seconds=10)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    yield made
    made.end()


async def play(made: FaultyHost, host: Host, folder: Path, cell: Cell) -> list[str]:
    """Play a cell; return what did not hold, in words."""
    session_id = SessionId(new_id())
    life = Life(made, host, cell, session_id, folder / session_id)
    try:
        return await life.play()
    except Exception as error:  # noqa: BLE001 - whatever came of a cell is its result
        kinds = [one.event.kind for one in life.shown]
        return [f"{error!r} after {kinds[-4:]}, told {life.troubles[-5:]}", traceback.format_exc()]


async def play_all(made: FaultyHost, folder: Path, cells: Sequence[Cell]) -> dict[Cell, list[str]]:
    async with await made.connect() as host:
        if not is_alone(cells[0].role):
            found = await asyncio.gather(*(play(made, host, folder, cell) for cell in cells))
            return dict(zip(cells, found, strict=True))
        return {cell: await play(made, host, folder, cell) for cell in cells}


@pytest.mark.slow
@pytest.mark.timeout(GROUP_SECONDS)
@pytest.mark.parametrize("cells", GROUPS, ids=name_of)
async def test_l26_whatever_suffers_what_wherever_in_a_life_the_promises_hold(
    cells: Sequence[Cell], made: FaultyHost, ground: Path
) -> None:
    found = await play_all(made, ground / "work", cells)
    if RESULTS is not None:
        lines = [json.dumps({**asdict(cell), "faults": faults}) for cell, faults in found.items()]
        (Path(RESULTS) / f"{name_of(cells)}.jsonl").write_text("\n".join(lines) + "\n")
    broken = {str(cell): faults for cell, faults in found.items() if faults}
    if broken:
        print(made.output()[-8000:])
    assert not broken, "\n".join(f"{cell}: {faults}" for cell, faults in broken.items())


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
async def test_the_matrix_has_every_point_that_a_life_reaches(
    agent: Agent, made: FaultyHost, ground: Path
) -> None:
    made.orders.record()
    session_id = SessionId(new_id())
    async with await made.connect() as host:
        await Life(made, host, faultless(agent), session_id, ground / "work").play()
    reached = made.orders.recorded()
    listed = {f"{role}.{point}" for role in ROLES for point in points_of(agent, role)}
    assert {named(one) for one in reached} - listed == set()
    only_elsewhere = {one for one in listed if one.split(".")[0] in {"worker", "zygote"}}
    assert only_elsewhere - {named(one) for one in reached} == set()
