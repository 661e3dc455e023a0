"""What clients ask, verb by verb: turned into stimuli of a session's life, or answered at once.

Some answers come from the life itself, later, by the request's ticket; the others are returned.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any

from paddock.session_worker.errors import AgentNotFound, BadArgument, Busy, WorkspaceMissing
from paddock.session_worker.ledger import digest_of
from paddock.session_worker.protocol import COMMANDS, Command
from paddock.session_worker.wire import PROTOCOL_VERSION
from paddock.store.errors import (
    AlreadyExists,
    Bug,
    Damaged,
    PaddockError,
    Refused,
    SessionNotFound,
)
from paddock.store.ids import SessionId, is_uuid7
from paddock.store.session_file import folder_lost, folder_of, sessions_in
from paddock.store.session_file.place import place_of
from paddock.store.text import whole
from paddock.supervisor import births
from paddock.supervisor.commands import Ticket
from paddock.supervisor.creatable import creatable, nameable
from paddock.supervisor.doors import Counters
from paddock.supervisor.errors import CreationFailed, HostGone, SessionNotActive
from paddock.supervisor.feeds import Feeds
from paddock.supervisor.loop import Host
from paddock.supervisor.protocol import (
    Consumed,
    CreateSession,
    DeleteSession,
    Down,
    Lives,
    PutCredentials,
    Resolve,
    ResumeSession,
    SendCommand,
    Status,
    Subscribe,
    SuspendIdle,
    SuspendSession,
    Sync,
    TouchSession,
    Unsubscribe,
    Verb,
)
from paddock.supervisor.record import Record, now_us
from paddock.supervisor.stimuli import (
    Commanded,
    CredentialsPut,
    DeleteAsked,
    LeaveAsked,
    Stage,
    Touched,
    Wanted,
)

type Result = dict[str, Any]
type Afterwards = Callable[[], None] | None
type Done = Coroutine[Any, Any, tuple[Result, Afterwards] | None]

SHORTEST_PART = 4
"""Of an id that is unique enough to be meant."""
NOT_OUTSIDE = frozenset({"decide", "configure", "delete", "set_mode", "set_model"})
"""Verbs that a session's own tools may not use, on itself either."""
WORD_SECONDS = 1.0
"""For a worker's word that its operation has ended, which its file may tell before."""
LOOK_SECONDS = 0.02
BEFORE_LEAVING = frozenset({Lives, Status, Sync, Resolve, Unsubscribe, Consumed, Down})


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. ``session`` is what it descends from, if from any (``origins``)."""

    identity: bytes
    pid: int
    uid: int
    name: str
    session: str | None = None


class Asks:
    """The verbs of the host."""

    def __init__(self, host: Host, feeds: Feeds, down: Callable[[str, bool, float], None]) -> None:
        self._host = host
        self._feeds = feeds
        self._down = down
        self._numbers = count(1)
        self._futures: dict[int, asyncio.Future[Result]] = {}
        self._looks: dict[SessionId, asyncio.Future[Record]] = {}
        self._births: dict[SessionId, asyncio.Lock] = {}
        self.down_tickets: list[Ticket] = []
        self.counters = Counters()
        """Those of the clients' door, which sets them."""
        self.count_clients: Callable[[], int] = lambda: 0

    # --- answers of lives to what we ask ourselves ---

    def ticket(self) -> tuple[Ticket, "asyncio.Future[Result]"]:
        """Return a ticket of our own and the future that its answer comes to."""
        number = next(self._numbers)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._futures[number] = future
        future.add_done_callback(lambda _: self._futures.pop(number, None))
        return Ticket(b"", number), future

    def resolve(self, ticket: Ticket, result: Result) -> bool:
        """Take an answer to a ticket of ours; False if it is a client's."""
        if ticket.client:
            return False
        future = self._futures.get(ticket.request_id)
        if future is not None and not future.done():
            future.set_result(result)
        return True

    def reject(self, ticket: Ticket, error: PaddockError) -> bool:
        """Take an error to a ticket of ours; False if it is a client's."""
        if ticket.client:
            return False
        future = self._futures.get(ticket.request_id)
        if future is not None and not future.done():
            future.set_exception(error)
        return True

    # --- the verbs ---

    def begin(  # noqa: C901, PLR0912 - one arm a verb
        self, client: Client, ticket: Ticket, words: Verb
    ) -> Done | None:
        """Begin a request; None if the session's life will answer it.

        Raises:
            PaddockError: It is refused at once.
        """
        if self._host.is_leaving and type(words) not in BEFORE_LEAVING:
            message = "the host is about to end: start it again, then ask again"
            raise HostGone(message)
        try:
            _check_rights(client, words)
        except Refused:
            self.counters.refused += 1
            raise
        match words:
            case SendCommand():
                return self._command(client, ticket, words)
            case CreateSession():
                return self._create(words)
            case SuspendSession():
                return self._with_record(
                    words.session_id, lambda r: self._suspend(r, ticket, words)
                )
            case ResumeSession():
                return self._with_record(words.session_id, lambda r: self._resume(r, ticket, words))
            case DeleteSession():
                return self._delete(client, ticket, words)
            case TouchSession():
                return self._touch(words)
            case Subscribe():
                return self._subscribe(client, words)
            case Unsubscribe():
                return _now(
                    {"ended": self._feeds.unsubscribe(client.identity, words.subscription_id)}
                )
            case Consumed():
                self._feeds.consumed(client.identity, words.subscription_id, words.sequence)
                return _now({})
            case SuspendIdle():
                return self._suspend_idle(words.max_idle_seconds)
            case Lives():
                return _now(self._lives())
            case Resolve():
                return self._resolve(words.text)
            case Status():
                return self._status()
            case Sync():
                return _now({"heads": self._heads()})
            case Down():
                return self._go_down(ticket, words)
            case PutCredentials():
                return self._put_credentials(words)
            case _:
                message = f"{words.verb!r} is a verb that nobody carries out"
                raise Bug(message)

    # --- records ---

    async def record(self, session_id: SessionId) -> Record:
        """Return the record of a session, made from its file on the first call.

        Raises:
            SessionNotFound, Damaged, StoreError: There is none, or it cannot be read.
        """
        birth = self._births.get(session_id)
        if birth is not None:
            # Its file is owned by this very process now, and is no sign of a worker.
            async with birth:
                pass
        return await self._record(session_id)

    async def _record(self, session_id: SessionId) -> Record:
        record = self._host.records.get(session_id)
        if record is not None:
            return record
        looking = self._looks.get(session_id)
        if looking is None:
            looking = asyncio.ensure_future(self._look(session_id))
            self._looks[session_id] = looking
            looking.add_done_callback(lambda _: self._looks.pop(session_id, None))
        return await asyncio.shield(looking)

    async def _record_that_is(self, session_id: SessionId) -> Record:
        """Return the record of a session as :meth:`record` does, if that was not deleted."""
        record = await self.record(session_id)
        if record.life.stage is Stage.DELETED:
            message = f"session {session_id!r} was deleted; `paddock ls` shows others"
            raise SessionNotFound(message, session_id=session_id)
        return record

    async def _look(self, session_id: SessionId) -> Record:
        data = self._host.setting.data
        try:
            found = await self._host.on_disk(lambda: births.look(data, session_id))
        except Damaged:
            self._host.store.tell(session_id, 0)  # its last look may have been before the damage
            raise
        # Whoever made the record meanwhile (a worker that greeted) knows better.
        known = self._host.records.get(session_id)
        return known or self._host.take_in(session_id, found, None)

    async def _record_to_delete(self, session_id: SessionId) -> Record:
        """Return the record of a session that may be unreadable, or all gone but for what is known.

        Raises:
            SessionNotFound: There is none, and nobody knows of one.
        """
        host = self._host
        error: PaddockError
        try:
            return await self.record(session_id)
        except Damaged as damage:
            error = damage
        except SessionNotFound:
            if not await self._is_known(session_id):
                raise
            error = folder_lost(place_of(folder_of(host.setting.data, session_id)))
        return host.records.get(session_id) or host.take_in_unread(session_id, error)

    async def _is_known(self, session_id: SessionId) -> bool:
        """Whether somebody remembers a session, of which there may be no file any more."""
        host = self._host
        if session_id in host.records:
            return True
        if await host.in_registry(lambda: host.registry.tombstone(session_id)):
            return False
        return await host.in_registry(
            lambda: host.registry.knows(session_id)
        ) or await host.store.knows(session_id)

    async def _with_record(
        self, session_id: SessionId, then: Callable[[Record], tuple[Result, Afterwards] | None]
    ) -> tuple[Result, Afterwards] | None:
        return then(await self.record(session_id))

    # --- creating ---

    async def _create(self, words: CreateSession) -> tuple[Result, Afterwards]:
        session_id = words.session_id
        folder_of(self._host.setting.data, session_id)  # SessionNotFound if it is no id
        words = words.model_copy(update={"config": creatable(words.config)})
        lock = self._births.setdefault(session_id, asyncio.Lock())
        try:
            async with lock:
                return await self._create_one(words)
        finally:
            if not lock.locked():
                self._births.pop(session_id, None)

    async def _create_one(self, words: CreateSession) -> tuple[Result, Afterwards]:
        host, session_id = self._host, words.session_id
        existed = await self._existed(words)
        if existed:
            record = await self._record(session_id)
        else:
            record = await self._give_birth(words)
        record.credentials.update(words.credentials)
        host.know(record, words.config)
        ticket, up = self.ticket()
        why = "created again" if existed else "created"
        host.stimulate(record, Wanted(host.now(), why, ticket, has_room=not existed))
        try:
            await up
        except Refused as error:
            if existed:
                raise
            if (told := _not_as_configured(error)) is not None:
                raise told from error
            message = f"session {session_id!r} did not come up: {error.message}"
            raise CreationFailed(
                message, session_id=session_id, reason=error.message, cause=error.code
            ) from error
        return {"session_id": session_id, "name": words.config.name, "existed": existed}, None

    async def _existed(self, words: CreateSession) -> bool:
        """Whether it was created before with the same payload; AlreadyExists for another one."""
        host, session_id = self._host, words.session_id
        if session_id not in host.records:
            folder = folder_of(host.setting.data, session_id)
            if not await host.on_disk((folder / "session.sqlite").exists):
                if await host.in_registry(lambda: host.registry.tombstone(session_id)):
                    message = f"session {session_id!r} was deleted: make a new id"
                    raise AlreadyExists(message, session_id=session_id)
                return False
        digest = digest_of(words.config.model_dump(mode="json"))
        await host.on_disk(lambda: births.assert_same(host.setting.data, session_id, digest))
        return True

    async def _give_birth(self, words: CreateSession) -> Record:
        """Reserve name and room, then make the file; nothing is left where that fails (L4)."""
        host, session_id, name = self._host, words.session_id, words.config.name
        if name is not None:
            await host.naming.known()
        is_new_name = name is not None and await host.in_registry(
            lambda: host.registry.reserve(name, session_id)
        )
        try:
            await host.rooms.wait(session_id)
            try:
                await host.on_disk(
                    lambda: births.create(
                        host.setting.data,
                        session_id,
                        words.config,
                        at_us=now_us(),
                        secrets=tuple(words.credentials.values()),
                    )
                )
            except BaseException:
                host.rooms.give_back(session_id)
                raise
        except BaseException:
            if is_new_name and name is not None:
                await host.in_registry(lambda: host.registry.release(name, session_id))
            raise
        record = host.add_record(session_id, head=1)
        host.store.tell(session_id, 1)
        return record

    # --- commands ---

    def _command(self, client: Client, ticket: Ticket, words: SendCommand) -> Done | None:
        command = words.command
        if command.verb not in COMMANDS:
            message = f"{command.verb!r} is no command; known are {', '.join(COMMANDS)}"
            raise BadArgument(message, verb=command.verb)
        if command.by is None:
            command = command.model_copy(update={"by": f"uid:{client.uid}"})
        record = self._host.records.get(words.session_id)
        if record is None or command.verb in {"configure", "delete"}:
            return self._command_later(ticket, words, command)
        self._hand(record, ticket, words, command)
        return None

    async def _command_later(self, ticket: Ticket, words: SendCommand, command: Command) -> None:
        is_deletion = command.verb == "delete"
        find = self._record_to_delete if is_deletion else self.record
        record = await find(words.session_id)
        name = command.arguments.get("name")
        if command.verb == "configure" and isinstance(name, str):
            name = whole(nameable(name))  # as its worker writes it
            registry = self._host.registry
            await self._host.naming.known()
            if await self._host.in_registry(lambda: registry.reserve(name, words.session_id)):
                record.renaming = (command.command_id, name)
        if is_deletion:
            seconds = self._host.settings.suspend_deadline_seconds
            self._host.stimulate(record, DeleteAsked(self._host.now(), command, seconds, ticket))
            return
        self._hand(record, ticket, words, command)

    def _hand(self, record: Record, ticket: Ticket, words: SendCommand, command: Command) -> None:
        record.credentials.update(words.credentials)
        self._host.stimulate(record, Commanded(self._host.now(), command, ticket))

    # --- living and leaving ---

    def _suspend(self, record: Record, ticket: Ticket, words: SuspendSession) -> None:
        asked = LeaveAsked(self._host.now(), "asked", words.deadline_seconds, words.force, ticket)
        self._host.stimulate(record, asked)

    def _resume(self, record: Record, ticket: Ticket, words: ResumeSession) -> None:
        record.credentials.update(words.credentials)
        wanted = Wanted(self._host.now(), "resume", ticket, reset=words.reset)
        self._host.stimulate(record, wanted)

    async def _delete(
        self, client: Client, ticket: Ticket, words: DeleteSession
    ) -> tuple[Result, Afterwards] | None:
        host, session_id = self._host, words.session_id
        stone = await host.in_registry(lambda: host.registry.tombstone(session_id))
        if stone is not None:
            if stone.command_id == words.command_id:
                if stone.erase and not stone.is_erased:  # it is under way, or failed: the disk's
                    await host.attendant.erase(session_id)
                return {"deleted": True}, None
            message = f"session {session_id!r} was deleted; `paddock ls` shows those that are there"
            raise SessionNotFound(message, session_id=session_id)
        record = await self._record_to_delete(session_id)
        command = Command(
            command_id=words.command_id,
            verb="delete",
            arguments={"erase": words.erase},
            by=f"uid:{client.uid}",
        )
        asked = DeleteAsked(host.now(), command, words.deadline_seconds, ticket)
        host.stimulate(record, asked)
        return None

    async def _touch(self, words: TouchSession) -> tuple[Result, Afterwards]:
        record = await self._record_that_is(words.session_id)
        if not record.life.is_live:
            message = f"session {words.session_id!r} is {record.life.stage}: resume it first"
            raise SessionNotActive(message, session_id=words.session_id)
        self._host.stimulate(record, Touched(self._host.now()))
        return {}, None

    async def _suspend_idle(self, max_idle_seconds: float) -> tuple[Result, Afterwards]:
        leaving = []
        for record in self.idle(max_idle_seconds):
            ticket, gone = self.ticket()
            leaving.append(gone)
            self.ask_to_rest(record, ticket)
        results = await asyncio.gather(*leaving, return_exceptions=True)
        number = sum(isinstance(result, dict) for result in results)
        return {"count": number}, None

    def idle(self, seconds: float) -> list[Record]:
        """Return the sessions at rest, without subscribers, that nobody used for so long."""
        now = self._host.now()
        return [
            record
            for record in self._host.records.values()
            if record.life.is_at_rest
            and not record.feed.subscribers
            and now - record.life.last_active_at >= seconds
        ]

    def ask_to_rest(self, record: Record, ticket: Ticket | None = None) -> None:
        """Suspend a session for having been idle, unless it is not after all."""
        seconds = self._host.settings.suspend_deadline_seconds
        asked = LeaveAsked(self._host.now(), "idle", seconds, force=False, ticket=ticket)
        self._host.stimulate(record, asked)

    async def _put_credentials(self, words: PutCredentials) -> tuple[Result, Afterwards]:
        record = await self._record_that_is(words.session_id)
        record.credentials.update(words.credentials)
        self._host.stimulate(record, CredentialsPut(self._host.now()))
        return {}, None

    # --- listening ---

    async def _subscribe(self, client: Client, words: Subscribe) -> tuple[Result, Afterwards]:
        host = self._host
        record = await self._record_that_is(words.session_id)
        number, reads = self._feeds.subscribe(client.identity, record, words)

        def afterwards() -> None:
            self._feeds.read(record, reads)
            if words.wake:
                host.stimulate(record, Wanted(host.now(), "subscribe"))

        return {"subscription_id": number, "head": record.feed.head}, afterwards

    # --- looking ---

    def _heads(self) -> dict[SessionId, int]:
        heads = {
            session_id: record.life.head
            for session_id, record in self._host.records.items()
            if record.life.head > 0 and not record.is_erased
        }
        return heads | dict.fromkeys(self._host.store.erasing(), 0)

    def _lives(self) -> Result:
        now = self._host.now()
        workers = []
        for record in self._host.records.values():
            life = record.life
            if life.stage in {Stage.COLD, Stage.DELETED}:
                continue
            workers.append(
                {
                    "session_id": record.session_id,
                    "name": record.name,
                    "pid": life.pid,
                    "generation": life.generation,
                    "paddock_version": record.paddock_version,
                    "life": str(life.stage),
                    "stage": life.worker_stage,
                    "operation_id": life.operation_id,
                    "head": life.head,
                    "waiting": life.queue.waiting,
                    "queued": record.queued,
                    "approvals": record.approvals,
                    "subscribers": len(record.feed.subscribers),
                    "idle_seconds": round(max(0.0, now - life.last_active_at), 3),
                    "rss_bytes": record.rss_bytes or None,
                    "memory_bytes": life.memory_bytes,
                    "memory_limit_bytes": life.memory_limit_bytes,
                    "lag_ms": record.lag_ms,
                    "error": None if life.error is None else life.error.message,
                    "fault": None if life.fault is None else life.fault.message,
                }
            )
        return {"workers": workers}

    async def _status(self) -> tuple[Result, Afterwards]:
        """Return what the host is and how it fares."""
        host = self._host
        at_store = await host.store.counters()
        stages: dict[str, int] = {}
        for record in host.records.values():
            stages[record.life.stage] = stages.get(record.life.stage, 0) + 1
        counters = host.workers.door.counters
        result = {
            "pid": os.getpid(),
            "epoch": host.setting.epoch,
            "data": str(host.setting.data),
            "runtime": str(host.setting.runtime),
            "paddock_version": host.setting.paddock_version,
            "protocol_version": PROTOCOL_VERSION,
            "live": host.fleet.current,
            "max_live_sessions": host.fleet.limit,
            "stages": stages,
            "cannot_write": sum(r.life.fault is not None for r in host.records.values()),
            "host_file_notice": host.registry.notice,
            "store_pid": None if host.store.process is None else host.store.process.pid,
            "store_restarts": host.store.restarts,
            "zygote_pid": host.nursery.pid,
            **host.setting.confinement.told(),
            "clients": self.count_clients(),
            "bad_messages": counters.bad + self.counters.bad + at_store["bad_messages"],
            "strangers": counters.strangers + self.counters.strangers + at_store["strangers"],
            "doors_shut": counters.shut + self.counters.shut,
            "refused_workers": counters.refused,
            "refused_of_sessions": self.counters.refused + at_store["refused_of_sessions"],
            "slow_dropped": counters.dropped + self.counters.dropped,
        }
        return result, None

    async def _resolve(self, text: str) -> tuple[Result, Afterwards]:
        host, text = self._host, whole(text)
        by_name = await host.in_registry(lambda: host.registry.session_of(text))
        if by_name is None:
            await host.naming.known()
            by_name = await host.in_registry(lambda: host.registry.session_of(text))
        if by_name is not None:
            return {"session_id": by_name}, None
        wanted = text.lower()
        gone = await host.in_registry(host.registry.buried)
        known = await host.on_disk(lambda: sessions_in(host.setting.data))
        found = [each for each in known if each not in gone and wanted in each]
        if wanted in found or (is_uuid7(wanted) and await self._is_known(SessionId(wanted))):
            found = [SessionId(wanted)]
        if len(found) == 1 and len(wanted) >= SHORTEST_PART:
            return {"session_id": found[0]}, None
        if not found:
            message = f"no session is named {text!r} and no id has that in it; see `paddock ls`"
            raise SessionNotFound(message, text=text)
        message = f"{text!r} is in {len(found)} session ids ({', '.join(found[:3])}…): give more"
        raise SessionNotFound(message, text=text, matches=len(found))

    # --- the end ---

    async def _go_down(self, ticket: Ticket, words: Down) -> None:
        if not words.force and not words.keep_workers:
            await self._refuse_at_work()
        self.down_tickets.append(ticket)
        self._down("asked", words.keep_workers, words.deadline_seconds)

    async def _refuse_at_work(self) -> None:
        """Raise Busy while sessions work.

        Whoever reads of an operation's end may be some milliseconds ahead of the worker's own word.
        """
        until = self._host.now() + WORD_SECONDS
        while at_work := [
            record.session_id
            for record in self._host.records.values()
            if record.life.has_process and not record.life.is_at_rest
        ]:
            if self._host.now() > until:
                message = (
                    f"{len(at_work)} sessions are at work: wait, or use force "
                    "(their operations stay open and go on when the host is up again)"
                )
                raise Busy(message, sessions=at_work)
            await asyncio.sleep(LOOK_SECONDS)


async def _now(result: Result) -> tuple[Result, Afterwards]:
    return result, None


def _check_rights(client: Client, words: Verb) -> None:
    """A session's own tools may look, and give words to their own session; no more."""
    if client.session is None or isinstance(words, Lives | Status | Sync | Resolve):
        return
    own = getattr(words, "session_id", None) == client.session
    may = own and isinstance(words, Subscribe | TouchSession | SendCommand)
    if isinstance(words, SendCommand) and words.command.verb in NOT_OUTSIDE:
        may = False
    if isinstance(words, Consumed | Unsubscribe):
        may = True
    if not may:
        message = f"a process of session {client.session} may not ask {words.verb!r}"
        raise Refused(message, session_id=client.session, verb=words.verb)


def _not_as_configured(error: Refused) -> Refused | None:
    """Return why a new session cannot be as it was asked for, as the error that its worker named.

    Modules of users are imported in a worker alone, so this is found out when the session has its
    file. It is left, failed: its certificate and stderr tell the story, the same request asked
    again finds it, and once the module is mended ``resume --reset`` goes on with it.
    """
    code, _, words = str(error.facts.get("reason", "")).partition(": ")
    for known in (AgentNotFound, WorkspaceMissing):
        if code == known.code:
            session_id = error.facts.get("session_id")
            message = (
                f"{words}; session {session_id!r} is left failed: mend that and "
                "`paddock resume --reset` it, or `paddock rm` it"
            )
            return known(message, session_id=session_id, reason=words)
    return None
