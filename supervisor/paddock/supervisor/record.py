"""What the host holds of one session, and what a host is made of."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from paddock.store.ids import CommandId, SessionId
from paddock.supervisor.config import Settings
from paddock.supervisor.confinement import Confinement
from paddock.supervisor.feed import Feed
from paddock.supervisor.life import Life
from paddock.supervisor.processes import Process, Status


def now_us() -> int:
    """Return the time of day, UTC microseconds."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Record:
    """All that the host holds of one session."""

    life: Life
    feed: Feed = field(default_factory=Feed)
    name: str | None = None
    is_known: bool = False
    """Whether what it was created with was read: its name, its limits."""
    start_id: str | None = None
    process: Process | None = None
    status: Status = field(default_factory=Status)
    paddock_version: str | None = None
    """Of its worker, as it greeted."""
    needs_secrets: bool = False
    """Whether it was created with references to secrets."""
    route: bytes | None = None
    """The identity of its worker at the workers' door."""
    credentials: dict[str, str] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    timer_for: float | None = None
    """The deadline, by the host's clock, that the timer is set for."""
    rss_bytes: int = 0
    approvals: int = 0
    queued: int = 0
    lag_ms: float = 0.0
    renaming: tuple[CommandId, str] | None = None
    """A name that is reserved for it, and the command whose answer says whether it has it."""
    is_cut_off: bool = False
    """Whether the host ends in the midst of its work, which the next one has go on."""
    is_erased: bool = False
    """Whether no byte of it is left, or soon will be, or it was deleted unread: nobody waits to see
    it in SQL."""
    not_buried: str | None = None
    """Why its last burial failed, as the log was told."""
    was_stopped: bool = False
    """Whether its process was found stopped (SIGSTOP) when it was killed for hanging."""

    @property
    def session_id(self) -> SessionId:
        """Whose it is."""
        return self.life.session_id


@dataclass(frozen=True, slots=True)
class Setting:
    """What a host is made of; ``worker`` is ``module:function`` and takes packed orders."""

    settings: Settings
    data: Path
    runtime: Path
    epoch: int
    worker: str
    paddock_version: str
    confinement: Confinement = field(default_factory=Confinement)
    """What keeps its tools in."""
