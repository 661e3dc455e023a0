"""Which mount a folder is on: another one may lack what the disk was not told to keep."""

import ctypes
import os
from pathlib import Path

AT_FDCWD = -100
STATX_MNT_ID, STATX_MNT_ID_UNIQUE = 0x1000, 0x4000
"""statx(2): an id that a later mount may have again, and one (Linux 6.8) that none ever has."""
STATX_BYTES, MASK_BYTES, MNT_ID_OFFSET = 256, 4, 0x90


def mount_of(folder: Path) -> str:
    """Return the id of the mount that a folder is on, or "" where the system does not tell."""
    found = ctypes.create_string_buffer(STATX_BYTES)
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        return ""
    for asked in (STATX_MNT_ID_UNIQUE, STATX_MNT_ID):
        failed = statx(AT_FDCWD, os.fsencode(folder), 0, asked, found)
        told = int.from_bytes(found.raw[:MASK_BYTES], "little")
        if not failed and told & asked:
            return str(int.from_bytes(found.raw[MNT_ID_OFFSET : MNT_ID_OFFSET + 8], "little"))
    return ""
