"""The whole outputs of a session's calls, as a tool reads them: by call or by digest, in pieces."""

from collections.abc import Iterator

from pydantic_core import from_json

from paddock.store.errors import BlobNotFound
from paddock.store.events import Row
from paddock.store.session_file import Blob, SessionFile

_ROWS_AT_ONCE = 1000


class Outputs:
    """What is kept in the session's own file. Everything here blocks on the disk."""

    def __init__(self, file: SessionFile) -> None:
        self._file = file

    def find(self, name: str) -> Blob:
        """Return the blob that a digest (or its beginning) or a call's id names.

        Raises:
            BlobNotFound: There is none; the call may have said all in its result.
        """
        try:
            return self._file.blob_named(name)
        except BlobNotFound:
            digest = blob_of_call(self._rows(), name)
            if digest is None:
                raise
            return self._file.blob_named(digest)

    def read(self, digest: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yield at most ``limit`` bytes from ``offset`` on, in pieces of at most a megabyte."""
        return self._file.blob_range(digest, offset, limit)

    def _rows(self) -> Iterator[Row]:
        after = 0
        while rows := self._file.rows(after, _ROWS_AT_ONCE):
            yield from rows
            after = rows[-1].sequence


def blob_of_call(rows: Iterator[Row], tool_call_id: str) -> str | None:
    """Return the digest of a call's whole output; None where its result holds all of it."""
    for row in rows:
        if row.tool_call_id == tool_call_id and row.kind == "tool_call_finished":
            digest: str | None = from_json(row.payload).get("output_blob")
            return digest
    return None
