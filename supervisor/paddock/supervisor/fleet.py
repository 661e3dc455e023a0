"""How many sessions may live at once, and who is suspended to make room: pure bookkeeping.

A room is reserved before anything is created and given back on every way out (P10). A session that
asks for one gets it, waits while another is suspended to make room, or is refused. Sessions that
were alive already (adoption) get theirs even above the limit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from paddock.store.ids import SessionId
from paddock.supervisor.errors import BadConfiguration, CapacityExceeded

type AtCapacity = Literal["suspend_idle", "refuse"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live session that could be suspended: at rest and with no subscriber."""

    session_id: SessionId
    last_active_at: float


@dataclass(frozen=True, slots=True)
class Given:
    """There is room."""


@dataclass(frozen=True, slots=True)
class Wait:
    """There will be room when ``victim`` is gone; it is to be asked to leave."""

    victim: SessionId


@dataclass(frozen=True, slots=True)
class NoRoom:
    """There is none and will be none."""

    current: int
    maximum: int

    def error(self) -> CapacityExceeded:
        """Return it as what the client is told."""
        message = (
            f"{self.current} of {self.maximum} live sessions and none can be suspended: "
            "suspend one, or raise max_live_sessions"
        )
        return CapacityExceeded(message, current=self.current, max=self.maximum)


class Fleet:
    """The rooms of a host: who has one, who waits, and for whose leaving."""

    def __init__(self, limit: int, at_capacity: AtCapacity = "suspend_idle") -> None:
        """Begin with all rooms free.

        Raises:
            BadConfiguration: ``limit`` is below 1. The configuration's fault.
        """
        if limit < 1:
            message = f"max_live_sessions is {limit}: it must be at least 1"
            raise BadConfiguration(message, key="max_live_sessions", value=limit)
        self.limit = limit
        self.at_capacity = at_capacity
        self._rooms: set[SessionId] = set()
        self._waiting: dict[SessionId, SessionId] = {}
        """Who waits, and for whom; first come, first served."""

    @property
    def current(self) -> int:
        """How many rooms are taken."""
        return len(self._rooms)

    def has_room(self, session_id: SessionId) -> bool:
        """Whether the session has one."""
        return session_id in self._rooms

    def waiters(self) -> list[SessionId]:
        """Return who waits for a room."""
        return list(self._waiting)

    def ask(self, session_id: SessionId, candidates: Iterable[Candidate]) -> Given | Wait | NoRoom:
        """Give the session a room, or name who must leave first, or refuse."""
        if session_id in self._rooms:
            return Given()
        # A free room is promised to each whose victim has left and who was not given it yet.
        if len(self._rooms) < self.limit and not self._waiting:
            self._rooms.add(session_id)
            return Given()
        if self.at_capacity == "refuse":
            return NoRoom(len(self._rooms), self.limit)
        victim = self._least_recent(candidates)
        if victim is None:
            return NoRoom(len(self._rooms), self.limit)
        self._waiting[session_id] = victim
        return Wait(victim)

    def take(self, session_id: SessionId) -> None:
        """Give a room to a session that is alive already, above the limit if need be."""
        self._rooms.add(session_id)
        self._waiting.pop(session_id, None)

    def give_back(self, session_id: SessionId) -> list[SessionId]:
        """Free the session's room, or its place in the line; return who has a room now."""
        self._rooms.discard(session_id)
        self._waiting.pop(session_id, None)
        return self._serve(session_id)

    def victim_stayed(self, victim: SessionId) -> list[SessionId]:
        """Take note that a victim would not leave; return who must ask anew."""
        losers = [waiter for waiter, awaited in self._waiting.items() if awaited == victim]
        for waiter in losers:
            del self._waiting[waiter]
        return losers

    def _serve(self, left: SessionId) -> list[SessionId]:
        """Give free rooms to who came first; who waited for ``left`` waits for theirs instead.

        Else nobody would be told where that one stays.
        """
        served = []
        while self._waiting and len(self._rooms) < self.limit:
            waiter = next(iter(self._waiting))
            victim = self._waiting.pop(waiter)
            for other, awaited in self._waiting.items():
                if awaited == left:
                    self._waiting[other] = victim
            self._rooms.add(waiter)
            served.append(waiter)
        return served

    def _least_recent(self, candidates: Iterable[Candidate]) -> SessionId | None:
        """Return who was active longest ago, and is not leaving for somebody else already."""
        promised = set(self._waiting.values())
        free = [each for each in candidates if each.session_id not in promised]
        if not free:
            return None
        return min(free, key=lambda each: (each.last_active_at, each.session_id)).session_id
