"""Those who stand at the clients' door: greeted, heard, answered, and missed when they vanish."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from pydantic import JsonValue, ValidationError

from paddock.session_worker.errors import BadArgument, BadMessage
from paddock.store.errors import Bug, PaddockError
from paddock.store.ids import SessionId
from paddock.supervisor.asks import Asks, Client, Done
from paddock.supervisor.commands import Ticket
from paddock.supervisor.doors import Door, Peer
from paddock.supervisor.errors import NotGreeted
from paddock.supervisor.feeds import Feeds
from paddock.supervisor.loop import Host
from paddock.supervisor.origins import is_session, session_of
from paddock.supervisor.processes import Process
from paddock.supervisor.protocol import (
    FROM_CLIENT,
    TO_CLIENT,
    VERBS,
    Alive,
    Answer,
    Ask,
    CommandSettled,
    Failed,
    FromClient,
    Greet,
    Leave,
    ToClient,
    Verb,
)
from paddock.supervisor.protocol import Host as HostWord
from paddock.supervisor.record import Record
from paddock.supervisor.stimuli import Effect, Notify, Reply, ReplyError, TellSettled

log = structlog.get_logger("paddock.supervisor.clients")

SILENT_SECONDS = 15.0
"""A client says that it is alive every 5 s (L11)."""
LOOK_SECONDS = 2.0
HEAR_SECONDS = 0.5
SHARE = 0.25
"""Of the host's descriptors."""


@dataclass(slots=True)
class _Guest:
    client: Client
    heard_at: float
    process: Process | None = None
    asks: set[asyncio.Task[None]] = field(default_factory=set)


class Clients:
    """The clients' door of a host."""

    def __init__(self, host: Host, down: Callable[[str, bool, float], None]) -> None:
        self._host = host
        self.door: Door[FromClient, ToClient] = Door(
            host.context,
            host.setting.runtime / "clients.sock",
            FROM_CLIENT,
            TO_CLIENT,
            uid=os.getuid(),
            share=SHARE,
            heard=self._heard,
            refused=self._misspoke,
            broke=self._broke,
            lost=self._gone,
        )
        self.feeds = Feeds(host, self.door)
        self.asks = Asks(host, self.feeds, down)
        self._guests: dict[bytes, _Guest] = {}
        self.asks.counters = self.door.counters
        self.asks.count_clients = self._guests.__len__
        self._timer: asyncio.TimerHandle | None = None
        self.last_seen_at = 0.0
        host.answered = self._answered

    @property
    def count(self) -> int:
        """How many are here."""
        return len(self._guests)

    def open(self) -> None:
        """Begin to listen."""
        self.door.open()
        self.last_seen_at = self._host.now()
        self._look()

    def close(self) -> None:
        """End it."""
        if self._timer is not None:
            self._timer.cancel()
        for identity in list(self._guests):
            self._gone(identity)
        self.door.close()

    # --- words ---

    def _heard(self, peer: Peer, word: FromClient) -> None:
        self.last_seen_at = self._host.now()
        guest = self._guests.get(peer.identity)
        if guest is not None and guest.client.pid != peer.pid:
            # Who takes the identity of one that left does not take its rights as well.
            self.door.counters.strangers += 1
            self._gone(peer.identity)
            guest = None
        if guest is not None:
            guest.heard_at = self.last_seen_at
        match word:
            case Greet():
                self._greet(peer, word)
            case Ask() if guest is not None:
                self._ask(guest, word)
            case Ask():
                self._do_not_know(peer, word.request_id)
            case Leave():
                self._gone(peer.identity)
            case Alive() if guest is None:
                # Who was let go (too slow, too silent) may be one that only listens.
                self._do_not_know(peer, 0)
            case _:
                pass

    def _do_not_know(self, peer: Peer, request_id: int) -> None:
        message = "greet first: this host does not know you (it may have let you go)"
        self._fail(peer.identity, request_id, NotGreeted(message))

    def _broke(self, peer: Peer, word: FromClient) -> None:
        """Tell who asked that it broke here, so that nobody waits."""
        if isinstance(word, Ask):
            message = "a fault of the host's own; its log has the story. Ask again with the same id"
            self._fail(peer.identity, word.request_id, Bug(message))

    def _greet(self, peer: Peer, word: Greet) -> None:
        guest = self._guests.get(peer.identity)
        if guest is None:
            client = Client(peer.identity, peer.pid, peer.uid, word.name, self._origin_of(peer.pid))
            guest = self._guests[peer.identity] = _Guest(client, self._host.now())
            self._watch(guest)
        setting = self._host.setting
        self.door.say(
            peer.identity,
            HostWord(
                paddock_version=setting.paddock_version,
                pid=os.getpid(),
                epoch=setting.epoch,
                store_address=self._host.store.address,
                data=str(setting.data),
            ),
        )

    def _origin_of(self, pid: int) -> str | None:
        records = self._host.records
        workers = {
            record.process.pid: str(session_id)
            for session_id, record in records.items()
            if record.process is not None
        }
        return session_of(
            pid,
            group=self._host.setting.confinement.group,
            worker_of=workers.get,
            sessions=records,
            is_ours=self._is_ours,
            host_pid=os.getpid(),
        )

    def _is_ours(self, session: str) -> bool:
        # A host that has just begun has not looked at all it has.
        return SessionId(session) in self._host.records or is_session(
            self._host.setting.data, session
        )

    def _watch(self, guest: _Guest) -> None:
        """Notice its death at once, where the kernel can tell us of it."""
        pid = guest.client.pid
        if pid == os.getpid():
            return
        with suppress(OSError):
            guest.process = Process(pid, os.pidfd_open(pid))
            guest.process.watch_death(lambda: self._gone(guest.client.identity))

    def _ask(self, guest: _Guest, word: Ask) -> None:
        kind = VERBS.get(word.verb)
        client = guest.client
        try:
            if kind is None:
                message = f"{word.verb!r} is no verb of this host; it knows {', '.join(VERBS)}"
                raise BadArgument(message, verb=word.verb)
            words = _validated(kind, word.arguments)
            ticket = Ticket(client.identity, word.request_id)
            work = self.asks.begin(client, ticket, words)
        except PaddockError as error:
            self._fail(client.identity, word.request_id, error)
            return
        if work is None:
            return  # the machine answers the ticket
        task = asyncio.get_running_loop().create_task(self._finish(client, ticket, work))
        guest.asks.add(task)
        task.add_done_callback(guest.asks.discard)

    async def _finish(self, client: Client, ticket: Ticket, work: Done) -> None:
        try:
            done = await work
        except PaddockError as error:
            self._fail(client.identity, ticket.request_id, error)
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("ask_failed", request_id=ticket.request_id)
            message = f"{type(error).__name__}: {error}; the host's log has the story"
            self._fail(client.identity, ticket.request_id, Bug(message))
            return
        if done is None:
            return  # the machine answers the ticket
        result, afterwards = done
        if client.identity not in self._guests:
            self.feeds.leave(client.identity)  # it vanished while its subscription was made
            return
        self._answer(client.identity, ticket.request_id, result)
        if afterwards is not None:
            afterwards()

    def _misspoke(self, peer: Peer, error: BadMessage) -> None:
        log.warning("bad_message", door="clients", pid=peer.pid, error=error.message)
        self._fail(peer.identity, 0, error)

    # --- answers ---

    def _answered(self, effect: Effect, record: Record) -> None:
        match effect:
            case Reply():
                if not self.asks.resolve(effect.ticket, effect.result):
                    self._answer(effect.ticket.client, effect.ticket.request_id, effect.result)
            case ReplyError():
                if not self.asks.reject(effect.ticket, effect.error):
                    self._fail(effect.ticket.client, effect.ticket.request_id, effect.error)
            case TellSettled():
                self._settled(effect, record)
            case Notify():
                self.feeds.notify(record, effect)
            case _:
                message = f"{type(effect).__name__} is not for clients"
                raise Bug(message)

    def _settled(self, effect: TellSettled, record: Record) -> None:
        answer = effect.answer
        word = CommandSettled(
            command_id=answer.command_id,
            session_id=record.session_id,
            sequence=answer.sequence,
            kind=answer.kind,
            operation_id=answer.operation_id,
            code=answer.code,
            reason=answer.reason,
        )
        for identity in dict.fromkeys(ticket.client for ticket in effect.tickets):
            if identity in self._guests:
                self.door.say(identity, word)

    def _answer(self, identity: bytes, request_id: int, result: dict[str, object]) -> None:
        if identity in self._guests:
            word = Answer.model_validate({"request_id": request_id, "result": result})
            self.door.say(identity, word)

    def _fail(self, identity: bytes, request_id: int, error: PaddockError) -> None:
        facts = {name: _plain(value) for name, value in error.facts.items()}
        self.door.say(
            identity,
            Failed(request_id=request_id, code=error.code, message=error.message, facts=facts),
        )

    async def say_down(self) -> None:
        """Tell who ended the host that it is done, and give him a moment to hear it.

        ZeroMQ drops what a peer has received and not read when the connection ends.
        """
        asked = [ticket for ticket in self.asks.down_tickets if ticket.client in self._guests]
        for ticket in asked:
            self._answer(ticket.client, ticket.request_id, {"ended": True})
        deadline = self._host.now() + HEAR_SECONDS
        while self._host.now() < deadline:
            if not any(ticket.client in self._guests for ticket in asked):
                return
            await asyncio.sleep(HEAR_SECONDS / 20)

    # --- who is gone ---

    def _look(self) -> None:
        """Let go of those who have been silent for too long."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        now = self._host.now()
        for identity, guest in list(self._guests.items()):
            if now - guest.heard_at > SILENT_SECONDS:
                self._gone(identity)

    def _gone(self, identity: bytes) -> None:
        guest = self._guests.pop(identity, None)
        if guest is None:
            return
        self.door.forget(identity)
        self.feeds.leave(identity)
        if guest.process is not None:
            guest.process.release()
        self.last_seen_at = self._host.now()
        # What it asked for goes on: an accepted command takes effect whoever waits for it.


def _validated(kind: type[Verb], arguments: dict[str, JsonValue]) -> Verb:
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{kind.verb}: {where or 'arguments'}: {first['msg']}"
        raise BadArgument(message, verb=kind.verb, argument=where) from error


def _plain(value: object) -> JsonValue:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return str(value)
