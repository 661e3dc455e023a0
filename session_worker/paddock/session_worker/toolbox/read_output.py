"""The tool ``read_output``: a part of a call's whole output, or the lines of it that match."""

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Protocol

from pydantic import Field

from paddock.session_worker.toolbox.arguments import Arguments, read, schema
from paddock.session_worker.toolbox.bash import not_started, outcome
from paddock.session_worker.toolbox.child import FOLDER, Command, child_environment, keep, python
from paddock.session_worker.toolbox.contract import (
    Limits,
    Plan,
    Progress,
    Room,
    ToolOutcome,
    ToolSpec,
)
from paddock.session_worker.toolbox.output import decode
from paddock.session_worker.toolbox.threads import in_thread, to_its_end
from paddock.store.errors import BlobNotFound, StoreError
from paddock.store.session_file import Blob

MATCHES = 100
DESCRIPTION = """\
Read a part of an output that was too long for its result and was kept whole. Without a pattern, \
`limit` bytes from `offset` on (a negative offset counts from the end). With one, the lines that \
match, each with the offset of its first byte, to read on from."""


class Shelf(Protocol):
    """Where whole outputs are kept; both block on the disk."""

    def find(self, name: str) -> Blob:
        """Return what a digest, its beginning, or a call's id names. Raises BlobNotFound."""

    def read(self, digest: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yield at most ``limit`` bytes from ``offset`` on."""


class ReadOutputArguments(Arguments):
    """Arguments of ``read_output``."""

    output: Annotated[
        str, Field(min_length=1, description="What the result named: a digest, or a call's id.")
    ]
    offset: Annotated[int, Field(description="The first byte.")] = 0
    limit: Annotated[int | None, Field(ge=1, description="Bytes; with a pattern, lines.")] = None
    pattern: Annotated[str | None, Field(min_length=1, description="A regular expression.")] = None


class ReadOutput:
    """Reads kept outputs."""

    def __init__(self, limits: Limits, shelf: Shelf | None = None) -> None:
        """Take where they are kept; without, nothing is."""
        self._limits = limits
        self._shelf = shelf
        self.spec = ToolSpec(
            name="read_output",
            description=DESCRIPTION,
            parameters=schema(ReadOutputArguments),
            effects="none",
            approval="allow",
            timeout_seconds=limits.seconds,
            output_limit_bytes=limits.output_bytes,
            exclusive=False,
        )

    def prepare(self, arguments: Mapping[str, object], room: Room) -> Plan:  # noqa: ARG002
        """Return the call made ready."""
        asked = read(ReadOutputArguments, self.spec.name, arguments)
        return Plan(
            tool=self.spec.name,
            arguments=asked.model_dump(exclude_none=True),
            intent=None,
            call=secrets.token_hex(8),
            work=asked,
        )

    async def run(self, plan: Plan, room: Room, progress: Progress) -> ToolOutcome:
        """Read it; a search runs in a child process, where an expression may run wild."""
        asked, shelf = plan.work, self._shelf
        assert isinstance(asked, ReadOutputArguments)
        try:
            if shelf is None:
                raise BlobNotFound(f"nothing is kept of {asked.output!r}")
            blob = await in_thread(lambda: shelf.find(asked.output))
            if asked.pattern is None:
                return await in_thread(lambda: self._part(shelf, blob, asked))
            return await self._search(shelf, blob, plan, room, progress)
        except BlobNotFound:
            said = f"{asked.output!r} names no kept output: short ones are whole in their result"
            return ToolOutcome("error", said, error_kind="not_found", error=said)
        except StoreError as error:
            return ToolOutcome("error", error.message, error_kind=error.code, error=error.message)

    def happened(self, intent: Mapping[str, object], room: Room) -> bool | None:  # noqa: ARG002
        """Return False: nothing is ever done."""
        return False

    def _part(self, shelf: Shelf, blob: Blob, asked: ReadOutputArguments) -> ToolOutcome:
        offset = _begin(asked.offset, blob)
        limit = min(asked.limit or self._limits.output_bytes, self._limits.output_bytes)
        data = b"".join(shelf.read(blob.digest, offset, limit))
        end = offset + len(data)
        where = f"[bytes {offset:,} to {end:,} of {blob.size_bytes:,}"
        where += f"; go on at offset {end}]" if end < blob.size_bytes else "; this is the end]"
        return ToolOutcome("ok", f"{decode(data)}\n{where}", output_bytes=len(data))

    async def _search(
        self, shelf: Shelf, blob: Blob, plan: Plan, room: Room, progress: Progress
    ) -> ToolOutcome:
        asked = plan.work
        assert isinstance(asked, ReadOutputArguments)
        offset = _begin(asked.offset, blob)
        ours, theirs = os.pipe()  # it is read from the first
        feeding = asyncio.create_task(in_thread(lambda: _feed(shelf, blob, offset, theirs)))
        words = [str(ours), str(offset), str(asked.limit or MATCHES), str(asked.pattern)]
        try:
            ended = await keep(
                Command(
                    arguments=[*python("scan", FOLDER), *words],
                    folder=room.workspace,
                    environment=child_environment(room, plan.call),
                    spool=room.scratch / f"{plan.call}.out",
                    seconds=self._limits.seconds,
                    limits=self._limits,
                    pass_fds=(ours,),
                    room=room,
                ),
                progress,
            )
        except (OSError, ValueError) as error:  # a NUL or half a character in the pattern
            return not_started(error)
        finally:
            os.close(ours)  # nobody reads any more: who still writes learns of it
            await to_its_end(feeding)
        return outcome(ended, self._limits.seconds)


def _begin(offset: int, blob: Blob) -> int:
    return min(offset, blob.size_bytes) if offset >= 0 else max(0, blob.size_bytes + offset)


def _feed(shelf: Shelf, blob: Blob, offset: int, pipe: int) -> None:
    try:
        with suppress(BrokenPipeError):  # enough was found, or the search was ended
            for piece in shelf.read(blob.digest, offset, blob.size_bytes):
                view = memoryview(piece)
                while view:
                    view = view[os.write(pipe, view) :]
    finally:
        os.close(pipe)
