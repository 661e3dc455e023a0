"""Twenty sessions work while worker, store, zygote and supervisor are killed: nothing is lost."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.testing import HostForTests
from tests.crash.crowd import SESSIONS, Crowd
from tests.crash.killing import KILLS, Doer, drawn
from tests.crash.looking import after_the_end, left_over, look, wait_until_all_is_told

ROUNDS = int(os.environ.get("PADDOCK_CRASH_ROUNDS", "1"))
"""How often all the kills are gone through, and with how many seeds."""
SEED = os.environ.get("PADDOCK_CRASH_SEED")
WORK_SECONDS = 240.0
"""On a machine that is busy with other things a host may take ten seconds to come back."""


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


def seeds() -> list[int]:
    if SEED is not None:
        return [int(SEED)]
    # A new one each time would find more, once; these can be found again.
    return (
        [random.SystemRandom().randrange(1_000_000) for _ in range(ROUNDS)] if ROUNDS > 1 else [7]
    )


@pytest.mark.slow
@pytest.mark.timeout(WORK_SECONDS + 60)
@pytest.mark.parametrize("seed", seeds())
async def test_l26_whatever_is_killed_while_twenty_sessions_work_nothing_is_lost_or_done_twice(
    seed: int, made: HostForTests, ground: Path
) -> None:
    dice = random.Random(seed)
    crowd = Crowd(ground / "work", dice)
    schedule = drawn(dice, KILLS * ROUNDS, SESSIONS)
    story: list[str] = []
    try:
        async with await made.connect() as host, asyncio.timeout(WORK_SECONDS):
            doer = Doer(made, crowd, host, story)
            await crowd.gather(host)
            watching = [asyncio.create_task(crowd.watch(actor)) for actor in crowd.actors]
            work = [asyncio.create_task(crowd.work(actor)) for actor in crowd.actors]
            killing = asyncio.create_task(doer.carry_out(schedule))
            try:
                await asyncio.gather(killing, *work)
                await wait_until_all_is_told(crowd, made, host)
                faults = await look(crowd, made, host)
            finally:
                for task in (*work, *watching, killing):
                    task.cancel()
                await asyncio.gather(*work, *watching, killing, return_exceptions=True)
            await host.down(force=True)
    except BaseException:
        print(f"PADDOCK_CRASH_SEED={seed}; killed: {story}")
        print(made.output()[-20_000:])
        for actor in crowd.actors:
            print(actor.name, actor.session_id, [one.event.kind for one in actor.shown[-5:]])
        raise
    faults += [f"left over: {one}" for one in left_over(made)]
    faults += after_the_end(crowd, made)
    assert not faults, f"PADDOCK_CRASH_SEED={seed}; killed: {story}\n" + "\n".join(faults)
    assert doer.counts() == Counter(KILLS * ROUNDS)
