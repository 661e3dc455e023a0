"""A door: one ROUTER socket, drained without waiting, a bounded queue for each who stands there.

Bytes that are no message, of another version, or from another user are counted and dropped, and
nobody else notices (F11); who connects in silence, or comes with thousands, is the porter's.
ZeroMQ's descriptor is edge-triggered: it tells once that something changed, so it is drained until
empty, or looked at again soon; a send can swallow the edge as well.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import zmq

from paddock.session_worker.errors import BadMessage
from paddock.session_worker.incoming import Incoming
from paddock.session_worker.wire import MESSAGE_LIMIT_BYTES, Vocabulary, Word
from paddock.store.porter import Porter

log = structlog.get_logger("paddock.supervisor.doors")

QUEUE_MESSAGES = 2000
QUEUE_BYTES = 64 * 1024 * 1024
"""Of words that wait for a peer who does not read; above it the peer is dropped."""
SOCKET_MESSAGES = 1000
RETRY_SECONDS = 0.01
"""A ROUTER does not tell when a full peer has room again: it is tried."""
PEER_FIELDS = 4


@dataclass(frozen=True, slots=True)
class Peer:
    """Who stands at the other end, as the kernel told when it connected."""

    identity: bytes
    pid: int
    uid: int


@dataclass(slots=True)
class Counters:
    """What came and went at a door."""

    heard: int = 0
    said: int = 0
    bad: int = 0
    strangers: int = 0
    dropped: int = 0
    shut: int = 0
    """How often more stood here than may."""
    refused: int = 0
    """Greetings of workers that are none, and what a session's own processes may not ask."""


@dataclass(slots=True)
class _Outbox:
    frames: deque[bytes] = field(default_factory=deque)
    size_bytes: int = 0


class Door[H: Word, S: Word]:
    """One socket: ``heard`` is called with each word, ``lost`` with each peer that is gone.

    ``broke`` is called with a word in whose hearing a fault of ours lies: it counts as not heard.
    ``share``: of this process's descriptors so many may be connections here.
    """

    def __init__(  # noqa: PLR0913 - what a door is made of
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        path: Path,
        hears: Vocabulary[H],
        says: Vocabulary[S],
        *,
        uid: int,
        share: float,
        heard: Callable[[Peer, H], None],
        refused: Callable[[Peer, BadMessage], None],
        broke: Callable[[Peer, H], None],
        lost: Callable[[bytes], None],
    ) -> None:
        self.address = f"ipc://{path}"
        self.counters = Counters()
        self._hears, self._says, self._uid = hears, says, uid
        self._heard, self._refused, self._broke, self._lost = heard, refused, broke, lost
        self._outboxes: dict[bytes, _Outbox] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT_BYTES)
        self._socket.setsockopt(zmq.SNDHWM, SOCKET_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, SOCKET_MESSAGES)
        self._porter = Porter(
            self._socket, path, share=share, turned_away=self._turned_away, moved=self._moved
        )
        self._socket.bind(self.address)
        self._incoming = Incoming(self._socket, self._take)
        path.chmod(0o600)

    def open(self) -> None:
        """Begin to listen."""
        self._porter.open()
        self._incoming.open()

    def close(self) -> None:
        """End it; what was said last has a moment to get out."""
        if self._socket.closed:
            return
        self._incoming.close()
        self._porter.close()
        if self._retry is not None:
            self._retry.cancel()
        self._socket.close()

    def say(self, identity: bytes, word: S) -> bool:
        """Say a word to a peer; return False if that peer is gone, or was dropped as too slow."""
        try:
            frame = self._says.pack(word)
        except BadMessage:
            self.counters.bad += 1
            raise
        return self.send(identity, frame)

    def send(self, identity: bytes, frame: bytes) -> bool:
        """Send a packed word, as :meth:`say` does."""
        outbox = self._outboxes.get(identity)
        if outbox is None:
            sent = self._try(identity, frame)
            if sent is not None:
                return sent
            outbox = self._outboxes[identity] = _Outbox()
            self._retry_soon()
        outbox.frames.append(frame)
        outbox.size_bytes += len(frame)
        if len(outbox.frames) > QUEUE_MESSAGES or outbox.size_bytes > QUEUE_BYTES:
            self.counters.dropped += 1
            self._lose(identity)
            return False
        return True

    def is_slow(self, identity: bytes) -> bool:
        """Whether words wait for this peer to read."""
        return identity in self._outboxes

    def forget(self, identity: bytes) -> None:
        """Keep nothing more for this peer."""
        self._outboxes.pop(identity, None)

    def drain(self) -> None:
        """Hear now what is there, at most a batch of it."""
        self._incoming.drain()

    def _take(self, frames: list[zmq.Frame]) -> None:
        identity = frames[0].bytes
        peer = _peer_of(identity, frames[-1])
        if peer is None or peer.uid != self._uid:
            self.counters.strangers += 1
            return
        try:
            if len(frames) != 2:  # noqa: PLR2004 - an identity and one word
                message = f"{len(frames)} frames are no message"
                raise BadMessage(message)
            word = self._hears.unpack(frames[1].buffer)
        except BadMessage as error:
            self.counters.bad += 1
            self._refused(peer, error)
            return
        self.counters.heard += 1
        try:
            self._heard(peer, word)
        except Exception:
            self._broke(peer, word)
            raise

    def _turned_away(self) -> None:
        """Somebody connected and never said what a ZeroMQ socket says first."""
        self.counters.strangers += 1

    def _moved(self, is_shut: bool, count: int) -> None:  # noqa: FBT001 - the porter's words
        self.counters.shut += is_shut
        log.warning("door_shut" if is_shut else "door_open", door=self.address, connections=count)

    def _try(self, identity: bytes, frame: bytes) -> bool | None:
        """Send now; None if there is no room, False if the peer is gone."""
        try:
            self._socket.send_multipart((identity, frame), zmq.DONTWAIT)
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._lose(identity)
            return False
        self.counters.said += 1
        self._incoming.look()
        return True

    def _retry_soon(self) -> None:
        if self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(RETRY_SECONDS, self._flush)

    def _flush(self) -> None:
        self._retry = None
        if self._socket.closed:
            return
        for identity, outbox in list(self._outboxes.items()):
            while outbox.frames:
                sent = self._try(identity, outbox.frames[0])
                if sent is not True:
                    break
                outbox.size_bytes -= len(outbox.frames.popleft())
            if not outbox.frames:
                self._outboxes.pop(identity, None)
        if self._outboxes:
            self._retry_soon()

    def _lose(self, identity: bytes) -> None:
        self.forget(identity)
        asyncio.get_running_loop().call_soon(self._lost, identity)


def _peer_of(identity: bytes, frame: zmq.Frame) -> Peer | None:
    """Return who sent a frame: over ipc its ``Peer-Address`` is ``localhost:uid:gid:pid``."""
    try:
        fields = str(frame.get("Peer-Address")).split(":")
        if len(fields) != PEER_FIELDS:
            return None
        return Peer(identity, int(fields[3]), int(fields[1]))
    except (zmq.ZMQError, ValueError):
        return None
