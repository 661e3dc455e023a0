"""The clock of a host: it stands while its process could not run, so nobody is judged by that time.

Pure. A closed lid stops the system's monotonic clock by itself; a stopped or starved process (a
debugger, SIGSTOP of everything, a machine that thrashes) does not. Whoever was to beat, greet or
leave meanwhile may have been stopped as well, and what it said waits unread in the socket. So the
clock is looked at every ``TICK_SECONDS``, and what lies between two looks beyond that never was.
"""

from dataclasses import dataclass

TICK_SECONDS = 0.5
GRACE_SECONDS = 0.5
"""A loop that comes so late is busy, not stopped."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which the host did not run. ``slept_seconds``: the machine itself was asleep."""

    stood_seconds: float
    slept_seconds: float


class Clock:
    """Seconds that only go forward, and only while the host runs.

    ``monotonic`` and ``boottime`` are the system's clocks of these names: the second goes on while
    the machine sleeps.
    """

    def __init__(self, monotonic: float, boottime: float) -> None:
        self._last, self._last_boot = monotonic, boottime
        self._lost = 0.0

    def look(self, monotonic: float, boottime: float) -> Gap | None:
        """Take note of the time; return the gap since the last look, if there was one."""
        since, boot_since = monotonic - self._last, boottime - self._last_boot
        self._last, self._last_boot = monotonic, boottime
        slept = max(0.0, boot_since - since)
        stood = since - TICK_SECONDS if since > TICK_SECONDS + GRACE_SECONDS else 0.0
        self._lost += stood
        is_gap = stood > 0 or slept > GRACE_SECONDS
        return Gap(stood, slept) if is_gap else None

    @property
    def now(self) -> float:
        """The time of the last look."""
        return self._last - self._lost

    def due(self, at: float) -> float:
        """Return when a time of this clock comes by the monotonic one, if there is no more gap."""
        return at + self._lost
