"""The process that keeps a call, as the worker holds it: by its pipes and a way to signal it."""

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class Keeping(Protocol):
    """A keeper: it reads its leash on 0 and writes frames to 1."""

    @property
    def frames(self) -> int:
        """The descriptor that its frames come from."""

    def let_go(self) -> None:
        """Break the leash: the keeper ends what it keeps and leaves."""

    def send(self, number: signal.Signals) -> None:
        """Signal it, and no other that has its number by now."""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is gone, at most so long; return whether it is. It blocks."""

    def close(self) -> None:
        """Close the pipe of its frames."""

    def forget(self) -> None:
        """Give up what else is held of it, once it is gone."""


class Started:
    """A keeper that the worker started itself."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        pass_fds: Sequence[int],
    ) -> None:
        """Start it. Raises OSError where that cannot be done."""
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        self.frames = self._pipe.fileno()

    def let_go(self) -> None:
        """Break the leash."""
        leash = self._process.stdin
        if leash is not None and not leash.closed:
            with suppress(BrokenPipeError):
                leash.close()

    def send(self, number: signal.Signals) -> None:
        """Signal it unless it was reaped."""
        self._process.send_signal(number)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is gone, and reap it."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Close the pipe of its frames."""
        self._pipe.close()

    def forget(self) -> None:
        """Do nothing more: to wait is to reap."""
        self.let_go()


class Forked:
    """A keeper that a template forked; it is the template's child, and held by its pidfd."""

    def __init__(self, process: int, leash: int, frames: int) -> None:
        self.frames = frames
        self._process = process
        self._leash = leash

    def go(self, word: bytes) -> None:
        """Let it begin; one that was killed meanwhile is found so by whoever waits."""
        with suppress(BrokenPipeError):
            os.write(self._leash, word)

    def let_go(self) -> None:
        """Break the leash."""
        leash, self._leash = self._leash, -1
        if leash >= 0:
            os.close(leash)

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        if self._process >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is gone; its template, or whoever has that one's children, reaps it."""
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def close(self) -> None:
        """Close the pipe of its frames."""
        frames, self.frames = self.frames, -1
        if frames >= 0:
            os.close(frames)

    def forget(self) -> None:
        """Close the handle on it."""
        self.let_go()
        process, self._process = self._process, -1
        if process >= 0:
            os.close(process)
