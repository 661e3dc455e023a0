"""One greeting with one host: a DEALER socket from its opening to its end, never mended.

libzmq's own reconnect loses the middle of what was sent (DESIGN §2), so it is switched off. When
the peer goes, the connection has ended, all that waits on it hears ``HostGone``, and whoever wants
to go on opens another one and asks again with the same ids.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

import zmq
from pydantic import JsonValue

from paddock.client.failures import error_of
from paddock.session_worker.errors import BadArgument, BadMessage
from paddock.session_worker.incoming import Incoming
from paddock.session_worker.wire import MESSAGE_LIMIT_BYTES
from paddock.store.errors import PaddockError, TimedOut, TooLarge
from paddock.store.ids import CommandId
from paddock.supervisor import protocol
from paddock.supervisor.errors import HostGone, NotGreeted
from paddock.supervisor.protocol import (
    FROM_CLIENT,
    TO_CLIENT,
    Alive,
    Answer,
    Ask,
    CommandSettled,
    Events,
    Failed,
    FromClient,
    Greet,
    Leave,
    Notice,
    Preview,
    ToClient,
    Verb,
)

GREETING_SECONDS = 5.0
ALIVE_SECONDS = 4.0
"""A client silent for 15 s counts as having left (L11): three beats may be lost."""
SILENT_SECONDS = 12.0
"""A loop that stood still for longer may have been given up by the host: it greets anew."""
QUEUED_MESSAGES = 10_000
"""What libzmq holds in either direction before it says "full"."""

type Heard = Callable[[Events | Preview | Notice], None]
type Reply = dict[str, JsonValue]


def paddock_version() -> str:
    """Return the version of the installed package, or ``0`` where it is not installed."""
    try:
        return version("paddock")
    except PackageNotFoundError:
        return "0"


class Connection:
    """A conversation with one host process."""

    def __init__(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
        self.host: protocol.Host | None = None
        self._socket = socket
        self._monitor = monitor
        self._words = Incoming(socket, self._hear)
        self._news = Incoming(monitor, self._lost)
        self._ended = asyncio.Event()
        self._has_left = False
        self._spoke_at = asyncio.get_running_loop().time()
        self._reason = "the host went away"
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[asyncio.Future[Reply], Callable[[Reply], None] | None]] = {}
        self._settled: dict[CommandId, list[asyncio.Future[CommandSettled]]] = {}
        """Of each command all who wait for its answer: the same id may be asked twice at once."""
        self._commands: dict[int, asyncio.Future[CommandSettled]] = {}
        """By their requests: one that was accepted may be told to have no answer for now."""
        self._heard: dict[int, Heard] = {}
        self._greeted: asyncio.Future[protocol.Host] = asyncio.get_running_loop().create_future()
        self._beats: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        *,
        name: str = "client",
        deadline_seconds: float = GREETING_SECONDS,
    ) -> "Connection":
        """Return a connection whose greeting was answered.

        Raises:
            HostGone: Nobody answered within the deadline, or nobody is there.
        """
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, QUEUED_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, QUEUED_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, 33 * 1024 * 1024)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        connection = cls(socket, monitor)
        try:
            socket.connect(address)
            connection._begin()
            connection._say(Greet(paddock_version=paddock_version(), name=name))
            async with asyncio.timeout(deadline_seconds):
                connection.host = await connection._greeted
        except TimeoutError as error:
            await connection.close()
            message = f"nobody answered at {address!r} within {deadline_seconds:g} s"
            raise HostGone(message, address=address) from error
        except BaseException:
            await connection.close()
            raise
        return connection

    @property
    def is_open(self) -> bool:
        """Whether the other side is still there, as far as is known."""
        return not self._ended.is_set()

    async def ask(
        self,
        verb: Verb,
        *,
        deadline_seconds: float,
        on_answer: Callable[[Reply], None] | None = None,
        settled: "asyncio.Future[CommandSettled] | None" = None,
    ) -> Reply:
        """Return the answer to a request; ``on_answer`` sees it before any later message is read.

        It sees one, too, that comes when nobody waits for it any more: it may have begun something.
        ``settled`` is what :meth:`settled` gave for a command; it fails if that does, accepted.

        Raises:
            PaddockError: As the host told it.
            HostGone: The connection ended before the answer.
            TimedOut: The deadline passed.
        """
        self._check_open()
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[number] = (future, on_answer)
        if settled is not None:
            self._commands[number] = settled
        try:
            self._say(_ask(number, verb))
            async with asyncio.timeout(deadline_seconds):
                return await future
        except TimeoutError as error:
            message = f"{verb.verb!r} was not answered within {deadline_seconds:g} s"
            raise TimedOut(message, seconds=deadline_seconds, verb=verb.verb) from error
        finally:
            if on_answer is None:
                self._asked.pop(number, None)

    def tell(self, verb: Verb) -> None:
        """Send a request whose answer nobody waits for; nothing happens when the host is gone."""
        if self.is_open:
            with contextlib.suppress(HostGone):
                self._say(_ask(next(self._numbers), verb))

    def settled(self, command_id: CommandId) -> "asyncio.Future[CommandSettled]":
        """Return what will hold the answer to a command; ask for it before the command is sent."""
        future: asyncio.Future[CommandSettled] = asyncio.get_running_loop().create_future()
        self._settled.setdefault(command_id, []).append(future)
        if not self.is_open:
            future.set_exception(HostGone(self._reason))
        return future

    def forget(self, command_id: CommandId, future: "asyncio.Future[CommandSettled]") -> None:
        """Wait for a command's answer no more; others of the same id go on waiting."""
        waiting = self._settled[command_id]
        waiting.remove(future)
        if not waiting:
            del self._settled[command_id]
        for number in [each for each, of in self._commands.items() if of is future]:
            del self._commands[number]
        if not future.cancel() and not future.cancelled():
            future.exception()  # looked at, so that nobody warns of it

    def listen(self, subscription_id: int, heard: Heard) -> None:
        """Hand what is told about a subscription to ``heard``."""
        self._heard[subscription_id] = heard

    def ignore(self, subscription_id: int) -> None:
        """Listen to a subscription no more."""
        self._heard.pop(subscription_id, None)

    def leave(self) -> None:
        """Tell the host that all it says has been heard; its own end is noticed as ever.

        Nothing is said here any more: the host does not know this client from now on.
        """
        if self.is_open and not self._has_left:
            with contextlib.suppress(HostGone):
                self._say(Leave())
        self._has_left = True

    async def wait_ended(self) -> None:
        """Return when the connection has ended."""
        await self._ended.wait()

    async def close(self) -> None:
        """Say goodbye and let go of the socket; may be called more than once."""
        self.leave()
        self._end("the client left")
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.gather(self._beats, return_exceptions=True)
        if not self._socket.closed:
            self._words.close()
            self._news.close()
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            # What was said last (Leave) gets this long to be handed to the kernel.
            self._socket.close(linger=100)

    # --- inside ---

    def _begin(self) -> None:
        self._words.open()
        self._news.open()
        self._beats = asyncio.create_task(self._beat())

    def _say(self, word: FromClient) -> None:
        if self._has_left:
            message = "the host is about to go"
            raise HostGone(message)
        now = asyncio.get_running_loop().time()
        if now - self._spoke_at > SILENT_SECONDS:
            self._end("this client was silent for too long")
            raise HostGone(self._reason)
        self._spoke_at = now
        frame = _packed(word)
        try:
            self._socket.send(frame, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            self._end(f"the host takes nothing more ({error})")
            raise HostGone(self._reason) from error
        self._words.look()

    def _hear(self, frames: list[zmq.Frame]) -> None:
        try:
            word = TO_CLIENT.unpack(frames[-1].buffer)
        except BadMessage as error:
            self._words.close()
            self._end(f"the host said what is no message: {error.message}")
            return
        self._take(word)

    def _lost(self, _: list[zmq.Frame]) -> None:
        self._end("the host went away")

    def _take(self, word: ToClient) -> None:
        match word:
            case protocol.Host():
                if not self._greeted.done():
                    self._greeted.set_result(word)
            case Answer():
                future, on_answer = self._asked.pop(word.request_id, (None, None))
                if on_answer is not None:
                    on_answer(word.result)
                if future is not None and not future.done():
                    future.set_result(word.result)
            case Failed():
                future, _ = self._asked.pop(word.request_id, (None, None))
                error = error_of(word.code, word.message, word.facts)
                if future is not None and not future.done():
                    future.set_exception(error)
                elif future is None:
                    self._fail_accepted(word.request_id, error)
                if isinstance(error, NotGreeted):
                    self._end(word.message)
            case CommandSettled():
                for settled in self._settled.get(word.command_id, ()):
                    if not settled.done():
                        settled.set_result(word)
            case Events() | Preview() | Notice():
                heard = self._heard.get(word.subscription_id)
                if heard is not None:
                    heard(word)
            case _:
                return

    def _fail_accepted(self, number: int, error: PaddockError) -> None:
        """An accepted command has no answer for the time being: whoever waits for one is told."""
        settled = self._commands.pop(number, None)
        if settled is not None and not settled.done():
            settled.set_exception(error)

    async def _beat(self) -> None:
        while self.is_open:
            await asyncio.sleep(ALIVE_SECONDS)
            with contextlib.suppress(HostGone):
                self._say(Alive())

    def _end(self, reason: str) -> None:
        if self._ended.is_set():
            return
        self._reason = reason
        self._ended.set()
        gone: list[asyncio.Future[Reply] | asyncio.Future[CommandSettled]]
        gone = [future for future, _ in self._asked.values()]
        gone += [future for waiting in self._settled.values() for future in waiting]
        for future in gone:
            if not future.done():
                future.set_exception(HostGone(reason))
                future.exception()  # somebody may have stopped waiting: that is no fault
        if not self._greeted.done():
            self._greeted.set_exception(HostGone(reason))
            self._greeted.exception()
        detail: Reply = {"reason": "host_gone", "text": reason}
        ended = Notice(subscription_id=0, what="ended", detail=detail)
        for heard in list(self._heard.values()):
            heard(ended)

    def _check_open(self) -> None:
        if not self.is_open:
            raise HostGone(self._reason)


def _packed(word: FromClient) -> bytes:
    try:
        return FROM_CLIENT.pack(word)
    except BadMessage as error:
        size = error.facts.get("size_bytes")
        message = (
            f"{size:,} bytes are more than one message may have ({MESSAGE_LIMIT_BYTES:,}): "
            "put them into a file and name that"
        )
        raise TooLarge(message, size_bytes=size, limit_bytes=MESSAGE_LIMIT_BYTES) from error
    except TypeError as error:
        message = (
            f"{word.tag!r}: a whole number of more than 64 bits cannot be sent; say it as text"
        )
        raise BadArgument(message) from error


def _ask(number: int, verb: Verb) -> Ask:
    fields: Mapping[str, JsonValue] = verb.model_dump(mode="json")
    return Ask(request_id=number, verb=verb.verb, arguments=dict(fields))
