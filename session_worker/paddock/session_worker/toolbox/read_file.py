"""The tool ``read_file``: a part of a text file with numbered lines, or its bytes as they are."""

import difflib
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field

from paddock.session_worker.toolbox.arguments import Arguments, FilePath, read, schema
from paddock.session_worker.toolbox.contract import (
    MIB,
    Limits,
    Plan,
    Progress,
    Room,
    ToolOutcome,
    ToolSpec,
)
from paddock.session_worker.toolbox.disk import FileFault, open_regular
from paddock.session_worker.toolbox.output import safe
from paddock.session_worker.toolbox.threads import in_thread
from paddock.session_worker.workspace import BadPath, resolve

LINES_AT_MOST = 2000
LINE_CHARACTERS = 2000
LINE_BYTES = 4 * LINE_CHARACTERS  # a character has at most four
PIECE_BYTES = 64 * 1024
RAW_BYTES = 16 * MIB
LOOK_FOR_NUL_BYTES = 8192
LOOK_FOR_NAMES = 1000

DESCRIPTION = f"""\
Read a text file. Lines come numbered from 1, at most {LINES_AT_MOST} of them and
{LINE_CHARACTERS} characters of each; offset and limit choose others. With raw the text comes
exactly as it is, without numbers. Folders are for ls."""


class ReadArguments(Arguments):
    """Arguments of ``read_file``."""

    path: FilePath
    offset: Annotated[int | None, Field(ge=0, description="First line, from 1.")] = None
    limit: Annotated[int | None, Field(ge=1, description="How many lines.")] = None
    raw: Annotated[bool, Field(description="The text exactly as it is.")] = False


class ReadFile:
    """Reads text files."""

    def __init__(self, limits: Limits) -> None:
        """Take the limits; a read may show four times the bytes of another output."""
        self.spec = ToolSpec(
            name="read_file",
            description=DESCRIPTION,
            parameters=schema(ReadArguments),
            effects="none",
            approval="allow",
            timeout_seconds=limits.seconds,
            output_limit_bytes=4 * limits.output_bytes,
            exclusive=False,
        )

    def prepare(self, arguments: Mapping[str, object], room: Room) -> Plan:  # noqa: ARG002
        """Return the call made ready; nothing is read yet."""
        asked = read(ReadArguments, self.spec.name, arguments)
        return Plan(
            tool=self.spec.name,
            arguments=asked.model_dump(exclude_defaults=True),
            intent=None,
            call=secrets.token_hex(8),
            work=asked,
        )

    async def run(self, plan: Plan, room: Room, progress: Progress) -> ToolOutcome:  # noqa: ARG002
        """Read in a thread of its own; when cancelled, that thread is left to end by itself."""
        assert isinstance(plan.work, ReadArguments)
        reading = _Reading(plan.work, room, self.spec.output_limit_bytes, plan.call)
        try:
            return await in_thread(reading.outcome)
        finally:
            reading.stop.set()

    def happened(self, intent: Mapping[str, object], room: Room) -> bool | None:  # noqa: ARG002
        """Return None: reading leaves nothing to look for."""
        return None


@dataclass(slots=True)
class _Line:
    """One line of a file: its beginning, and how long it is with its ending."""

    start: bytes
    length: int


class _Reading:
    """One read of one file, in a thread."""

    def __init__(self, asked: ReadArguments, room: Room, show_bytes: int, call: str) -> None:
        self._asked = asked
        self._room = room
        self._show_bytes = show_bytes
        self._spool = room.scratch / f"{call}.out"
        self._first = max(asked.offset or 1, 1)
        self.stop = threading.Event()

    def outcome(self) -> ToolOutcome:
        try:
            path = resolve(
                self._asked.path,
                self._room.workspace,
                jail=self._room.jail,
                home=self._room.environment.get("HOME"),
                closed=self._room.confines.closed,
            )
            with os.fdopen(open_regular(path), "rb") as file:
                return self._raw(file) if self._asked.raw else self._numbered(file)
        except BadPath as error:
            return failure(error.code, str(error))
        except FileFault as error:
            hint = _similar(path) if error.kind == "not_found" else ""
            return failure(error.kind, f"{error}{hint}")
        except OSError as error:
            return failure("io_error", f"{self._asked.path}: {error.strerror}")

    def _numbered(self, file: BinaryIO) -> ToolOutcome:
        size = os.fstat(file.fileno()).st_size
        if b"\0" in file.read(LOOK_FOR_NUL_BYTES):
            return failure("binary", f"{self._asked.path} is a binary file of {size:,} bytes")
        file.seek(0)
        shown: list[str] = []
        used = number = 0
        wanted = self._first + (self._asked.limit or LINES_AT_MOST)
        for number, line in enumerate(self._lines(file), 1):
            if number < self._first:
                continue
            text = f"{number:6d}\t{_readable(line)}"
            used += len(text.encode()) + 1
            if number >= wanted or (used > self._show_bytes and shown):
                shown.append(f"[the file goes on: read from offset {number}]")
                break
            shown.append(text)
        if not shown:
            shown = [self._nothing(number)]
        text = "\n".join(shown)
        return ToolOutcome("ok", text, output_bytes=len(text.encode()))

    def _nothing(self, lines: int) -> str:
        if lines == 0:
            return "[the file is empty]"
        return f"[the file has only {lines} lines]"

    def _raw(self, file: BinaryIO) -> ToolOutcome:
        data = self._raw_bytes(file)
        if len(data) > RAW_BYTES:
            said = f"{self._asked.path}: more than {RAW_BYTES:,} bytes; use offset and limit"
            return failure("too_large", said)
        text = safe(data.decode("utf-8", "replace"))
        if text.encode() == data:
            return ToolOutcome("ok", text, output_bytes=len(data))
        self._spool.write_bytes(data)  # what text cannot hold exactly is kept as the bytes it is
        return ToolOutcome("ok", text, output_bytes=len(data), spool=self._spool)

    def _raw_bytes(self, file: BinaryIO) -> bytes:
        if self._asked.offset is None and self._asked.limit is None:
            return file.read(RAW_BYTES + 1)
        kept = bytearray()
        last = self._first + self._asked.limit - 1 if self._asked.limit else None
        number, is_start = 0, True
        while len(kept) <= RAW_BYTES and not self.stop.is_set():
            piece = file.readline(PIECE_BYTES)
            number += is_start
            if not piece or (last is not None and number > last):
                break
            if number >= self._first:
                kept += piece
            is_start = piece.endswith(b"\n")
        return bytes(kept)

    def _lines(self, file: BinaryIO) -> Iterator[_Line]:
        """Yield the lines, holding no more than the beginning of one."""
        line = _Line(b"", 0)
        while not self.stop.is_set() and (piece := file.readline(PIECE_BYTES)):
            if len(line.start) < LINE_BYTES:
                line.start += piece[:LINE_BYTES]
            line.length += len(piece)
            if piece.endswith(b"\n"):
                yield line
                line = _Line(b"", 0)
        if line.length:
            yield line


def failure(kind: str, said: str) -> ToolOutcome:
    """Return the outcome of a call that did nothing, and why."""
    said = safe(said)
    return ToolOutcome("error", said, error_kind=kind, error=said)


def _readable(line: _Line) -> str:
    text = safe(line.start.decode("utf-8", "replace"))
    if line.length <= len(line.start):
        text = text.rstrip("\r\n")
        if len(text) <= LINE_CHARACTERS:
            return text
    return f"{text[:LINE_CHARACTERS]} [... a line of {line.length:,} bytes, cut here]"


def _similar(path: Path) -> str:
    """Name files that may have been meant; a bounded look into the folder."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(LOOK_FOR_NAMES), strict=False)]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=3)
    return f"; near it: {', '.join(close)}" if close else ""
