"""Leaving no byte of a session."""

import os
import shutil
from pathlib import Path

from paddock.store.errors import SessionNotFound, StoreError
from paddock.store.ids import SessionId, is_uuid7
from paddock.store.session_file.lock import OwnerLock
from paddock.store.session_file.place import place_of, sync_folder

_PIECE = bytes(1024 * 1024)


def erase(folder: Path, *, wait_seconds: float = 0.0) -> None:
    """Overwrite and remove all files of a session, then its folder, durably.

    Readers that have it open fail from then on. A file system that copies on write, or a disk that
    remaps, may keep old bytes where no program can reach them: encrypt the disk against that.

    Raises:
        AlreadyOwned: A process owns it; nothing was removed.
        SessionNotFound: There is no such folder.
        StoreError: Not all could be removed; calling again goes on with it.
    """
    # Renamed before it goes: nobody sees a part of it, or makes the session anew in its midst.
    going = folder.with_name(f".{folder.name}.erased")
    if not folder.is_dir() and not going.is_dir():
        raise SessionNotFound(f"there is no session in {str(folder)!r}", path=str(folder))
    try:
        if going.is_dir():  # an erasure died here
            _erase_folder(going)
        if folder.is_dir():
            lock = OwnerLock.take(place_of(folder), wait_seconds=wait_seconds)
            try:
                folder.rename(going)
                sync_folder(folder.parent)
                _erase_folder(going)
            finally:
                lock.abandon()
        sync_folder(folder.parent)
    except OSError as error:
        message = f"cannot erase {str(folder)!r}: {error.strerror}; erase it again"
        raise StoreError(message, path=str(folder)) from error


def erasures_begun_in(data: Path) -> list[SessionId]:
    """Return the sessions whose erasure was begun under ``data``, and not ended, in order."""
    names = (path.name[1:].removesuffix(".erased") for path in data.glob("sessions/*/.*.erased"))
    return sorted(SessionId(name) for name in names if is_uuid7(name))


def _erase_folder(folder: Path) -> None:
    """Overwrite and unlink every file in a folder, the database first, and remove it."""
    place = place_of(folder)
    others = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in sorted(others, key=lambda path: path != place.database):
        if path != place.lock:
            _overwrite(path)
            path.unlink()
    shutil.rmtree(folder)


def _overwrite(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        left = os.fstat(descriptor).st_size
        while left > 0:
            left -= os.write(descriptor, _PIECE[: min(left, len(_PIECE))])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
