"""Idempotency keys: one command id for one key of a session, for ever and for every client.

A command's id must be new when the command is (an id older than all that a worker remembers is
answered ``Forgotten``), so a key cannot be hashed into an id: its time would be wrong. The first
use of a key makes an id of that moment and keeps it in a file of its own beside the session's,
linked into place whole: of two clients that use a key at once, both get the id of the first.
Erasing a session takes its keys along.
"""

import hashlib
import os
import time
from pathlib import Path

from paddock.store.errors import DiskFull, SessionNotFound
from paddock.store.ids import CommandId, is_uuid7, uuid7

FOLDER = "keys"


def new_id() -> str:
    """Return a fresh UUIDv7."""
    return uuid7(time.time_ns() // 1000, os.urandom(10))


def command_id_of(session_folder: Path, key: str) -> CommandId:
    """Return the command id of a key in a session, made and stored if the key is new.

    Raises:
        SessionNotFound: The session has no folder.
        DiskFull: It cannot be stored.
    """
    file = (
        session_folder / FOLDER / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    )
    known = _known(file)
    if known is not None:
        return known
    fresh = new_id()
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError as error:
        message = f"there is no session {session_folder.name!r}; `paddock ls` shows them"
        raise SessionNotFound(message, session_id=session_folder.name) from error
    except OSError as error:
        raise _not_kept(key, file, error) from error
    try:
        draft = file.with_name(f"{file.name}.{fresh}")
        _write(draft, fresh)
        try:
            os.link(draft, file)  # fails where another client was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise _not_kept(key, file, error) from error
    return _known(file) or CommandId(fresh)


def _not_kept(key: str, file: Path, error: OSError) -> DiskFull:
    message = f"the key {key!r} cannot be kept: {error}; make room, or send without a key"
    return DiskFull(message, path=str(file))


def _known(file: Path) -> CommandId | None:
    try:
        text = file.read_text().strip()
    except FileNotFoundError:
        return None
    return CommandId(text) if is_uuid7(text) else None


def _write(file: Path, text: str) -> None:
    # On disk before it is used: after a power cut the key must still name the command it named.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
