"""A supervisor of the simulated world: the real machine, fleet, feed and certificate.

What stands here follows ``supervisor/loop.py``, ``births.look``, ``serve.py`` and ``workers.py``
(``burial`` stands beside it); it waits, reads and writes for them, and decides nothing.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from paddock.session_worker.protocol import (
    Beat,
    Bye,
    Durable,
    FromWorker,
    Hello,
    Suspend,
    ToWorker,
    Welcome,
)
from paddock.session_worker.protocol import Deliver as DeliverWord
from paddock.store.errors import NeedsFold, PaddockError, SessionNotFound, StoreError
from paddock.store.events import Row
from paddock.store.ids import SessionId
from paddock.supervisor.births import Found, found_in
from paddock.supervisor.errors import SessionFailed
from paddock.supervisor.feed import Feed, Read, Subscriber
from paddock.supervisor.fleet import Candidate, Fleet, Given, NoRoom, Wait
from paddock.supervisor.greeting import adopted_start, greeted, meaning_of, why_not
from paddock.supervisor.life import Life, Patience
from paddock.supervisor.machine import step
from paddock.supervisor.processes import Status
from paddock.supervisor.stimuli import (
    AskToLeave,
    Bury,
    Deliver,
    Effect,
    Exited,
    FoundAlive,
    FoundOpen,
    GiveBackRoom,
    Kill,
    LeaveAsked,
    Notify,
    NotSpawned,
    Reply,
    ReplyError,
    RoomGiven,
    RoomRefused,
    SeekRoom,
    SendCredentials,
    Spawn,
    Spawned,
    Stage,
    Stayed,
    Stimulus,
    TakeRoom,
    TellSettled,
    TimerFired,
)
from tests.simulation.burial import Burial
from tests.simulation.disk import File
from tests.simulation.lines import Line
from tests.simulation.worker import Orders, Worker
from tests.simulation.world import SIGKILL, Process

if TYPE_CHECKING:
    from tests.simulation.house import House

TAIL_EVENTS = 6
LATE_SECONDS = 0.5
STACKS_SECONDS = 0.25
BEGINNING_SECONDS = 5.0
ADOPT_SECONDS = 10.0
IDLE_SECONDS = 60.0
SWEEP_SECONDS = 10.0
FORGET_SECONDS = 20.0
CAPACITY_DEADLINE_SECONDS = 10.0


@dataclass(eq=False, slots=True)
class Record:
    """All that the host holds of one session."""

    life: Life
    file: File
    feed: Feed = field(default_factory=Feed)
    start_id: str | None = None
    process: Process | None = None
    status: Status = field(default_factory=Status)
    was_stopped: bool = False
    line: Line | None = None
    timer: float | None = None


class Host:
    """One term of a supervisor."""

    def __init__(self, house: "House", process: Process, epoch: int) -> None:
        self.house = house
        self.world = house.world
        self.process = process
        self.epoch = epoch
        self.records: dict[SessionId, Record] = {}
        self.fleet = Fleet(house.rooms)
        self._patience = Patience(
            start_seconds=15.0, fork_seconds=30.0, room_seconds=20.0, hang_after_seconds=30.0
        )
        self._waiting: deque[tuple[Record, Stimulus]] = deque()
        self._is_stepping = False
        self._inbox: deque[tuple[Line, FromWorker]] = deque()
        self._is_drain_due = False
        self._looks: dict[SessionId, list[tuple[Callable[[Record], None], Callable[[], None]]]] = {}
        self._numbers = 0
        self._unseen: set[SessionId | None] = set()
        self.said_until = 0.0
        self.is_silent = False

    # --- beginning ---

    def open(self) -> None:
        """Say where it is, and finish what is found."""
        house, world = self.house, self.world
        house.announce(self)
        candidates = list(house.registry.entries)
        if not house.registry.is_told_all and not world.is_mutated("entries_believed_after_boot"):
            candidates = [each for each, file in house.files.items() if not file.is_erased]
        self._unseen = set(candidates)
        self._seen(None)
        for session_id in candidates:
            world.soon(self.process, self._take_in_found, session_id)
        for session_id in list(house.registry.to_erase):
            world.soon(self.process, self._finish_erasure, session_id)
        world.after(SWEEP_SECONDS, self.process, self._sweep)

    def _finish_erasure(self, session_id: SessionId) -> None:
        if self.house.files[session_id].owner is None:  # else whoever buries it erases it
            self.house.erase(session_id)

    def _take_in_found(self, session_id: SessionId) -> None:
        registry = self.house.registry
        if self.house.files[session_id].is_erased:
            registry.strike_out(session_id)
            self._seen(session_id)
            return
        has_record = session_id in self.records

        def enter(record: Record) -> None:
            if record.life.stage is Stage.COLD and not has_record:
                registry.strike_out(session_id)
            elif (
                record.life.stage not in {Stage.COLD, Stage.FAILED}
                and session_id not in registry.entries
            ):
                registry.enter(session_id, record.start_id or "")
            self._seen(session_id)

        self.look(session_id, enter, lambda: self._seen(session_id))

    def _seen(self, session_id: SessionId | None) -> None:
        """Remember, once all are looked at, that what may have something open has an entry."""
        self._unseen.discard(session_id)
        if not self._unseen:
            self.house.registry.boot = self.world.boot

    def _sweep(self) -> None:
        now = self.world.now
        for record in list(self.records.values()):
            life = record.life
            if record.feed.subscribers or life.last_active_at + IDLE_SECONDS > now:
                continue
            if life.is_at_rest:
                self.stimulate(record, LeaveAsked(now, "idle", 10.0, force=False))
            elif (
                life.stage in {Stage.COLD, Stage.DELETED}
                and life.last_active_at + FORGET_SECONDS < now
            ):
                del self.records[record.file.session_id]
        self.world.after(SWEEP_SECONDS, self.process, self._sweep)

    # --- stimulus in, effects out ---

    def stimulate(self, record: Record, stimulus: Stimulus) -> None:
        """Let a session's life take something in; carry out what it wants done, in order."""
        self._waiting.append((record, stimulus))
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._waiting:
            who, what = self._waiting.popleft()
            self.world.point(self.process)
            before = who.life.stage
            for effect in step(who.life, what):
                self._carry_out(who, effect)
            self.world.tell(f"  host: {type(what).__name__}: {before} → {who.life.stage}")
            self._set_timer(who)
            self.house.judge.queues(who)
        self._is_stepping = False

    def _carry_out(self, record: Record, effect: Effect) -> None:
        world = self.world
        match effect:
            case SeekRoom():
                self._ask_fleet(record.file.session_id)
            case TakeRoom():
                self.fleet.take(record.file.session_id)
            case GiveBackRoom():
                self._came_to_rest(record)
            case Spawn():
                world.soon(self.process, self._enter, record, effect)
            case Deliver():
                self._say(record, DeliverWord(command=effect.command))
            case AskToLeave():
                word = Suspend(
                    reason=effect.reason,
                    deadline_seconds=effect.deadline_seconds,
                    force=effect.force,
                )
                self._say(record, word)
            case Kill():
                self._kill(record, effect)
            case Bury():
                world.soon(self.process, Burial(self, record, effect).go_on)
            case SendCredentials():
                pass
            case Stayed():
                for loser in self.fleet.victim_stayed(record.file.session_id):
                    self._ask_fleet(loser)
            case Reply() | ReplyError() | TellSettled() | Notify():
                self.house.answered(self, record, effect)
            case _:
                assert_never(effect)

    def _set_timer(self, record: Record) -> None:
        deadline = record.life.deadline
        if deadline is not None and record.timer != deadline:
            seconds = max(0.0, deadline - self.world.now)
            self.world.after(seconds, self.process, self._timer_due, record, deadline)
        record.timer = deadline

    def _timer_due(self, record: Record, deadline: float) -> None:
        if record.life.deadline != deadline:
            return
        if not self.world.is_mutated("judged_before_heard"):
            self._drain()
            if self.world.now - deadline > LATE_SECONDS and record.life.is_live:
                self.world.after(LATE_SECONDS, self.process, self._timer_fires, record, deadline)
                return
        self._timer_fires(record, deadline)

    def _timer_fires(self, record: Record, deadline: float) -> None:
        if record.life.deadline == deadline:
            record.timer = None
            self.stimulate(record, TimerFired(self.world.now))

    # --- room ---

    def _ask_fleet(self, session_id: SessionId) -> None:
        record, now = self.records[session_id], self.world.now
        candidates = [
            Candidate(each.file.session_id, each.life.last_active_at)
            for each in self.records.values()
            if each.life.is_at_rest and not each.feed.subscribers and each is not record
        ]
        answer = self.fleet.ask(session_id, candidates)
        match answer:
            case Given():
                self.stimulate(record, RoomGiven(now))
            case Wait(victim=victim):
                leave = LeaveAsked(now, "capacity", CAPACITY_DEADLINE_SECONDS, force=False)
                self.stimulate(self.records[victim], leave)
            case NoRoom():
                self.stimulate(record, RoomRefused(now, answer.error()))
            case _:
                assert_never(answer)

    def _came_to_rest(self, record: Record) -> None:
        for served in self.fleet.give_back(record.file.session_id):
            self.stimulate(self.records[served], RoomGiven(self.world.now))
        if record.start_id is not None:
            record.start_id = None
            self.house.registry.strike_out(record.file.session_id)

    # --- births ---

    def _enter(self, record: Record, spawn: Spawn) -> None:
        world = self.world
        record.start_id = world.mint()
        record.status, record.was_stopped = Status(), False
        if not world.is_mutated("no_entry_before_start"):
            self.house.registry.enter(record.file.session_id, record.start_id)
        world.point(self.process)
        orders = Orders(record.start_id, self.epoch, spawn.reason, spawn.reset)
        # The fork is the zygote's: it may come about though its supervisor is dead by then.
        seconds = 0.005 + world.chance() ** 6 * 8.0
        world.after(seconds, self.house.zygote, self._fork, record, spawn, orders)

    def _fork(self, record: Record, spawn: Spawn, orders: Orders) -> None:
        world, host = self.world, self.process
        if host.is_alive and not record.life.awaits(spawn.start):
            broke = StoreError("the start was given up before there was a process")
            world.soon(host, self._not_spawned, record, spawn, broke)
            return
        if world.chance() < 0.03:
            world.soon(host, self._not_spawned, record, spawn, StoreError("no fork"))
            return
        process = world.fork("worker")
        worker = Worker(self.house, process, record.file, orders)
        self.house.workers[process.pid] = worker
        world.after(0.005 + world.chance() ** 5 * 25.0, process, worker.begin)
        world.soon(host, self._spawned, record, spawn, process)

    def _not_spawned(self, record: Record, spawn: Spawn, error: PaddockError) -> None:
        self.stimulate(record, NotSpawned(self.world.now, spawn.start, error))

    def _spawned(self, record: Record, spawn: Spawn, process: Process) -> None:
        self.hold(record, process, spawn.start)
        self.stimulate(record, Spawned(self.world.now, spawn.start, process.pid))

    def hold(self, record: Record, process: Process, start: int) -> None:
        """Hold the process of a start until it is dead."""
        record.process = process

        def ended() -> None:
            if record.process is process:
                record.process = None
                record.status = Status(process.exit_code, process.signal)
                self._forget(record)
            self.stimulate(record, Exited(self.world.now, start))

        self.world.watch(process, self.process, ended)

    def _kill(self, record: Record, kill: Kill) -> None:
        process, world = record.process, self.world
        if process is None:
            return
        self.house.judge.kills(kill, [line.worker.process for line, _ in self._inbox], process)
        if not kill.wants_stacks:
            world.end(process, signal=SIGKILL)
            return
        if kill.reason == "hang":
            self.house.judge.hangs(process)
            record.was_stopped = process.is_stopped and not process.is_in_kernel
        world.go_on(process)
        world.after(STACKS_SECONDS, self.process, self._finish, process)

    def _finish(self, process: Process) -> None:
        self.world.end(process, signal=SIGKILL)

    # --- looking ---

    def look(
        self,
        session_id: SessionId,
        then: Callable[[Record], None],
        otherwise: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a record from what the file says, if it is there; one look at a time."""
        waiting = self._looks.setdefault(session_id, [])
        waiting.append((then, otherwise))
        if len(waiting) == 1:
            self.world.soon(self.process, self._look, session_id, self.world.now)

    def _look(self, session_id: SessionId, since: float) -> None:
        world, file = self.world, self.house.files[session_id]
        if file.is_erased and session_id not in self.records:
            for _, otherwise in self._looks.pop(session_id):
                otherwise()
            return
        if session_id not in self.records:
            owner, holder = file.owner, file.holder
            worker = None
            if owner is not None:
                is_another = holder is not None and holder.process.is_alive
                is_another = (
                    is_another and holder is not None and holder.process is not self.process
                )
                if holder is not None and is_another and holder.generation > 0:
                    worker = holder.process
                elif world.now - since <= BEGINNING_SECONDS:
                    world.after(0.1, self.process, self._look, session_id, since)
                    return
                elif holder is not None and is_another:
                    worker = holder.process
            self._take_in(session_id, file, worker)
        for then, _ in self._looks.pop(session_id):
            then(self.records[session_id])

    def _take_in(self, session_id: SessionId, file: File, worker: Process | None) -> None:
        world, now = self.world, self.world.now
        found: Found = "alive"
        rows: list[Row] = []
        if worker is None:
            found, rows = self._found(file)
        record = self.add_record(session_id, rows[-1].sequence if rows else 0)
        world.tell(f"  host: found {found}")
        match found:
            case "cold":
                pass
            case "failed":
                record.life.stage = Stage.FAILED
                record.life.error = SessionFailed("left down", session_id=session_id)
            case "open" | "deleted":
                record.start_id = self.house.registry.entries.get(session_id) or None
                self.stimulate(record, FoundOpen(now))
            case "alive":
                assert worker is not None
                record.start_id = self.house.registry.entries.get(session_id) or None
                self.hold(record, worker, record.life.start + 1)
                self.stimulate(record, FoundAlive(now, worker.pid, ADOPT_SECONDS))
            case _:
                assert_never(found)

    def _found(self, file: File) -> tuple[Found, list[Row]]:
        try:
            rows = file.read(max(0, file.head - TAIL_EVENTS), TAIL_EVENTS)
        except NeedsFold:
            return "open", []
        return found_in(rows)[0], rows

    def add_record(self, session_id: SessionId, head: int) -> Record:
        """Return a record for a session that had none."""
        life = Life(session_id, self._patience, head=head)
        life.last_active_at = self.world.now
        record = self.records[session_id] = Record(life, self.house.files[session_id])
        record.feed.head = head
        if not self.world.is_mutated("queue_without_bound"):
            life.queue.limit = self.house.mischief.waiting_limit
        return record

    # --- the workers' door ---

    def arrives(self, line: Line, word: FromWorker) -> None:
        """A word is in the socket."""
        self._inbox.append((line, word))
        if not self._is_drain_due and self.process.is_alive:
            self._is_drain_due = True
            self.world.after(0.0, self.process, self._drain)

    def _drain(self) -> None:
        self._is_drain_due = False
        while self._inbox:
            line, word = self._inbox.popleft()
            self._heard(line, word)

    def _heard(self, line: Line, word: FromWorker) -> None:
        world, now = self.world, self.world.now
        if isinstance(word, Hello):
            self._greeted(line, word)
            return
        session_id = line.worker.file.session_id
        record = self.records.get(session_id)
        if record is None or record.line is not line:
            return
        world.tell(f"  host hears {word.tag}")
        meaning = meaning_of(word, now)
        if meaning is not None:
            self.stimulate(record, meaning)
        if isinstance(word, Durable | Beat):
            self._follow(record, word)

    def _greeted(self, line: Line, word: Hello) -> None:
        if word.epoch > self.epoch and not self.world.is_mutated("lower_epoch_welcome"):
            return
        record = self.records.get(word.session_id)
        refusal = why_not(
            word,
            None if record is None else record.life,
            known_start=None if record is None else record.start_id,
            held_pid=None if record is None or record.process is None else record.process.pid,
        )
        if refusal is not None and not self.world.is_mutated("everybody_is_welcome"):
            line.down(refusal)
            return
        record = self._held(word)
        if record is None:
            self.world.soon(self.process, self._take_in_dead, word)
            return
        record.start_id = word.start_id
        record.line = line
        line.down(Welcome(epoch=self.epoch))
        self.stimulate(record, greeted(word, self.world.now))
        self.grew(record, word.head)

    def _held(self, word: Hello) -> Record | None:
        record = self.records.get(word.session_id)
        if record is not None and record.process is not None:
            return record
        process = self.world.find(word.pid)
        if process is None:
            return None
        if record is None:
            record = self.add_record(word.session_id, word.head)
        self.hold(record, process, adopted_start(record.life))
        return record

    def _take_in_dead(self, word: Hello) -> None:
        """Look what a worker left that died before its greeting was heard."""
        file, record = self.house.files[word.session_id], self.records.get(word.session_id)
        if file.is_erased:
            return
        if record is None:
            self.look(word.session_id, lambda _: None)
        elif record.life.stage is Stage.COLD and self._found(file)[0] in {"open", "deleted"}:
            record.start_id = word.start_id
            self.stimulate(record, FoundOpen(self.world.now))

    def line_lost(self, line: Line) -> None:
        """A connection ended."""
        record = self.records.get(line.worker.file.session_id)
        if record is not None and record.line is line:
            record.line = None

    def _forget(self, record: Record) -> None:
        record.line = None

    def _say(self, record: Record, word: ToWorker) -> None:
        if record.line is not None:
            record.line.down(word)

    # --- those who follow ---

    def subscribe(self, record: Record, client: bytes, after: int) -> int:
        """Add a subscriber; what he lacks is read for him."""
        self._numbers += 1
        subscriber = Subscriber(self._numbers, client, position=after, consumed=after)
        self._read(record, record.feed.join(subscriber))
        return self._numbers

    def consumed(self, record: Record, number: int, sequence: int) -> None:
        """A subscriber took in what he was sent."""
        self._read(record, record.feed.consumed(number, sequence))

    def grew(self, record: Record, head: int) -> None:
        if head > 0:
            record.life.head = max(record.life.head, head)
            self._follow(record, Bye(reason="", head=head))

    def _follow(self, record: Record, word: Durable | Beat | Bye) -> None:
        feed = record.feed
        if not feed.subscribers:
            feed.head_is(0 if isinstance(word, Durable) else word.head)
            if isinstance(word, Durable):
                feed.grew(word.first, word.count, is_carried=True)
            return
        if isinstance(word, Durable):
            direct, reads = feed.grew(word.first, word.count, is_carried=True, size_bytes=1)
            for subscriber in direct:
                self.house.shown(self, record, subscriber, word.first, word.rows)  # type: ignore[arg-type]  # the rows stand for their bytes
        else:
            reads = feed.head_is(word.head)
        self._read(record, reads)

    def _read(self, record: Record, reads: list[Read]) -> None:
        for read in reads:
            self.world.soon(self.process, self._read_file, record, read)

    def _read_file(self, record: Record, read: Read) -> None:
        subscriber = record.feed.subscribers.get(read.subscription_id)
        if subscriber is None:
            return
        rows: list[Row] = []
        try:
            rows = record.file.read(read.after, min(read.limit, 40))
        except SessionNotFound:
            record.feed.leave(read.subscription_id)
            return
        except NeedsFold:
            if record.life.stage is Stage.COLD:
                self.stimulate(record, FoundOpen(self.world.now))
        first = read.after + 1
        if rows:
            self.house.shown(self, record, subscriber, first, tuple(rows))
        feed = record.feed
        self._read(record, feed.was_read(read.subscription_id, first, len(rows), 1))

    # --- the clients' door ---

    def with_record(
        self,
        session_id: SessionId,
        then: Callable[[Record], None],
        otherwise: Callable[[], None] = lambda: None,
    ) -> None:
        """Do something with a session's record, made from its file if there is none."""
        record = self.records.get(session_id)
        if record is not None:
            then(record)
        else:
            self.look(session_id, then, otherwise)
