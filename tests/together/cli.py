"""The command line as a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 120.0
PADDOCK = (sys.executable, "-P", "-m", "paddock.supervisor.cli")


@dataclass(frozen=True, slots=True)
class Said:
    """What a command line printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line of an error; there is no other, and no traceback."""
        assert self.code != 0, self
        assert len(self.err.splitlines()) == 1, self.err
        return self.err.strip()


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PADDOCK_HOME": str(home), **more}


def paddock(home: Path, *words: str, stdin: str = "", cwd: Path | None = None, **more: str) -> Said:
    """Run a command line to its end."""
    done = subprocess.run(
        [*PADDOCK, *words],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(home, **more),
        cwd=cwd,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def begin(home: Path, *words: str, **more: str) -> "subprocess.Popen[str]":
    """Start a command line; the caller ends it."""
    return subprocess.Popen(
        [*PADDOCK, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home, **more),
        start_new_session=True,
    )
