"""The line to the supervisor: what may be lost on it, and what may only be late."""

import asyncio
import os
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
DEADLINE_SECONDS = 20.0


def test_f9_answers_wait_for_a_supervisor_that_is_slow_and_previews_do_not(tmp_path: Path) -> None:
    async def play() -> None:
        context = zmq.asyncio.Context()
        supervisor = context.socket(zmq.ROUTER)
        supervisor.setsockopt(zmq.RCVHWM, 1)
        supervisor.setsockopt(zmq.LINGER, 0)
        address = f"ipc://{tmp_path}/s"
        supervisor.bind(address)
        hello = Bye(reason="a first word", head=0)
        link = Link(tmp_path, HostAddress(address, 1, os.getpid()), lambda: hello, lambda _: None)
        running = asyncio.create_task(link.run())
        async with asyncio.timeout(DEADLINE_SECONDS):
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
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        supervisor.close()
        (tmp_path / "s").unlink()
        context.term()

    asyncio.run(play())


def test_f9_a_worker_whose_connection_is_not_known_any_more_greets_on_a_new_one(
    tmp_path: Path,
) -> None:
    hello = Bye(reason="in place of a greeting", head=0)
    heard: list[ToWorker] = []

    async def play() -> None:
        context = zmq.asyncio.Context()
        supervisor = context.socket(zmq.ROUTER)
        supervisor.setsockopt(zmq.LINGER, 0)
        address = f"ipc://{tmp_path}/s"
        supervisor.bind(address)
        link = Link(tmp_path, HostAddress(address, 1, os.getpid()), lambda: hello, heard.append)
        running = asyncio.create_task(link.run())

        async def greeted() -> bytes:
            """Welcome who greets; return who it is."""
            identity, frame = await supervisor.recv_multipart()
            assert FROM_WORKER.unpack(frame) == hello
            welcome = TO_WORKER.pack(Welcome(epoch=1, paddock_version="0"))
            await supervisor.send_multipart([identity, welcome])
            return bytes(identity)

        async with asyncio.timeout(DEADLINE_SECONDS):
            first = await greeted()
            await supervisor.send_multipart([first, TO_WORKER.pack(GreetAgain())])
            second = await greeted()
            assert second != first
            assert link.say(BEAT)
            identity, frame = await supervisor.recv_multipart()
            assert (bytes(identity), FROM_WORKER.unpack(frame)) == (second, BEAT)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        supervisor.close()
        (tmp_path / "s").unlink()
        context.term()

    asyncio.run(play())
    assert all(isinstance(word, Welcome) for word in heard)
