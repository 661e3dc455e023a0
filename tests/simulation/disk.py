"""Files that lose what was not synced, and locks that die with their holders.

A commit is written, then synced. A process that is killed between leaves a file whose page cache
has what no disk has; a power cut takes that, and a failed sync leaves pages that the kernel calls
clean: no later sync writes them, only a fold (``wal_checkpoint(TRUNCATE)``) does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from paddock.store.errors import (
    AlreadyOwned,
    DiskFull,
    NeedsFold,
    SessionNotFound,
    StoreError,
)
from paddock.store.events import Event, Row, Stored, payload_of, stored_of
from paddock.store.fold import evolve
from paddock.store.ids import SessionId
from paddock.store.session import Session
from tests.simulation.world import SIGKILL, Broken, Process, World

DISK_KILLS = 0.3
"""Of all failed syncs so many end whoever wrote, before it has opened the file anew."""


@dataclass(eq=False, slots=True)
class Holder:
    """What the holder of a lock wrote into it."""

    process: Process
    generation: int


class File:
    """The file of one session."""

    def __init__(self, world: World, session_id: SessionId) -> None:
        self.world = world
        self.session_id = session_id
        self.rows: list[Row] = []
        self.stored: list[Stored] = []
        """Each row, read back from its columns."""
        self.commits: list[int] = []
        """Of which commit each row is."""
        self.synced = 0
        self.lost_from: int | None = None
        """Rows above it are in no disk, though the kernel calls their pages clean."""
        self.believed = 0
        """What the owner acknowledged: the witness, and the cap of every reader."""
        self.has_wal = False
        self.holders: list[Process] = []
        self.holder: Holder | None = None
        self.live = Session(session_id)
        """The fold of all rows, read back: what a live session must equal (P1)."""
        self.started: dict[str, int] = {}
        self.finished: dict[str, int] = {}
        self.fails = ""
        self.is_erased = False
        """No byte of it is left; what it held is kept here for the judge alone."""

    # --- the lock ---

    @property
    def owner(self) -> Process | None:
        """Who holds the lock: a process, or a child that inherited it."""
        for process in self.holders:
            if process.is_alive:
                return process
        return None

    def own(self, process: Process) -> None:
        """Take the lock and fold what an owner left behind."""
        self._find()
        owner = self.owner
        if owner is not None and not self.world.is_mutated("lock_not_exclusive"):
            raise AlreadyOwned(f"{self.session_id} is held by {owner.pid}", pid=owner.pid)
        self.holders = [process]
        self.holder = Holder(process, 0)
        if not self.world.is_mutated("wal_not_folded_by_next_owner"):
            self.fold()
        self.believed = len(self.rows)

    def inherit(self, process: Process) -> None:
        """A child by bare fork has its parent's lock."""
        self.holders.append(process)

    def close(self, process: Process, *, clean: bool) -> None:
        """Give the file up; a clean close leaves no write-ahead log."""
        if clean:
            if not self.world.is_mutated("close_folds_nothing"):
                self.fold()
            self.has_wal = False
        if process in self.holders:
            self.holders.remove(process)

    def fold(self) -> None:
        """Copy the write-ahead log into the database, synced."""
        self.synced, self.lost_from = len(self.rows), None

    def erase(self) -> None:
        """Leave no byte of it, durably."""
        self.is_erased = True
        self.holders, self.holder = [], None

    def _find(self) -> None:
        if self.is_erased:
            raise SessionNotFound("it was erased", session_id=self.session_id)

    def is_quiet(self) -> bool:
        """Whether its last events leave nothing to do."""
        conversation = self.live.conversation
        waits = conversation.operation is None or bool(conversation.approvals)
        return waits and not self.live.unanswered()

    # --- reading and writing ---

    @property
    def head(self) -> int:
        """The number of the last event."""
        return len(self.rows)

    @property
    def last_generation(self) -> int:
        """Of the last event."""
        return self.rows[-1].generation if self.rows else 0

    @property
    def durable(self) -> int:
        """How many events no power cut can take."""
        return self.synced if self.lost_from is None else min(self.synced, self.lost_from)

    def append(self, process: Process, events: Sequence[Event], generation: int, at_us: int) -> int:
        """Append events in one durable transaction; return the sequence of the first."""
        world, first = self.world, len(self.rows) + 1
        world.point(process)
        fails, self.fails = self.fails, ""
        if fails == "full":
            raise DiskFull("no space left", path=self.session_id)
        if self.holder is not None and self.holder.process is process:
            self.holder.generation = generation
        commit = self.commits[-1] + 1 if self.commits else 1
        for sequence, event in enumerate(events, first):
            self._take(_row(sequence, generation, at_us, event), commit)
        self.has_wal = True
        world.point(process)  # written, not synced
        if fails == "sync":
            self.lost_from = first - 1 if self.lost_from is None else self.lost_from
            if world.chance() < DISK_KILLS:
                world.after(0.5 * world.chance(), world.nobody, self._kill, process)
            raise StoreError("input/output error", path=self.session_id)
        if not world.is_mutated("commit_not_synced"):
            self.synced = len(self.rows)
        self.believed = len(self.rows)
        world.point(process)  # synced, and nobody told
        return first

    def _kill(self, process: Process) -> None:
        self.world.end(process, signal=SIGKILL)

    def reopen(self) -> Session:
        """Open the file anew after a failed write; return the fold of what it holds."""
        if not self.world.is_mutated("failed_commit_believed"):
            self._cut(self.believed)
        self.fold()
        return self.refold()

    def refold(self) -> Session:
        """Return the fold of all that the file holds."""
        session = Session(self.session_id)
        for stored in self.stored:
            evolve(session, stored)
        return session

    def read(self, after: int, limit: int) -> list[Row]:
        """Return events above ``after`` as a reader sees them."""
        self._find()
        if self.owner is None and self.has_wal:
            if not self.world.is_mutated("reader_believes_unfolded_wal"):
                raise NeedsFold("its owner died", path=self.session_id)
            return self.rows[after : after + limit]
        return self.rows[after : min(self.believed, after + limit)]

    def lose_power(self) -> None:
        """Lose what was not synced: whole commits of it, from one on."""
        if self.is_erased:
            return
        end = self.durable
        later = sorted(set(self.commits[end:]))
        if self.lost_from is None and later and self.world.chance() < 0.5:
            last = self.world.random.choice(later)
            end = max(i for i, commit in enumerate(self.commits, 1) if commit <= last)
        self._cut(end)
        self.synced, self.lost_from = len(self.rows), None
        self.holders, self.holder = [], None
        self.fails = ""

    def _take(self, row: Row, commit: int) -> None:
        stored = stored_of(self.session_id, row)
        self.rows.append(row)
        self.stored.append(stored)
        self.commits.append(commit)
        evolve(self.live, stored)
        if row.kind == "tool_call_started":
            assert row.tool_call_id is not None
            if row.tool_call_id in self.started:
                raise Broken("P5", f"call {row.tool_call_id} is started twice")
            self.started[row.tool_call_id] = row.sequence
        elif row.kind == "tool_call_finished":
            assert row.tool_call_id is not None
            self.finished[row.tool_call_id] = row.sequence

    def _cut(self, end: int) -> None:
        if end >= len(self.rows):
            return
        del self.rows[end:], self.stored[end:], self.commits[end:]
        self.live = self.refold()
        for index in (self.started, self.finished):
            for call_id in [call_id for call_id, at in index.items() if at > end]:
                del index[call_id]
        self.synced = min(self.synced, end)
        self.believed = min(self.believed, end)


def _row(sequence: int, generation: int, at_us: int, event: Event) -> Row:
    return Row(
        sequence,
        generation,
        at_us,
        event.kind,
        event.operation_id,
        event.message_id,
        event.tool_call_id,
        event.command_id,
        payload_of(event),
        b"",
    )
