"""A burial of the simulated world: the real certificate, and steps with anything between them.

What stands here follows ``supervisor/burial.py`` and ``Attendant.bury`` line by line.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from paddock.session_worker.commands import accepted_deletion
from paddock.store.errors import AlreadyOwned, PaddockError, SessionNotFound
from paddock.store.events import CommandAccepted
from paddock.store.session import Session
from paddock.supervisor.certificate import Known, Outcome, ending_of
from paddock.supervisor.errors import OwnerStuck
from paddock.supervisor.restart import Budget
from paddock.supervisor.stimuli import Buried, Bury, NotBuried
from tests.simulation.world import SIGKILL

if TYPE_CHECKING:
    from tests.simulation.host import Host, Record

LOCK_SECONDS = 2.0


class Burial:
    """One burial, in the pool of threads of one host: each of its steps may be its last."""

    def __init__(self, host: "Host", record: "Record", bury: Bury) -> None:
        self.host = host
        self.house = host.house
        self.world = host.world
        self.record = record
        self.file = record.file
        self.bury = bury
        self._killed = 0
        self._steps = self._all()

    def go_on(self) -> None:
        """Take the next step; each says how long it is until the one after it."""
        host, now = self.host, self.world.now
        try:
            seconds = next(self._steps)
        except StopIteration:
            return
        except SessionNotFound:
            by = self.house.registry.tombstones[self.file.session_id]
            self._tell(Outcome(self.record.life.head, "finished", "deleted", deleted_by=by))
        except PaddockError as error:
            pid = error.facts.get("pid")
            told = NotBuried(now, self.bury.start, error, pid if isinstance(pid, int) else None)
            host.stimulate(self.record, told)
        else:
            self.world.after(seconds, host.process, self.go_on)

    def _all(self) -> Iterator[float]:
        world, file, process = self.world, self.file, self.host.process
        yield from self._kill_tools()
        yield from self._own()
        try:
            yield 0.02 * world.chance() ** 2
            world.point(process)
            outcome = self._write()
            yield 0.02 * world.chance() ** 2
        except PaddockError:
            file.close(process, clean=False)
            raise
        file.close(process, clean=True)
        yield 0.001
        if outcome.deleted_by is not None:
            yield from self._entomb(outcome)
        self._tell(outcome)

    def _kill_tools(self) -> Iterator[float]:
        if not self.world.is_mutated("tools_not_killed"):
            self._killed = self.house.kill_tools(self.file.session_id)
            yield 0.005

    def _own(self) -> Iterator[float]:
        file, process = self.file, self.host.process
        waited = 0.0
        while True:
            try:
                file.own(process)
            except AlreadyOwned as held:
                owner = file.owner
                if waited > LOCK_SECONDS:
                    worker = file.holder.process if file.holder is not None else None
                    if (
                        self.bury.pid is None
                        and worker is not None
                        and worker.is_alive
                        and worker is not process
                        and waited < 2 * LOCK_SECONDS
                    ):
                        self.world.end(worker, signal=SIGKILL)
                        self.house.kill_tools(file.session_id)
                        waited = 2 * LOCK_SECONDS
                        yield 0.005
                        continue
                    pid = owner.pid if owner is not None else None
                    raise OwnerStuck("held still", pid=pid) from held
            else:
                return
            waited += 0.25
            yield 0.25

    def _write(self) -> Outcome:
        """Write what the file lacks; return how the session stands."""
        world, file, bury = self.world, self.file, self.bury
        session = file.refold()
        known = Known(
            bury=bury,
            status=self.record.status,
            was_stopped=self.record.was_stopped,
            boot_id=self._boot_of(session),
            budget=Budget(),
            memory_limit_bytes=None,
            tools_killed=self._killed,
            last_generation=file.last_generation,
            words="",
            deletion=self._deletion(session),
            at_us=world.now_us,
            chance=world.chance(),
        )
        ending = ending_of(session, known)
        if world.is_mutated("no_certificate"):
            ending.events[:] = [each for each in ending.events if each.kind != "worker_exited"]
        if ending.events:
            file.append(self.host.process, ending.events, ending.generation, known.at_us)
            self.house.judge.certified(file, bury, self.record, ending.exit)
            self.house.judge.rests(session, bury, ending.events)
        return ending.outcome

    def _deletion(self, session: Session) -> CommandAccepted | None:
        sequence = accepted_deletion(session)
        if sequence is None:
            return None
        accepted = self.file.stored[sequence - 1].event
        assert isinstance(accepted, CommandAccepted)
        return accepted

    def _boot_of(self, session: Session) -> str:
        if self.world.is_mutated("lost_host_strikes") and session.life.worker is not None:
            return session.life.worker.boot_id
        return f"boot-{self.world.boot}"

    def _entomb(self, outcome: Outcome) -> Iterator[float]:
        session_id, by = self.file.session_id, outcome.deleted_by
        assert by is not None
        if not self.world.is_mutated("no_tombstone"):
            self.house.registry.bury(session_id, by, erase=outcome.erase)
            yield 0.001
        if outcome.erase:
            self.world.point(self.host.process)
            self.house.erase(session_id)
            yield 0.001

    def _tell(self, outcome: Outcome) -> None:
        buried = Buried(
            self.world.now,
            self.bury.start,
            outcome.head,
            outcome.ending,
            outcome.reason,
            outcome.restart_seconds,
            outcome.failed,
            outcome.error_kind,
            outcome.deleted_by,
            outcome.answers,
        )
        self.host.stimulate(self.record, buried)
        self.host.grew(self.record, outcome.head)
