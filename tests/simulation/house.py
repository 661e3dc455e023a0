"""One home of the simulated world: its files, one host after the other, and what goes wrong."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from paddock.store.events import Approvals, Row, SessionConfig, SessionCreated
from paddock.store.ids import CommandId, SessionId, ToolCallId
from paddock.supervisor.feed import Subscriber
from paddock.supervisor.stimuli import Notify, Reply, ReplyError, TellSettled
from tests.simulation.client import Client
from tests.simulation.disk import File
from tests.simulation.host import Host, Record
from tests.simulation.judge import RESTING, Judge
from tests.simulation.mischief import Mischief
from tests.simulation.mishaps import CHANCES
from tests.simulation.world import SIGKILL, Process, World

if TYPE_CHECKING:
    from tests.simulation.worker import Worker


MISCONFIGURED = 0.15
"""Of all homes so many have an agent that cannot run as it is configured."""
FINDS_OUT = 0.02
UNWATCHED = 0.1
"""Of all homes so many have a watcher that takes minutes to start the next supervisor."""


class Registry:
    """The host's own file: it survives any process, and a power cut takes what came last."""

    def __init__(self, *, forgets: bool) -> None:
        self.forgets = forgets
        """Whether a tombstone is not synced before an erasure (a mutation)."""
        self.boot = 1
        self.is_told_all = True
        """Whether all were looked at in this boot, and what was open has an entry."""
        self.entries: dict[SessionId, str] = {}
        self.tombstones: dict[SessionId, CommandId] = {}
        self.to_erase: set[SessionId] = set()
        """Deleted, and their files are still to be erased."""
        self._old: tuple[dict[SessionId, str], dict[SessionId, CommandId]] = ({}, {})

    def enter(self, session_id: SessionId, start_id: str) -> None:
        """Remember that a start of the session is under way."""
        self._keep()
        self.entries[session_id] = start_id

    def strike_out(self, session_id: SessionId) -> None:
        """Forget it: the session is at rest and certified."""
        self._keep()
        self.entries.pop(session_id, None)

    def bury(self, session_id: SessionId, command_id: CommandId, *, erase: bool) -> None:
        """Set up a tombstone; before an erasure it is on the disk, and all before it."""
        self._keep()
        self.tombstones.setdefault(session_id, command_id)
        self.entries.pop(session_id, None)
        if erase:
            self.to_erase.add(session_id)
            if not self.forgets:
                self._keep()

    def _keep(self) -> None:
        self._old = (dict(self.entries), dict(self.tombstones))

    def lose_power(self, world: World) -> None:
        """It is not synced at each change: the last one may be gone."""
        if world.chance() < 0.5:
            self.entries, self.tombstones = dict(self._old[0]), dict(self._old[1])


class House:
    """A home, and all that lives in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.registry = Registry(forgets=world.is_mutated("tombstone_not_synced"))
        self.judge = Judge(self)
        self.files: dict[SessionId, File] = {}
        self.workers: dict[int, Worker] = {}
        self.effects: dict[ToolCallId, int] = {}
        self.host: Host | None = None
        self.announced: Host | None = None
        self.zygote = world.fork("zygote")
        self.epoch = 0
        chance = world.chance
        self.rooms = 1 if chance() < 0.3 else 4
        self.is_full = chance() < 0.2
        self.tools_inherit = chance() < 0.15
        self.has_poison = chance() < 0.2
        # By dice of its own, so that all other schedules are what they were without it.
        self._configuration = Random(~world.seed)
        self._is_misconfigured = self._configuration.random() < MISCONFIGURED
        self._is_unwatched = self._configuration.random() < UNWATCHED
        for _ in range(1 if chance() < 0.7 else 2):
            self._make_session()
        self.mischief = Mischief(self)
        self.client = Client(self)
        self.mischief.begin()
        world.mishap = self.mishap
        self.start_host()

    def finds_itself_misconfigured(self) -> bool:
        """Whether a worker ends here with the exit code that says so, and is not tried again."""
        return self._is_misconfigured and self._configuration.random() < FINDS_OUT

    def _make_session(self) -> None:
        world = self.world
        session_id = SessionId(world.mint())
        file = self.files[session_id] = File(world, session_id)
        approvals = Approvals(default="allow" if world.chance() < 0.4 else "ask")
        config = SessionConfig(workspace="/w", model="script:x", approvals=approvals)
        maker = world.fork("maker")
        file.own(maker)
        file.append(maker, [SessionCreated(config=config)], 0, world.now_us)
        file.close(maker, clean=True)
        world.end(maker, code=0)

    # --- supervisors, one after the other ---

    def start_host(self) -> None:
        """Start a supervisor, as the watcher does when one is gone."""
        world = self.world
        if self.host is not None and self.host.process.is_alive:
            return
        self.epoch += 1
        process = world.fork("host")
        self.host = Host(self, process, self.epoch)
        self.registry.is_told_all = self.registry.boot == world.boot
        world.watch(process, world.nobody, self._host_gone)
        world.soon(process, self.host.open)

    def _host_gone(self) -> None:
        seconds = 0.2 + 3.0 * self.world.chance() ** 3
        if self._is_unwatched:
            seconds += 120.0 * self._configuration.random()
        self.world.after(seconds, self.world.nobody, self.start_host)

    def announce(self, host: Host) -> None:
        """Say where the supervisor is: workers without one look for this."""
        self.announced = host
        for worker in list(self.workers.values()):
            if worker.process.is_alive and worker.engine is not None and worker.line is None:
                self.world.after(0.1 * self.world.chance(), worker.process, worker.find_host)
        self.client.host_is_there()

    def erase(self, session_id: SessionId) -> None:
        """Leave no byte of a deleted session."""
        self.files[session_id].erase()
        self.registry.to_erase.discard(session_id)

    def kill_tools(self, session_id: SessionId) -> int:
        """End the tools of every generation of a session."""
        found = [
            process
            for process in self.world.processes.values()
            if process.is_alive and process.mark.startswith(f"{session_id}.")
        ]
        for process in found:
            self.world.end(process, signal=SIGKILL)
        return len(found)

    def is_at_rest(self) -> bool:
        """Whether nothing is on its way any more."""
        host = self.host
        if host is None or self.announced is not host or not host.process.is_alive:
            return False
        if any(not asked.is_over for asked in self.client.asked.values()) or self.client.approvals:
            return False
        for record in host.records.values():
            life = record.life
            if (
                life.stage not in RESTING
                or not life.queue.is_empty
                or life.worker_stage == "working"
            ):
                return False
        return all(file.owner is None or file.is_quiet() for file in self.files.values())

    # --- what clients are told ---

    def answered(
        self,
        host: Host,
        record: Record,
        effect: Reply | ReplyError | TellSettled | Notify,
    ) -> None:
        """A life answers a client."""
        match effect:
            case Reply():
                self.judge.replied(record, effect)
                self._tell(host, self.client.replied, effect)
            case ReplyError():
                self.judge.refused(record, effect)
                self._tell(host, self.client.refused, effect)
            case TellSettled():
                self.judge.settled(record.file, effect.answer)
                for ticket in effect.tickets:
                    self.judge.is_its_own(ticket)
                    self.judge.has_end(ticket)
                if effect.tickets:
                    self._tell(host, self.client.settled, effect.answer)
            case Notify():
                pass

    def shown(
        self, host: Host, record: Record, subscriber: Subscriber, first: int, rows: tuple[Row, ...]
    ) -> None:
        """Events are shown to a client."""
        self.judge.shown(record.file, first, rows)
        number = subscriber.subscription_id
        self._tell(host, self.client.takes_in, host, record, number, first, rows)

    def _tell(self, host: Host, hear: Callable[..., None], *words: object) -> None:
        """Say something to the client, in order; what a dead host said last may be lost."""
        world = self.world
        delay = 0.0001 + 0.01 * world.chance() ** 3
        host.said_until = max(host.said_until, world.now + delay)

        def arrive() -> None:
            if not host.process.is_alive and world.chance() < 0.5:
                host.is_silent = True
            if not host.is_silent:
                hear(*words)

        world.after(host.said_until - world.now, world.nobody, arrive)

    # --- mishaps ---

    def mishap(self, process: Process) -> None:
        """Let something go wrong, most of it to the process that runs just now."""
        world = self.world
        befall = world.random.choices(*CHANCES)[0]
        world.tell(f"MISHAP {befall.__name__} (in {process.kind} {process.pid})")
        befall(self, process)

    def lose_power(self) -> None:
        """The whole host is lost: every process, and all that no disk has."""
        world = self.world
        for process in world.processes.values():
            process.watchers.clear()
            process.is_in_kernel = False
            world.end(process, signal=SIGKILL)
        world.processes.clear()
        self.workers.clear()
        for file in self.files.values():
            file.lose_power()
        self.registry.lose_power(world)
        world.boot += 1
        self.host = self.announced = None
        self.zygote = world.fork("zygote")
        world.after(world.between(0.5, 20.0), world.nobody, self.start_host)
