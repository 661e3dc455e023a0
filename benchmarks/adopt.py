"""How soon a new supervisor has adopted the workers of one that was killed -9 (DESIGN §2, §10).

100 live workers, each in the middle of an operation of many turns, are followed by a client when
the supervisor is killed. The time is from the new one's bind to the moment when all of them are
live again in its eyes, as a client sees it. Then all operations end, and what the client was told
is compared with what the files hold.
"""

import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, median, progress
from benchmarks._hosts import host_in, workspace_in
from paddock.client import Host, Session
from paddock.store.session_file import SessionReader, folder_of
from paddock.testing import HostForTests, call, turn, wait_until_async

WORKERS = 100
ROUNDS = 3
TURNS = 40
TURN_MS = 500
"""The operation goes on for 20 s at least: the supervisor is killed and comes back within it."""
PATIENCE_SECONDS = 300.0


def main() -> int:
    """Measure and print."""
    parser = common.arguments(__doc__)
    parser.add_argument("--workers", type=int, default=WORKERS, help="how many live workers")
    given = parser.parse_args()
    with common.scratch("adopt") as folder:
        result = asyncio.run(measure(folder, given.rounds or ROUNDS, given.workers))
    common.show("adopt", result, as_json=given.json)
    return 0


@dataclass(slots=True)
class Followed:
    """A session at work, and what a client was told of it."""

    session: Session
    told: dict[int, str] = field(default_factory=dict)
    """Kinds by sequence; an event that is told twice would be a fault of the client's."""

    async def follow(self) -> None:
        """Take in all that is told, through the death of the host, until the operation ends."""
        async for stored in self.session.events():
            assert stored.sequence not in self.told, "each event is told once"
            self.told[stored.sequence] = stored.event.kind
            if stored.event.kind.startswith("operation_") and "started" not in stored.event.kind:
                return


@dataclass(frozen=True, slots=True)
class Round:
    """What one death of the supervisor gave."""

    bind_seconds: float
    """From the kill to the new one's bind: the start of a Python process, mostly."""
    seconds: float
    events: int
    events_lost: int
    operations_interrupted: int


async def measure(folder: Path, rounds: int, workers: int) -> Result:
    """Return the result of so many deaths, each of a host with so many workers at work."""
    found = []
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}: {workers} workers")
        found.append(await _round(folder / f"r{number}", workers))
    seconds = median([one.seconds for one in found])
    lost = sum(one.events_lost for one in found)
    interrupted = sum(one.operations_interrupted for one in found)
    lines = [
        Line("all adopted, from the new one's bind", f"{seconds:.2f} s", "≤ 1 s"),
        Line("from the kill to the bind", f"{median([one.bind_seconds for one in found]):.2f} s"),
        Line("events lost", f"{lost}", "0", f"of {sum(one.events for one in found):,}"),
        Line("operations interrupted", f"{interrupted}", "0", f"of {workers * rounds}"),
    ]
    numbers = {
        "seconds": seconds,
        "seconds_max": max(one.seconds for one in found),
        "bind_seconds": median([one.bind_seconds for one in found]),
        "events_lost": lost,
        "operations_interrupted": interrupted,
        "workers": workers,
    }
    return Result(numbers, lines, f"{rounds} deaths of a supervisor with {workers} workers at work")


async def _round(folder: Path, workers: int) -> Round:
    workspace = workspace_in(folder)
    async with host_in(folder / "home", max_live_sessions=workers + 1) as (home, host):
        model = home.script(
            *[turn(call("todo_read"), delay_ms=TURN_MS) for _ in range(TURNS)], turn("done")
        )
        followed = [
            Followed(await host.new(model=model, mode="yolo", cwd=workspace))
            for _ in range(workers)
        ]
        for one in followed:
            await one.session.send("go")
        following = [asyncio.create_task(one.follow()) for one in followed]
        await _all_at_work(followed)
        generations = await _generations(host)
        assert len(generations) == workers, "all of them live"
        home.kill()
        killed_at = time.time()
        await asyncio.to_thread(home.start)
        bound_at = (home.places.runtime / "clients.sock").stat().st_mtime
        adopted_at = await _all_adopted(host, generations)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*following)
        return _judged(home, followed, bound_at - killed_at, adopted_at - bound_at)


async def _all_at_work(followed: list[Followed]) -> None:
    async def all_at_work() -> bool:
        return all("tool_call_finished" in one.told.values() for one in followed)

    await wait_until_async(all_at_work, PATIENCE_SECONDS)


async def _generations(host: Host) -> dict[str, int]:
    """Return the live workers that greeted, by session."""
    return {
        str(life["session_id"]): life["generation"]
        for life in await host.lives()
        if life["life"] == "live"
    }


async def _all_adopted(host: Host, generations: dict[str, int]) -> float:
    """Return the time at which the new host has all of them."""

    async def all_adopted() -> bool:
        return await _generations(host) == generations

    await wait_until_async(all_adopted, PATIENCE_SECONDS)
    return time.time()


def _judged(
    home: HostForTests, followed: list[Followed], bind_seconds: float, seconds: float
) -> Round:
    """Compare what was told with what the files hold."""
    lost = interrupted = events = 0
    for one in followed:
        kinds = _kinds_in_file(home, one.session)
        events += len(kinds)
        told_to = max(one.told)
        lost += sum(
            one.told.get(sequence) != kinds.get(sequence) for sequence in range(1, told_to + 1)
        )
        answers = sum(kind == "assistant_message_added" for kind in kinds.values())
        is_whole = one.told[told_to] == "operation_completed" and answers == TURNS + 1
        is_one_life = sum(kind == "worker_started" for kind in kinds.values()) == 1
        interrupted += not (is_whole and is_one_life)
    return Round(bind_seconds, seconds, events, lost, interrupted)


def _kinds_in_file(home: HostForTests, session: Session) -> dict[int, str]:
    """Return what the file holds, each event checked against its hash: kinds by sequence."""
    with SessionReader(folder_of(home.data, session.session_id), session.session_id) as reader:
        return {row.sequence: row.kind for row in reader.matching()}


if __name__ == "__main__":
    sys.exit(main())
