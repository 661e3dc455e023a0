"""What a session does, as it does it: every event once and in order, and previews between them.

A feed outlives the connections and the hosts that serve it: it remembers the last sequence that it
handed out, and asks the next host for what comes after (R8).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import msgpack
from pydantic import JsonValue

from paddock.client.connection import Connection, Reply
from paddock.client.plainly import plainly
from paddock.store.errors import PeerBroke, SessionNotFound
from paddock.store.events import Row, Stored, stored_of
from paddock.store.ids import SessionId
from paddock.supervisor.errors import HostGone
from paddock.supervisor.protocol import Consumed, Events, Notice, Preview, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from paddock.client.host import Host

PREVIEWS_KEPT = 2_000
"""Above this the oldest previews are dropped; they are never the truth (DESIGN §5)."""


@dataclass(frozen=True, slots=True)
class Previewed:
    """A piece of a message (or of a tool's output) in the making; perhaps lost, never stored."""

    message_id: str
    channel: Literal["text", "thinking", "output", "reset"]
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something about the session that is no event of it: that it lives, runs short of memory.

    ``ended`` says that the host is gone, and is followed by what the next one tells.
    """

    what: Literal["live", "suspended", "died", "deleted", "failed", "damaged", "memory", "ended"]
    detail: dict[str, JsonValue]


type Told = Stored | Previewed | Noticed


@plainly
class Feed:
    """What is told of one session from a sequence on; an async iterator and context manager.

    It ends when the session is deleted, or, with ``follow`` False, at what was its last event when
    the feed began.
    """

    def __init__(
        self,
        host: "Host",
        session_id: SessionId,
        *,
        after: int = 0,
        follow: bool = True,
        wake: bool = False,
        exclusive: bool = False,
        deltas: bool = True,
    ) -> None:
        self.session_id = session_id
        self.position = after
        """The sequence of the last event that was handed out."""
        self._host = host
        self._follow = follow
        self._wake = wake
        self._exclusive = exclusive
        self._deltas = deltas
        self._until: int | None = None
        self._head = 0
        self._connection: Connection | None = None
        self._subscription: int | None = None
        self._heard: deque[Events | Preview | Notice] = deque()
        self._previews = 0
        self._ready: deque[Told] = deque()
        self._something = asyncio.Event()
        self._is_over = False

    def __aiter__(self) -> AsyncIterator[Told]:
        return self

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def begin(self) -> None:
        """Subscribe, if that is not done yet.

        Raises:
            SessionNotFound: There is no such session.
            HostGone: No host could be reached.
        """
        if self._connection is None and not self._is_over:
            await self._subscribe()

    async def __anext__(self) -> Told:
        while not self._ready:
            if self._is_at_end():
                self.close()
                raise StopAsyncIteration
            if not self._heard:
                await self._wait()
            if self._heard:
                await self._take(self._heard.popleft())
        told = self._ready.popleft()
        if isinstance(told, Stored):
            self.position = told.sequence
            if not self._ready:
                self._acknowledge()
        return told

    @property
    def is_drained(self) -> bool:
        """Whether all that was told so far has been handed out."""
        return not self._ready and not self._heard

    @property
    def is_caught_up(self) -> bool:
        """Whether all that had happened when the feed last began has been handed out."""
        return self.is_drained and self.position >= self._head

    def close(self) -> None:
        """Listen no more; may be called more than once."""
        self._is_over = True
        self._let_go()

    # --- inside ---

    def _is_at_end(self) -> bool:
        if self._is_over:
            return True
        return self._until is not None and self.position >= self._until

    async def _wait(self) -> None:
        if self._connection is None or self._subscription is None:
            await self._subscribe_again()
            return
        self._something.clear()
        await self._something.wait()

    async def _subscribe(self) -> None:
        self._let_go()
        ask = Subscribe(
            session_id=self.session_id,
            after=self.position,
            wake=self._wake,
            exclusive=self._exclusive,
            deltas=self._deltas,
        )

        is_wanted = True

        def answered(connection: Connection, reply: Reply) -> None:
            # At once, while what follows the answer is still unread.
            number = reply["subscription_id"]
            assert isinstance(number, int)
            if not is_wanted:
                connection.tell(Unsubscribe(subscription_id=number))
                return
            self._connection, self._subscription = connection, number
            connection.listen(number, self._hear)

        try:
            reply = await self._host.ask(ask, on_answer=answered)
        except BaseException:
            # Cancelled or too late: the host may have begun it, and nobody would ever end it.
            is_wanted = False
            self._let_go()
            raise
        head = reply["head"]
        assert isinstance(head, int)
        self._head = head
        if not self._follow and self._until is None:
            self._until = head

    def _hear(self, word: Events | Preview | Notice) -> None:
        if isinstance(word, Preview):
            if self._previews >= PREVIEWS_KEPT:
                self._drop_oldest_preview()
            self._previews += 1
        self._heard.append(word)
        self._something.set()

    def _drop_oldest_preview(self) -> None:
        for place, word in enumerate(self._heard):
            if isinstance(word, Preview):
                del self._heard[place]
                self._previews -= 1
                return

    async def _take(self, word: Events | Preview | Notice) -> None:
        match word:
            case Events():
                self._take_events(word)
            case Preview():
                self._previews -= 1
                self._ready.append(Previewed(word.message_id, word.channel, word.offset, word.text))
            case Notice(what="ended"):
                self._ready.append(Noticed(word.what, word.detail))
                self._let_go()
            case Notice(what="deleted"):
                self._ready.append(Noticed(word.what, word.detail))
                self._is_over = True
                self._let_go()
            case Notice():
                self._ready.append(Noticed(word.what, word.detail))

    def _take_events(self, word: Events) -> None:
        expected = self._expected()
        for row in rows_of(word.rows):
            if row.sequence < expected:
                continue  # sent twice: by the file and by the worker
            if row.sequence > expected:
                self._let_go()  # a gap: the host is asked again, from where we stand
                self._heard.clear()
                self._previews = 0
                return
            self._ready.append(stored_of(self.session_id, row))
            expected += 1

    def _expected(self) -> int:
        for told in reversed(self._ready):
            if isinstance(told, Stored):
                return told.sequence + 1
        return self.position + 1

    async def _subscribe_again(self) -> None:
        try:
            await self._subscribe()
        except SessionNotFound:
            # It was deleted while nobody could tell us.
            self._is_over = True
            self._ready.append(Noticed("deleted", {}))
        except HostGone:
            self._is_over = True
            raise

    def _acknowledge(self) -> None:
        if self._connection is not None and self._subscription is not None:
            self._connection.tell(
                Consumed(subscription_id=self._subscription, sequence=self.position)
            )

    def _let_go(self) -> None:
        if self._connection is not None and self._subscription is not None:
            self._connection.ignore(self._subscription)
            self._connection.tell(Unsubscribe(subscription_id=self._subscription))
        self._connection = self._subscription = None
        self._something.set()


def rows_of(packed: bytes) -> list[Row]:
    """Return the rows of an ``Events`` word.

    Raises:
        PeerBroke: They are no rows. The host's fault.
    """
    try:
        rows = msgpack.unpackb(packed, unicode_errors="surrogatepass")
        return [Row._make([*row, b""]) for row in rows]
    except (ValueError, TypeError) as error:
        message = f"{len(packed)} bytes of events are no rows"
        raise PeerBroke(message, size_bytes=len(packed)) from error
