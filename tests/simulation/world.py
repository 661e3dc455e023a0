"""A world on one thread: time, processes, chance and mishaps, all from one seed.

Whatever happens is an event with its time and the process that it happens to. A process that is
killed has no more events; one that is stopped gets them late. What two runs of one seed do is the
same to the last event.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from paddock.store.ids import uuid7

EPOCH_US = 1_700_000_000_000_000
SIGKILL = 9
LATE_NOTICES = 0.05
"""Of all deaths so many are noticed late, after what came later."""


class Died(Exception):
    """The process that is running was killed just now: nothing after this line happens."""


class Broken(AssertionError):
    """A promise was broken."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


@dataclass(eq=False, slots=True)
class Process:
    """A process of the world: what it holds open, and who is told of its death."""

    pid: int
    kind: str
    is_alive: bool = True
    is_stopped: bool = False
    is_hung: bool = False
    """Its loop does nothing any more, whatever arrives; only its end ends that."""
    is_in_kernel: bool = False
    """It sits in the kernel (a hung disk, say): neither SIGCONT nor SIGKILL do anything yet."""
    doom: int | None = None
    """The signal that ends it when it comes back from there."""
    was_stopped_at: float = -1e9
    signal: int | None = None
    exit_code: int | None = None
    late: list[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    watchers: list[tuple["Process", Callable[[], None]]] = field(default_factory=list)
    mark: str = ""
    """``PADDOCK_OWNER`` in its environment: whose tool it is."""


class World:
    """Time, chance, processes, and how many mishaps are left."""

    def __init__(self, seed: int, mutation: str = "", *, tells: bool = False) -> None:
        self.seed = seed
        self.mutations = frozenset(mutation.split("+"))
        self.random = Random(seed)
        self.chance = self.random.random
        self.now = 0.0
        self.offset_us = 0
        self.boot = 1
        self.processes: dict[int, Process] = {}
        self.mishaps = 0
        self.rate = 0.0
        self.mishap: Callable[[Process], None] = lambda _process: None
        self.steps = 0
        self.told: list[str] = []
        self._tells = tells
        self._pids = 100
        self._minted = 0
        self._order = 0
        self._events: list[tuple[float, int, Process, Callable[..., None], tuple[Any, ...]]] = []
        self.nobody = Process(0, "nobody")

    def __repr__(self) -> str:
        return f"World(seed={self.seed})"

    # --- time and chance ---

    @property
    def now_us(self) -> int:
        """The time of day, which may jump; ``now`` only goes forward."""
        return EPOCH_US + self.offset_us + int(self.now * 1e6)

    def between(self, low: float, high: float) -> float:
        """Return a number between two."""
        return low + (high - low) * self.chance()

    def mint(self) -> str:
        """Return a new id."""
        self._minted += 1
        return uuid7(self.now_us, self._minted.to_bytes(10, "big"))

    def is_mutated(self, name: str) -> bool:
        """Whether the rule of that name is taken out."""
        return name in self.mutations

    def tell(self, text: str) -> None:
        """Note what happens, where somebody reads it."""
        if self._tells:
            self.told.append(f"{self.now:10.4f} {text}")

    # --- events ---

    def after(
        self, seconds: float, process: Process, work: Callable[..., None], *args: object
    ) -> None:
        """Let something happen to a process after a while."""
        self._order += 1
        heapq.heappush(self._events, (self.now + seconds, self._order, process, work, args))

    def soon(self, process: Process, work: Callable[..., None], *args: object) -> None:
        """Let something happen to a process in a moment."""
        self.after(0.0001 + 0.01 * self.chance() ** 3, process, work, *args)

    def run(self, until: float, steps: int) -> None:
        """Let the world go on until a time."""
        events = self._events
        while events and events[0][0] <= until:
            due, _, process, work, args = heapq.heappop(events)
            self.now = max(self.now, due)
            if not process.is_alive:
                continue
            if process.is_hung:
                continue
            if process.is_stopped:
                process.late.append((work, args))
                continue
            self.steps += 1
            if self.steps > steps:
                raise Broken("P11", f"the world does not come to rest within {steps} steps")
            self.do(work, *args)
        self.now = max(self.now, until)

    def do(self, work: Callable[..., None], *args: object) -> None:
        """Let a process do something, as far as it lives to do it."""
        try:
            work(*args)
        except Died:
            self.tell("   died there")

    def point(self, process: Process) -> None:
        """A place where everything may end: whoever runs here may be killed, and others too."""
        if self.mishaps and self.chance() < self.rate:
            self.mishaps -= 1
            self.mishap(process)
        if not process.is_alive:
            raise Died

    # --- processes ---

    def fork(self, kind: str, mark: str = "") -> Process:
        """Return a new process."""
        self._pids += 1
        process = self.processes[self._pids] = Process(self._pids, kind, mark=mark)
        return process

    def find(self, pid: int) -> Process | None:
        """Return the living process of that pid."""
        process = self.processes.get(pid)
        return process if process is not None and process.is_alive else None

    def watch(self, process: Process, by: Process, work: Callable[[], None]) -> None:
        """Tell a process of the death of another."""
        if process.is_alive:
            process.watchers.append((by, work))
        else:
            self.soon(by, work)

    def end(self, process: Process, *, signal: int | None = None, code: int | None = None) -> None:
        """End a process: what it held is free, and those who watch it are told."""
        if not process.is_alive:
            return
        if process.is_in_kernel and signal is not None:
            process.doom = signal
            return
        self.tell(f"{process.kind} {process.pid} ends (signal {signal}, code {code})")
        process.is_alive = False
        process.signal, process.exit_code = signal, code
        process.late.clear()
        for by, work in process.watchers:
            late = 0.5 * self.chance() if self.chance() < LATE_NOTICES else 0.0
            self.after(late, self.nobody, self.soon, by, work)
        process.watchers.clear()

    def stop(self, process: Process, seconds: float) -> None:
        """Stop a process (SIGSTOP) for a while: it comes back late."""
        if process.is_stopped or not process.is_alive:
            return
        self.tell(f"{process.kind} {process.pid} stops for {seconds:.1f} s")
        process.is_stopped = True
        process.was_stopped_at = self.now + seconds
        self.after(seconds, self.nobody, self.go_on, process)

    def sink(self, process: Process, seconds: float) -> None:
        """Let a process sit in the kernel for a while, where no signal gets at it."""
        if process.is_stopped or not process.is_alive:
            return
        self.tell(f"{process.kind} {process.pid} sits in the kernel for {seconds:.1f} s")
        process.is_stopped = process.is_in_kernel = True
        process.was_stopped_at = self.now + seconds
        self.after(seconds, self.nobody, self.surface, process)

    def surface(self, process: Process) -> None:
        """Let it come back from the kernel, to go on or to end by a signal that waited for it."""
        process.is_in_kernel = False
        if process.doom is not None:
            self.end(process, signal=process.doom)
        else:
            self.go_on(process)

    def go_on(self, process: Process) -> None:
        """Let a stopped process go on: what it missed happens to it now."""
        if not process.is_stopped or process.is_in_kernel:
            return
        process.is_stopped = False
        process.was_stopped_at = self.now
        late, process.late = process.late, []
        if process.kind == "host":  # sockets, deaths and timers are looked at in any order
            self.random.shuffle(late)
        for work, args in late:
            self.after(0.0, process, work, *args)
