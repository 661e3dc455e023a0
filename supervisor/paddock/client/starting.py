"""Starting a host where none runs: detached, waited for, and its last words told when it fails."""

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from paddock.client.failures import error_of
from paddock.client.places import Places, announced
from paddock.store.errors import PaddockError
from paddock.store.session_file import start_ticks_of
from paddock.supervisor.errors import HostGone, HostRunning, NoHost, OwnerStuck

if TYPE_CHECKING:
    from paddock.supervisor.config import Settings

LOOK_AGAIN_SECONDS = 0.01
LAST_WORDS_BYTES = 4000
TRY_AGAIN_SECONDS = 0.2
SAYS = "paddock: "
_WITH_CODE = re.compile(r"(.*) \(([a-z_]+)\)")
"""How the line begins in which a host says why it cannot start."""
START_LOCK = "start.lock"
LOG = "host.log"
LOG_LIMIT_BYTES = 4_000_000
IDLE_EXIT_SECONDS = 600.0
"""A host that a verb started leaves when nothing happened for ten minutes."""


async def start_host(
    places: Places,
    *,
    deadline_seconds: float,
    idle_exit_seconds: float | None = None,
    watched: bool = False,
) -> int:
    """Start a host of its own session and wait until it announced itself; return its pid.

    Another one that is started at the same time is as good: then this returns that one's pid. With
    ``watched`` a small process stays behind that starts the host again if it dies; without, it
    leaves when nobody uses it, as its settings say, or after IDLE_EXIT_SECONDS.

    Raises:
        HostRunning: Another one has the data folder, and is not announced in this runtime folder.
        HostGone: It ended, or did not come up within the deadline; with what it said last.
        BadConfiguration: It did not like its settings.
        NoHost: A session of this home started this process, whose end would be the host's.
    """
    settings = _check(places)
    if idle_exit_seconds is None and settings.leave_after_seconds is None and not watched:
        idle_exit_seconds = IDLE_EXIT_SECONDS
    line = command_line(idle_exit_seconds, watched=watched)
    until = asyncio.get_running_loop().time() + deadline_seconds
    places.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One client at a time: a crowd that finds no host would start as many, and all but one in vain.
    with (places.data / START_LOCK).open("w") as turn:
        while not _is_our_turn(turn):
            if (found := _live(places)) is not None:
                return found
            if asyncio.get_running_loop().time() >= until:
                message = f"another client has been starting a host for {deadline_seconds:g} s"
                raise HostGone(message)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        found = _live(places)
        if found is not None:
            return found
        return await _start(places, line, until, is_host=not watched)


async def _start(places: Places, line: Sequence[str], until: float, *, is_host: bool) -> int:
    log = _log_file(places)
    began_at = log.stat().st_size
    pid = await asyncio.to_thread(_detach, line, environment(places), log)
    taken: str | None = None
    while (found := _live(places)) is None:
        is_over = asyncio.get_running_loop().time() >= until
        is_there = start_ticks_of(pid) is not None
        if not is_there:
            said = _said(log, began_at)
            if not _is_taken(said):
                raise _failed(said)
            taken = said[-1]
        if is_over:
            if is_there:
                os.kill(pid, signal.SIGKILL)
            if taken is not None:
                raise HostRunning(f"{_message_and_code(taken)[0]}; it does not answer here")
            raise HostGone(f"the host did not come up in time; see {str(log)!r}", log=str(log))
        if not is_there:
            # That host is leaving, or coming and not announced yet: look again, then try again.
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            began_at = log.stat().st_size
            if _live(places) is None:
                pid = await asyncio.to_thread(_detach, line, environment(places), log)
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    if is_host and found != pid and start_ticks_of(pid) is not None:
        # Another came first. Ours would take its place, were that one ended before ours has looked.
        os.kill(pid, signal.SIGKILL)
    return found


async def wait_gone(pid: int, start_ticks: int | None, deadline_seconds: float) -> None:
    """Return when a process is gone.

    Raises:
        OwnerStuck: It is still there at the deadline.
    """
    until = asyncio.get_running_loop().time() + deadline_seconds
    while start_ticks is not None and start_ticks_of(pid) == start_ticks:
        if asyncio.get_running_loop().time() >= until:
            message = f"the host (pid {pid}) is still there after {deadline_seconds:g} s"
            raise OwnerStuck(message, pid=pid)
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _live(places: Places) -> int | None:
    """Return the pid of the host that announced itself and lives."""
    found = announced(places)
    return found.pid if found is not None and found.is_live() else None


def _is_our_turn(turn: IO[str]) -> bool:
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _detach(line: Sequence[str], variables: Mapping[str, str], log: Path) -> int:
    """Start a process that is nobody's child here, with a session of its own; return its pid.

    A shell starts it and ends, so that a program that lives long has no child to wait for.
    """
    with log.open("ab") as words:
        shell = subprocess.run(
            ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            cwd="/",
            env=dict(variables),
            start_new_session=True,
            check=True,
        )
    return int(shell.stdout)


def _log_file(places: Places) -> Path:
    """Return the file that hosts of this home write to; an old one that grew large is put aside."""
    log = places.data / LOG
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.old"))
    log.touch(mode=0o600)
    return log


def _check(places: Places) -> "Settings":
    """Return the settings; say what is wrong in this process, where it is known by its class."""
    from paddock.supervisor.origins import is_in_session

    if is_in_session(places.data):
        # What a session starts ends with it (F5), and it would be the new host that ends it.
        message = (
            f"no host runs on {str(places.data)!r}, and a session of it can start none: "
            "start it from outside, with `paddock up`"
        )
        raise NoHost(message, data=str(places.data))
    return check_settings(places)


def check_settings(places: Places) -> "Settings":
    """Return the settings of a host that would be started here.

    Raises:
        BadConfiguration, PathTooLong: One of them cannot be.
    """
    from paddock.supervisor.home import check_length, read_configuration

    settings = read_configuration({}, environment(places)).settings
    check_length(places.runtime)
    return settings


def serve_here(places: Places, idle_exit_seconds: float | None) -> NoReturn:
    """Become the host, in this process; raises as :func:`start_host` does."""
    _check(places)
    line = command_line(idle_exit_seconds)
    os.execve(line[0], line, environment(places))


def command_line(idle_exit_seconds: float | None, *, watched: bool = False) -> list[str]:
    """Return the command that is a host; ``-P`` keeps the current folder from shadowing modules."""
    module = "paddock.supervisor.watch" if watched else "paddock.supervisor.serve"
    line = [sys.executable, "-P", "-m", module]
    if idle_exit_seconds is not None:
        line += ["--leave-after-seconds", f"{idle_exit_seconds:g}"]
    return line


def environment(places: Places) -> dict[str, str]:
    """Return what a host is started with: this process's own, pointed at the home."""
    return {**os.environ, **places.as_environment()}


def _said(log: Path, began_at: int) -> list[str]:
    """Return what a host that did not come up said of it, of what was said after ``began_at``."""
    with log.open("rb") as words:
        words.seek(max(began_at, words.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        lines = words.read().decode("utf-8", "replace").splitlines()
    told = [line.strip() for line in lines if line.strip()]
    # The log is shared with a host that is leaving; its lines are JSON.
    return [line for line in told if line.startswith(SAYS)] or told


def _is_taken(said: list[str]) -> bool:
    """Whether the home has a host already: one that is leaving, or that another client starts."""
    return bool(said) and "a host runs on" in said[-1]


def _failed(said: list[str]) -> PaddockError:
    """Return why a host did not come up: by what it said last."""
    if not said:
        return HostGone("the host did not start: it ended without a word")
    message, code = _message_and_code(said[-1])
    if code is None:
        return HostGone(f"the host did not start: {message}")
    return error_of(code, f"the host did not start: {message}")


def _message_and_code(line: str) -> tuple[str, str | None]:
    found = _WITH_CODE.fullmatch(line.removeprefix(SAYS))
    return (found[1], found[2]) if found else (line.removeprefix(SAYS), None)
