"""What a session's process needs done: forked, held until it is dead, killed, buried, erased.

Each result is the next stimulus of the session's life.
"""

import asyncio
import os
import signal
from contextlib import suppress
from random import random
from typing import TYPE_CHECKING

import msgpack
import structlog

from paddock.session_worker.protocol import StartOrders
from paddock.store.errors import Bug, Damaged, PaddockError, SessionNotFound
from paddock.store.ids import SessionId
from paddock.store.session_file import erase, folder_lost, folder_of
from paddock.store.session_file.lock import boot_id, pid_namespace
from paddock.store.session_file.place import place_of
from paddock.supervisor import births, burial
from paddock.supervisor.children import ZygoteBroke
from paddock.supervisor.processes import Process, Status
from paddock.supervisor.record import Record, now_us
from paddock.supervisor.registry import Entry
from paddock.supervisor.restart import Budget
from paddock.supervisor.stimuli import (
    Buried,
    Bury,
    Exited,
    Kill,
    NotBuried,
    NotSpawned,
    Spawn,
    Spawned,
)

if TYPE_CHECKING:
    from paddock.supervisor.loop import Host

log = structlog.get_logger("paddock.supervisor")

BEAT_SECONDS = 5.0
BEATS_A_HANG = 6
"""As many beats must be missed before a worker at rest counts as hanging."""
STACKS_SECONDS = 0.25
"""For a hanging worker to write its stacks into its stderr (DESIGN §7)."""
DUMP_SIGNAL = signal.SIGUSR2


class Attendant:
    """Attends to the processes of all sessions."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._erasures: dict[SessionId, asyncio.Task[None]] = {}
        self._boot_id = boot_id()
        self._pid_namespace = pid_namespace()

    async def spawn(self, record: Record, spawn: Spawn) -> None:
        """Fork the worker of a start: ``Spawned`` or ``NotSpawned`` follows."""
        start_id = os.urandom(12).hex()
        record.start_id, record.status, record.was_stopped = start_id, Status(), False
        entry = Entry(record.session_id, start_id, self._boot_id, self._pid_namespace)
        orders = self._orders(record, spawn, start_id)

        def enter() -> None:
            births.look_for_room(self._host.setting.data, record.session_id)
            self._host.registry.enter(entry, now_us())

        try:
            await self._host.in_registry(enter)
            process = await self._host.nursery.fork(orders, lambda: record.life.awaits(spawn.start))
        except Exception as raised:  # noqa: BLE001 - the machine waits for one answer
            error = raised if isinstance(raised, PaddockError) else Bug(f"no fork: {raised!r}")
            log.warning("not_spawned", session_id=record.session_id, error=error.message)
            self._host.stimulate(record, NotSpawned(self._host.now(), spawn.start, error))
            return
        if process is None:
            given_up = ZygoteBroke("the start was given up before there was a process")
            self._host.stimulate(record, NotSpawned(self._host.now(), spawn.start, given_up))
            return
        self.hold(record, process, spawn.start)
        self._host.stimulate(record, Spawned(self._host.now(), spawn.start, process.pid))

    def _orders(self, record: Record, spawn: Spawn, start_id: str) -> bytes:
        orders = StartOrders(
            session_id=record.session_id,
            data=str(self._host.setting.data),
            runtime=str(self._host.setting.runtime),
            address=self._host.workers.door.address,
            epoch=self._host.setting.epoch,
            start_id=start_id,
            token=self._host.secret.token(record.session_id, start_id),
            asked_at_us=now_us(),
            resume_reason=spawn.reason,
            reset=spawn.reset,
            supervisor_pid=os.getpid(),
            credentials=record.credentials,
            default_model=self._host.settings.default_model,
            orphan_grace_seconds=self._host.settings.orphan_grace_seconds,
            beat_seconds=min(BEAT_SECONDS, self._host.settings.hang_after_seconds / BEATS_A_HANG),
            memory_limit_bytes=record.life.memory_limit_bytes,
            confines=self._host.setting.confinement.confines(),
        )
        packed: bytes = msgpack.packb(orders.model_dump(), unicode_errors="surrogatepass")
        return packed

    def hold(self, record: Record, process: Process, start: int) -> None:
        """Hold the process of a start until it is dead."""
        record.process = process

        def ended(status: Status) -> None:
            if record.process is process:  # else it sat in the kernel, and has a successor
                record.process, record.status = None, status
                self._host.workers.forget(record)
            self._host.stimulate(record, Exited(self._host.now(), start))
            self._host.reap()

        process.watch(ended)

    def kill(self, record: Record, kill: Kill) -> None:
        """Kill a session's process; one that hangs writes its stacks before."""
        process = record.process
        if process is None:
            return
        log.warning("killing", session_id=record.session_id, pid=process.pid, cause=kill.reason)
        if not kill.wants_stacks:
            process.send(signal.SIGKILL)
            return
        if kill.reason == "hang" and process.state() == "T":
            record.was_stopped = True
        process.send(DUMP_SIGNAL)
        process.send(signal.SIGCONT)
        loop = asyncio.get_running_loop()
        loop.call_later(STACKS_SECONDS, process.send, signal.SIGKILL)

    async def bury(self, record: Record, bury: Bury) -> None:
        """Bury a worker whose death is proven: ``Buried`` or ``NotBuried`` follows."""
        settings = self._host.settings
        rites = burial.Rites(
            data=self._host.setting.data,
            session_id=record.session_id,
            bury=bury,
            status=record.status,
            was_stopped=record.was_stopped,
            start_id=record.start_id,
            budget=Budget(settings.max_restarts, settings.max_restarts_an_hour),
            secrets=tuple(record.credentials.values()),
            memory_limit_bytes=record.life.memory_limit_bytes,
            now_us=now_us,
            chance=random(),  # noqa: S311 - jitter
            group=self._host.setting.confinement.group,
        )
        try:
            outcome = await self._carried_out(record, rites)
        except Exception as raised:  # else it would be buried for ever
            error = raised if isinstance(raised, PaddockError) else Bug(f"not buried: {raised!r}")
            if record.not_buried != error.message:  # it is tried again and again: told once
                trace = raised if isinstance(error, Bug) else None
                log.warning(
                    "not_buried", session_id=record.session_id, error=error.message, exc_info=trace
                )
            record.not_buried = error.message
            if burial.is_final(error):
                self._host.store.tell(record.session_id, 0)  # so that it looks, and says so too
            pid = error.facts.get("pid")
            self._host.stimulate(
                record,
                NotBuried(
                    self._host.now(),
                    bury.start,
                    error,
                    pid if isinstance(pid, int) else None,
                    burial.is_final(error),
                ),
            )
            return
        record.not_buried = None
        self._host.stimulate(
            record,
            Buried(
                self._host.now(),
                bury.start,
                outcome.head,
                outcome.ending,
                outcome.reason,
                outcome.restart_seconds,
                outcome.failed,
                outcome.error_kind,
                outcome.deleted_by,
                outcome.answers,
            ),
        )
        self._host.grew(record, outcome.head)
        if not record.is_known:
            await self._host.learn(record)

    async def _carried_out(self, record: Record, rites: burial.Rites) -> burial.Outcome:
        """Bury, and set up the tombstone of what was deleted."""
        registry = self._host.registry
        try:
            outcome = await self._host.on_disk(lambda: burial.bury(rites))
        except SessionNotFound as error:
            # What finishes the erasures of an earlier host was here between its look and this.
            stone = await self._host.in_registry(lambda: registry.tombstone(record.session_id))
            if stone is None:
                lost = folder_lost(place_of(folder_of(rites.data, rites.session_id)))
                return await self._deleted_unread(record, rites.bury, lost, error)
            head, by = record.life.head, stone.command_id
            return burial.Outcome(head, "finished", "deleted", deleted_by=by)
        except Damaged as error:
            return await self._deleted_unread(record, rites.bury, error, error)
        if outcome.deleted_by is not None:
            await self._entomb(record, outcome)
        return outcome

    async def _deleted_unread(
        self, record: Record, bury: Bury, damage: Damaged, cause: PaddockError
    ) -> burial.Outcome:
        """Delete a session whose file cannot be read: only the host's own file tells of it.

        Raises:
            Damaged: It is not to be deleted.
        """
        delete = bury.delete
        if delete is None:
            raise damage from cause
        erase = bool(delete.arguments.get("erase"))
        by = delete.command_id
        outcome = burial.Outcome(0, "finished", "deleted", deleted_by=by, erase=erase)
        record.is_erased = True  # no event will tell of it
        await self._entomb(record, outcome)
        self._host.store.tell(record.session_id, 0)
        return outcome

    async def _entomb(self, record: Record, outcome: burial.Outcome) -> None:
        """Set up the tombstone, and erase what is to be erased."""
        session_id, by = record.session_id, outcome.deleted_by
        assert by is not None, "the caller saw that it was deleted"
        await self._host.in_registry(
            lambda: self._host.registry.bury(session_id, by, erase=outcome.erase, at_us=now_us())
        )
        if outcome.erase:
            await self.erase(session_id)

    async def erase(self, session_id: SessionId) -> None:
        """Leave no byte of a deleted session; two who ask at once wait for the same erasure."""
        # Its burial and what finishes what an earlier host began would exclude each other.
        under_way = self._erasures.get(session_id)
        if under_way is None:
            under_way = self._erasures[session_id] = self._host.spawn_task(self._erase(session_id))
            under_way.add_done_callback(lambda _: self._erasures.pop(session_id, None))
        await asyncio.shield(under_way)

    async def _erase(self, session_id: SessionId) -> None:
        record = self._host.records.get(session_id)
        if record is not None:
            record.is_erased = True
        with suppress(SessionNotFound):  # a host that died here had done it
            await self._host.on_disk(lambda: erase(folder_of(self._host.setting.data, session_id)))
        # Not before: the store would find the file, and fill it in anew.
        self._host.store.erase(session_id)
        await self._host.in_registry(lambda: self._host.registry.erased(session_id))
