"""A command line in a real terminal, as a person at its keys sees it."""

import fcntl
import os
import pty
import select
import subprocess
import time
from pathlib import Path

from tests.together.cli import PADDOCK, environment

DEADLINE = 60.0


class Terminal:
    """A command line that stands in a terminal."""

    def __init__(self, home: Path, *words: str) -> None:
        self.screen = ""
        self._parent, child = pty.openpty()
        self._process = subprocess.Popen(
            [*PADDOCK, *words],
            stdin=child,
            stdout=child,
            stderr=child,
            env=environment(home, NO_COLOR="1"),
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - nothing else runs here
        )
        os.close(child)

    def wait_for(self, text: str) -> None:
        """Read until a text stands on the screen."""
        until = time.monotonic() + DEADLINE
        while text not in self.screen:
            assert time.monotonic() < until, f"{text!r} never came: {self.screen!r}"
            self._read(1.0)

    def type(self, text: str) -> None:
        os.write(self._parent, text.encode())

    def end(self) -> int:
        """Wait until it ends, and return its exit code."""
        until = time.monotonic() + DEADLINE
        while self._process.poll() is None:
            assert time.monotonic() < until, f"it does not end: {self.screen!r}"
            self._read(0.05)
        while self._read(0):
            pass
        os.close(self._parent)
        return self._process.returncode

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._parent], [], [], seconds)
        try:
            data = os.read(self._parent, 65536) if ready else b""
        except OSError:  # its other end was closed
            return False
        self.screen += data.decode("utf-8", "replace")
        return bool(data)


def take_terminal() -> None:
    """Make the terminal on stdin this session's own, so that Ctrl-C is a signal."""
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
