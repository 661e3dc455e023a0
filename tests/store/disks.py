"""Small disks of one's own, which only root may have; full and read-only ones."""

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_FLUSH = 2
"""Not even the journal is written (linux/fs/ext4/ext4.h)."""
SMALL_DISKS_INODES = 10_000
"""A test can use them up; by itself a tmpfs has one for every second page of the machine."""
GOING_SECONDS = 30.0
"""For a process that was told to go to have let go of its files."""


@contextmanager
def small_disk(disk: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a small disk on a new folder; the test is skipped where that is not possible."""
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    options = f"size={size_bytes},mode=700,nr_inodes={SMALL_DISKS_INODES}"
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


class RealDisk:
    """A file system of its own in a file, which can lose its power and be mounted again."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self._image = image

    def mount(self) -> None:
        """Mount it; what its journal has is there."""
        subprocess.run(["mount", "-o", "loop", self._image, self.folder], check=True)

    def lose_power(self) -> None:
        """Lose all that was not synced, at once; every access fails from here on."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Take it away, once nobody has a file open on it any more, in whatever namespace."""
        deadline = time.monotonic() + GOING_SECONDS
        subprocess.run(["umount", "--lazy", self.folder], check=True)
        while subprocess.run(
            ["losetup", "-j", self._image], capture_output=True, check=True
        ).stdout:
            assert time.monotonic() < deadline, "somebody has a file open still"
            time.sleep(0.05)


@contextmanager
def real_disk(image: Path, folder: Path, size_bytes: int) -> Iterator[RealDisk]:
    """Give an ext4 of its own, mounted; the test is skipped where that is not possible."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    image.touch(mode=0o600)
    os.truncate(image, size_bytes)
    disk = RealDisk(image, folder)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
        disk.mount()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 in a file can be mounted here: {error}")
    folder.chmod(0o700)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


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
