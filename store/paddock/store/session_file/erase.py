"""Leaving no byte of a session."""

import os
import shutil
from pathlib import Path

from paddock.store.errors import SessionNotFound, StoreError
from paddock.store.session_file.lock import OwnerLock
from paddock.store.session_file.place import Place, place_of, sync_folder

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
    place = place_of(folder)
    # Renamed before it goes, so that nobody can make the session anew in a folder that is going.
    gone = folder.with_name(f".{folder.name}.erased")
    shutil.rmtree(
        gone, ignore_errors=True
    )  # of an erasure that died here: nothing but its lock file
    if not folder.is_dir():
        raise SessionNotFound(f"there is no session in {str(folder)!r}", path=str(folder))
    lock = OwnerLock.take(place, wait_seconds=wait_seconds)
    try:
        _erase_files(place)
        folder.rename(gone)
        shutil.rmtree(gone)
        sync_folder(folder.parent)
    except OSError as error:
        message = f"cannot erase {str(folder)!r}: {error.strerror}; erase it again"
        raise StoreError(message, path=str(folder)) from error
    finally:
        lock.abandon()


def _erase_files(place: Place) -> None:
    """Overwrite and unlink every file in the folder but the lock, the database first."""
    others = [path for path in place.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    order = sorted(others, key=lambda path: path != place.database)
    for path in order:
        if path != place.lock:
            _overwrite(path)
            path.unlink()


def _overwrite(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        left = os.fstat(descriptor).st_size
        while left > 0:
            left -= os.write(descriptor, _PIECE[: min(left, len(_PIECE))])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
