"""The watcher that ``up --detach`` leaves: it starts a supervisor again that died unasked.

``python -P -m paddock.supervisor.watch [flags of serve]``. Where the host is a service, systemd
does this instead. It knows three endings: in good order (0) and refused (another host runs, a
setting is wrong) end it as well; all others, a kill -9 too, are followed by the next supervisor,
which adopts the workers that went on meanwhile. It touches no file and no socket.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from paddock.supervisor.serve import EXIT_REFUSED

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0


def watch(arguments: list[str]) -> int:
    """Keep a supervisor running; return the exit code of the last one."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        started = time.monotonic()
        code = _serve(arguments)
        if code in {0, EXIT_REFUSED}:
            return code
        if time.monotonic() - started > STEADY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _serve(arguments: list[str]) -> int:
    command = [sys.executable, "-P", "-m", "paddock.supervisor.serve", *arguments]
    child = subprocess.Popen(command)

    def pass_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(watch(sys.argv[1:]) & 0xFF)
