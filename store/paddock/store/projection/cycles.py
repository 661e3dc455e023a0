"""When garbage in cycles is looked for, where batches make many objects and no cycle."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

CYCLES_SECONDS = 30.0
"""How often they are looked for: 20 ms at rest, in which nothing else is done."""


class Cycles:
    """Looks for garbage in cycles now and then, in place of Python's own collector."""

    def __init__(self) -> None:
        self._looked_at = time.monotonic()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Look for none meanwhile: a batch makes many objects and no cycle; it took an eighth."""
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if time.monotonic() - self._looked_at > CYCLES_SECONDS:
                self._looked_at = time.monotonic()
                gc.collect()
            else:
                # All that is young is old from here on; else the first look would go through it.
                # What is old is not looked through again by itself: hence the look above.
                gc.freeze()
                gc.unfreeze()
            if was_enabled:
                gc.enable()
