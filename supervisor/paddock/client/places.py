"""Where a home's folders are, as a client needs them, and which host serves it now."""

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from paddock.store.session_file.lock import start_ticks_of
from paddock.supervisor.config import Folders, folders_of

ANNOUNCEMENT = "host.json"
BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one home; ``home`` is None where the environment names them."""

    home: str | None
    folders: Folders

    @property
    def data(self) -> Path:
        """Sessions, the host's own file, DuckDB."""
        return self.folders.data

    @property
    def runtime(self) -> Path:
        """Sockets, and the host's announcement."""
        return self.folders.runtime

    @property
    def config(self) -> Path:
        """The user's settings."""
        return self.folders.config

    def as_environment(self) -> dict[str, str]:
        """Return the variables that point another process at the same folders."""
        return {
            "PADDOCK_DATA": str(self.data),
            "PADDOCK_RUNTIME": str(self.runtime),
            "PADDOCK_CONFIG": str(self.config),
        }


@dataclass(frozen=True, slots=True)
class Announced:
    """What ``host.json`` says of a host."""

    address: str
    epoch: int
    pid: int
    start_ticks: int

    def is_live(self) -> bool:
        """Whether that very process runs still; a pid alone may be another one's by now (F14)."""
        return self.start_ticks != 0 and start_ticks_of(self.pid) == self.start_ticks

    def is_stopped(self) -> bool:
        """Whether that process runs, and somebody keeps it from going on: SIGSTOP, a debugger."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return self.is_live() and stat[stat.rindex(")") + 2] in "Tt"


def announced(places: Places) -> Announced | None:
    """Return what the present host says of itself, or None if there is none (or half of one)."""
    try:
        told = json.loads((places.runtime / ANNOUNCEMENT).read_text())
        return Announced(
            address=str(told["clients_address"]),
            epoch=int(told["epoch"]),
            pid=int(told["pid"]),
            start_ticks=int(told["start_ticks"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def was_killed(places: Places) -> bool:
    """Whether the last host here died, since the machine's start, without saying goodbye.

    One that says it takes its announcement along; it touches that once a second while it lives.
    """
    try:
        seen_at = (places.runtime / ANNOUNCEMENT).stat().st_mtime
    except OSError:
        return False
    return seen_at > time.time() - time.clock_gettime(BOOTTIME)


def places_of(home: str | Path | None = None) -> Places:
    """Return the folders of a home: the one named, ``PADDOCK_HOME``'s, or the user's own."""
    flags = {} if home is None else {"home": str(Path(home).expanduser().absolute())}
    temporary = Path(tempfile.gettempdir())
    folders, _ = folders_of(os.environ, flags, uid=os.getuid(), temporary=temporary)
    return Places(home=flags.get("home"), folders=folders)
