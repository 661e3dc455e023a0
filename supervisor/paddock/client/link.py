"""The way to whichever host serves a home now: one connection at a time, found anew."""

import asyncio

import zmq

from paddock.client.connection import GREETING_SECONDS, Connection
from paddock.client.places import Announced, Places, announced
from paddock.client.starting import start_host
from paddock.supervisor.errors import HostGone, NoHost

LOOK_AGAIN_SECONDS = 0.02
BY_ITSELF_SECONDS = 3.0
"""How long a host that died has to come back by its own watcher before a client starts one."""


class Link:
    """Reaches the host of a home, and reaches the next one when that is gone."""

    def __init__(self, places: Places, *, start: bool, name: str) -> None:
        self.places = places
        self._start = start
        self._name = name
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._current: Connection | None = None
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reaching: asyncio.Task[Connection] | None = None
        self._was_reached = False
        self._is_closed = False

    @property
    def is_starter(self) -> bool:
        """Whether a host is started where none runs."""
        return self._start

    async def connection(self, deadline_seconds: float) -> Connection:
        """Return an open connection, the present one or a new one.

        Raises:
            NoHost: No host runs here and none is to be started.
            HostGone: The host went away and none came back in time, or it is there and silent; or
                this link was closed; or another event loop asks, whose answer would never come.
        """
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            message = "this client was connected in another event loop; connect in this one"
            raise HostGone(message)
        self._loop = loop
        if self._current is not None and self._current.is_open:
            return self._current
        async with self._lock:
            if self._current is not None and self._current.is_open:
                return self._current
            if self._current is not None:
                await self._current.close()
                self._current = None
            if self._is_closed:
                raise _closed()
            self._reaching = asyncio.create_task(self._reach(deadline_seconds))
            try:
                current = await self._reaching
            except asyncio.CancelledError as cancelled:
                raise self._told(cancelled) from None
            finally:
                self._reaching = None
            self._was_reached = True
            return current

    async def close(self) -> None:
        """Let go of the host; may be called more than once."""
        self._is_closed = True
        if self._reaching is not None:
            self._reaching.cancel()
            await asyncio.wait([self._reaching])
        if self._current is not None:
            await self._current.close()
            self._current = None
        self._context.destroy(linger=100)

    # --- inside ---

    async def _reach(self, deadline_seconds: float) -> Connection:
        loop = asyncio.get_running_loop()
        began = loop.time()
        until = began + deadline_seconds
        while True:
            left = until - loop.time()
            found = announced(self.places)
            if found is not None:
                try:
                    self._current = await Connection.open(
                        self._context,
                        found.address,
                        name=self._name,
                        deadline_seconds=max(0.1, min(GREETING_SECONDS, left)),
                    )
                    return self._current
                except HostGone:
                    # It is going, or coming: look again, unless it can do neither.
                    if not self._was_reached and found.is_stopped():
                        raise HostGone(self._silent(found), data=str(self.places.data)) from None
            if not self._was_reached and not self._start and (found is None or not found.is_live()):
                raise NoHost(self._nobody(), data=str(self.places.data))
            if self._may_start(is_announced=found is not None, waited_seconds=loop.time() - began):
                await start_host(self.places, deadline_seconds=max(1.0, left))
                continue
            if loop.time() >= until:
                raise HostGone(self._silent(found), data=str(self.places.data))
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _may_start(self, *, is_announced: bool, waited_seconds: float) -> bool:
        if not self._start:
            return False
        if not self._was_reached:
            return True
        # One that said goodbye took its announcement along and is not wanted back; one that was
        # killed is started by its watcher, and by us if there is none.
        return is_announced and waited_seconds > BY_ITSELF_SECONDS

    def _silent(self, found: Announced | None) -> str:
        host = f"the host of {str(self.places.data)!r}"
        if found is None or not found.is_live():
            return f"{host} went away and none came back"
        if found.is_stopped():
            return f"{host} (pid {found.pid}) is stopped; let it go on: kill -CONT {found.pid}"
        end = f"if that stays, kill -9 {found.pid}: its sessions go on"
        return f"{host} (pid {found.pid}) runs and does not answer; {end}"

    def _told(self, cancelled: asyncio.CancelledError) -> BaseException:
        """Return what whoever waited for a host is told: he gave up, or this link was closed."""
        task = asyncio.current_task()
        is_given_up = task is not None and task.cancelling() > 0
        return _closed() if self._is_closed and not is_given_up else cancelled

    def _nobody(self) -> str:
        return (
            f"no host runs on {str(self.places.data)!r}; start one with `paddock up`, "
            "or let a command that changes something start it"
        )


def _closed() -> HostGone:
    return HostGone("this client was closed; connect again")
