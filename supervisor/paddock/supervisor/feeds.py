"""Subscriptions at work: what workers forward goes out, what is missed is read from the files."""

from dataclasses import dataclass
from itertools import count

from paddock.session_worker.errors import BadMessage
from paddock.session_worker.protocol import Beat, Bye, Delta, Durable, FromWorker
from paddock.store.errors import NeedsFold, PaddockError
from paddock.store.ids import SessionId
from paddock.supervisor import births
from paddock.supervisor.doors import Door
from paddock.supervisor.feed import Read, Subscriber
from paddock.supervisor.loop import Host
from paddock.supervisor.protocol import (
    Events,
    FromClient,
    Notice,
    Preview,
    Subscribe,
    ToClient,
)
from paddock.supervisor.record import Record
from paddock.supervisor.stimuli import FoundOpen, Notify, Stage, Touched


@dataclass(frozen=True, slots=True)
class _Place:
    session_id: SessionId
    client: bytes


class Feeds:
    """All subscriptions of a host."""

    def __init__(self, host: Host, door: Door[FromClient, ToClient]) -> None:
        self._host = host
        self._door = door
        self._places: dict[int, _Place] = {}
        self._numbers = count(1)
        host.forwarded = self.follow

    # --- who listens ---

    def subscribe(self, client: bytes, record: Record, words: Subscribe) -> tuple[int, list[Read]]:
        """Add a subscription; the reads are to be begun when it was answered.

        Raises:
            SessionHasListener: Somebody listens exclusively, or this one wants to among others.
        """
        number = next(self._numbers)
        subscriber = Subscriber(
            number,
            client,
            position=words.after,
            consumed=words.after,
            wants_deltas=words.deltas,
            is_exclusive=words.exclusive,
        )
        reads = record.feed.join(subscriber)
        self._places[number] = _Place(record.session_id, client)
        return number, reads

    def unsubscribe(self, client: bytes, number: int) -> bool:
        """End a subscription of a client; return whether it had it."""
        place = self._places.get(number)
        if place is None or place.client != client:
            return False
        del self._places[number]
        record = self._host.records.get(place.session_id)
        if record is not None:
            record.feed.leave(number)
            self._host.stimulate(record, Touched(self._host.now()))
        return True

    def leave(self, client: bytes) -> None:
        """End all subscriptions of a client that is gone."""
        for number, place in list(self._places.items()):
            if place.client == client:
                self.unsubscribe(client, number)

    def consumed(self, client: bytes, number: int, sequence: int) -> None:
        """Take note of what a subscriber took in."""
        place = self._places.get(number)
        record = None if place is None else self._host.records.get(place.session_id)
        if place is not None and place.client == client and record is not None:
            self.read(record, record.feed.consumed(number, sequence))

    # --- what they get ---

    def follow(self, record: Record, word: FromWorker) -> None:
        """Pass on what a worker forwards, to those who can take it as it is."""
        match word:
            case Durable():
                direct, reads = record.feed.grew(
                    word.first,
                    word.count,
                    is_carried=word.rows is not None,
                    size_bytes=len(word.rows or b""),
                )
                for subscriber in direct:
                    assert word.rows is not None, "direct ones are given only what is carried"
                    self._send(subscriber, word.first, word.count, word.rows)
                self.read(record, reads)
            case Delta():
                self._preview(record, word)
            case Beat() | Bye():
                self.read(record, record.feed.head_is(word.head))
            case _:
                pass

    def notify(self, record: Record, notice: Notify) -> None:
        """Tell the subscribers of a session something that is no event of it."""
        is_end = notice.what == "deleted"
        for subscriber in list(record.feed.subscribers.values()):
            self._door.say(
                subscriber.client,
                Notice.model_validate(
                    {
                        "subscription_id": subscriber.subscription_id,
                        "what": notice.what,
                        "detail": notice.detail,
                    }
                ),
            )
            if is_end:
                record.feed.leave(subscriber.subscription_id)
                self._places.pop(subscriber.subscription_id, None)

    def read(self, record: Record, reads: list[Read]) -> None:
        """Read the file for those who are behind; one read a subscriber at a time."""
        for each in reads:
            self._host.spawn_task(self._read(record, each))

    async def _read(self, record: Record, read: Read) -> None:
        session_id, data = record.session_id, self._host.setting.data
        subscriber = record.feed.subscribers.get(read.subscription_id)
        if subscriber is None:
            return
        number, rows = 0, b""
        try:
            number, rows = await self._host.on_disk(
                lambda: births.read(data, session_id, read.after, read.limit)
            )
        except NeedsFold:
            # Its owner died; the burial folds the file, and its end begins the read anew.
            if record.life.stage is Stage.COLD:
                self._host.stimulate(record, FoundOpen(self._host.now()))
        except PaddockError as error:
            self._end(record, subscriber, error)
            return
        if read.subscription_id not in record.feed.subscribers:
            return
        try:
            if number:
                self._send(subscriber, read.after + 1, number, rows)
        except BadMessage as error:  # an event larger than a message may be
            self._end(record, subscriber, error)
            return
        first = read.after + 1
        self.read(record, record.feed.was_read(read.subscription_id, first, number, len(rows)))

    def _end(self, record: Record, subscriber: Subscriber, error: PaddockError) -> None:
        record.feed.leave(subscriber.subscription_id)
        self._places.pop(subscriber.subscription_id, None)
        what = "damaged" if error.code in {"damaged", "newer_format"} else "ended"
        detail: dict[str, object] = {"code": error.code, "reason": error.message}
        self._door.say(
            subscriber.client,
            Notice.model_validate(
                {"subscription_id": subscriber.subscription_id, "what": what, "detail": detail}
            ),
        )

    def _send(self, subscriber: Subscriber, first: int, number: int, rows: bytes) -> None:
        word = Events(
            subscription_id=subscriber.subscription_id, first=first, count=number, rows=rows
        )
        self._door.say(subscriber.client, word)

    def _preview(self, record: Record, delta: Delta) -> None:
        for subscriber in record.feed.preview_to():
            if self._door.is_slow(subscriber.client):
                continue
            self._door.say(
                subscriber.client,
                Preview(
                    subscription_id=subscriber.subscription_id,
                    message_id=delta.message_id,
                    channel=delta.channel,
                    offset=delta.offset,
                    text=delta.text,
                ),
            )
