"""What a host that was killed left of itself: when it was last seen alive, and its last words.

Its watcher knows when and how it ended. Where that died with it nobody does, and all that can be
told is between which two moments: the touches that a host leaves on its ``host.json``, and when the
next one came.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from paddock.session_worker.redact import redact
from paddock.supervisor.home import read_host_file

TAIL_BYTES = 64 * 1024
SHOWN_LINES = 20
SHOWN_CHARACTERS = 4000
LOG = "host.log"
WATCHER = "watch: the host ended"
"""How the line begins in which a watcher says what the certificate says better."""


def touch(runtime: Path) -> bool:
    """Leave the sign that this host is alive; one ``utime`` a second, and nothing is synced.

    Returns False where there is no ``host.json`` any more to leave it on.
    """
    try:
        os.utime(runtime / "host.json")
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


@dataclass(frozen=True, slots=True)
class Traces:
    """Where a host's traces are, looked at before the next one leaves any of its own."""

    runtime: Path
    log: Path

    @classmethod
    def here(cls, data: Path, runtime: Path) -> Self:
        """Return where those of the last host are: in the file that our own words go to, if any."""
        with suppress(OSError):
            own = Path("/dev/fd/2").resolve()
            if own.is_file():
                return cls(runtime, own)
        return cls(runtime, data / LOG)

    def seen_at_us(self, pid: int) -> int | None:
        """Return when the host of that pid last said that it lives, UTC microseconds."""
        said = read_host_file(self.runtime)
        if said is None or said.pid != pid:
            return None
        with suppress(OSError):
            return (self.runtime / "host.json").stat().st_mtime_ns // 1000
        return None

    def last_words(self, pid: int) -> str:
        """Return the last lines that the host of that pid wrote, "" if there are none."""
        lines = self._lines(self.log)
        begun = _begun(lines)
        if begun is None:  # it was put aside since, or is long ago
            lines = self._lines(self.log.with_suffix(".log.old")) + lines
            begun = _begun(lines)
        if begun is not None and begun[1] != pid:
            return ""
        said = lines if begun is None else lines[begun[0] + 1 :]
        said = [line for line in said if line.strip() and not line.startswith(WATCHER)]
        return redact("\n".join(said[-SHOWN_LINES:])[-SHOWN_CHARACTERS:])

    @staticmethod
    def _lines(path: Path) -> list[str]:
        try:
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                return file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []


def _begun(lines: list[str]) -> tuple[int, int] | None:
    """Return the place of the last line that begins a host's words, and its pid."""
    for place in range(len(lines) - 1, -1, -1):
        with suppress(ValueError, TypeError, KeyError):
            said = json.loads(lines[place])
            if (said["event"], said["subject"]) == ("started", "supervisor"):
                return place, int(said["pid"])
    return None
