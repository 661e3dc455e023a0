"""What the tests of session files stand on: ids, events, other processes, and copies of files."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paddock.store.errors import PaddockError
from paddock.store.events import EventBase, Row, SessionTitled
from paddock.store.ids import SessionId, uuid7
from paddock.store.session_file import SessionFile, SessionReader

ROOT = Path(__file__).resolve().parents[2]
AT_US = 1_800_000_000_000_000
SESSION = SessionId(uuid7(AT_US, bytes(range(10))))
OTHER = SessionId(uuid7(AT_US, bytes(range(10, 20))))
DEADLINE_SECONDS = 60.0


def titles(count: int, start: int = 1) -> list[EventBase]:
    """Return events that tell their own number."""
    return [SessionTitled(title=f"title {number}") for number in range(start, start + count)]


def titles_of(rows: Sequence[Row]) -> list[str]:
    return [row.payload for row in rows]


def make(folder: Path, count: int, *, clean: bool = True, batch: int = 10) -> list[Row]:
    """Make a session of ``count`` events and leave it; return its rows."""
    with leaving(SessionFile.create(folder, SESSION, at_us=AT_US), clean=clean) as file:
        for start in range(1, count + 1, batch):
            events = titles(min(batch, count - start + 1), start)
            file.append(events, generation=1, at_us=AT_US + start)
        return every_row(file)


@contextmanager
def leaving(file: SessionFile, *, clean: bool) -> Iterator[SessionFile]:
    try:
        yield file
    finally:
        file.close(clean=clean)


def own(folder: Path) -> SessionFile:
    return SessionFile.own(folder, SESSION)


def every_row(file: SessionFile | SessionReader, after: int = 0) -> list[Row]:
    rows: list[Row] = []
    while page := file.rows(after):
        rows += page
        after = rows[-1].sequence
    return rows


def read(folder: Path, session_id: SessionId = SESSION) -> list[Row]:
    with SessionReader(folder, session_id) as reader:
        return every_row(reader)


def sql(folder: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Do to a file what somebody with the ``sqlite3`` shell does."""
    connection = sqlite3.connect(folder / "session.sqlite", isolation_level=None)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def flip(path: Path, at: int, mask: int = 0x01) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(bytes(data))


def copy_of(folder: Path, to: Path) -> Path:
    """Copy a session's folder, as a backup by hand does."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that does ``code`` with ``arguments`` in ``sys.argv``."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom tests.store.filebench import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> str:
    """Kill with -9; return what it had said and nobody had read yet."""
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=DEADLINE_SECONDS)
    return said


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that ends well; return what it said."""
    said, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, said
    return said


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.002)


def code_of(call: Callable[[], object]) -> str | None:
    """Return the code of the error that a call raises, or None."""
    try:
        call()
    except PaddockError as error:
        return error.code
    return None


def say(*words: object) -> None:
    """Tell the parent, whatever becomes of this process."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())
