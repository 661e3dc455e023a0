"""Where each subscriber of a session stands: replay from the file, then follow what is forwarded.

Pure bookkeeping. What a worker forwards goes to a subscriber only if it begins where he stands and
he has room for it; otherwise nothing is kept for him and the file is read from his position when he
has. So a slow one costs the host nothing and misses nothing (F9). Deltas go only to those who are
up to date, and may be lost.
"""

from collections import deque
from dataclasses import dataclass, field

from paddock.store.errors import Bug
from paddock.supervisor.errors import SessionHasListener

WINDOW_EVENTS = 1000
"""So many events may be on the way to a subscriber before he says that he took them in."""

WINDOW_BYTES = 8 * 1024 * 1024
"""So many bytes of them, too: events of a megabyte are not rare, and all that is on the way to a
slow subscriber is held in this process's memory."""

READ_EVENTS = 200
"""So many are read from a file at once: a few hundred kB of ordinary events."""


@dataclass(slots=True)
class Subscriber:
    """One subscription: what was sent to it (``position``) and what it took in (``consumed``)."""

    subscription_id: int
    client: bytes
    position: int
    consumed: int
    wants_deltas: bool = True
    is_exclusive: bool = False
    is_reading: bool = False
    on_the_way: deque[tuple[int, int]] = field(default_factory=deque)
    """What was sent and not taken in: the last event of each message, and its bytes."""
    bytes_on_the_way: int = 0

    @property
    def room(self) -> int:
        """How many more events may be sent."""
        if self.bytes_on_the_way >= WINDOW_BYTES:
            return 0
        return max(0, WINDOW_EVENTS - (self.position - self.consumed))

    def was_sent(self, last: int, size_bytes: int) -> None:
        """Note that events up to ``last`` go to it."""
        self.position = last
        self.on_the_way.append((last, size_bytes))
        self.bytes_on_the_way += size_bytes

    def took_in(self, sequence: int) -> None:
        """Note what it took in."""
        self.consumed = max(self.consumed, min(sequence, self.position))
        while self.on_the_way and self.on_the_way[0][0] <= self.consumed:
            self.bytes_on_the_way -= self.on_the_way.popleft()[1]


@dataclass(frozen=True, slots=True)
class Read:
    """The file is to be read for a subscriber: events above ``after``, at most ``limit``."""

    subscription_id: int
    after: int
    limit: int


@dataclass(slots=True)
class Feed:
    """The subscribers of one session and the head that they follow."""

    head: int = 0
    subscribers: dict[int, Subscriber] = field(default_factory=dict)

    def join(self, subscriber: Subscriber) -> list[Read]:
        """Add a subscriber; return what is to be read for him.

        Raises:
            SessionHasListener: Somebody listens exclusively, or he wants to while others listen.
        """
        others = self.subscribers.values()
        if any(other.is_exclusive for other in others) or (subscriber.is_exclusive and others):
            message = "another client listens to this session: wait until it leaves"
            raise SessionHasListener(message, listeners=len(others))
        self.subscribers[subscriber.subscription_id] = subscriber
        return self._read_for(subscriber)

    def leave(self, subscription_id: int) -> Subscriber | None:
        """Remove a subscriber; None if there is none of that id."""
        return self.subscribers.pop(subscription_id, None)

    def grew(
        self, first: int, count: int, *, is_carried: bool, size_bytes: int = 0
    ) -> tuple[list[Subscriber], list[Read]]:
        """Note that events are durable; return who gets them as they are, and what to read."""
        last = first + count - 1
        self.head = max(self.head, last)
        direct: list[Subscriber] = []
        reads: list[Read] = []
        for subscriber in self.subscribers.values():
            if (
                is_carried
                and not subscriber.is_reading
                and subscriber.position == first - 1
                and subscriber.room >= count
            ):
                subscriber.was_sent(last, size_bytes)
                direct.append(subscriber)
            else:
                reads += self._read_for(subscriber)
        return direct, reads

    def head_is(self, head: int) -> list[Read]:
        """Note how far the session is (a beat, a greeting); return what is to be read."""
        self.head = max(self.head, head)
        return [read for each in self.subscribers.values() for read in self._read_for(each)]

    def was_read(
        self, subscription_id: int, first: int, count: int, size_bytes: int = 0
    ) -> list[Read]:
        """Note that a read came back and was sent; return what is to be read next.

        ``count`` is 0 where the file had nothing above (it is behind its head for a moment).
        """
        subscriber = self.subscribers.get(subscription_id)
        if subscriber is None:
            return []
        subscriber.is_reading = False
        if count == 0:
            return []
        if first != subscriber.position + 1:
            message = f"read from {first} for a subscriber who stands at {subscriber.position}"
            raise Bug(message)
        subscriber.was_sent(first + count - 1, size_bytes)
        self.head = max(self.head, subscriber.position)
        return self._read_for(subscriber)

    def consumed(self, subscription_id: int, sequence: int) -> list[Read]:
        """Note what a subscriber took in; return what is to be read for him now."""
        subscriber = self.subscribers.get(subscription_id)
        if subscriber is None:
            return []
        subscriber.took_in(sequence)
        return self._read_for(subscriber)

    def preview_to(self) -> list[Subscriber]:
        """Return who gets a delta: who wants them and is up to date."""
        return [
            each
            for each in self.subscribers.values()
            if each.wants_deltas and not each.is_reading and each.position >= self.head
        ]

    def _read_for(self, subscriber: Subscriber) -> list[Read]:
        if subscriber.is_reading or subscriber.position >= self.head or subscriber.room == 0:
            return []
        subscriber.is_reading = True
        limit = min(READ_EVENTS, subscriber.room)
        return [Read(subscriber.subscription_id, subscriber.position, limit)]
