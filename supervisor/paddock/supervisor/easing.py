"""What the host does about memory, once a second: sums up, warns, makes room."""

from paddock.store.ids import SessionId
from paddock.supervisor import memory
from paddock.supervisor.loop import Host
from paddock.supervisor.rooms import CAPACITY_DEADLINE_SECONDS
from paddock.supervisor.stimuli import LeaveAsked, Weighed


class Easing:
    """The memory of one host's sessions, and of its machine."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._was_short = False

    async def look(self) -> None:
        """Tell sessions with a limit what they use; while memory is short, make room."""
        await self._weigh()
        self._ease()

    async def _weigh(self) -> None:
        """Sum up what sessions with a limit use, tools included, and tell their lives."""
        host = self._host
        workers: dict[SessionId, int] = {}
        limits: dict[SessionId, int] = {}
        starts: dict[SessionId, int] = {}
        for record in host.records.values():
            life = record.life
            if life.pid is not None and life.memory_limit_bytes is not None and life.has_process:
                workers[life.session_id] = life.pid
                limits[life.session_id] = life.memory_limit_bytes
                starts[life.session_id] = life.start
        if not workers:
            return
        for session_id, weight in (
            await host.on_disk(lambda: memory.weigh(workers, limits))
        ).items():
            record_now = host.records.get(session_id)
            if record_now is not None:
                told = Weighed(host.now(), starts[session_id], weight.bytes)
                host.stimulate(record_now, told)

    def _ease(self) -> None:
        """While the machine runs short, have the least recently used session at rest leave."""
        host = self._host
        found = memory.pressure()
        is_short = found is not None and found.is_felt(host.settings.memory_reserve_mb)
        if is_short and found is not None and not self._was_short:
            facts: dict[str, object] = {
                "available_bytes": found.available_bytes,
                "stalled_percent": found.stalled_percent,
            }
            host.note("memory_short", "supervisor", facts)
        self._was_short = is_short
        candidates = host.rooms.candidates(None) if is_short else []
        if candidates:
            first = min(candidates, key=lambda each: (each.last_active_at, each.session_id))
            leave = LeaveAsked(host.now(), "memory", CAPACITY_DEADLINE_SECONDS, force=False)
            host.stimulate(host.records[first.session_id], leave)
