"""What comes in at a socket is handed over, all of it, whatever ZeroMQ's descriptor told."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from paddock.session_worker.incoming import BATCH_MESSAGES, Incoming

SECONDS = 60


@contextmanager
def pair(folder: Path) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Give two sockets that speak with each other."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
        for socket in (near, far):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
        near.bind(f"ipc://{folder}/s")
        far.connect(f"ipc://{folder}/s")
        yield near, far
    (folder / "s").unlink(missing_ok=True)


class Ear:
    """Keeps what it hears; with ``fails_at``, a fault of ours on the way."""

    def __init__(self, wanted: int, fails_at: int | None = None) -> None:
        self.heard: list[bytes] = []
        self.enough = asyncio.Event()
        self._wanted, self._fails_at = wanted, fails_at

    def hear(self, frames: list[zmq.Frame]) -> None:
        self.heard.append(frames[-1].bytes)
        if len(self.heard) == self._wanted:
            self.enough.set()
        if len(self.heard) == self._fails_at:
            raise ValueError("a fault of whoever hears")


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_more_than_a_batch_is_handed_over_in_order_and_others_get_their_turn(
    ground: Path,
) -> None:
    count = 3 * BATCH_MESSAGES + 1
    turns: list[int] = []
    with pair(ground) as (near, far):
        ear = Ear(count)
        for word in numbers(count):
            far.send(word)
        await asyncio.to_thread(near.poll, SECONDS * 1000)
        incoming = Incoming(near, ear.hear)
        incoming.open()

        async def others() -> None:
            while not ear.enough.is_set():
                turns.append(len(ear.heard))
                await asyncio.sleep(0)

        async with asyncio.timeout(SECONDS):
            await others()
        incoming.close()
    assert ear.heard == numbers(count)
    assert len(turns) > 1


async def test_an_answer_that_came_while_a_word_was_sent_is_heard(ground: Path) -> None:
    """A send takes the edge of the descriptor away: nothing would tell of what came before it."""
    rounds = 2_000
    with pair(ground) as (near, far):
        ear = Ear(rounds)
        incoming = Incoming(near, ear.hear)
        incoming.open()
        async with asyncio.timeout(SECONDS):
            for number in range(rounds):
                far.send(b"%d" % number)
                near.send(b"x")
                incoming.look()
                await asyncio.sleep(0)
            await ear.enough.wait()
        incoming.close()
    assert ear.heard == numbers(rounds)


async def test_a_fault_in_hearing_one_word_does_not_keep_the_next_from_being_heard(
    ground: Path,
) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: faults.append(told))
    with pair(ground) as (near, far):
        ear = Ear(3, fails_at=1)
        for word in numbers(3):
            far.send(word)
        await asyncio.to_thread(near.poll, SECONDS * 1000)
        incoming = Incoming(near, ear.hear)
        incoming.open()
        async with asyncio.timeout(SECONDS):
            await ear.enough.wait()
        incoming.close()
    assert ear.heard == numbers(3)
    assert len(faults) == 1


async def test_nothing_is_handed_over_after_the_end(ground: Path) -> None:
    with pair(ground) as (near, far):
        ear = Ear(1)
        incoming = Incoming(near, ear.hear)
        incoming.open()
        far.send(b"late")
        assert near.poll(SECONDS * 1000)  # without a turn for the loop, which would hand it over
        incoming.close()
        incoming.drain()
        await asyncio.sleep(0)
    assert ear.heard == []
