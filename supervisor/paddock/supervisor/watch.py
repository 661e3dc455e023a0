"""The watcher: ``python -P -m paddock.supervisor.watch``, where no service keeps a host running.

It starts ``paddock.supervisor.serve`` with its own arguments, waits for its end, and starts it
again unless it ended because somebody wanted it to. A host whose loop stands still is ended: it
writes a byte into a pipe every few seconds. The watcher knows nothing else and imports nothing
else, so that it costs little and has little to die of; workers live through the gap by themselves.
"""

import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

WANTED_ENDS = frozenset({0, 2, 5, 6})
"""Told to end, or idle (0); it could not start: a setting (2), another host (5), a disk (6)."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A host that ran for so long is started again at once."""
LOOK_SECONDS = 5.0
SILENT_LOOKS = 12
"""A minute without a byte: a loop that only has much to do is late by seconds."""
DUMP_SECONDS = 2.0
"""For the stacks of its threads, before it is killed; a host that is stopped writes none."""
DUMP_SIGNAL = signal.SIGUSR2


class Watcher:
    """One host after another."""

    def __init__(self, arguments: list[str], *, look_seconds: float = LOOK_SECONDS) -> None:
        self._command = [sys.executable, "-P", "-m", "paddock.supervisor.serve", *arguments]
        self._look_seconds = look_seconds
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
            child, hung = self._run(former)
            status = child.wait()
            if self._is_leaving or status in WANTED_ENDS:
                return max(0, status)
            # Nobody else can say how it ended: the next one puts it on record.
            told = [child.pid, status, time.time_ns() // 1000, int(hung)]
            former = ["--former", ":".join(map(str, told))]
            pause = next_pause(pause, time.monotonic() - began)
            say(f"the host ended with {status}: started again in {pause:g} s")
            left_word = is_announced()
            time.sleep(pause)
            if left_word and not is_announced():
                say("another host came meanwhile, and was ended: none is started")
                return 0

    def _run(self, former: list[str]) -> tuple["subprocess.Popen[bytes]", bool]:
        """Run a host until it ends, or hangs and is killed; return it, and whether it hung."""
        beats, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        wanted = ["--beats", f"{write}:{self._look_seconds / 2:g}"]
        child = subprocess.Popen([*self._command, *wanted, *former], pass_fds=[write])
        os.close(write)
        ended = os.pidfd_open(child.pid)  # before `_leave` knows of it, which may reap it
        self._child = child
        if self._is_leaving:  # told to while it was being started
            child.terminate()
        try:
            hung = self._hangs(ended, beats)
            if hung:
                _end(child, ended)
            return child, hung
        finally:
            os.close(ended)
            os.close(beats)

    def _hangs(self, ended: int, beats: int) -> bool:
        """Wait until it has ended (False), or has said nothing for too long (True)."""
        silence = Silence(self._look_seconds)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(beats, select.POLLIN)
        while True:
            began = time.monotonic()
            ready = [found for found, _ in poll.poll(self._look_seconds * 1000)]
            if ended in ready:
                return False
            has_beat = beats in ready
            if has_beat and not os.read(beats, 4096):  # it closed its end: it is about to end
                poll.unregister(beats)
            if silence.is_too_long(has_beat=has_beat, waited=time.monotonic() - began):
                say(f"the host has said nothing for {silence.limit_seconds:g} s: it is killed")
                return True

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        self._is_leaving = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def _end(child: "subprocess.Popen[bytes]", ended: int) -> None:
    """Kill a host that hangs, after it had a moment to write down what its threads are at."""
    child.send_signal(DUMP_SIGNAL)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.poll(DUMP_SECONDS * 1000)
    child.kill()


class Silence:
    """How long a host has said nothing, in looks that saw all of their time.

    A look that took much longer than it was to saw a machine that slept, or was itself kept from
    running, as then the host may have been: it is no proof of anything. Nor is the time before the
    first beat, when a host may have much to read.
    """

    def __init__(self, look_seconds: float) -> None:
        self.limit_seconds = SILENT_LOOKS * look_seconds
        self._look_seconds = look_seconds
        self._looks = 0
        self._has_begun = False

    def is_too_long(self, *, has_beat: bool, waited: float) -> bool:
        """Take one look in; return whether it hangs."""
        if has_beat:
            self._has_begun, self._looks = True, 0
        elif self._has_begun and waited < 2 * self._look_seconds:
            self._looks += 1
        return self._looks >= SILENT_LOOKS


def next_pause(pause: float, ran_seconds: float) -> float:
    """Return how long to wait before the next start: longer each time, until one stays up."""
    if ran_seconds >= STEADY_SECONDS:
        return FIRST_PAUSE_SECONDS
    return min(LONGEST_PAUSE_SECONDS, pause * 2)


def is_announced() -> bool:
    """Whether a host says that it is here; one that was killed goes on saying it."""
    return os.path.exists(os.path.join(os.environ.get("PADDOCK_RUNTIME", ""), "host.json"))  # noqa: PTH110, PTH118 - imports nothing


def say(text: str) -> None:
    """Write a line to the host's log."""
    os.write(2, f"watch: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(Watcher(sys.argv[1:]).watch())
