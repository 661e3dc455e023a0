"""The client for programs without an event loop: the same, with plain calls and iterators.

::

    with connect() as host:
        session = host.ensure("fixer", cwd="app", mode="yolo")
        print(session.send("fix the failing test").wait().final_message)

Each connection runs a loop of its own in a thread of its own, so that beats go on while the program
computes. Any thread may call; Ctrl-C gives up the wait, not what is waited for.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from paddock.client import host as asynchronous
from paddock.client.outcome import Outcome
from paddock.client.rows import Rows
from paddock.client.session import Operation as AsyncOperation
from paddock.client.session import Session as AsyncSession
from paddock.session_worker.protocol import Arguments
from paddock.store.events import Stored, UserPart
from paddock.store.ids import OperationId, SessionId
from paddock.store.session import Session as SessionState
from paddock.supervisor.errors import HostGone
from paddock.supervisor.protocol import CommandSettled

CLOSE_SECONDS = 5.0


def connect(home: str | Path | None = None, *, start: bool = True, name: str = "client") -> "Host":
    """Return the host of a home; as :func:`paddock.client.connect`."""
    loop = LoopThread()
    try:
        return Host(loop, loop.run(asynchronous.connect(home, start=start, name=name)))
    except BaseException:
        loop.close()
        raise


class LoopThread:
    """An event loop in a thread; coroutines are handed to it and waited for."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="paddock-client", daemon=True)
        self._thread.start()

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine gives; given up (and cancelled) on Ctrl-C.

        Raises:
            HostGone: The thread is not there: closed, or left behind by a fork.
        """
        if not self._thread.is_alive():
            work.close()
            message = "this client was closed, or made before a fork; connect again"
            raise HostGone(message)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def iterate[T](self, items: AsyncIterator[T]) -> Iterator[T]:
        """Yield what an async iterator gives."""
        end: Any = object()

        async def following() -> Any:
            return await anext(items, end)

        async def leave() -> None:
            if hasattr(items, "aclose"):
                await items.aclose()

        try:
            while (item := self.run(following())) is not end:
                yield item
        finally:
            with suppress(HostGone):
                self.run(leave())

    def close(self) -> None:
        """End the loop and its thread; may be called more than once."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS)

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


class Host:
    """The host of one home."""

    def __init__(self, loop: LoopThread, host: asynchronous.Host) -> None:
        self.asynchronous = host
        self._loop = loop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def data(self) -> Path:
        """The host's data folder."""
        return self.asynchronous.data

    def new(self, name: str | None = None, **config: Any) -> "Session":
        """Create a session; as :meth:`paddock.client.Host.new`."""
        return self._session(self._loop.run(self.asynchronous.new(name, **config)))

    def ensure(self, name: str, **config: Any) -> "Session":
        """Return the session of a name, created if there is none."""
        return self._session(self._loop.run(self.asynchronous.ensure(name, **config)))

    def session(self, text: str) -> "Session":
        """Return the session of a name, an id, or a unique part of an id."""
        return self._session(self._loop.run(self.asynchronous.session(text)))

    def list_sessions(self, **filters: Any) -> list[dict[str, Any]]:
        """Return the rows of the view ``sessions`` that the filters choose."""
        return self._loop.run(self.asynchronous.list_sessions(**filters))

    def decide(
        self, approval_id: str, decision: Literal["allowed", "denied"], **how: Any
    ) -> "Session":
        """Answer an approval, in whichever session it is open."""
        decided = self.asynchronous.decide(approval_id, decision, **how)
        return self._session(self._loop.run(decided))

    def lives(self) -> list[dict[str, Any]]:
        """Return what lives now, one row a worker."""
        return self._loop.run(self.asynchronous.lives())

    def status(self) -> dict[str, Any]:
        """Return what the host is and how it fares."""
        return self._loop.run(self.asynchronous.status())

    def sql(self, query: str, params: Any = None, **how: Any) -> Rows:
        """Return what one SELECT over all sessions gives."""
        return self._loop.run(self.asynchronous.sql(query, params, **how))

    def down(self, **how: Any) -> None:
        """End the host."""
        self._loop.run(self.asynchronous.down(**how))

    def close(self) -> None:
        """Let go of the host, which goes on; may be called more than once."""
        if self._loop is not None:
            with suppress(HostGone):
                self._loop.run(self.asynchronous.close())
            self._loop.close()

    def _session(self, session: AsyncSession) -> "Session":
        return Session(self._loop, session)


class Operation:
    """A piece of work that a command began."""

    def __init__(self, loop: LoopThread, operation: AsyncOperation) -> None:
        self.asynchronous = operation
        self._loop = loop

    @property
    def operation_id(self) -> OperationId | None:
        """Its id; None while it is queued."""
        return self.asynchronous.operation_id

    def wait(self, deadline_seconds: float | None = None) -> Outcome:
        """Return how it ended."""
        return self._loop.run(self.asynchronous.wait(deadline_seconds))

    def interrupt(self) -> None:
        """End it."""
        self._loop.run(self.asynchronous.interrupt())


class Session:
    """One session of a host."""

    def __init__(self, loop: LoopThread, session: AsyncSession) -> None:
        self.asynchronous = session
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self.asynchronous)

    @property
    def session_id(self) -> SessionId:
        """Its id."""
        return self.asynchronous.session_id

    @property
    def name(self) -> str | None:
        """Its name, where it is known here."""
        return self.asynchronous.name

    def send(self, words: str | Sequence[UserPart], *, key: str | None = None) -> Operation:
        """Give the agent words; the same ``key`` again sends nothing twice."""
        return Operation(self._loop, self._loop.run(self.asynchronous.send(words, key=key)))

    def shell(self, command: str, *, key: str | None = None) -> Operation:
        """Run a shell command of the user's own."""
        return Operation(self._loop, self._loop.run(self.asynchronous.shell(command, key=key)))

    def command(self, arguments: Arguments, **how: Any) -> CommandSettled:
        """Have any command carried out; see ``paddock.session_worker.protocol``."""
        return self._loop.run(self.asynchronous.command(arguments, **how))

    def approve(self, approval_id: Any, **how: Any) -> None:
        """Let a call run."""
        self._loop.run(self.asynchronous.approve(approval_id, **how))

    def deny(self, approval_id: Any, **how: Any) -> None:
        """Do not let a call run."""
        self._loop.run(self.asynchronous.deny(approval_id, **how))

    def interrupt(self) -> None:
        """End the operation at work."""
        self._loop.run(self.asynchronous.interrupt())

    def suspend(self, deadline_seconds: float = 10.0, *, force: bool = True) -> bool:
        """Let the session rest; return whether it was live."""
        return self._loop.run(self.asynchronous.suspend(deadline_seconds, force=force))

    def resume(self, *, reset: bool = False) -> int:
        """Wake the session; return its generation."""
        return self._loop.run(self.asynchronous.resume(reset=reset))

    def delete(self, *, erase: bool = False, deadline_seconds: float = 10.0) -> None:
        """End the session for good."""
        ended = self.asynchronous.delete(erase=erase, deadline_seconds=deadline_seconds)
        self._loop.run(ended)

    def annotate(self, key: str, value: Any = None) -> None:
        """Put a remark into the session's history."""
        self._loop.run(self.asynchronous.annotate(key, value))

    def state(self) -> SessionState:
        """Return the session as its log tells it."""
        return self._loop.run(self.asynchronous.state())

    def events(self, *, after: int = 0, follow: bool = True) -> Iterator[Stored]:
        """Yield every event above ``after`` exactly once, in order."""
        return self._loop.iterate(self.asynchronous.events(after=after, follow=follow))
