"""The line to the supervisor of the moment: a fresh socket and greeting for each.

What cannot be sent is not kept, but for answers: whoever misses a word reads the file. A supervisor
that goes away is noticed by its pidfd; the next one is found in ``host.json``.
"""

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import zmq

from paddock.session_worker.errors import BadMessage
from paddock.session_worker.incoming import Incoming
from paddock.session_worker.protocol import (
    FROM_WORKER,
    TO_WORKER,
    Beat,
    Delta,
    Durable,
    FromWorker,
    GreetAgain,
    ToWorker,
    Welcome,
)

SEND_QUEUE_FRAMES = 1000
"""Frames that wait in the socket when the supervisor is slow; what does not fit is left out."""

LATE_WORDS = 1000
"""Answers that wait for room: far more than commands can be on their way to one session."""

LOOK_SECONDS = 0.1
"""How often ``host.json`` is looked at while there is no supervisor: adoption takes at most 1 s."""

WELCOME_SECONDS = 5.0
"""A supervisor that does not answer a greeting for so long is greeted anew."""


@dataclass(frozen=True, slots=True)
class HostAddress:
    """Where the supervisor of the moment listens to workers."""

    address: str
    epoch: int
    pid: int

    @classmethod
    def read(cls, runtime: Path) -> Self | None:
        """Return what ``host.json`` says, or None if there is none (or half of one)."""
        try:
            told = json.loads((runtime / "host.json").read_text())
            return cls(told["workers_address"], int(told["epoch"]), int(told["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Link:
    """Says what the loop wants said, and hands it what the supervisor says."""

    def __init__(
        self,
        runtime: Path,
        first: HostAddress,
        hello: Callable[[], FromWorker],
        heard: Callable[[ToWorker], None],
    ) -> None:
        self.epoch = first.epoch
        self.lost_at: float | None = None
        """When the supervisor was lost (the loop's clock), None while there is one."""
        self._runtime = runtime
        self._host = first
        self._hello = hello
        self._heard = heard
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] | None = None
        self._incoming: Incoming | None = None
        self._late: deque[FromWorker] = deque()
        self._welcomed = asyncio.Event()
        self._again = asyncio.Event()

    async def run(self) -> None:
        """Keep a line to whoever is the supervisor, until cancelled."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                ended = await self._speak_with(self._host)
                if self.lost_at is None:
                    self.lost_at = clock()
                if ended:
                    await self._wait_next_host()
                else:  # it may be another one by now, or its pid be reused
                    self._host = HostAddress.read(self._runtime) or self._host
        finally:
            self._drop()
            self._context.destroy(linger=200)

    def say(self, word: FromWorker) -> bool:
        """Send a word if there is room; return whether it went.

        Without room previews are lost, and what the next beat or the file tells as well. Others
        wait here, in their order, for a supervisor that is slow: it counts on them, and without
        this connection they are told by the next greeting.
        """
        if self._socket is None:
            return False
        while self._late and self._send(self._late[0]):
            self._late.popleft()
        if not self._late and self._send(word):
            return True
        if not isinstance(word, Delta | Durable | Beat) and len(self._late) < LATE_WORDS:
            self._late.append(word)
        return False

    def _send(self, word: FromWorker) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send(FROM_WORKER.pack(word), zmq.DONTWAIT)
        except zmq.ZMQError:
            return False  # no room, or nobody there
        if self._incoming is not None:
            self._incoming.look()
        return True

    async def _speak_with(self, host: HostAddress) -> bool:
        """Greet a supervisor and hear it; return True when its process ended.

        False: it did not answer, or does not know this connection any more.
        """
        try:
            pidfd = os.pidfd_open(host.pid)
        except ProcessLookupError:
            return True
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, gone.set)
        self._connect(host)
        ends = {asyncio.create_task(event.wait()) for event in (gone, self._again)}
        welcomed = asyncio.create_task(self._welcomed.wait())
        try:
            self.say(self._hello())
            await asyncio.wait(
                {*ends, welcomed}, timeout=WELCOME_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if self._welcomed.is_set():
                self.lost_at = None
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return gone.is_set()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            for task in (*ends, welcomed):
                task.cancel()
            await asyncio.gather(*ends, welcomed, return_exceptions=True)
            self._drop()

    def _connect(self, host: HostAddress) -> None:
        self._welcomed.clear()
        self._again.clear()
        socket = self._context.socket(zmq.DEALER)
        # DEALER's own reconnecting loses the middle of what was sent and goes on (DESIGN §2).
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_FRAMES)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.IMMEDIATE, 0)
        socket.connect(host.address)
        self._socket = socket
        self._incoming = Incoming(socket, self._hear)
        self._incoming.open()

    def _drop(self) -> None:
        socket, self._socket = self._socket, None
        incoming, self._incoming = self._incoming, None
        self._late.clear()
        if incoming is not None:
            incoming.close()
        if socket is not None:
            socket.close(linger=200)

    def _hear(self, frames: list[zmq.Frame]) -> None:
        try:
            word = TO_WORKER.unpack(frames[-1].buffer)
        except BadMessage:
            return  # not from a supervisor of ours: nothing is lost by leaving it out
        if isinstance(word, Welcome):
            if word.epoch < self.epoch:
                return  # an older supervisor that is not gone yet
            self.epoch = word.epoch
            self._welcomed.set()
        if isinstance(word, GreetAgain):
            self._again.set()
            return
        self._heard(word)

    async def _wait_next_host(self) -> None:
        """Wait until ``host.json`` names another supervisor than the one that went away."""
        while True:
            found = HostAddress.read(self._runtime)
            if found is not None and (found.pid, found.epoch) != (self._host.pid, self._host.epoch):
                self._host = found
                return
            await asyncio.sleep(LOOK_SECONDS)
