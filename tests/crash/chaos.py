"""Chaos for as long as asked: ``./dev chaos --minutes N [--seed S]``.

In rounds: a crowd of sessions works while everything is killed, stopped, suspended, restarted,
deleted and interrupted, by a schedule that its seed alone decides; then all comes to rest and every
promise is looked at, from the files and from SQL. The seed of a round that failed is printed; with
it the same things are done again, in the same order, to the same sessions. Exit code 0: all held.
"""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from paddock.client import Host
from paddock.testing import HostForTests
from tests.crash.crowd import Crowd
from tests.crash.killing import DEEDS, Doer, drawn
from tests.crash.looking import left_over, look, processes_of, wait_until_all_is_told

SESSIONS = 12
ROUND_SECONDS = 600.0
HANG_SECONDS = 5
NEXT_SEED = 1_000_003
"""A round's seed is the first one plus this times its number: each round can be had alone."""


@dataclass(slots=True)
class Account:
    """What was done and what came of it."""

    rounds: int = 0
    events: int = 0
    operations: int = 0
    deeds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it for a person."""
        deeds = ", ".join(f"{count} × {deed}" for deed, count in sorted(self.deeds.items()))
        return [
            f"{self.rounds} rounds, {self.operations} operations, {self.events} events",
            f"done to them: {deeds or 'nothing'}",
            f"{len(self.faults)} promises broken" if self.faults else "every promise held",
        ]


async def play_round(made: HostForTests, folder: Path, seed: int, account: Account) -> None:
    """Play one round; what did not hold goes into the account."""
    dice = random.Random(seed)
    crowd = Crowd(folder, dice, SESSIONS)
    schedule = drawn(dice, DEEDS, SESSIONS)
    async with await made.connect() as host:
        doer = Doer(made, crowd, host)
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                faults = await _work(crowd, doer, made, host, schedule)
                account.faults += [f"seed {seed}: {fault}" for fault in faults]
                for actor in crowd.actors:
                    await actor.session.delete(erase=True)
        except Exception as error:  # noqa: BLE001 - what ended a round is told, with what led to it
            account.faults.append(f"seed {seed}: {error!r}, after {doer.story[-5:]}")
            print(made.output()[-10_000:])
        finally:
            account.rounds += 1
            account.events += crowd.seen
            account.operations += sum(len(actor.outcomes) for actor in crowd.actors)
            account.deeds.update(doer.counts())


async def _work(
    crowd: Crowd, doer: Doer, made: HostForTests, host: Host, schedule: object
) -> list[str]:
    await crowd.gather(host)
    watching = [asyncio.create_task(crowd.watch(actor)) for actor in crowd.actors]
    work = [asyncio.create_task(crowd.work(actor)) for actor in crowd.actors]
    doing = asyncio.create_task(doer.carry_out(schedule))  # type: ignore[arg-type]
    tasks = (doing, *work, *watching)
    try:
        await asyncio.gather(doing, *work)
        await wait_until_all_is_told(crowd, made, host)
        return doer.faults + await look(crowd, made, host)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(minutes: float, seed: int, folder: Path) -> Account:
    """Play rounds until the time is over; the last one is played to its end."""
    made = HostForTests(folder / "home", hang_after_seconds=HANG_SECONDS)
    (folder / "home").mkdir(mode=0o700)
    account = Account()
    until = time.monotonic() + 60 * minutes
    try:
        while account.rounds == 0 or (time.monotonic() < until and not account.faults):
            number = seed + account.rounds * NEXT_SEED
            began = time.monotonic()
            asyncio.run(play_round(made, folder / f"round-{account.rounds}", number, account))
            took = time.monotonic() - began
            said = "broken" if account.faults else "held"
            print(f"round {account.rounds}, seed {number}: {said}, {took:.0f} s", flush=True)
    finally:
        made.end()
    account.faults += [f"left over: {one}" for one in left_over(made)]
    assert not processes_of(folder) or account.faults, "what is left over is told"
    return account


def main() -> int:
    """Run chaos; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="./dev chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="do what was done with this seed")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"chaos for {given.minutes:g} minutes; --seed {seed}", flush=True)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = Path(tempfile.mkdtemp(prefix="pd-chaos-", dir="/tmp"))
    try:
        account = run(given.minutes, seed, folder)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for line in (*account.lines(), *account.faults):
        print(line)
    return int(bool(account.faults))


if __name__ == "__main__":
    sys.exit(main())
