"""How far a projection is, and which sessions are due: values only."""

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Applied:
    """How far a session is projected."""

    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a session is not projected any further."""

    session_id: str
    sequence: int | None
    what: str
    is_deleted: bool = False
    """Whether it was deleted, so that nobody need be told."""


@dataclass(slots=True)
class Progress:
    """How far the projector is; a copy, safe to keep."""

    sessions: int = 0
    due: int = 0
    events: int = 0
    """Projected since it was opened."""
    waiting_for_fold: int = 0
    damaged: tuple[Damage, ...] = ()
    is_rebuilding: bool = False
    rebuilt: int = 0
    """Sessions that are whole again, of ``sessions``, while ``is_rebuilding``."""
    events_rebuilt: int = 0
    """Events that can be asked for again, of ``events_to_rebuild``, while ``is_rebuilding``."""
    events_to_rebuild: int = 0


@dataclass(slots=True)
class Due:
    """Sessions to be looked at, each once; those that somebody told of come first."""

    told: OrderedDict[str, None] = field(default_factory=OrderedDict)
    found: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def add(self, session_id: str, *, told: bool) -> None:
        """Have a session looked at."""
        if told:
            self.found.pop(session_id, None)
            self.told[session_id] = None
        elif session_id not in self.told:
            self.found[session_id] = None

    def drop(self, session_id: str) -> None:
        """Have a session not looked at."""
        self.told.pop(session_id, None)
        self.found.pop(session_id, None)

    def pop(self) -> str | None:
        """Take out the next one."""
        for queue in (self.told, self.found):
            if queue:
                return queue.popitem(last=False)[0]
        return None

    def __contains__(self, session_id: str) -> bool:
        return session_id in self.told or session_id in self.found

    def __len__(self) -> int:
        return len(self.told) + len(self.found)
