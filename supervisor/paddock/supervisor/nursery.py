"""Where workers come from: the zygote of the moment, and the next one when it is gone."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from paddock.supervisor.children import READY_SECONDS, Zygote, ZygoteBroke, sweep
from paddock.supervisor.processes import Process, Status

log = structlog.get_logger("paddock.supervisor.nursery")

PAUSE_SECONDS = 1.0
ATTEMPTS = 3

type Note = Callable[[str, str, dict[str, object]], None]


class Nursery:
    """One zygote at a time, replaced when it is dead or gives no process."""

    def __init__(self, folder: Path, target: str, note: Note) -> None:
        """``target`` is ``module:function`` of a worker; the zygote's socket is in ``folder``."""
        self._folder = folder
        self._target = target
        self._note = note
        self._zygote: Zygote | None = None
        self._task: asyncio.Task[Zygote] | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The process that workers are forked from, if there is one now."""
        return None if self._zygote is None else self._zygote.process.pid

    def open(self) -> None:
        """Begin to make the zygote. Called under the host's lock: all other zygotes are dead."""
        sweep(self._folder)
        self._begin()

    def close(self) -> None:
        """End the zygote; its workers live on."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        if self._zygote is not None:
            self._zygote.end()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._make())
        self._task.add_done_callback(_look_at)

    async def _make(self) -> Zygote:
        while True:
            try:
                self._zygote = await Zygote.start(self._target, self._folder, self._ended)
            except ZygoteBroke as error:
                self._note("failed", "zygote", {"error": error.message})
                if self._is_closed:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._note("started", "zygote", {"pid": self._zygote.process.pid})
            return self._zygote

    async def _wait(self) -> Zygote:
        assert self._task is not None, "the zygote is begun when the host opens"
        try:
            async with asyncio.timeout(READY_SECONDS):
                return await asyncio.shield(self._task)
        except TimeoutError as error:
            message = "the zygote is not ready; the host's log tells why"
            raise ZygoteBroke(message) from error

    async def fork(self, orders: bytes, is_wanted: Callable[[], bool]) -> Process | None:
        """Return a new worker, from the next zygote where this one is gone.

        None if it was not wanted any more when its turn came.

        Raises:
            ZygoteBroke: One after the other gave none. There is no process.
        """
        for _ in range(ATTEMPTS):
            zygote = await self._wait()
            try:
                return await zygote.fork(orders, is_wanted)
            except ZygoteBroke as error:
                log.warning("no_fork", error=error.message)
                self._replace(zygote)
                await zygote.wait_gone()
        message = f"{ATTEMPTS} zygotes in a row gave no process; the host's log tells why"
        raise ZygoteBroke(message)

    def _replace(self, broken: Zygote) -> None:
        if self._zygote is broken and not self._is_closed:
            broken.end()  # its death is what starts the next one

    def _ended(self, status: Status) -> None:
        zygote, self._zygote = self._zygote, None
        detail: dict[str, object] = {"exit_code": status.exit_code, "signal": status.signal}
        if zygote is not None:
            zygote.gone()
            detail["pid"] = zygote.process.pid
        if self._is_closed or zygote is None:
            return
        self._note("died", "zygote", detail)
        self._begin()


def _look_at(task: asyncio.Task[Zygote]) -> None:
    if not task.cancelled():
        task.exception()  # each spawn is told; nobody may be there to be told now
