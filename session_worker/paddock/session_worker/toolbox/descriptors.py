"""Files without a name that are handed to child processes: in memory where the system has that."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def in_memory(content: bytes = b"") -> Iterator[BinaryIO]:
    """Give a file that holds ``content`` and is gone with its last descriptor.

    What a call is given and gives back may be secret, and what is in memory is on no disk.
    """
    with _nameless() as file:
        file.write(content)
        file.seek(0)
        yield file


def _nameless() -> BinaryIO:
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile()
    return os.fdopen(os.memfd_create("paddock", os.MFD_CLOEXEC), "w+b")
