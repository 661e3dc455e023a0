"""What can go wrong, told apart by whose fault it is, each with a stable ``code``.

``Refused``: you asked for what cannot be. ``PeerBroke``: the other side broke the protocol or died.
``StoreError``: a disk or a file. ``Bug``: we did it. The code crosses the wire and decides the exit
code of the command line; the text says what happened and ends with what to do.
"""

from collections.abc import Mapping
from typing import ClassVar


class PaddockError(Exception):
    """An error of Paddock's own, with its facts and a code that is the same on every side."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts: Mapping[str, object] = facts


class Refused(PaddockError):
    """The request cannot be granted; nothing was changed. The caller's fault."""

    code = "refused"


class PeerBroke(PaddockError):
    """The other side broke the protocol, or died in the middle of an exchange."""

    code = "peer_broke"


class StoreError(PaddockError):
    """A disk or a file failed."""

    code = "store_error"


class Bug(PaddockError):
    """Paddock did what its own rules forbid; the message is the story to report."""

    code = "bug"


class SessionNotFound(Refused):
    """There is no session of that id or name, or it was deleted."""

    code = "session_not_found"


class AlreadyExists(Refused):
    """The name is taken, or the id is known with another payload."""

    code = "already_exists"


class BlobNotFound(Refused):
    """The session has no blob of that digest."""

    code = "blob_not_found"


class Forgotten(Refused):
    """The command's id is older than all that is remembered; it may have run."""

    code = "forgotten"


class AlreadyOwned(Refused):
    """Another live process owns the file: ``pid``, ``generation`` and what it says of itself."""

    code = "already_owned"


class Damaged(StoreError):
    """A file is not what was written: ``path``, and ``sequence`` of the first event in doubt."""

    code = "damaged"


class NewerFormat(StoreError):
    """A file was written by a newer version of Paddock than this one."""

    code = "newer_format"


class DiskFull(StoreError):
    """There is no room (or no right) to write; nothing of the batch was stored."""

    code = "disk_full"


class NeedsFold(StoreError):
    """A file's write-ahead log holds commits that nobody vouches for until an owner folds it."""

    code = "needs_fold"


class TooLarge(Refused):
    """An event or a blob is larger than its limit: ``size_bytes``, ``limit_bytes``."""

    code = "too_large"


class SqlRefused(Refused):
    """The query is not one SELECT or EXPLAIN, or it failed; the text is the database's own."""

    code = "sql_refused"


class TimedOut(Refused):
    """The deadline of the request passed; ``seconds`` says which."""

    code = "timed_out"
