"""The loop of the supervisor: stimuli in, effects carried out in order, nothing decided.

Sockets, deaths and timers become stimuli of a session's life (``machine``). What a life wants done
is done here, what concerns its room by ``rooms``, what concerns its process by ``attending``. What
is slow (disk, fork) runs in threads, and its result is the next stimulus: the loop waits for none.
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from sys import intern
from typing import Any, assert_never

import structlog
import zmq

from paddock.session_worker.protocol import (
    Bye,
    Command,
    Credentials,
    FromWorker,
    Suspend,
)
from paddock.session_worker.protocol import Deliver as DeliverWord
from paddock.store.errors import Bug, PaddockError, StoreError
from paddock.store.events import SessionConfig
from paddock.store.ids import SessionId, uuid7
from paddock.supervisor import births
from paddock.supervisor.attending import Attendant
from paddock.supervisor.clock import TICK_SECONDS, Clock
from paddock.supervisor.errors import SessionFailed
from paddock.supervisor.fleet import Fleet
from paddock.supervisor.home import Secret
from paddock.supervisor.life import Life, Patience
from paddock.supervisor.machine import step
from paddock.supervisor.names import Naming
from paddock.supervisor.nursery import Nursery
from paddock.supervisor.processes import Process, reap_orphans
from paddock.supervisor.record import Record, Setting, now_us
from paddock.supervisor.registry import Registry
from paddock.supervisor.rooms import Rooms
from paddock.supervisor.stimuli import (
    AskToLeave,
    Bury,
    Commanded,
    Deliver,
    Effect,
    FoundAlive,
    FoundOpen,
    GiveBackRoom,
    Kill,
    Notify,
    Reply,
    ReplyError,
    SeekRoom,
    SendCredentials,
    Spawn,
    Stage,
    Stayed,
    Stimulus,
    TakeRoom,
    TellSettled,
    TimerFired,
)
from paddock.supervisor.store_child import StoreChild
from paddock.supervisor.workers import Workers

log = structlog.get_logger("paddock.supervisor")

DISK_THREADS = 8
LATE_SECONDS = 0.5
"""A timer that is later than this tells of our own lag, and judges nobody."""
BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, where the system has such a clock."""
ROUNDING_SECONDS = 0.001
"""Of a loop's clock, whose timers may fire a little early."""
WORTH_TELLING_SECONDS = 5.0
"""A host that did not run for so long says so in its log."""
MEMORY_WARNING = "memory_warning"
"""The remark in a session's log that it comes near its limit."""
SHUTDOWN = "shutdown"
"""Why a session rests whose host was ended."""


class Host:
    """The lives of all sessions of a home, and what carries them."""

    def __init__(
        self,
        setting: Setting,
        registry: Registry,
        secret: Secret,
        store_command: list[str] | None = None,
    ) -> None:
        self.setting = setting
        self.settings = setting.settings
        self.registry = registry
        self.secret = secret
        self.records: dict[SessionId, Record] = {}
        self._kept_credentials: dict[SessionId, tuple[tuple[str, str], ...]] = {}
        """Of sessions at rest of which there is no record."""
        self.fleet = Fleet(self.settings.max_live_sessions, self.settings.at_capacity)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.workers = Workers(self)
        self.store = StoreChild(
            self.context,
            data=setting.data,
            runtime=setting.runtime,
            command=store_command,
            note=self.note,
        )
        self.naming = Naming(self)
        self.is_leaving = False
        self.answered: Callable[[Effect, Record], None] = lambda _effect, _record: None
        """What tells clients: the clients' door sets it."""
        self.forwarded: Callable[[Record, FromWorker], None] = lambda _record, _word: None
        """What follows a session: the feeds set it."""
        self._patience = Patience(
            start_seconds=self.settings.start_timeout_seconds,
            hang_after_seconds=self.settings.hang_after_seconds,
        )
        self._disk = ThreadPoolExecutor(DISK_THREADS, "disk")
        self._registrar = ThreadPoolExecutor(1, "registry")  # one: its writes keep their order
        self._waiting: deque[tuple[Record, Stimulus]] = deque()
        self._is_stepping = False
        self._clock: Clock | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.nursery = Nursery(setting.runtime, setting.worker, self.note)
        self.rooms = Rooms(self, self._patience.room_seconds)
        self.attendant = Attendant(self)

    # --- its own life ---

    def open(self) -> None:
        """Begin to listen to workers, start the zygote and the store."""
        self.workers.door.open()
        self._tick()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        self.nursery.open()
        self.spawn_task(self.on_disk(lambda: self.setting.confinement.walls))
        self.store.start()

    def spawn_task(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run a task whose failure is a fault of ours: logged with its story, never silent."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task_failed", exc_info=task.exception())

    async def on_disk[T](self, work: Callable[[], T]) -> T:
        """Run what blocks on the disk in the bounded pool."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    async def in_registry[T](self, work: Callable[[], T]) -> T:
        """Run what reads or writes the host's own file, in order."""
        return await asyncio.get_running_loop().run_in_executor(self._registrar, work)

    def tell_registry(self, work: Callable[[], None]) -> None:
        """Have something written to the host's own file, in order; nobody waits for it."""
        self._registrar.submit(work)

    def note(self, kind: str, subject: str, detail: dict[str, object]) -> None:
        """Record an event of the host."""
        log.info(kind, subject=subject, **detail)
        at = now_us()

        def write() -> None:
            with suppress(StoreError):  # the log line is there; the row is for questions later
                self.registry.note(kind, subject, detail, at)

        self._registrar.submit(write)

    def reap(self) -> None:
        """Reap orphans that we inherited."""
        reap_orphans(self._is_watched)

    def _is_watched(self, pid: int) -> bool:
        if self.nursery.pid == pid:
            return True
        if self.store.process is not None and self.store.process.pid == pid:
            return True
        return any(
            record.process is not None and record.process.pid == pid
            for record in self.records.values()
        )

    async def close(self) -> None:
        """Let go of everything; whoever wants workers gone has asked them to leave before."""
        self.is_leaving = True
        await self.store.leave()
        self.nursery.close()
        if self._ticker is not None:
            self._ticker.cancel()
        for record in self.records.values():
            if record.timer is not None:
                record.timer.cancel()
        self.workers.door.close()
        # The last words are in the hands of ZeroMQ's thread: an exit now would take them along.
        # All sockets are closed by now, and none lingers for more than 0.2 s.
        self.context.term()
        self._registrar.shutdown(wait=True)

    # --- stimulus in, effects out ---

    def stimulate(self, record: Record, stimulus: Stimulus) -> None:
        """Let a session's life take something in; carry out what it wants done, in order."""
        self._waiting.append((record, stimulus))
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._waiting:
                who, what = self._waiting.popleft()
                self._step(who, what)
                self._set_timer(who)
                self.naming.look(who)
        finally:
            self._is_stepping = False

    def _step(self, record: Record, stimulus: Stimulus) -> None:
        """Take one stimulus in; a fault of ours is one session's trouble, and one effect's."""
        try:
            effects = step(record.life, stimulus)
        except Exception as error:  # noqa: BLE001
            self._fault(record, stimulus, error)
            return
        for effect in effects:
            try:
                self._carry_out(record, effect)
            except Exception as error:  # noqa: BLE001
                self._fault(record, effect if isinstance(effect, Reply) else stimulus, error)
                # What its worker was to be told may be lost: a new greeting tells all of it.
                self.workers.greet_anew(record)

    def _fault(self, record: Record, what: Stimulus | Effect, error: Exception) -> None:
        """Tell of a fault of ours in one life: the log, and who asked."""
        name = type(what).__name__
        log.error("fault", session_id=record.session_id, what=name, exc_info=error)
        ticket = getattr(what, "ticket", None)
        if ticket is not None:
            told = error if isinstance(error, PaddockError) else Bug(f"{name} broke: {error!r}")
            self.answered(ReplyError(ticket, told), record)

    def now(self) -> float:
        """Return the time of the clock that stimuli carry; it stands while this process does."""
        loop = asyncio.get_running_loop()
        monotonic, boottime = loop.time(), time.clock_gettime(BOOTTIME)
        if self._clock is None:
            self._clock = Clock(monotonic, boottime)
        gap = self._clock.look(monotonic, boottime)
        if gap is not None and gap.stood_seconds + gap.slept_seconds > WORTH_TELLING_SECONDS:
            facts: dict[str, object] = {
                "stood_seconds": round(gap.stood_seconds, 3),
                "slept_seconds": round(gap.slept_seconds, 3),
            }
            self.note("stood_still", "supervisor", facts)
        return self._clock.now

    def _tick(self) -> None:
        """Look at the clock regularly: what lies between two looks beyond that never was."""
        self.now()
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _call_at(
        self, at: float, call: Callable[[Record, float], None], record: Record, deadline: float
    ) -> asyncio.TimerHandle:
        assert self._clock is not None, "it is made when the host opens"
        return asyncio.get_running_loop().call_at(self._clock.due(at), call, record, deadline)

    def _carry_out(self, record: Record, effect: Effect) -> None:
        match effect:
            case SeekRoom():
                self.rooms.seek(record.session_id)
            case TakeRoom():
                self.fleet.take(record.session_id)
            case GiveBackRoom():
                self._came_to_rest(record)
            case Spawn():
                self.spawn_task(self.attendant.spawn(record, effect))
            case Deliver():
                self.workers.say(record, DeliverWord(command=effect.command))
            case AskToLeave():
                self.workers.say(
                    record,
                    Suspend(
                        reason=effect.reason,
                        deadline_seconds=effect.deadline_seconds,
                        force=effect.force,
                    ),
                )
            case Kill():
                self.attendant.kill(record, effect)
            case Bury():
                self.spawn_task(self.attendant.bury(record, effect))
            case SendCredentials():
                self.workers.say(record, Credentials(values=record.credentials))
            case Stayed():
                for loser in self.fleet.victim_stayed(record.session_id):
                    self.rooms.seek(loser)
            case TellSettled():
                self.naming.settle(record, effect)
                self.answered(effect, record)
            case Reply() | ReplyError():
                self.answered(effect, record)
            case Notify():
                self.answered(effect, record)
                self._note(record, effect)
            case _:
                assert_never(effect)

    def _note(self, record: Record, effect: Notify) -> None:
        """See to it that what subscribers are told now is told later, too."""
        if effect.what == "memory":
            self._annotate(record, MEMORY_WARNING, effect.detail)
        elif effect.what == "damaged":
            self.store.tell(record.session_id, 0)  # its last look may have been before the damage

    def _annotate(self, record: Record, key: str, value: dict[str, object]) -> None:
        """Have a live session put a remark of the host's into its own log."""
        command = Command.model_validate(
            {
                "command_id": uuid7(now_us(), os.urandom(10)),
                "verb": "annotate",
                "arguments": {"key": key, "value": value, "operation_id": record.life.operation_id},
                "by": "host",
            }
        )
        if record.life.is_live:
            self.stimulate(record, Commanded(self.now(), command))

    def _set_timer(self, record: Record) -> None:
        deadline = record.life.deadline
        if record.timer is not None:
            if record.timer_for == deadline and not record.timer.cancelled():
                return
            record.timer.cancel()
            record.timer = None
        if deadline is not None:
            self.now()
            record.timer = self._call_at(deadline, self._timer_due, record, deadline)
            record.timer_for = deadline

    def _timer_due(self, record: Record, deadline: float) -> None:
        record.timer = None
        if record.life.deadline != deadline:
            return
        # What the worker said is in the socket: nobody is judged before it was heard.
        self.workers.door.drain()
        late = self.now() - deadline
        if late < -ROUNDING_SECONDS:  # the clock stood meanwhile: it is not due yet
            self._set_timer(record)
            return
        if late > LATE_SECONDS and record.life.is_live:
            log.warning("lagging", seconds=round(late, 3))
            at = self.now() + LATE_SECONDS
            record.timer = self._call_at(at, self._timer_fires, record, deadline)
            record.timer_for = deadline
            return
        self._timer_fires(record, deadline)

    def _timer_fires(self, record: Record, deadline: float) -> None:
        record.timer = None
        if record.life.deadline == deadline:
            self.stimulate(record, TimerFired(self.now()))
        else:
            self._set_timer(record)

    # --- at rest ---

    def _came_to_rest(self, record: Record) -> None:
        session_id = record.session_id
        self.rooms.give_back(session_id)
        if record.is_cut_off:  # its entry stays, so that the next host finds it
            record.start_id = None
        elif record.start_id is not None:
            record.start_id = None
            self._registrar.submit(self._strike_out, session_id)

    def _strike_out(self, session_id: SessionId) -> None:
        with suppress(StoreError):  # a stale entry only makes the next supervisor look once more
            self.registry.strike_out(session_id)

    # --- records ---

    def grew(self, record: Record, head: int) -> None:
        """Take note that a session's log is as long as ``head``."""
        if head > 0:
            record.life.head = max(record.life.head, head)
            self.store.tell(record.session_id, head)
            self.forwarded(record, Bye(reason="", head=head))

    def add_record(self, session_id: SessionId, *, head: int = 0) -> Record:
        """Return a record for a session at rest that had none."""
        life = Life(session_id, self._patience, head=head)
        life.last_active_at = self.now()
        life.queue.limit = self.settings.max_waiting_commands
        life.memory_limit_bytes = _bytes(self.settings.memory_limit_mb)
        record = self.records[session_id] = Record(life)
        record.feed.head = head
        record.credentials.update(self._kept_credentials.pop(session_id, ()))
        return record

    def forget_resting(self, seconds: float) -> int:
        """Keep no record of sessions that rest for so long; return how many there were.

        Their credentials are kept, which stand nowhere else, but not of those that were deleted.
        """
        before = self.now() - seconds
        gone = [
            record
            for record in self.records.values()
            if record.life.stage in {Stage.COLD, Stage.DELETED}
            and record.life.last_active_at < before
            and not record.feed.subscribers
        ]
        for record in gone:
            del self.records[record.session_id]
            if record.credentials and record.life.stage is Stage.COLD:
                # Mostly the same ones for all sessions.
                shared = ((intern(name), intern(key)) for name, key in record.credentials.items())
                self._kept_credentials[record.session_id] = tuple(shared)
        return len(gone)

    def know(self, record: Record, config: SessionConfig) -> None:
        """Take over what a session was created with, as far as the host has a part in it."""
        record.name, record.is_known = config.name, True
        record.needs_secrets = bool(config.credentials)
        own = _bytes(config.limits.memory_mb)
        if own is not None:
            record.life.memory_limit_bytes = own

    async def learn(self, record: Record) -> None:
        """Read what a session was created with; it goes without, if that cannot be read now."""
        with suppress(PaddockError):
            data, session_id = self.setting.data, record.session_id
            config, _ = await self.on_disk(lambda: births.config_of(data, session_id))
            self.know(record, config)

    def take_in(self, session_id: SessionId, look: births.Look, start_id: str | None) -> Record:
        """Make a record from what the session's file says; finish what is found there."""
        record = self.add_record(session_id, head=look.head)
        if look.config is not None:
            self.know(record, look.config)
        match look.found:
            case "cold":
                if look.reason == SHUTDOWN and start_id is not None:
                    # Only the end of the host cut its work off: what is open there goes on.
                    record.start_id = start_id
                    self.stimulate(record, FoundOpen(self.now()))
            case "failed":
                message = f"session {session_id!r} is left down: {look.reason}"
                record.life.stage = Stage.FAILED
                record.life.error = SessionFailed(
                    f"{message}; `paddock resume --reset` frees it", session_id=session_id
                )
            case "open" | "deleted":  # a deletion may lack its tombstone, or its erasure
                record.start_id = start_id  # so that its entry goes when it is at rest
                self.stimulate(record, FoundOpen(self.now()))
            case "alive":
                self.spawn_task(self.learn(record))
                self._found_alive(record, look, start_id)
            case _:
                assert_never(look.found)
        return record

    def take_in_unread(self, session_id: SessionId, error: PaddockError) -> Record:
        """Make a record of a session whose file cannot be read: it can only be deleted."""
        record = self.add_record(session_id)
        record.life.stage, record.life.error = Stage.FAILED, error
        return record

    def _found_alive(self, record: Record, look: births.Look, start_id: str | None) -> None:
        assert look.pid is not None, "who is alive has a pid"
        process = Process.find(look.pid, look.start_ticks)
        if process is None:
            self.stimulate(record, FoundOpen(self.now()))
            return
        record.start_id = start_id
        self.attendant.hold(record, process, record.life.start + 1)
        patience = self.settings.adopt_within_seconds
        self.stimulate(record, FoundAlive(self.now(), look.pid, patience))


def _bytes(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes * 1024 * 1024
