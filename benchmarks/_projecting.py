"""The store over logs: how fast it catches up, and how late SQL sees what is durable."""

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import zmq

from benchmarks._story import Author, told
from benchmarks._writing import PATIENCE_SECONDS, Written, batches
from paddock.store.door import StoreClient
from paddock.store.ids import SessionId
from paddock.supervisor.store_child import StoreChild

type Commit = tuple[SessionId, int, float]
"""A session, its head after a commit, and when that was durable (monotonic seconds)."""

ASK_AGAIN_SECONDS = 0.005
"""What is measured is too late by at most this and the time of a query, and never too early."""

QUESTION = "SELECT session_id, max(sequence) FROM events GROUP BY session_id"


# --- catching up ---


def catch_up(data: Path) -> float:
    """Return how many events a second a new projection takes in, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_catch_up, args=(data, theirs), daemon=True)
    process.start()
    theirs.close()
    events, took = ours.recv()
    process.join()
    speed: float = events / took
    return speed


def _catch_up(data: Path, answer: Connection) -> None:
    from paddock.store.projection import Database, Projector  # duckdb is in no other process

    began = time.perf_counter()
    database = Database(data / "catch-up.duckdb")
    projector = Projector(database, data)
    projector.scan()
    events = projector.catch_up()
    answer.send((events, time.perf_counter() - began))
    projector.close()
    database.close()
    os._exit(0)  # DuckDB's module tells of leaks of its own at an exit


# --- how late SQL is ---


@dataclass(frozen=True, slots=True)
class Load:
    """How much is written while SQL is asked."""

    writers: int
    events_a_second: int
    batch: int
    seconds: float


@dataclass(slots=True)
class Watched:
    """Commits that SQL does not show yet, and how late those were that it shows."""

    commits: dict[SessionId, list[Commit]] = field(default_factory=dict)
    late_ms: list[float] = field(default_factory=list)
    written: int = 0

    def note(self, commit: Commit) -> None:
        """Take in a commit."""
        self.commits.setdefault(commit[0], []).append(commit)
        self.written += 1

    def seen(self, session_id: SessionId, sequence: int, at: float) -> None:
        """Take in that SQL shows a session up to there."""
        waiting = self.commits.get(session_id, [])
        while waiting and waiting[0][1] <= sequence:
            self.late_ms.append((at - waiting.pop(0)[2]) * 1000)

    def is_done(self) -> bool:
        """Whether SQL shows all of it."""
        return not any(self.commits.values())


async def lateness(folder: Path, load: Load) -> list[float]:
    """Return how late SQL was with each commit (ms), through the store process."""
    data, runtime = folder / "data", folder / "run"
    data.mkdir(parents=True)
    runtime.mkdir()
    zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    child = StoreChild(zmq_context, data=data, runtime=runtime, command=None, note=_nothing)
    child.start()
    async with StoreClient(child.address) as store:
        await store.sql(QUESTION, timeout_seconds=PATIENCE_SECONDS)
        watched = await _watch(store, child, data, load)
    await child.leave()
    zmq_context.term()
    return watched.late_ms


async def _watch(store: StoreClient, child: StoreChild, data: Path, load: Load) -> Watched:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(load.writers)]
    watched, open_pipes = Watched(), {ours for ours, _ in pipes}
    loop = asyncio.get_running_loop()

    def hear(pipe: Connection) -> None:
        try:
            commit: Commit = pipe.recv()
        except EOFError:
            loop.remove_reader(pipe.fileno())
            open_pipes.discard(pipe)
            return
        watched.note(commit)
        child.tell(commit[0], commit[1])

    for seed, (ours, theirs) in enumerate(pipes):
        args = (data, seed, load, theirs)
        context.Process(target=_write_steadily, args=args, daemon=True).start()
        theirs.close()
        loop.add_reader(ours.fileno(), hear, ours)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while open_pipes or not watched.is_done():
            shown = await store.sql(QUESTION)
            at = time.monotonic()
            for session_id, sequence in shown.rows:
                watched.seen(session_id, sequence, at)
            await asyncio.sleep(ASK_AGAIN_SECONDS)
    return watched


def _write_steadily(data: Path, seed: int, load: Load, tell: Connection) -> None:
    """Write a session at its part of the speed, and tell of each commit."""
    speed = load.events_a_second / load.writers
    events = int(speed * load.seconds)
    turns = Author(seed).turns(events)
    written = Written(data, seed)
    gc.freeze()
    session_id = written.session.session_id
    began = time.monotonic()
    for number, batch in enumerate(batches(islice(told(turns), events), load.batch)):
        time.sleep(max(0.0, began + number * load.batch / speed - time.monotonic()))
        written.write(batch)
        tell.send((session_id, written.session.sequence, time.monotonic()))
    written.close()


def _nothing(*_: object) -> None:
    """Note nothing."""


__all__: Sequence[str] = ["Load", "catch_up", "lateness"]
