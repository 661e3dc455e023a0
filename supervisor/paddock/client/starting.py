"""Starting a host where none runs: detached, waited for, and its last words told when it fails."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from paddock.client.places import Places, announced
from paddock.store.errors import PaddockError
from paddock.supervisor.errors import HostGone, HostRunning

LOOK_AGAIN_SECONDS = 0.01
LAST_WORDS_BYTES = 4000
LOG = "host.log"
LOG_LIMIT_BYTES = 4_000_000
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
    _check(places)
    log = _log_file(places)
    began_at = log.stat().st_size
    with log.open("ab") as words:
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
        status = process.poll()
        if status is not None:
            said = _said(log, began_at)
            if not _is_taken(said):
                raise _failed(status, said)
        if asyncio.get_running_loop().time() >= until:
            process.kill()
            process.wait()
            raise _late(deadline_seconds, _said(log, began_at))
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _log_file(places: Places) -> Path:
    """Return the file that hosts of this home write to; an old one that grew large is put aside."""
    places.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = places.data / LOG
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.old"))
    log.touch(mode=0o600)
    return log


def _check(places: Places) -> None:
    """Say what is wrong with the settings in this process, where it is known by its own class."""
    from paddock.supervisor.home import check_length, read_configuration

    read_configuration({}, environment(places))
    check_length(places.runtime)


def serve_here(places: Places, idle_exit_seconds: float | None) -> NoReturn:
    """Become the host, in this process."""
    line = command_line(idle_exit_seconds)
    os.execve(line[0], line, environment(places))


def command_line(idle_exit_seconds: float | None, arguments: Sequence[str] = ()) -> list[str]:
    """Return the command that is a host; ``-P`` keeps the current folder from shadowing modules."""
    line = [sys.executable, "-P", "-m", "paddock.supervisor.serve"]
    if idle_exit_seconds is not None:
        line += ["--leave-after-seconds", f"{idle_exit_seconds:g}"]
    return [*line, *arguments]


def environment(places: Places) -> dict[str, str]:
    """Return what a host is started with: this process's own, pointed at the home."""
    return {**os.environ, **places.as_environment()}


def _said(log: Path, began_at: int) -> list[str]:
    """Return the last lines that a host said, of those after ``began_at``."""
    with log.open("rb") as words:
        words.seek(max(began_at, words.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        lines = words.read().decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _is_taken(said: list[str]) -> bool:
    """Whether the home has a host already: one that another client starts at this moment."""
    return bool(said) and "a host runs on" in said[-1]


def _failed(status: int, said: list[str]) -> PaddockError:
    """Return why a host did not come up: by what it said last, or by how it ended."""
    last = said[-1].removeprefix("paddock: ") if said else f"exit status {status}, without a word"
    return HostGone(f"the host did not start: {last}", status=status)


def _late(seconds: float, said: list[str]) -> PaddockError:
    if _is_taken(said):
        return HostRunning(f"{said[-1].removeprefix('paddock: ')}; it does not answer")
    last = said[-1] if said else "nothing"
    return HostGone(f"the host did not come up within {seconds:g} s; it said last: {last}")
