"""Large contents in the same file: named by SHA-256, compressed in parts, never whole in memory."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import batched
from pathlib import Path
from string import hexdigits

import zstandard

from paddock.store.errors import BlobNotFound, Damaged, StoreError, TooLarge
from paddock.store.session_file.database import PART_BITS
from paddock.store.session_file.faults import translated
from paddock.store.session_file.place import Place

BLOB_LIMIT_BYTES = 2 * 1024**3
"""The largest blob, before compression: a tool's output of 1 GB fits."""

SESSION_BLOBS_LIMIT_BYTES = 16 * 1024**3
"""All blobs of a session together, as stored."""

PART_BYTES = 1024 * 1024
"""What is read, compressed and stored at once; each part is a zstd frame with a checksum."""

PARTS_PER_COMMIT = 8
# 8 parts: at most 8 MiB wait in memory, and an append waits for one such commit, not for the blob.

UNNAMED_AT_MOST = 16
"""Blobs that are looked for in the log after a death; each costs a read of it where it is not."""

SHORTEST_NAME = 8
"""Hex digits of a digest that name a blob in its session: two alike among 10,000 are unlikely."""

_LEVEL = 3
_FIND = "SELECT number, size_bytes, parts FROM blobs WHERE digest = ?"


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored content: ``digest`` is the SHA-256 of its bytes in hex."""

    digest: str
    size_bytes: int


@dataclass(slots=True)
class Draft:
    """A blob while it is written. Without a digest in its row it does not exist for any reader."""

    number: int = 0
    size_bytes: int = 0
    stored_bytes: int = 0
    parts: int = 0


def parts_of(source: Path | bytes | Iterator[bytes]) -> Iterator[bytes]:
    """Yield a content in pieces of ``PART_BYTES``, the last one shorter."""
    if isinstance(source, Path):
        yield from _parts_of_file(source)
        return
    waiting = bytearray()
    for piece in (source,) if isinstance(source, bytes) else source:
        waiting += piece
        whole = len(waiting) - len(waiting) % PART_BYTES
        for start in range(0, whole, PART_BYTES):
            yield bytes(waiting[start : start + PART_BYTES])
        del waiting[:whole]
    if waiting:
        yield bytes(waiting)


def _parts_of_file(source: Path) -> Iterator[bytes]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise _unreadable(source, error) from error
    with file:
        while True:
            try:
                part = file.read(PART_BYTES)
            except OSError as error:
                raise _unreadable(source, error) from error
            if not part:
                return
            yield part


def begin(connection: sqlite3.Connection) -> int:
    """Start a blob, in the transaction of its first parts; return its number, from 1."""
    cursor = connection.execute("INSERT INTO blobs VALUES (NULL, NULL, 0, 0, 0)")
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def is_draft(connection: sqlite3.Connection, number: int) -> bool:
    """Return whether a blob was begun and not finished."""
    query = "SELECT 1 FROM blobs WHERE number = ? AND digest IS NULL"
    return connection.execute(query, (number,)).fetchone() is not None


def add(connection: sqlite3.Connection, draft: Draft, compressed: bytes) -> None:
    """Store the next part."""
    position = draft.number << PART_BITS | draft.parts
    connection.execute("INSERT INTO blob_parts VALUES (?, ?)", (position, compressed))
    draft.parts += 1
    draft.stored_bytes += len(compressed)


def finish(connection: sqlite3.Connection, draft: Draft, digest: str) -> None:
    """Name the blob, so that it exists; if its content is there already, drop the new copy."""
    if find(connection, digest) is not None:
        discard(connection, draft.number)
        return
    values = (digest, draft.size_bytes, draft.stored_bytes, draft.parts, draft.number)
    connection.execute(
        "UPDATE blobs SET digest = ?, size_bytes = ?, stored_bytes = ?, parts = ? WHERE number = ?",
        values,
    )


def discard(connection: sqlite3.Connection, number: int) -> None:
    """Remove a blob and its parts."""
    first, last = number << PART_BITS, ((number + 1) << PART_BITS) - 1
    connection.execute("DELETE FROM blob_parts WHERE position BETWEEN ? AND ?", (first, last))
    connection.execute("DELETE FROM blobs WHERE number = ?", (number,))


def discard_drafts(connection: sqlite3.Connection) -> None:
    """Remove what was begun and never finished."""
    numbers = connection.execute("SELECT number FROM blobs WHERE digest IS NULL").fetchall()
    for (number,) in numbers:
        discard(connection, number)


def discard_unnamed(connection: sqlite3.Connection) -> int:
    """Remove the newest blobs that no event names; return how many.

    A blob is stored before the event that names it, so a death between the two leaves one: the
    newest, or as many as calls ran beside each other. Older ones are not looked at.
    """
    query = "SELECT number, digest FROM blobs ORDER BY number DESC LIMIT ?"
    newest = connection.execute(query, (UNNAMED_AT_MOST,)).fetchall()
    names = "SELECT 1 FROM events WHERE instr(payload, ?) LIMIT 1"
    unnamed = [one for one, digest in newest if not connection.execute(names, (digest,)).fetchone()]
    for number in unnamed:
        discard(connection, number)
    return len(unnamed)


def find(connection: sqlite3.Connection, digest: str) -> tuple[int, int, int] | None:
    """Return the number, size and count of parts of a blob, or None."""
    found: tuple[int, int, int] | None = connection.execute(_FIND, (digest,)).fetchone()
    return found


def stored_bytes(connection: sqlite3.Connection) -> int:
    """Return how many bytes all blobs take, compressed."""
    (total,) = connection.execute("SELECT coalesce(sum(stored_bytes), 0) FROM blobs").fetchone()
    return int(total)


def read(place: Place, connection: sqlite3.Connection, digest: str) -> Iterator[bytes]:
    """Yield a blob's content in pieces; no transaction is held between them.

    Raises:
        BlobNotFound: There is none of that digest.
        Damaged: A part is missing or not what was written. Raised at that part, or at the end if
            only the whole does not fit its digest.
    """
    with translated(place.database):
        found = find(connection, digest)
    if found is None:
        message = f"there is no blob {digest!r} in {str(place.database)!r}"
        raise BlobNotFound(message, digest=digest)
    number, size, parts = found
    whole = sha256()
    seen = 0
    for part in range(parts):
        data = _read_part(place, connection, digest, number << PART_BITS | part)
        whole.update(data)
        seen += len(data)
        yield data
    if seen != size or whole.hexdigest() != digest:
        raise _damaged(place, digest, "its content does not fit its digest")


def named(place: Place, connection: sqlite3.Connection, name: str) -> Blob:
    """Return the blob of a digest, or of the beginning of one that no other has.

    Raises:
        BlobNotFound: There is none, or several.
    """
    if len(name) >= SHORTEST_NAME and set(name) <= set(hexdigits.lower()):
        query = "SELECT digest, size_bytes FROM blobs WHERE digest >= ? AND digest < ? LIMIT 2"
        with translated(place.database):
            found = connection.execute(query, (name, name + "g")).fetchall()
        if len(found) == 1:
            return Blob(*found[0])
    message = f"there is no blob {name!r} in {str(place.database)!r}"
    raise BlobNotFound(message, digest=name)


def read_range(
    place: Place, connection: sqlite3.Connection, digest: str, offset: int, limit: int
) -> Iterator[bytes]:
    """Yield at most ``limit`` bytes of a blob from ``offset`` on; nothing behind its end.

    Only the parts that hold them are read, each checked by itself. Raises as :func:`read`.
    """
    with translated(place.database):
        found = find(connection, digest)
    if found is None:
        message = f"there is no blob {digest!r} in {str(place.database)!r}"
        raise BlobNotFound(message, digest=digest)
    number, size, _ = found
    end = min(size, offset + limit)
    while offset < end:
        part, skipped = divmod(offset, PART_BYTES)
        data = _read_part(place, connection, digest, number << PART_BITS | part)
        piece = data[skipped : skipped + end - offset]
        if not piece:
            raise _damaged(place, digest, "a part of it is too short")
        yield piece
        offset += len(piece)


def _read_part(place: Place, connection: sqlite3.Connection, digest: str, position: int) -> bytes:
    query = "SELECT data FROM blob_parts WHERE position = ?"
    with translated(place.database):
        found = connection.execute(query, (position,)).fetchone()
    if found is None:
        raise _damaged(place, digest, "a part of it is missing")
    try:
        return zstandard.ZstdDecompressor().decompress(found[0], max_output_size=PART_BYTES)
    except (zstandard.ZstdError, TypeError) as error:
        raise _damaged(place, digest, str(error)) from error


def compress(part: bytes) -> bytes:
    """Return a part as it is stored."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(part)


def too_large(what: str, size: int, limit: int) -> TooLarge:
    """Return the refusal of a content that is over its limit."""
    message = f"{what} has over {limit} bytes; raise the limit or keep less"
    return TooLarge(message, size_bytes=size, limit_bytes=limit)


def in_commits(parts: Iterator[bytes]) -> Iterator[tuple[bytes, ...]]:
    """Yield parts in groups, one for each transaction; an empty content is one empty group."""
    groups = batched(parts, PARTS_PER_COMMIT)
    yield next(groups, ())
    yield from groups


def _unreadable(source: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot read {str(source)!r}: {error.strerror}", path=str(source))


def _damaged(place: Place, digest: str, why: str) -> Damaged:
    message = f"blob {digest} in {str(place.database)!r} is damaged: {why}"
    return Damaged(message, path=str(place.database), digest=digest)
