"""The folded state of a session, kept in its file: a cache, dropped when anything disagrees."""

import sqlite3
from dataclasses import dataclass
from hashlib import blake2b

import zstandard

from paddock.store.session_file.chain import HASH_BYTES

_LEVEL = 1
_LIMIT_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session's state as it was after the event ``sequence``."""

    sequence: int
    state: bytes


def save(
    connection: sqlite3.Connection,
    snapshot: Snapshot,
    *,
    fold_version: int,
    log_hash: bytes,
) -> None:
    """Keep a snapshot in place of the one before; ``log_hash`` is its event's."""
    state = zstandard.ZstdCompressor(level=_LEVEL).compress(snapshot.state)
    digest = _digest_of(snapshot.sequence, fold_version, state)
    values = (1, snapshot.sequence, fold_version, log_hash, digest, state)
    connection.execute("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?, ?)", values)


def load(connection: sqlite3.Connection, *, fold_version: int, head: int) -> Snapshot | None:
    """Return the snapshot if it is of that version, not above ``head``, and agrees with the log."""
    row = connection.execute(
        "SELECT s.sequence, s.fold_version, s.log_hash, s.digest, s.state, e.hash"
        " FROM snapshot s LEFT JOIN events e ON e.sequence = s.sequence"
    ).fetchone()
    if row is None:
        return None
    sequence, version, log_hash, digest, compressed, actual_hash = row
    if version != fold_version or sequence > head or log_hash != actual_hash:
        return None
    if _digest_of(sequence, version, compressed) != digest:
        return None
    try:
        state = zstandard.ZstdDecompressor().decompress(compressed, max_output_size=_LIMIT_BYTES)
    except zstandard.ZstdError:
        return None
    return Snapshot(sequence, state)


def drop(connection: sqlite3.Connection) -> None:
    """Throw the snapshot away."""
    connection.execute("DELETE FROM snapshot")


def _digest_of(sequence: int, fold_version: int, compressed: bytes) -> bytes:
    # Of what is stored: a sixth of the bytes, and checked before it is unpacked.
    place = f"{sequence} {fold_version} ".encode()
    return blake2b(place + compressed, digest_size=HASH_BYTES).digest()
