"""The session's file as the loop uses it: one commit at a time, in a thread of its own."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paddock.session_worker.redact import Redactor
from paddock.session_worker.toolbox.threads import in_thread
from paddock.store.errors import BlobNotFound, StoreError
from paddock.store.events import Event, Row
from paddock.store.fold import FOLD_VERSION, evolve
from paddock.store.session import Session, dump, load
from paddock.store.session_file import SessionFile, events_of, parts_of

SNAPSHOT_EVERY = 2000
"""Events between snapshots while it works (DESIGN §5): folding so many takes about 20 ms."""
SNAPSHOT_AT_REST = 200
"""Events between snapshots at rest, where nobody waits: a death then costs 2 ms of folding."""
SNAPSHOT_PART = 10
"""And a tenth of all events: a snapshot grows with its session, and writing it must not cost more
an event the longer that is."""

KEEPING_NICENESS = 10
"""Of the thread that keeps a large output: to read, hash and compress a gigabyte takes seconds of a
processor that other sessions' commands may want."""
LONGEST_REST_SECONDS = 0.05
"""Between two parts of it. Niceness alone is not enough: on a busy machine the kernel lets who has
begun go on to its next tick, and each of the ten turns of a command may meet that."""

_READ_AT_ONCE = 2000

MOST_IMAGE_BYTES = 20 << 20
"""No provider takes a larger one."""


def without_secrets_in(source: Path, secrets: Sequence[str]) -> Iterator[bytes]:
    """Yield a file's content, redacted, in pieces: a gigabyte needs a few megabytes of memory."""
    redactor = Redactor(secrets)
    for part in parts_of(source):
        yield redactor.feed(part)
    yield redactor.end()


def with_rests(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what comes, each after a rest as long as the work since the one before took."""
    began = None
    for part in parts:
        if began is not None:
            time.sleep(min(time.monotonic() - began, LONGEST_REST_SECONDS))
        began = time.monotonic()
        yield part


class Journal:
    """The log of this session: read once, appended to for life.

    The thread keeps the loop from waiting on the disk; commits of one session never overlap.
    """

    def __init__(self, file: SessionFile) -> None:
        self.file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="paddock-journal")
        self._snapshot_at = 0

    def restore(self) -> Session:
        """Return the folded state: the snapshot, if one can be believed, and what came after.

        Raises:
            Damaged, NewerFormat, StoreError: The file is not what was written, or not readable.
        """
        session = self._snapshot() or Session(self.file.session_id)
        self._snapshot_at = session.sequence
        while session.sequence < self.file.head:
            rows = self.file.rows(session.sequence, _READ_AT_ONCE)
            for stored in events_of(self.file.session_id, rows):
                evolve(session, stored)
        return session

    def _snapshot(self) -> Session | None:
        snapshot = self.file.snapshot(FOLD_VERSION)
        if snapshot is None:
            return None
        try:
            return load(snapshot.state)
        except ValueError:
            return None  # a cache: what does not fit is thrown away

    async def row(self, sequence: int) -> Row:
        """Return one event as it is kept."""
        return (await self._do(lambda: self.file.rows(sequence - 1, 1)))[0]

    async def append(self, events: Sequence[Event], generation: int, at_us: int) -> int:
        """Append durably; return the sequence of the first.

        Raises:
            StoreError: Nothing of it is stored. The disk's fault.
        """
        return await self._do(lambda: self.file.append(events, generation=generation, at_us=at_us))

    async def refold(self) -> Session:
        """Open the file anew after a failed write and fold what it really holds."""

        def again() -> Session:
            self.file.reopen()
            return self.restore()

        return await self._do(again)

    async def keep(self, source: Path, secrets: Sequence[str]) -> str:
        """Keep a file's content, without secrets, as a blob of the session; return its digest.

        In a thread of its own, at work for half of the time: it may take seconds, and commits go
        in between. Who is cancelled leaves it alone; a blob that nothing names does no harm.

        Raises:
            StoreError, TooLarge: It could not be read or stored.
        """

        def put() -> str:
            return self.file.put_blob(with_rests(without_secrets_in(source, secrets))).digest

        return await in_thread(put, niceness=KEEPING_NICENESS)

    def has_blob(self, digest: str) -> bool:
        """Return whether a blob of that digest is kept; a look at an index, too short for a thread.

        Raises:
            StoreError: It cannot be read.
        """
        try:
            return self.file.blob_named(digest).digest == digest
        except BlobNotFound:
            return False

    async def images(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Return the content of these blobs: of those that can be read, and are not too large."""
        return await in_thread(
            lambda: {
                digest: content
                for digest in set(digests)
                if (content := self._image(digest)) is not None
            }
        )

    def _image(self, digest: str) -> bytes | None:
        try:
            if self.file.blob_named(digest).size_bytes > MOST_IMAGE_BYTES:
                return None
            return b"".join(self.file.blob(digest))
        except (BlobNotFound, StoreError):
            return None  # who is shown the conversation is told that it is not here

    async def keep_snapshot(
        self, session: Session, *, is_at_rest: bool = False, now: bool = False
    ) -> None:
        """Keep the folded state if enough came since the last time, or ``now``."""
        if session.sequence - self._snapshot_at < (1 if now else _due(session, is_at_rest)):
            return
        state, sequence = dump(session), session.sequence
        self._snapshot_at = sequence
        await self._do(lambda: self.file.save_snapshot(sequence, FOLD_VERSION, state))

    async def close(self, *, clean: bool) -> None:
        """Fold the file and give it up."""
        await self._do(lambda: self.file.close(clean=clean))
        self._thread.shutdown(wait=False)

    async def _do[T](self, work: Callable[[], T]) -> T:
        # Shielded: a commit that began cannot be taken back by whoever stops waiting for it.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))


def _due(session: Session, is_at_rest: bool) -> int:  # noqa: FBT001 - its one caller has a name for it
    """Return after how many events the next snapshot is worth its writing."""
    least = SNAPSHOT_AT_REST if is_at_rest else SNAPSHOT_EVERY
    return max(least, session.sequence // SNAPSHOT_PART)
