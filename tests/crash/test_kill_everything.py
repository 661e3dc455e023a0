"""Twenty sessions work while worker, store, zygote and supervisor are killed: nothing is lost."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from paddock.client import Host
from paddock.store.door import StoreClient
from paddock.store.events import Stored
from paddock.store.ids import SessionId
from paddock.store.session_file import sessions_in
from paddock.testing import HostForTests, wait_until, wait_until_async
from tests.crash import judge
from tests.crash.crowd import Actor, Crowd

ROUNDS = int(os.environ.get("PADDOCK_CRASH_ROUNDS", "1"))
"""How often all the kills are gone through, and with how many seeds."""
SEED = os.environ.get("PADDOCK_CRASH_SEED")
KILLS = (*["worker"] * 8, *["store"] * 2, *["zygote"] * 2, *["supervisor"] * 2, "all", "mid-start")
WORK_SECONDS = 240.0
"""On a machine that is busy with other things a host may take ten seconds to come back."""

COUNTS = """
SELECT session_id, count(*), min(sequence), max(sequence), count(DISTINCT sequence)
FROM events GROUP BY session_id
"""
APPLIED = "SELECT session_id, last_sequence FROM sessions"


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
    killer = Killer(made, crowd, dice)
    try:
        async with await made.connect() as host, asyncio.timeout(WORK_SECONDS):
            await crowd.gather(host)
            watching = [asyncio.create_task(crowd.watch(actor)) for actor in crowd.actors]
            work = [asyncio.create_task(crowd.work(actor)) for actor in crowd.actors]
            killing = asyncio.create_task(killer.kill_everything(host))
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
        print(f"PADDOCK_CRASH_SEED={seed}; killed: {killer.story}")
        print(made.output()[-20_000:])
        for actor in crowd.actors:
            print(actor.name, actor.session_id, [one.event.kind for one in actor.shown[-5:]])
        raise
    faults += [f"left over: {one}" for one in left_over(made)]
    faults += after_the_end(crowd, made)
    assert not faults, f"PADDOCK_CRASH_SEED={seed}; killed: {killer.story}\n" + "\n".join(faults)
    assert killer.counts() == Counter(KILLS * ROUNDS)


class Killer:
    """Kills one thing after another, at points that the dice choose."""

    def __init__(self, made: HostForTests, crowd: Crowd, dice: random.Random) -> None:
        self.story: list[str] = []
        self._made = made
        self._crowd = crowd
        self._dice = dice

    def counts(self) -> Counter[str]:
        """Return how often what was killed."""
        return Counter(one.split()[0] for one in self.story)

    async def kill_everything(self, host: Host) -> None:
        """Go through all kills; then it is enough."""
        deck = list(KILLS) * ROUNDS
        self._dice.shuffle(deck)
        for what in deck:
            await self._crowd.wait_for_events(self._dice.randint(20, 150))
            self.story.append(f"{what} after {self._crowd.seen} events")
            match what:
                case "worker":
                    await self._kill_worker()
                case "store":
                    await self._kill_named(host, "store_pid")
                case "zygote":
                    await self._kill_named(host, "zygote_pid")
                case "supervisor":
                    await self._kill_supervisor()
                case "all":
                    await self._kill_all(host)
                case "mid-start":
                    await self._kill_supervisor()
                    await self._kill_worker()
                    await self._kill_named(host, "zygote_pid")
                case _:
                    raise AssertionError(what)
        self._crowd.is_enough = True

    async def _kill_worker(self) -> None:
        async def pick() -> int | None:
            return self._made.worker_pid(self._dice.choice(self._crowd.actors).session_id)

        kill(await wait_until_async(pick, what="a live worker"))

    async def _kill_named(self, host: Host, name: str) -> None:
        async def pid() -> int | None:
            found: int | None = (await host.status())[name]
            return found

        kill(await wait_until_async(pid, what=name))

    async def _kill_supervisor(self) -> None:
        await asyncio.to_thread(self._made.kill)
        await asyncio.to_thread(self._made.start)

    async def _kill_all(self, host: Host) -> None:
        """Kill the supervisor, and before the next one comes, some workers and the rest."""
        status = await host.status()
        await asyncio.to_thread(self._made.kill)
        for actor in self._dice.sample(self._crowd.actors, 5):
            kill(self._made.worker_pid(actor.session_id))
        kill(status["zygote_pid"])
        kill(status["store_pid"])
        await asyncio.to_thread(self._made.start)


def kill(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- looking at what is left ---


async def wait_until_all_is_told(crowd: Crowd, made: HostForTests, host: Host) -> None:
    """Wait until every session is at rest and all of its events were shown."""

    async def is_told() -> bool:
        lives = {life["session_id"]: life["life"] for life in await host.lives()}
        return all(
            actor.shown[-1].sequence == judge.head_of(made.data, actor.session_id)
            # One that was killed at rest, while there was no host, is left at rest.
            and lives.get(actor.session_id, "cold") in {"live", "cold"}
            for actor in crowd.actors
        )

    await wait_until_async(is_told, what="all events were shown and all sessions rest")


async def look(crowd: Crowd, made: HostForTests, host: Host) -> list[str]:
    """Return all faults, from the files and from SQL, while the host runs."""
    faults: list[str] = []
    counted = {row[0]: tuple(row[1:]) for row in await host.sql(COUNTS)}
    applied = {row[0]: row[1] for row in await host.sql(APPLIED)}
    live = {life["session_id"] for life in await host.lives()}
    for actor in crowd.actors:
        log = judge.read_log(made.data, actor.session_id)
        found = [
            *judge.faults_of(log, is_live=actor.session_id in live),
            *judge.file_faults(made.data, actor.session_id),
            *judge.shown_faults(actor.shown, log),
            *acceptance_faults(actor, log),
            *crowd.work_faults(actor, log),
            *crowd.effect_faults(actor, log),
        ]
        head = len(log)
        if counted.get(actor.session_id) != (head, 1, head, head):
            found.append(f"SQL counts {counted.get(actor.session_id)} of {head} events")
        if applied.get(actor.session_id) != head:
            found.append(f"SQL is at {applied.get(actor.session_id)} of {head}")
        faults += [f"{actor.name} ({actor.session_id}): {fault}" for fault in found]
    status = await host.status()
    assert status["store_pid"] is not None
    async with StoreClient(f"ipc://{made.places.runtime / 'store.sock'}") as store:
        faults += await store.verify()
    return faults


def acceptance_faults(actor: Actor, log: list[Stored]) -> list[str]:
    """Each command that a client was told of is in the log (that it is once, the judge sees)."""
    there = {stored.event.command_id for stored in log if stored.event.kind == "command_accepted"}
    return [f"command {one} is lost" for one in actor.accepted if one not in there]


def left_over(made: HostForTests) -> list[str]:
    """Return the processes that have to do with the home, once they had a moment to go."""

    def none_left() -> bool:
        return not processes_of(made.home)

    with suppress(AssertionError):
        wait_until(none_left, 10.0)
    return processes_of(made.home)


def processes_of(home: Path) -> list[str]:
    """Describe every process whose command line or environment names the home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = " ".join((*process.cmdline(), *process.environ().values()))
            if str(home / "data") in words or f"PADDOCK_HOME={home}" in words:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def after_the_end(crowd: Crowd, made: HostForTests) -> list[str]:
    """Look at the files once more: every generation has its certificate now."""
    ours: set[SessionId] = {actor.session_id for actor in crowd.actors}
    faults = [f"a session nobody made: {one}" for one in set(sessions_in(made.data)) - ours]
    for actor in crowd.actors:
        log = judge.read_log(made.data, actor.session_id)
        found = judge.faults_of(log, is_live=False) + judge.file_faults(made.data, actor.session_id)
        faults += [f"{actor.name} at the end: {fault}" for fault in found]
    return faults
