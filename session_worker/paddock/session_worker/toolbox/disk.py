"""Read and replace regular files without ever waiting on what is not one."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

CHUNK_BYTES = 1024 * 1024
LARGEST_EDIT_BYTES = 64 * 1024 * 1024
NEW_FILE_MODE = 0o666  # less the umask, as every program makes files


class FileFault(Exception):
    """A file cannot be read or written; ``kind`` names why. The asker's fault, or the disk's."""

    code = "file_fault"

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def open_regular(path: Path) -> int:
    """Return a descriptor of a regular file; a FIFO or device is refused, never waited on.

    Raises:
        FileFault: It is missing, a folder, no regular file, or not readable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise fault(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise FileFault("is_a_directory", f"{path} is a folder: use ls")
    raise FileFault("not_a_file", f"{path} is no regular file ({_kind(mode)})")


def read_whole(path: Path, limit: int = LARGEST_EDIT_BYTES) -> bytes | None:
    """Return a file's bytes, or None when there is no such file.

    Raises:
        FileFault: It cannot be read, or holds more than ``limit`` bytes.
    """
    try:
        descriptor = open_regular(path)
    except FileFault as error:
        if error.kind == "not_found":
            return None
        raise
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        data = file.read(limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise FileFault("too_large", f"{path} has {size:,} bytes; at most {limit:,} can be edited")
    return data


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_of(path: Path) -> str | None:
    """Return the SHA-256 of a file, or None when there is none.

    Raises:
        FileFault: It cannot be read.
    """
    try:
        descriptor = open_regular(path)
    except FileFault as error:
        if error.kind == "not_found":
            return None
        raise
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace(path: Path, data: bytes, before: str | None, temporary: Path) -> None:
    """Make the file hold ``data``, whole or not at all, and durable on return.

    The bytes go to ``temporary`` in the same folder, which is then renamed; mode and, where that is
    allowed, owner stay those of the file before. A file with several names (hard links) is parted
    from the others.

    Raises:
        FileFault: The file's hash is no longer ``before``, or the disk refused.
    """
    new_folders = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, data, path)
        # Looked at as late as can be: between this and the rename another writer can still come.
        if hash_of(path) != before:
            raise FileFault("changed_meanwhile", f"{path} changed meanwhile: read it again")
        temporary.replace(path)
        for folder in (path.parent, *(new.parent for new in new_folders)):
            _sync_folder(folder)
    except OSError as error:
        raise fault(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or its folder could not even be made
            temporary.unlink()


def fault(path: Path, error: OSError) -> FileFault:
    """Return what an error of the system means for ``path``, in words."""
    kinds: Mapping[int | None, str] = {
        errno.ENOENT: "not_found",
        errno.EISDIR: "is_a_directory",
        errno.ENOTDIR: "not_found",
        errno.EACCES: "permission_denied",
        errno.EPERM: "permission_denied",
        errno.EROFS: "read_only",
        errno.ENOSPC: "disk_full",
        errno.EDQUOT: "disk_full",
        errno.ENXIO: "not_a_file",
    }
    kind = kinds.get(error.errno, "io_error")
    words = "does not exist" if kind == "not_found" else f"cannot be used: {error.strerror}"
    return FileFault(kind, f"{path} {words}")


def _write(temporary: Path, data: bytes, model: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, NEW_FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        _take_after(descriptor, model)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _take_after(descriptor: int, model: Path) -> None:
    try:
        there = model.stat()
    except FileNotFoundError:
        return
    mine = os.fstat(descriptor)
    if (there.st_uid, there.st_gid) != (mine.st_uid, mine.st_gid):
        try:
            os.fchown(descriptor, there.st_uid, there.st_gid)
        except PermissionError:  # only root gives files away; content and mode are what was asked
            os.fchmod(descriptor, stat.S_IMODE(there.st_mode) & 0o777)
            return
    os.fchmod(descriptor, stat.S_IMODE(there.st_mode))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "of another kind"
