"""Starting a host where none runs: detached, waited for, and its last words told when it fails."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, NoReturn

from paddock.client.failures import error_of
from paddock.client.places import Places, announced
from paddock.store.errors import PaddockError
from paddock.supervisor.errors import HostGone

LOOK_AGAIN_SECONDS = 0.01
LAST_WORDS_BYTES = 4000
IDLE_EXIT_SECONDS = 600.0
"""A host that a verb started leaves when nothing happened for ten minutes."""


async def start_host(
    places: Places,
    *,
    deadline_seconds: float,
    idle_exit_seconds: float | None = IDLE_EXIT_SECONDS,
    arguments: Sequence[str] = (),
) -> int:
    """Start a host of its own session and wait until it announced itself; return its pid.

    Another one that is started at the same time is as good: then this returns that one's pid.

    Raises:
        HostGone: It ended, or did not come up within the deadline; with what it said last.
        BadConfiguration: It did not like its settings.
    """
    with tempfile.TemporaryFile(prefix="paddock-up-") as words:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            command_line(idle_exit_seconds, arguments),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            cwd="/",
            env=environment(places),
            start_new_session=True,
        )
        until = asyncio.get_running_loop().time() + deadline_seconds
        while True:
            found = announced(places)
            if found is not None and found.is_live():
                return found.pid
            if process.poll() is not None:
                raise _failed(process.returncode, _tail(words))
            if asyncio.get_running_loop().time() >= until:
                process.kill()
                process.wait()
                message = (
                    f"the host did not come up within {deadline_seconds:g} s; "
                    f"it said {_tail(words)[-1:] or 'nothing'}"
                )
                raise HostGone(message)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def serve_here(places: Places, idle_exit_seconds: float | None) -> NoReturn:
    """Become the host, in this process."""
    line = command_line(idle_exit_seconds)
    os.execve(line[0], line, environment(places))


def command_line(idle_exit_seconds: float | None, arguments: Sequence[str] = ()) -> list[str]:
    """Return the command that is a host; ``-P`` keeps the current folder from shadowing modules."""
    line = [sys.executable, "-P", "-m", "paddock.supervisor.serve"]
    if idle_exit_seconds is not None:
        line += ["--idle-exit-seconds", f"{idle_exit_seconds:g}"]
    return [*line, *arguments]


def environment(places: Places) -> dict[str, str]:
    """Return what a host is started with: this process's own, pointed at the home."""
    return {**os.environ, **places.as_environment()}


def _tail(words: IO[bytes]) -> list[str]:
    """Return the last lines that a host said."""
    words.seek(max(0, words.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
    lines = words.read().decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _failed(status: int, said: list[str]) -> PaddockError:
    """Return why a host did not come up: by what it said last, or by how it ended."""
    last = said[-1] if said else f"exit status {status}, without a word"
    try:
        told = json.loads(last)
        return error_of(str(told["code"]), str(told["message"]), dict(told.get("facts") or {}))
    except (ValueError, TypeError, KeyError):
        return HostGone(f"the host did not start: {last}", status=status)
