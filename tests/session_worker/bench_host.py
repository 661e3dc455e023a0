"""A supervisor that is only a socket: it starts one real worker process and speaks with it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import zmq

from paddock.session_worker.protocol import (
    FROM_WORKER,
    TO_WORKER,
    Accepted,
    Beat,
    Bye,
    Command,
    Deliver,
    FromWorker,
    Hello,
    NotAccepted,
    Settled,
    StartOrders,
    Suspend,
    ToWorker,
    Welcome,
)
from paddock.store.events import SessionConfig, SessionCreated, Stored
from paddock.store.fold import evolve
from paddock.store.ids import CommandId, SessionId, uuid7
from paddock.store.session import Session
from paddock.store.session_file import SessionFile, SessionReader, events_of, folder_of

PATIENCE_SECONDS = 30.0
RUN = """
import sys
from paddock.session_worker.main import run_worker
run_worker(sys.stdin.buffer.read())
"""


def new_id() -> str:
    """Return a new UUIDv7."""
    return uuid7(time.time_ns() // 1000, os.urandom(10))


@dataclass
class BenchHost:
    """One session, its worker process, and all that the worker said."""

    data: Path
    socket: zmq.Socket[bytes]
    address: str
    session_id: SessionId = field(default_factory=lambda: SessionId(new_id()))
    worker: subprocess.Popen[bytes] | None = None
    said: list[FromWorker] = field(default_factory=list)
    identity: bytes = b""
    gone: set[bytes] = field(default_factory=set)
    """Identities of workers that ended: what they said before is told by nobody any more."""
    starts: int = 0

    def create(self, **config: object) -> None:
        """Write the session's first event."""
        folder = folder_of(self.data, self.session_id)
        fields = {"workspace": str(self.data.parent / "work"), **config}
        Path(str(fields["workspace"])).mkdir(exist_ok=True)
        with SessionFile.create(folder, self.session_id, at_us=time.time_ns() // 1000) as file:
            created = SessionCreated(config=SessionConfig.model_validate(fields))
            file.append([created], generation=0, at_us=time.time_ns() // 1000)

    def start(self, **orders: object) -> Hello:
        """Start a worker and wait for its greeting."""
        self.launch(**orders)
        hello = self.wait_for(Hello)
        self.say(Welcome(epoch=1))
        return hello

    def launch(self, **orders: object) -> "subprocess.Popen[bytes]":
        """Start a worker and return its process."""
        self.starts += 1
        told = StartOrders.model_validate(
            {
                "session_id": self.session_id,
                "data": str(self.data),
                "runtime": str(self.data),
                "address": self.address,
                "epoch": 1,
                "start_id": f"start-{self.starts}",
                "token": b"",
                "asked_at_us": time.time_ns() // 1000,
                "supervisor_pid": os.getpid(),
                **orders,
            }
        )
        self.worker = subprocess.Popen([sys.executable, "-P", "-c", RUN], stdin=subprocess.PIPE)
        assert self.worker.stdin is not None
        with self.worker.stdin as pipe:
            pipe.write(msgpack.packb(told.model_dump()))
        return self.worker

    def say(self, word: ToWorker) -> None:
        """Say a word to the worker."""
        self.socket.send_multipart([self.identity, TO_WORKER.pack(word)])

    def hear(self, timeout_seconds: float) -> FromWorker | None:
        """Return the next word of the worker."""
        if not self.socket.poll(int(timeout_seconds * 1000)):
            return None
        identity, frame = self.socket.recv_multipart()
        if identity in self.gone:
            return None
        self.identity = identity
        word = FROM_WORKER.unpack(frame)
        self.said.append(word)
        return word

    def wait_for[W: FromWorker](
        self, kind: type[W], matches: Callable[[W], bool] = lambda _: True
    ) -> W:
        """Wait for a word of a kind."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            word = self.hear(0.2)
            if isinstance(word, kind) and matches(word):
                return word
            if self.worker is not None and word is None and self.worker.poll() is not None:
                break
        message = f"no {kind.__name__}; last words: {self.last_words()}"
        raise AssertionError(message)

    def command(self, verb: str, command_id: str | None = None, **arguments: object) -> Settled:
        """Deliver a command and wait for its answer."""
        command_id = self.deliver(verb, command_id, **arguments)
        return self.wait_for(Settled, lambda word: word.command_id == command_id)

    def deliver(self, verb: str, command_id: str | None = None, **arguments: object) -> str:
        """Deliver a command and wait until it is accepted."""
        command_id = command_id or new_id()
        command = Command.model_validate(
            {"command_id": command_id, "verb": verb, "arguments": arguments}
        )
        self.say(Deliver(command=command))
        taken = self.wait_for(
            FromWorker,
            lambda word: (
                isinstance(word, Accepted | NotAccepted)
                and word.command_id == CommandId(command_id)
            ),
        )
        assert isinstance(taken, Accepted), taken
        return command_id

    def send(self, text: str) -> Settled:
        """Say something to the agent; wait until it is an operation, or queued."""
        return self.command("send_input", parts=[{"type": "text", "text": text}])

    def rest(self) -> None:
        """Wait until the session is at rest."""
        self.wait_for(Beat, lambda beat: beat.stage == "resting")

    def suspend(self, deadline_seconds: float = 5.0) -> Bye:
        """Suspend the session and wait until its worker is gone."""
        self.say(Suspend(reason="asked", deadline_seconds=deadline_seconds))
        bye = self.wait_for(Bye)
        assert self.worker is not None
        assert self.worker.wait(PATIENCE_SECONDS) == 0, self.last_words()
        return bye

    def kill(self) -> None:
        """Kill the worker with -9 and wait until it is gone."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait(PATIENCE_SECONDS)
        self.gone.add(self.identity)

    def events(self) -> list[Stored]:
        """Return all events of the session, from its file."""
        if self.worker is not None and self.worker.poll() is not None:
            # An unclean end leaves a log that only an owner may fold.
            SessionFile.own(folder_of(self.data, self.session_id), self.session_id).close(
                clean=True
            )
        with SessionReader(folder_of(self.data, self.session_id), self.session_id) as reader:
            return list(events_of(self.session_id, reader.rows(0, 100_000)))

    def state(self) -> Session:
        """Return the fold of the file."""
        session = Session(self.session_id)
        for stored in self.events():
            evolve(session, stored)
        return session

    def last_words(self) -> str:
        """Return what the workers wrote to their stderr."""
        folder = folder_of(self.data, self.session_id)
        return "\n".join(path.read_text() for path in sorted(folder.glob("stderr.*")))


@contextmanager
def bench_host(folder: Path) -> Iterator[BenchHost]:
    """Give a bench host with a folder of its own."""
    data = folder / "data"
    data.mkdir()
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    address = f"ipc://{folder}/w.sock"
    socket.bind(address)
    host = BenchHost(data, socket, address)
    try:
        yield host
    finally:
        if host.worker is not None and host.worker.poll() is None:
            host.kill()
        socket.close(0)
        context.term()
        (folder / "w.sock").unlink(missing_ok=True)
