"""The text of whole outputs in a result: read from the sessions' files as its rows go out.

In the query itself an output is a small struct that names it (``schema.OUTPUT_TEXT``). A function
of ours that DuckDB calls would have to give it 2,048 texts of up to 16 MiB at once, uncounted and
not to be interrupted (and needs numpy); this way there is one at a time.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paddock.store.errors import BlobNotFound, SessionNotFound
from paddock.store.ids import SessionId
from paddock.store.projection.schema import OUTPUT_BYTES, OUTPUT_SESSION
from paddock.store.session_file import SessionReader, folder_of


class Outputs:
    """Reads outputs, one after another, in one thread. Close it there."""

    def __init__(self, data: Path) -> None:
        """Take the data folder."""
        self._data = data
        self._reader: SessionReader | None = None

    def text(self, wanted: Mapping[str, Any] | None, go_on: Callable[[], None]) -> str | None:
        """Return the text that a struct names; None where there is none, or no more.

        ``go_on`` raises when nobody waits any more.

        Raises:
            Damaged: It cannot be read.
        """
        if wanted is None or None in wanted.values():
            return None
        limit = min(max(wanted["byte_count"], 0), OUTPUT_BYTES)
        pieces = bytearray()
        try:
            reader = self._reader_of(SessionId(wanted[OUTPUT_SESSION]))
            digest = reader.blob_named(wanted["blob"]).digest
            for piece in reader.blob_range(digest, max(wanted["first_byte"], 0), limit):
                go_on()
                pieces += piece
        except (SessionNotFound, BlobNotFound):
            return None
        return pieces.decode("utf-8", "replace")

    def close(self) -> None:
        """Close the file that is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _reader_of(self, session_id: SessionId) -> SessionReader:
        folder = folder_of(self._data, session_id)
        reader = self._reader
        if reader is None or reader.session_id != session_id or not folder.exists():
            self.close()
            reader = self._reader = SessionReader(folder, session_id)
        return reader
