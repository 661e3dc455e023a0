"""What comes in at a ZeroMQ socket, handed over as it comes, from an asyncio loop.

pyzmq's own asyncio sockets make a future, a timer and several look-ups of each message: half a
millisecond a command, of which this needs a tenth. ZeroMQ's descriptor is edge-triggered: it tells
once that something changed, so the socket is drained until it is empty or looked at again soon, and
looked at after each send, since that can swallow the edge.
"""

import asyncio
from collections.abc import Callable

import zmq

BATCH_MESSAGES = 200
"""So many are taken in before the loop turns to others: about 5 ms."""
READABLE = int(zmq.POLLIN)
"""A number: to ask a flag of an enumeration for its bit takes longer than to ask the socket."""


class Incoming:
    """Hands over each message of one socket; the socket itself stays its owner's."""

    def __init__(self, socket: zmq.Socket[bytes], heard: Callable[[list[zmq.Frame]], None]) -> None:
        self._socket = socket
        self._heard = heard
        self._descriptor = socket.fileno()
        self._is_due = False
        self._is_open = False

    def open(self) -> None:
        """Begin, in the running loop; what came before is handed over soon."""
        self._is_open = True
        asyncio.get_running_loop().add_reader(self._descriptor, self.drain)
        self.look()

    def close(self) -> None:
        """End it, before the socket is closed."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def look(self) -> None:
        """See whether something came: after each send."""
        if not self._is_due and self._has_more():
            self._come_back()

    def drain(self) -> None:
        """Hand over what is there now, at most a batch of it; the rest soon."""
        self._is_due = False
        is_empty = False
        try:
            for _ in range(BATCH_MESSAGES):
                is_empty = not self._is_open or not self._has_more()
                if is_empty:
                    return
                self._heard(self._socket.recv_multipart(zmq.DONTWAIT, copy=False))
        finally:
            if not is_empty:  # also where a word was a fault of ours: the others are heard
                self._come_back()

    def _come_back(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.drain)

    def _has_more(self) -> bool:
        events = self._socket.getsockopt(zmq.EVENTS)
        return bool(int(events) & READABLE)
