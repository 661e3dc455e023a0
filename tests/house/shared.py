"""Recorded sessions and provider traffic that nobody here wrote, where this machine has them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Read once, here: each test forgets the caller's PADDOCK_* settings.
FOLDER = Path(os.environ.get("PADDOCK_SHARED", ROOT.parent / "shared"))
DATA = FOLDER / "data"
TOOLS = FOLDER / "tools"

NEEDS_DATA = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no recorded sessions: {DATA} is not there (set PADDOCK_SHARED)"
)
