"""Those who stand at the workers' door: known by token and pid, heard, spoken to, adopted."""

import os
from typing import TYPE_CHECKING

import structlog

from paddock.session_worker.errors import BadMessage
from paddock.session_worker.protocol import (
    FROM_WORKER,
    TO_WORKER,
    Beat,
    Delta,
    Durable,
    FromWorker,
    GreetAgain,
    Hello,
    Refuse,
    ToWorker,
    Welcome,
)
from paddock.store.errors import PaddockError
from paddock.store.ids import SessionId
from paddock.store.session_file import start_ticks_of
from paddock.supervisor import births
from paddock.supervisor.doors import Door, Peer
from paddock.supervisor.greeting import adopted_start, greeted, meaning_of, why_not
from paddock.supervisor.processes import Process
from paddock.supervisor.record import Record
from paddock.supervisor.stimuli import FoundOpen, GreetedInAnotherVersion, Stage

if TYPE_CHECKING:
    from paddock.supervisor.loop import Host

log = structlog.get_logger("paddock.supervisor.workers")

SHARE = 0.5
"""Of the host's descriptors: as many workers as can be held, by two of them each."""


class Workers:
    """The workers' door of a host."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._routes: dict[bytes, SessionId] = {}
        self.door: Door[FromWorker, ToWorker] = Door(
            host.context,
            host.setting.runtime / "workers.sock",
            FROM_WORKER,
            TO_WORKER,
            uid=os.getuid(),
            share=SHARE,
            heard=self._heard,
            refused=self._misspoke,
            broke=self._broke,
            lost=self._lost,
        )

    def _heard(self, peer: Peer, word: FromWorker) -> None:
        if isinstance(word, Hello):
            self._greeted(peer, word)
            return
        session_id = self._routes.get(peer.identity)
        record = None if session_id is None else self._host.records.get(session_id)
        if record is None or record.route != peer.identity:
            # Of a connection that was given up, or replaced: the file has all that counts.
            self.door.say(peer.identity, GreetAgain())
            return
        if record.process is not None and record.process.pid != peer.pid:
            self.door.counters.strangers += 1  # it took the identity of one that left
            return
        meaning = meaning_of(word, self._host.now())
        if isinstance(word, Beat):
            record.rss_bytes, record.lag_ms = word.rss_bytes, word.lag_ms
            record.approvals, record.queued = len(word.approval_ids), word.queued
        if meaning is not None:
            self._host.stimulate(record, meaning)
        if isinstance(word, Durable | Delta | Beat):
            self._host.forwarded(record, word)
        if isinstance(word, Durable):
            self._host.store.tell(record.session_id, word.first + word.count - 1)

    def _greeted(self, peer: Peer, word: Hello) -> None:
        refusal = self._why_not(peer, word)
        if refusal is not None:
            self.door.counters.refused += 1
            log.warning("refused_worker", session_id=word.session_id, code=refusal.code)
            self.door.say(peer.identity, refusal)
            return
        record = self._held(word)
        if record is None:
            self._host.spawn_task(self._take_in_dead(word))
            return
        record.start_id, record.paddock_version = word.start_id, word.paddock_version
        self.forget(record)
        record.route = peer.identity
        self._routes[peer.identity] = word.session_id
        self.door.say(peer.identity, self._welcome())
        self._host.stimulate(record, greeted(word, self._host.now()))
        self._host.grew(record, word.head)

    def _welcome(self) -> Welcome:
        setting = self._host.setting
        return Welcome(epoch=setting.epoch, paddock_version=setting.paddock_version)

    def _why_not(self, peer: Peer, word: Hello) -> Refuse | None:
        """Return why a greeting is not answered with a welcome, or None."""
        if not self._host.secret.is_token(word.token, word.session_id, word.start_id):
            return Refuse(code="wrong_token", reason="this is no start of this host")
        if word.pid != peer.pid:
            return Refuse(code="wrong_pid", reason=f"it was sent by process {peer.pid}")
        record = self._host.records.get(word.session_id)
        return why_not(
            word,
            None if record is None else record.life,
            known_start=None if record is None else record.start_id,
            held_pid=None if record is None or record.process is None else record.process.pid,
        )

    def _held(self, word: Hello) -> Record | None:
        """Return the record that holds a greeting worker's process; None if it died since."""
        host = self._host
        record = host.records.get(word.session_id)
        if record is not None and record.process is not None:
            return record
        ticks = start_ticks_of(word.pid)
        process = None if ticks is None else Process.find(word.pid, ticks)
        if process is None:
            return None
        if record is None:
            record = host.add_record(word.session_id, head=word.head)
            host.spawn_task(host.learn(record))
        host.attendant.hold(record, process, adopted_start(record.life))
        return record

    async def _take_in_dead(self, word: Hello) -> None:
        """Look what a worker left that died before its greeting was heard: nobody else may know.

        Its file says whether it is to be buried, or wrote its own end and rests as it was asked to.
        """
        host, session_id = self._host, word.session_id
        try:
            look = await host.on_disk(lambda: births.look(host.setting.data, session_id))
        except PaddockError as error:
            log.warning("unreadable", session_id=session_id, error=error.message)
            return
        record = host.records.get(session_id)
        if record is None:
            host.take_in(session_id, look, word.start_id)
        elif record.life.stage is Stage.COLD and look.found in {"open", "deleted"}:
            record.start_id = word.start_id
            host.stimulate(record, FoundOpen(host.now()))

    def _misspoke(self, peer: Peer, error: BadMessage) -> None:
        log.warning("bad_message", door="workers", pid=peer.pid, error=error.message)
        if "version" not in error.facts:
            return
        for record in self._host.records.values():
            if record.process is not None and record.process.pid == peer.pid:
                told = GreetedInAnotherVersion(self._host.now(), record.life.start)
                self._host.stimulate(record, told)

    def _broke(self, peer: Peer, word: FromWorker) -> None:
        """A word was lost here: a new greeting tells what it told. Who greets, greets again."""
        session_id = self._routes.get(peer.identity)
        record = None if session_id is None else self._host.records.get(session_id)
        if record is not None and not isinstance(word, Hello):
            self.greet_anew(record)

    def _lost(self, identity: bytes) -> None:
        session_id = self._routes.pop(identity, None)
        record = None if session_id is None else self._host.records.get(session_id)
        if record is not None and record.route == identity:
            record.route = None

    def forget(self, record: Record) -> None:
        """Say nothing more to a session's worker: it is dead, or has a new connection."""
        if record.route is not None:
            self._routes.pop(record.route, None)
            self.door.forget(record.route)
            record.route = None

    def greet_anew(self, record: Record) -> None:
        """Have a session's worker greet on a new connection: what it was told is not known."""
        route = record.route
        if route is not None:
            self.forget(record)
            self.door.say(route, GreetAgain())

    def say(self, record: Record, word: ToWorker) -> None:
        """Say a word to a session's worker, if it is connected; it asks anew when it is."""
        if record.route is not None:
            self.door.say(record.route, word)
