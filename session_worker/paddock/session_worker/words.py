"""A worker's own words, on the way to its stderr file: without secrets, like all that is kept."""

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress

from paddock.session_worker.redact import redact
from paddock.store.saying import Words

LIMIT_BYTES = 1024 * 1024
KEY_BEGINS, KEY_ENDS = "-----BEGIN ", "-----END "
LONGEST_KEY = 16 * 1024


class CleanWords(Words):
    """A text stream that writes whole lines, redacted, to a descriptor opened to append.

    A file never has much more than ``LIMIT_BYTES``.

    What a crash handler or a library writes to the descriptor itself does not come by here: stacks
    of functions and lines, no values.
    """

    def __init__(self, descriptor: int, secrets: Iterable[str]) -> None:
        """Write to ``descriptor``, which stays open, without these values."""
        super().__init__(descriptor)
        self._secrets = tuple(secrets)
        self._held = ""
        self._gate = threading.RLock()

    def know(self, secrets: Iterable[str]) -> None:
        """Take out these values as well, from now on."""
        self._secrets = (*self._secrets, *secrets)

    def write(self, text: str) -> int:
        """Take text; lines go out at once, but for a private key that has not ended yet."""
        with self._gate:
            self._held += text
            whole = self._held.rfind("\n") + 1
            if whole and not self._is_in_key(whole):
                self._give(whole)
        return len(text)

    def flush(self) -> None:
        """Let everything go out."""
        with self._gate:
            self._give(len(self._held))

    def _is_in_key(self, whole: int) -> bool:
        begun = self._held.rfind(KEY_BEGINS, 0, whole)
        is_open = begun >= 0 and KEY_ENDS not in self._held[begun:whole]
        return is_open and whole - begun < LONGEST_KEY

    def _give(self, count: int) -> None:
        piece, self._held = self._held[:count], self._held[count:]
        self._make_room()
        super().write(redact(piece, self._secrets))

    def _make_room(self) -> None:
        """Begin a file anew that is full: of last words the last count."""
        with suppress(OSError):
            size = os.fstat(self._descriptor).st_size
            if size > LIMIT_BYTES:
                os.ftruncate(self._descriptor, 0)
                super().write(f"… ({size:,} bytes that stood here are not kept)\n")


def know_secrets(secrets: Iterable[str]) -> None:
    """Keep these values out of what this process still says."""
    if isinstance(sys.stderr, CleanWords):
        sys.stderr.know(secrets)
