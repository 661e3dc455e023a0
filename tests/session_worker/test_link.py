"""The line to the supervisor: what may be lost on it, and what may only be late."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import zmq
import zmq.asyncio

from paddock.session_worker.link import SEND_QUEUE_FRAMES, HostAddress, Link
from paddock.session_worker.protocol import (
    FROM_WORKER,
    TO_WORKER,
    Accepted,
    Beat,
    Bye,
    Delta,
    FromWorker,
    GreetAgain,
    Settled,
    ToWorker,
    Welcome,
)
from paddock.store.ids import CommandId

COMMAND = CommandId("c1")
ACCEPTED = Accepted(command_id=COMMAND, sequence=2)
SETTLED = Settled(command_id=COMMAND, sequence=3, kind="operation_started")
BEAT = Beat(stage="resting", head=3, lag_ms=0.0, rss_bytes=1)
HELLO = Bye(reason="in place of a greeting", head=0)
DEADLINE_SECONDS = 20.0


@asynccontextmanager
async def linked(
    folder: Path, heard: Callable[[ToWorker], None], *, room: int = 1000
) -> AsyncIterator[tuple[zmq.asyncio.Socket, Link]]:
    """Give a supervisor's socket, with so much room for words, and a worker's line to it."""
    context = zmq.asyncio.Context()
    supervisor = context.socket(zmq.ROUTER)
    supervisor.setsockopt(zmq.RCVHWM, room)
    supervisor.setsockopt(zmq.LINGER, 0)
    address = f"ipc://{folder}/s"
    supervisor.bind(address)
    link = Link(folder, HostAddress(address, 1, os.getpid()), lambda: HELLO, heard)
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield supervisor, link
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        supervisor.close()
        (folder / "s").unlink()
        context.term()


async def test_f9_answers_wait_for_a_supervisor_that_is_slow_and_previews_do_not(
    ground: Path,
) -> None:
    async with linked(ground, lambda _: None, room=1) as (supervisor, link):
        await supervisor.recv_multipart()
        delta = Delta(message_id="m", channel="text", offset=0, text="x" * 10_000)
        said = 0
        while link.say(delta):
            said += 1
            assert said < 100 * SEND_QUEUE_FRAMES
        assert not link.say(ACCEPTED)
        assert not link.say(SETTLED)
        assert not link.say(delta)
        heard: list[FromWorker] = []
        while not isinstance(heard[-1] if heard else None, Beat):
            link.say(BEAT)
            frames = await supervisor.recv_multipart()
            heard.append(FROM_WORKER.unpack(frames[-1]))
    assert [word for word in heard if not isinstance(word, Delta | Beat)] == [ACCEPTED, SETTLED]


async def test_f9_a_worker_whose_connection_is_not_known_any_more_greets_on_a_new_one(
    ground: Path,
) -> None:
    heard: list[ToWorker] = []
    async with linked(ground, heard.append) as (supervisor, link):

        async def greeted() -> bytes:
            """Welcome who greets; return who it is."""
            identity, frame = await supervisor.recv_multipart()
            assert FROM_WORKER.unpack(frame) == HELLO
            welcome = TO_WORKER.pack(Welcome(epoch=1, paddock_version="0"))
            await supervisor.send_multipart([identity, welcome])
            return bytes(identity)

        first = await greeted()
        await supervisor.send_multipart([first, TO_WORKER.pack(GreetAgain())])
        second = await greeted()
        assert second != first
        assert link.say(BEAT)
        identity, frame = await supervisor.recv_multipart()
        assert (bytes(identity), FROM_WORKER.unpack(frame)) == (second, BEAT)
    assert all(isinstance(word, Welcome) for word in heard)
