"""The pytest fixture ``host``: import it into a test module or a conftest."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.testing.hosts import HostForTests

LONGEST_FOLDER = 40
"""A socket's path ends at 107 characters: a deep TMPDIR leaves no room for it."""


@pytest.fixture
def host() -> Iterator[HostForTests]:
    """Give a host in a new home, started when first used; everything is gone afterwards."""
    base = tempfile.gettempdir()
    folder = Path(
        tempfile.mkdtemp(prefix="pd-", dir=base if len(base) <= LONGEST_FOLDER else "/tmp")  # noqa: S108
    )
    made = HostForTests(folder)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)
