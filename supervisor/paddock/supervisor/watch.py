"""The watcher: ``python -P -m paddock.supervisor.watch``, where no service keeps a host running.

It starts ``paddock.supervisor.serve`` with its own arguments, waits for its end, and starts it
again unless it ended because somebody wanted it to. It knows nothing else and imports nothing else,
so that it costs little and has little to die of; workers live through the gap by themselves.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

WANTED_ENDS = frozenset({0, 3})
"""Told to end, or idle (0); refused to start, since another host has the home, say (3)."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A host that ran for so long is started again at once."""


class Watcher:
    """One host after another."""

    def __init__(self, arguments: list[str]) -> None:
        self._command = [sys.executable, "-P", "-m", "paddock.supervisor.serve", *arguments]
        self._child: subprocess.Popen[bytes] | None = None
        self._is_leaving = False

    def watch(self) -> int:
        """Keep a host running; return how the last one ended, when it was meant to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        pause = FIRST_PAUSE_SECONDS
        former: list[str] = []
        while True:
            began = time.monotonic()
            self._child = subprocess.Popen([*self._command, *former])
            if self._is_leaving:  # told to while it was being started
                self._child.terminate()
            status = self._child.wait()
            if self._is_leaving or status in WANTED_ENDS:
                return max(0, status)
            # Nobody else can say how it ended: the next one puts it on record.
            former = ["--former", f"{self._child.pid}:{status}:{time.time_ns() // 1000}"]
            pause = next_pause(pause, time.monotonic() - began)
            say(f"the host ended with {status}: started again in {pause:g} s")
            time.sleep(pause)

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        self._is_leaving = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def next_pause(pause: float, ran_seconds: float) -> float:
    """Return how long to wait before the next start: longer each time, until one stays up."""
    if ran_seconds >= STEADY_SECONDS:
        return FIRST_PAUSE_SECONDS
    return min(LONGEST_PAUSE_SECONDS, pause * 2)


def say(text: str) -> None:
    """Write a line to the host's log."""
    os.write(2, f"watch: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(Watcher(sys.argv[1:]).watch())
