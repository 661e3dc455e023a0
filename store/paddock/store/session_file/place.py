"""Where a session's file stands, and how the folders above it are made to last."""

import os
from dataclasses import dataclass
from pathlib import Path

from paddock.store.errors import SessionNotFound
from paddock.store.ids import SessionId, is_uuid7

FOLDER_MODE = 0o700
FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, and the names of the database and of the lock file in it."""

    folder: Path
    database_name: str = "session.sqlite"
    lock_name: str = "owner.lock"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / self.database_name

    @property
    def wal(self) -> Path:
        """SQLite's write-ahead log beside it."""
        return self.folder / (self.database_name + "-wal")

    @property
    def lock(self) -> Path:
        """The file whose lock makes an owner."""
        return self.folder / self.lock_name

    @property
    def spool(self) -> Path:
        """The folder of outputs that are too large for memory, while a worker lives."""
        return self.folder / "spool"

    def has_database(self) -> bool:
        """Whether there is a database that is not empty."""
        return _has_content(self.database)

    def has_wal(self) -> bool:
        """Whether there is a write-ahead log that is not empty."""
        return _has_content(self.wal)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def place_of(folder: Path | Place) -> Place:
    """Return the place of a session in ``folder``; a place is returned as it is."""
    return folder if isinstance(folder, Place) else Place(folder)


def host_place(data: Path) -> Place:
    """Return the place of the host's own file: ``host.sqlite`` and ``host.lock`` in ``data``."""
    return Place(data, "host.sqlite", "host.lock")


def folder_of(data: Path, session_id: SessionId) -> Path:
    """Return the folder of a session: ``<data>/sessions/<last two digits>/<session id>``.

    Raises:
        SessionNotFound: ``session_id`` is no UUIDv7, so that it cannot be a session's (or a way
            out of the data folder).
    """
    if not is_uuid7(session_id):
        message = f"{session_id!r} is no session id (a UUIDv7); `paddock ls` shows them"
        raise SessionNotFound(message, session_id=session_id)
    return data / "sessions" / session_id[-2:] / session_id


def make_folder(folder: Path) -> list[Path]:
    """Make ``folder`` and what is missing above it, mode 0700.

    Returns the folders that hold the new names, lowest last: :func:`sync_folder` makes them last.
    """
    missing = [folder, *folder.parents]
    missing = missing[: next(n for n, path in enumerate(missing) if path.is_dir())]
    for path in reversed(missing):
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return [path.parent for path in reversed(missing)]


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
