"""Room for sessions: who may live, who waits for it, and who is asked to make some (``fleet``)."""

import asyncio
from typing import TYPE_CHECKING, assert_never

from paddock.store.errors import PaddockError
from paddock.store.ids import SessionId
from paddock.supervisor.fleet import Candidate, Given, NoRoom, Wait
from paddock.supervisor.stimuli import LeaveAsked, RoomGiven, RoomRefused

if TYPE_CHECKING:
    from paddock.supervisor.loop import Host

CAPACITY_DEADLINE_SECONDS = 10.0


class Rooms:
    """Carries out what the fleet decides."""

    def __init__(self, host: "Host", wait_seconds: float) -> None:
        self._host = host
        self._seconds = wait_seconds
        self._waits: dict[SessionId, asyncio.Future[None]] = {}

    async def wait(self, session_id: SessionId) -> None:
        """Reserve a room for a session that is not there yet.

        Raises:
            CapacityExceeded, TimedOut: There is none.
        """
        future = asyncio.get_running_loop().create_future()
        self._waits[session_id] = future
        try:
            self.seek(session_id)
            async with asyncio.timeout(self._seconds):
                await future
        except BaseException:
            self._waits.pop(session_id, None)
            self.give_back(session_id)
            raise

    def give_back(self, session_id: SessionId) -> None:
        """Free a session's room and serve who waits."""
        for served in self._host.fleet.give_back(session_id):
            self._given(served)

    def seek(self, session_id: SessionId) -> None:
        """Ask for a session's room; the answer is a stimulus, or what ``wait`` waits for."""
        answer = self._host.fleet.ask(session_id, self.candidates(session_id))
        match answer:
            case Given():
                self._given(session_id)
            case Wait(victim=victim):
                leave = LeaveAsked(
                    self._host.now(), "capacity", CAPACITY_DEADLINE_SECONDS, force=False
                )
                self._host.stimulate(self._host.records[victim], leave)
            case NoRoom():
                self._refused(session_id, answer.error())
            case _:
                assert_never(answer)

    def candidates(self, seeker: SessionId | None) -> list[Candidate]:
        """Return who could be suspended to make room for another one."""
        return [
            Candidate(record.session_id, record.life.last_active_at)
            for record in self._host.records.values()
            if record.life.is_at_rest
            and not record.feed.subscribers
            and record.session_id != seeker
        ]

    def _given(self, session_id: SessionId) -> None:
        future = self._waits.pop(session_id, None)
        if future is not None:
            if not future.done():
                future.set_result(None)
            return
        self._host.stimulate(self._host.records[session_id], RoomGiven(self._host.now()))

    def _refused(self, session_id: SessionId, error: PaddockError) -> None:
        future = self._waits.pop(session_id, None)
        if future is not None:
            if not future.done():
                future.set_exception(error)
            return
        self._host.stimulate(self._host.records[session_id], RoomRefused(self._host.now(), error))
