"""Who stands at a bound socket: counted, turned away if they never greet, and shut out if too many.

libzmq accepts whoever connects, and aborts its process when there is no descriptor left for one
more (``src/ipc_listener.cpp``). Two rules keep it from that. Whoever connects and says nothing is
let go after ``HANDSHAKE_SECONDS``. And while more stand at a door than its share of the descriptors
allows, its path is put aside, so that nobody finds it; who is in stays in, and is served.

The count cannot run ahead of us: libzmq tells of each connection on a socket of its own, and waits
for us to read that when a thousand are unread. What it accepts until the path is away is bounded,
therefore, however fast they come and however busy this loop is (measured: 6,000 connect, nobody
reads, and it stands still at 2,000; we ask for half of that).

A socket whose path somebody took away (``rm``, a cleaner of temporary folders) would stand there
for nobody: it is bound once more, under another name that is then moved to the path (to unbind it
first would not do: that removes, a little later, what stands there then). Who is connected does not
notice.
"""

import asyncio
import os
import resource
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import zmq

HANDSHAKE_SECONDS = 2.0
"""For what ZeroMQ's own threads do within a millisecond; who was too slow connects again."""
BATCH = 200
LOOK_SECONDS = 1.0
OPENS_AT = 0.5
"""Of its share: a door that was shut opens again when so few are left."""
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | FAILED | zmq.EVENT_MONITOR_STOPPED


class Porter:
    """Stands at the door of one socket; made before that is bound, closed before it is closed.

    ``turned_away`` is called for each who connected and never greeted, ``moved`` with True when the
    door is shut and with False when it is open again, and how many stand there.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        path: Path,
        *,
        share: float,
        turned_away: Callable[[], None],
        moved: Callable[[bool, int], None],
    ) -> None:
        self.is_shut = False
        self.count = 0
        """How many stand there."""
        self._socket = socket
        self._path, self._aside = path, path.with_suffix(".shut")
        self._place: tuple[int, int] | None = None
        self._share = share
        self._turned_away, self._moved = turned_away, moved
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = False
        self._aside.unlink(missing_ok=True)  # of one that was killed with its door shut
        socket.setsockopt(zmq.HANDSHAKE_IVL, int(HANDSHAKE_SECONDS * 1000))
        address = f"inproc://porter-{id(self)}"
        socket.monitor(address, EVENTS)
        self._news = socket.context.socket(zmq.PAIR)
        self._news.setsockopt(zmq.RCVHWM, 1)  # and the thousand of the other end
        self._news.setsockopt(zmq.LINGER, 0)
        self._news.connect(address)

    def open(self) -> None:
        """Begin to count, in the running loop."""
        self._is_open = True
        self._place = _place_of(self._path)
        asyncio.get_running_loop().add_reader(self._news.fileno(), self._drain)
        self._drain()
        self._look()

    def close(self) -> None:
        """End it. libzmq's thread may wait for us to read: that goes on until it has stopped."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._news.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._aside.unlink(missing_ok=True)
        reading = threading.Thread(target=self._read_to_the_end, daemon=True)
        reading.start()
        self._socket.monitor(None, 0)
        reading.join()
        self._news.close()

    def _read_to_the_end(self) -> None:
        while _kind_of(self._news.recv_multipart()) != zmq.EVENT_MONITOR_STOPPED:
            pass

    def _drain(self) -> None:
        """Take in a batch of what is there; the descriptor tells of changes, not of what stays."""
        for _ in range(BATCH):
            if not self._is_open:
                return
            try:
                self._take(_kind_of(self._news.recv_multipart(zmq.NOBLOCK)))
            except zmq.Again:
                break
        else:
            asyncio.get_running_loop().call_soon(self._drain)
        self._judge()

    def _take(self, kind: int) -> None:
        if kind == zmq.EVENT_ACCEPTED:
            self.count += 1
        elif kind == zmq.EVENT_DISCONNECTED:
            self.count = max(0, self.count - 1)
        elif kind & FAILED:
            self._turned_away()

    def _judge(self) -> None:
        most = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * self._share)
        if not self.is_shut and self.count > most:
            self._move(self._path, self._aside, is_shut=True)
        elif self.is_shut and self.count <= most * OPENS_AT:
            self._move(self._aside, self._path, is_shut=False)

    def _move(self, old: Path, new: Path, *, is_shut: bool) -> None:
        with suppress(FileNotFoundError):  # somebody took it away: then nobody finds it either
            old.replace(new)
        self.is_shut = is_shut
        self._moved(is_shut, self.count)

    def _look(self) -> None:
        """See to a door that is shut, and to a path that is gone."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        if self.is_shut:
            # Nobody can stand there without a descriptor, whatever was counted.
            self.count = min(self.count, sum(1 for _ in Path("/dev/fd").iterdir()))
            self._judge()
        elif _place_of(self._path) != self._place:
            with suppress(OSError, zmq.ZMQError):  # no room, or no right: it is tried again
                self._stand_anew()

    def _stand_anew(self) -> None:
        folder, new = self._path.parent, self._path.with_suffix(".new")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # a temporary folder takes anybody's
            return
        mask = os.umask(0o177)
        try:
            self._socket.bind(f"ipc://{new}")
        finally:
            os.umask(mask)
        new.chmod(0o600)
        new.replace(self._path)
        self._place = _place_of(self._path)


def _place_of(path: Path) -> tuple[int, int] | None:
    """Return which file stands at a path, None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _kind_of(frames: list[bytes]) -> int:
    """Return which event libzmq tells: the first two bytes, in the order of this machine."""
    return int.from_bytes(frames[0][:2], sys.byteorder)
