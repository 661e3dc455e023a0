"""A real host in a process of its own, and a plain client that speaks the words of its door."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import zmq

from paddock.session_worker.protocol import Command
from paddock.store.errors import NeedsFold
from paddock.store.events import decode
from paddock.store.fold import evolve
from paddock.store.ids import CommandId, SessionId, uuid7
from paddock.store.session import Session
from paddock.store.session_file import SessionReader, events_of, folder_of
from paddock.supervisor.protocol import (
    FROM_CLIENT,
    TO_CLIENT,
    Answer,
    Ask,
    Events,
    Failed,
    FromClient,
    Greet,
    Leave,
    Notice,
    ToClient,
)
from paddock.supervisor.protocol import Host as HostWord
from paddock.testing import HostForTests

DEADLINE = 60.0
FAKE_WORKER = "tests.together.fake_worker:run_worker"


class Refusal(Exception):
    """The host answered ``Failed``."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"{failed.code}: {failed.message}")
        self.code = failed.code
        self.facts: dict[str, Any] = failed.facts


def new_id() -> str:
    return uuid7(time.time_ns() // 1000, os.urandom(10))


def eventually[T](look: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """Return the first true thing that ``look`` gives; fail at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


@dataclass
class PlainClient:
    """One connection to a host; what nobody waited for is kept in ``heard``."""

    runtime: Path
    name: str = "test"
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    heard: list[ToClient] = field(default_factory=list)
    unheard: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.connect(f"ipc://{self.runtime / 'clients.sock'}")
        self.requests = 0
        self.say(Greet(paddock_version="0", name=self.name))
        self.host = self.wait(lambda word: isinstance(word, HostWord))

    def say(self, word: FromClient) -> None:
        self.socket.send(FROM_CLIENT.pack(word))

    def begin(self, verb: str, **arguments: Any) -> int:
        self.requests += 1
        self.say(Ask(request_id=self.requests, verb=verb, arguments=arguments))
        return self.requests

    def ask(self, verb: str, *, seconds: float = DEADLINE, **arguments: Any) -> dict[str, Any]:
        return self.answer(self.begin(verb, **arguments), seconds)

    def answer(self, request: int, seconds: float = DEADLINE) -> dict[str, Any]:
        word = self.wait(
            lambda word: isinstance(word, Answer | Failed) and word.request_id == request, seconds
        )
        if isinstance(word, Failed):
            raise Refusal(word)
        assert isinstance(word, Answer)
        return dict(word.result)

    def wait(self, fits: Callable[[ToClient], bool], seconds: float = DEADLINE) -> ToClient:
        """Return the first word that fits, of those kept or yet to come."""
        deadline = time.monotonic() + seconds
        while True:
            for word in self.heard:
                if fits(word):
                    self.heard.remove(word)
                    return word
            left = deadline - time.monotonic()
            assert left > 0, f"not told within {seconds} s; heard {self.heard[-5:]}"
            self.take_in(left)

    def take_in(self, seconds: float) -> None:
        if self.socket.poll(int(seconds * 1000) + 1):
            word = TO_CLIENT.unpack(self.socket.recv())
            if not (isinstance(word, Answer) and word.request_id in self.unheard):
                self.heard.append(word)

    def listen(self, seconds: float) -> None:
        """Keep all that comes within so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.take_in(left)

    def create(self, workspace: Path, session_id: str | None = None, **config: Any) -> SessionId:
        session_id = session_id or new_id()
        result = self.ask(
            "create_session",
            session_id=session_id,
            config={"workspace": str(workspace), **config},
        )
        assert result["session_id"] == session_id
        return SessionId(session_id)

    def command(
        self, session_id: str, verb: str, command_id: str | None = None, **arguments: Any
    ) -> tuple[CommandId, int]:
        """Begin a command; return its id and its request."""
        command = Command(
            command_id=CommandId(command_id or new_id()), verb=verb, arguments=arguments
        )
        request = self.begin("command", session_id=session_id, command=command.model_dump())
        return command.command_id, request

    def say_words(self, session_id: str, text: str) -> str:
        """Give a session words; return the command's id once they are accepted."""
        command_id, request = self.command(
            session_id, "send_input", parts=[{"type": "text", "text": text}]
        )
        self.answer(request)
        return command_id

    def subscribe(self, session_id: str, **arguments: Any) -> int:
        result = self.ask("subscribe", session_id=session_id, **arguments)
        return int(result["subscription_id"])

    def rows(self, subscription: int, enough: Callable[[list[list[Any]]], bool]) -> list[list[Any]]:
        """Return the rows of a subscription, in the order in which they came."""
        rows: list[list[Any]] = []
        while not enough(rows):
            word = self.wait(
                lambda word: isinstance(word, Events) and word.subscription_id == subscription
            )
            assert isinstance(word, Events)
            batch = msgpack.unpackb(word.rows)
            assert len(batch) == word.count
            assert batch[0][0] == word.first
            rows += batch
            self.unheard.add(
                self.begin("consumed", subscription_id=subscription, sequence=rows[-1][0])
            )
        return rows

    def notice(self, subscription: int, what: str) -> Notice:
        word = self.wait(
            lambda word: (
                isinstance(word, Notice)
                and word.subscription_id == subscription
                and word.what == what
            )
        )
        assert isinstance(word, Notice)
        return word

    def down(self, **arguments: Any) -> None:
        """End the host, and leave it when it is done."""
        assert self.ask("down", **arguments) == {"ended": True}
        self.say(Leave())

    def lives(self) -> dict[str, dict[str, Any]]:
        return {life["session_id"]: life for life in self.ask("lives")["workers"]}

    def close(self) -> None:
        self.socket.close()
        self.context.term()


class HostProcess:
    """A supervisor under test; whoever starts one ends it."""

    def __init__(self, home: Path, *flags: str, worker: str | None = FAKE_WORKER) -> None:
        self.home = home
        self.data, self.runtime = home / "data", home / "run"
        self._flags = [*flags, *(["--worker", worker] if worker else [])]
        self.clients: list[PlainClient] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.log = home / "host.log"
        self.has_store = False
        self.folder: Path | None = None
        """Where it is started, if not in the folder of the test."""

    def start(self) -> "HostProcess":
        environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2])}
        if not self.has_store:
            environment.setdefault("PADDOCK_STORE_COMMAND", "")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "paddock.supervisor.serve"),
                    *("--home", str(self.home)),
                    *self._flags,
                ],
                stderr=log,
                env=environment,
                cwd=self.folder,
            )
        eventually(lambda: self.host_file().get("pid") == self.pid, "host.json of this host")
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the host ended: {self.log.read_text()[-3000:]}")
        return self.process.pid

    def host_file(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.runtime / "host.json").read_text()))
        except (OSError, ValueError):
            return {}

    def client(self, name: str = "test") -> PlainClient:
        client = PlainClient(self.runtime, name)
        self.clients.append(client)
        return client

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE)

    def leave_all(self) -> None:
        """Close the connections that were made to it."""
        for client in self.clients:
            client.close()
        self.clients.clear()

    def end(self) -> None:
        """End it in good order, workers included."""
        self.leave_all()
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    # --- what the files say ---

    def events(self, session_id: str) -> list[Any]:
        """Return the session's events; waits while a burial folds the file in."""
        identity = SessionId(session_id)

        def read() -> list[Any] | None:
            try:
                with SessionReader(folder_of(self.data, identity), identity) as reader:
                    return list(events_of(identity, reader.rows(0, 100_000)))
            except NeedsFold:
                return None

        return eventually(read, "the file has an owner, or is folded") or []

    def kinds(self, session_id: str) -> list[str]:
        return [stored.event.kind for stored in self.events(session_id)]

    def fold(self, session_id: str) -> Session:
        session = Session(SessionId(session_id))
        for stored in self.events(session_id):
            evolve(session, stored)
        return session


@contextmanager
def hosting(
    home: Path, *flags: str, worker: str | None = FAKE_WORKER, folder: Path | None = None
) -> Iterator[HostProcess]:
    """Give a running host; end it and everything it started."""
    host = HostProcess(home, *flags, worker=worker)
    host.folder = folder
    try:
        yield host.start()
    except BaseException:
        print(host.log.read_text()[-6000:])
        raise
    finally:
        host.end()


@contextmanager
def host_for_tests(name: str, *options: str) -> Iterator[HostForTests]:
    """Give a host for the tests of a module; its folder has a short path, as sockets need."""
    folder = Path(tempfile.mkdtemp(prefix=f"pd-{name}-", dir="/tmp"))
    made = HostForTests(folder, *options)
    made.start()
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder)


def delete_what_lives(host: HostForTests) -> None:
    """Delete the sessions of a test, whose workers stand in its folder."""
    with host.client() as client:
        for life in client.lives():
            client.session(life["session_id"]).delete(deadline_seconds=1)


def decoded(row: list[Any]) -> Any:
    """Return the event of a row as it travels."""
    return decode(row[3], row[8], command_id=row[7])
