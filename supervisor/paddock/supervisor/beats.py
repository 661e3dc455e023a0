"""Tells the watcher of this host, again and again, that its loop turns."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Beats:
    """The pipe that a watcher gave, and how often it wants a byte."""

    descriptor: int
    seconds: float

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what a watcher named: ``DESCRIPTOR:SECONDS``. Raises ValueError."""
        descriptor, seconds = text.split(":")
        return cls(int(descriptor), float(seconds))

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell for as long as the block lasts, in the running loop."""
        os.set_inheritable(self.descriptor, False)  # noqa: FBT003 - it takes no keyword
        os.set_blocking(self.descriptor, False)
        telling = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            telling.cancel()

    async def _tell(self) -> None:
        while True:
            with suppress(BlockingIOError, BrokenPipeError):  # a watcher that is stopped, or dead
                os.write(self.descriptor, b".")
            await asyncio.sleep(self.seconds)
