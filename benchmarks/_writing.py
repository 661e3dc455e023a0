"""Processes that write at once: sessions' logs, plain tables, and a peer's aggregates."""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks._peers import PeerFile, PlainFile, plain_rows, steps_of
from benchmarks._story import Author, opening, told
from paddock.store.events import Event, Stored
from paddock.store.fold import evolve
from paddock.store.session import Session
from paddock.store.session_file import SessionFile, folder_of
from paddock.supervisor.zygote import settle_memory

PATIENCE_SECONDS = 300.0


class Written:
    """A session's file and its fold, as its worker has them."""

    def __init__(self, data: Path, seed: int, first: Sequence[Event] | None = None) -> None:
        self.session = Session(Author(seed).session_id())
        folder = folder_of(data, self.session.session_id)
        self.file = SessionFile.create(folder, self.session.session_id, at_us=now_us())
        self.write(first or opening())

    def write(self, events: Sequence[Event]) -> None:
        """Fold events and append them: durable when it returns."""
        session, at_us = self.session, now_us()
        sequence, session_id = session.sequence, session.session_id
        for event in events:
            sequence += 1
            evolve(session, Stored(session_id, sequence, 1, at_us, event))
        self.file.append(events, generation=1, at_us=at_us)

    def close(self) -> None:
        """Fold the file and give it up."""
        self.file.close(clean=True)


def now_us() -> int:
    """Return the time, UTC microseconds."""
    return time.time_ns() // 1000


def batches[T](items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of that size."""
    while batch := list(islice(items, size)):
        yield batch


@dataclass(frozen=True, slots=True)
class Span:
    """When one process began and ended (monotonic seconds), and what it took."""

    began: float
    ended: float
    cpu_seconds: float
    events: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast several processes were together."""

    events_per_s: float
    cpu_us_per_event: float
    share: float
    """Of the machine's processor time, what they got; far below 1 where others work on it too."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one process is to write."""

    data: Path
    seed: int
    events: int
    batch: int


type Job = Callable[[Task, Callable[[], None]], Span]
"""Makes ready, calls the second argument to wait for the others, and writes."""


def write_log(task: Task, ready: Callable[[], None]) -> Span:
    """Write a session of real events, made, folded and appended."""
    turns = Author(task.seed).turns(task.events)
    written = Written(task.data, task.seed)
    stream = batches(islice(told(turns), task.events), task.batch)
    span = _timed(task, stream, written.write, ready)
    written.close()
    return span


def write_plain(task: Task, ready: Callable[[], None]) -> Span:
    """Write the same rows, ready made, to a table."""
    rows = plain_rows(_ahead(task), now_us())
    file = PlainFile(task.data / f"plain-{task.seed}.sqlite")
    span = _timed(task, batches(iter(rows), task.batch), file.append, ready)
    file.close()
    return span


def write_peer(task: Task, ready: Callable[[], None]) -> Span:
    """Write the same facts, ready made, as the events of an aggregate."""
    steps = steps_of(_ahead(task))
    file = PeerFile(task.data / f"peer-{task.seed}.sqlite")
    span = _timed(task, batches(iter(steps), task.batch), file.append, ready)
    file.close()
    return span


def _ahead(task: Task) -> list[Event]:
    return list(islice(told(Author(task.seed).turns(task.events)), task.events))


def _timed[T](
    task: Task, stream: Iterator[T], write: Callable[[T], None], ready: Callable[[], None]
) -> Span:
    settle_memory()  # what was made ahead is none of its business, as after the fork of a worker
    ready()
    began, cpu = time.monotonic(), cpu_seconds()
    for batch in stream:
        write(batch)
    return Span(began, time.monotonic(), cpu_seconds() - cpu, task.events)


def cpu_seconds() -> float:
    """Return the processor time of this process, the kernel's part included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def together(job: Job, tasks: Sequence[Task]) -> Pace:
    """Run the job in a process a task; the clock runs from the first start to the last end."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(tasks))
    pipes = []
    processes = []
    for task in tasks:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(job, task, barrier, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    spans = [_received(pipe) for pipe in pipes]
    for process in processes:
        process.join(PATIENCE_SECONDS)
    total = sum(span.events for span in spans)
    elapsed = max(span.ended for span in spans) - min(span.began for span in spans)
    cpu = sum(span.cpu_seconds for span in spans)
    return Pace(total / elapsed, cpu / total * 1e6, cpu / elapsed / (os.cpu_count() or 1))


def _run(job: Job, task: Task, barrier: Barrier, answer: Connection) -> None:
    answer.send(job(task, partial(_wait, barrier)))
    answer.close()


def _wait(barrier: Barrier) -> None:
    barrier.wait(PATIENCE_SECONDS)


def _received(pipe: Connection) -> Span:
    if not pipe.poll(PATIENCE_SECONDS):
        message = f"a writer gave no answer within {PATIENCE_SECONDS:g} s"
        raise TimeoutError(message)
    span: Span = pipe.recv()
    return span


def acknowledgements(data: Path, seed: int, events: int) -> list[float]:
    """Return how long each event of one session took, made, folded and durable, alone (ms)."""
    written = Written(data, seed)
    settle_memory()
    took: list[float] = []
    stream = islice(told(Author(seed).turns(events)), events)
    while True:
        began = time.perf_counter()
        event = next(stream, None)
        if event is None:
            break
        written.write([event])
        took.append((time.perf_counter() - began) * 1000)
    written.close()
    return took
