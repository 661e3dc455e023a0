"""The logs under a data folder, read by somebody who owns none of them."""

import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from paddock.store.errors import Damaged, StoreError
from paddock.store.events import Row
from paddock.store.ids import SessionId
from paddock.store.projection import host_log
from paddock.store.projection.folded import HOST
from paddock.store.session_file import (
    Place,
    SessionReader,
    folder_of,
    host_place,
    is_owned,
    sessions_in,
)
from paddock.store.session_file.lock import read_witness

OPEN_READERS = 200
"""1.2 ms to open one; 200 that are open are tailed in 9 ms (DESIGN §5)."""
NO_FILE = "- -"
"""The stamp of a file that is not there."""


class Logs:
    """Sessions' files, a bounded number of them open. One thread, but for :meth:`stamp`."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._readers: OrderedDict[str, SessionReader] = OrderedDict()

    def found(self) -> list[str]:
        """Return the ids of all logs there are, the host's among them."""
        found: list[str] = list(sessions_in(self.data))
        if self.place(HOST).database.exists():
            found.append(HOST)
        return found

    def place(self, session_id: str) -> Place:
        """Return where a log is.

        Raises:
            SessionNotFound: The id is none of a session.
        """
        if session_id == HOST:
            return host_place(self.data)
        return Place(folder_of(self.data, SessionId(session_id)))

    def stamp(self, session_id: str) -> str:
        """Return what tells a file from itself at another time; the time of change is not forged.

        Two writes within one tick of the kernel's clock may look alike; who owns the file tells of
        them.
        """
        place = self.place(session_id)
        parts = []
        for path in (place.database, place.wal):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                parts.append("-")
                continue
            # An empty log is made by whoever opens the file, and tells nothing.
            is_told = path == place.database or found.st_size
            parts.append(f"{found.st_ino}.{found.st_size}.{found.st_ctime_ns}" if is_told else "-")
        return " ".join(parts)

    def length(self, session_id: str) -> int:
        """Return how many events a session's log has as far as its owner wrote down; else 0.

        For people who wait: it opens no database.
        """
        try:
            descriptor = os.open(self.place(session_id).lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            witness = read_witness(descriptor)
        finally:
            os.close(descriptor)
        return 0 if witness is None else witness.sequence

    def hash_at(self, session_id: str, sequence: int) -> bytes:
        """Return the hash of an event that was there before.

        Raises:
            Damaged: The log ends before it.
            StoreError: As ``SessionReader``.
        """
        reader = self._reader(session_id)
        head, _ = reader.head()
        if head < sequence:
            path = str(self.place(session_id).database)
            message = f"{path!r} ends at event {head}, but event {sequence} was there before"
            raise Damaged(message, path=path, sequence=head + 1)
        return reader.rows(sequence - 1, 1)[0].hash

    def page(self, session_id: str, after: int, limit: int) -> tuple[list[Row], Damaged | None]:
        """Return the next events, and the damage that ends them early, if any.

        Raises:
            StoreError: As ``SessionReader``; also Damaged, where nothing stands before it.
        """
        reader = self._reader(session_id)
        try:
            return reader.rows(after, limit), None
        except Damaged as error:
            sequence = error.facts.get("sequence")
            whole = sequence - 1 - after if isinstance(sequence, int) else 0
            if whole <= 0:
                raise
            try:
                return reader.rows(after, min(whole, limit)), error
            except Damaged:
                raise error from None

    def is_owned(self, session_id: str) -> bool:
        """Return whether somebody has the file open to write."""
        return is_owned(self.place(session_id))

    def check_closed(self, session_id: str) -> bool:
        """Check a file that changed though it has no new event; as ``SessionReader`` does."""
        if self.is_owned(session_id):
            return False
        self.forget(session_id)  # another file may stand in its place
        return self._reader(session_id).check_closed()

    def tombstones(self, session_ids: Iterable[str]) -> dict[str, bool]:
        """Return which of these were deleted, as far as the host tells; True: to be erased."""
        try:
            return host_log.tombstones(self.place(HOST).database, session_ids)
        except StoreError:
            return {}

    def forget(self, session_id: str) -> None:
        """Close a log: it is opened anew when it is asked for."""
        reader = self._readers.pop(session_id, None)
        if reader is not None:
            reader.close()

    def close(self) -> None:
        """Close them all."""
        for session_id in list(self._readers):
            self.forget(session_id)

    def _reader(self, session_id: str) -> SessionReader:
        reader = self._readers.get(session_id)
        if reader is None:
            reader = SessionReader(self.place(session_id), SessionId(session_id))
            self._readers[session_id] = reader
            if len(self._readers) > OPEN_READERS:
                _, oldest = self._readers.popitem(last=False)
                oldest.close()
        self._readers.move_to_end(session_id)
        return reader
