"""What the errors of SQLite and of the system mean for a session's file."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddock.store.errors import Damaged, DiskFull, PaddockError, StoreError, TooLarge

_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_CONSTRAINT,  # two events of one number, say: nobody but the owner may write
    sqlite3.SQLITE_MISMATCH,
}
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
_NO_ROOM_EXTENDED = {sqlite3.SQLITE_IOERR_SHMSIZE}
_NO_ROOM_ERRNO = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
}
# A lost table or column is a plain SQLITE_ERROR, and text that is no UTF-8 has no code at all.
_DAMAGE_TEXTS = (
    "Could not decode to UTF-8",
    "no such table",
    "no such column",
    "table events has",
    "malformed database schema",
)


@contextmanager
def translated(path: Path, sequence: int | None = None) -> Iterator[None]:
    """Turn the errors of SQLite and of the system into ours, with the file's name.

    ``sequence`` is the first event in doubt, where the caller knows it.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise meaning_of(error, path, sequence) from error
    except OSError as error:
        raise meaning_of_os(error, path) from error


def meaning_of(error: sqlite3.Error, path: Path, sequence: int | None = None) -> PaddockError:
    """Return what an error of SQLite's means."""
    name, text = str(path), str(error)
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if (
        primary in _DAMAGE
        or code == sqlite3.SQLITE_IOERR_CORRUPTFS
        or text.startswith(_DAMAGE_TEXTS)
    ):
        at = "" if sequence is None else f" from event {sequence} on"
        message = f"{name!r} is damaged{at} ({text}); `paddock store verify` tells what is left"
        return Damaged(message, path=name, sequence=sequence)
    if primary in _NO_ROOM or code in _NO_ROOM_EXTENDED:
        return DiskFull(_no_room(name, text), path=name)
    if primary == sqlite3.SQLITE_TOOBIG:
        return TooLarge(f"too large for {name!r}: {text}; keep large contents in a blob", path=name)
    kind = getattr(error, "sqlite_errorname", "no SQLite error code")
    return StoreError(f"{name!r} failed: {text} ({kind}); check the disk", path=name)


def meaning_of_os(error: OSError, path: Path) -> StoreError:
    """Return what an error of the system means."""
    name, text = str(path), error.strerror or str(error)
    if error.errno in _NO_ROOM_ERRNO:
        return DiskFull(_no_room(name, text), path=name)
    return StoreError(f"{name!r} failed: {text}; check the disk and the folder's rights", path=name)


def _no_room(name: str, text: str) -> str:
    return f"cannot write {name!r} ({text}); make room or give the right to write"
