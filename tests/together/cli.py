"""The command line: in this process where its words count, in one of its own where signals do."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paddock.supervisor.cli.main import answer

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


def paddock(home: Path, *words: str, stdin: str = "") -> Said:
    """Run a command line to its end, here: an interpreter's start costs more than most verbs."""
    out, err = io.StringIO(), io.StringIO()
    with at_home(home, stdin), redirect_stdout(out), redirect_stderr(err):
        code = answer(list(words))
    return Said(code, out.getvalue(), err.getvalue())


@contextmanager
def at_home(home: Path, stdin: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDOCK_HOME", str(home))
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        yield


def paddock_alone(home: Path, *words: str, stdin: str = "", **more: str) -> Said:
    """Run a command line to its end, in a process of its own."""
    done = subprocess.run(
        [*PADDOCK, *words],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(home, **more),
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def begin(home: Path, *words: str, **more: str) -> "subprocess.Popen[str]":
    """Start a command line in a process of its own; the caller ends it."""
    return subprocess.Popen(
        [*PADDOCK, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home, **more),
        start_new_session=True,
    )
