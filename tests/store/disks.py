"""Small disks of one's own, which only root may have; full and read-only ones."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GOING_SECONDS = 30.0
"""For a process that was told to go to have let go of its files."""


@contextmanager
def small_disk(disk: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a small disk on a new folder; the test is skipped where that is not possible."""
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    options = f"size={size_bytes},mode=700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "paddock-test", disk],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave no room on the disk but what a few bytes take."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        piece = 65536
        while piece >= 1:
            try:
                file.write(bytes(piece))
            except OSError:
                piece //= 2
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Take the right to write away, once nobody has a file open for writing any more."""
    deadline = time.monotonic() + GOING_SECONDS
    while subprocess.run(["mount", "-o", "remount,ro", disk], check=False).returncode != 0:
        assert time.monotonic() < deadline, "somebody has a file open for writing still"
        time.sleep(0.05)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
