"""A process's words on its stderr: for people, and never worth a failure."""

import io
import os
from contextlib import suppress


class Words(io.TextIOBase):
    """Text to a descriptor, unbuffered; what cannot be written is lost.

    The log of a host and the last words of a worker are files on the very disk whose trouble they
    tell of: an exception out of a ``print`` there would end what was about to deal with it.
    """

    def __init__(self, descriptor: int) -> None:
        """Write to ``descriptor``, which stays open."""
        super().__init__()
        self._descriptor = descriptor

    @property
    def encoding(self) -> str:  # type: ignore[override]  # io's is None, which nobody expects
        """Return ``utf-8``."""
        return "utf-8"

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Write it, as far as it goes."""
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
        return len(text)
