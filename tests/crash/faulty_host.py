"""The ordinary supervisor, its points told to ``faults``: ``python -m tests.crash.faulty_host``.

Workers, the zygote and the store that it starts are the ones of ``faulty_worker`` and
``faulty_store``. What is wrapped: everything that the supervisor writes, and every step of the
lives that it leads (a start, a greeting, a command on its way, an answer, a burial, an erasure).
"""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from paddock.session_worker.protocol import FromWorker, ToWorker
from paddock.supervisor import attending, burial, serve, store_child
from paddock.supervisor.clients import Clients
from paddock.supervisor.loop import Host
from paddock.supervisor.nursery import Nursery
from paddock.supervisor.record import Record
from paddock.supervisor.registry import Registry
from paddock.supervisor.stimuli import Effect, Reply, TellSettled
from paddock.supervisor.workers import Workers
from paddock.testing import HostForTests
from tests.crash.faults import ANYONE, FOLDER, Here, Orders, reach, wrap_before, write_point
from tests.crash.faulty_files import wrap_session_file

WORKER = "tests.crash.faulty_worker:run_worker"
ROOT = Path(__file__).parents[2]
REGISTRY_WRITES = ("begin_epoch", "reserve", "enter", "strike_out", "bury", "erased", "end_epoch")
HEARD = ("Hello", "Accepted", "Settled", "Durable", "Bye")
SAID = ("Deliver", "Suspend")


class FaultyHost(HostForTests):
    """A host whose processes suffer what is ordered."""

    def __init__(self, home: Path, **settings: object) -> None:
        super().__init__(home, "--worker", WORKER, **settings)
        self.orders = Orders(home / "orders")

    def command(self) -> list[str]:
        """Return the command that starts it, without its arguments."""
        return [sys.executable, "-P", "-m", "tests.crash.faulty_host"]

    def environment(self) -> dict[str, str]:
        """Return the variables that its processes find their orders by."""
        return {FOLDER: str(self.orders.folder), "PYTHONPATH": str(ROOT)}


def wrap() -> None:
    """Tell every point of this process."""
    wrap_session_file()
    for name in REGISTRY_WRITES:
        _wrap_write(Registry, name, f"host file, {name}")
    _wrap_write(serve, "write_host_file", "announcement")
    _wrap_write(attending, "erase", "erasure")
    _wrap_after(serve, "take_lock", "host locked")
    _wrap_after(Host, "open", "sockets open")
    _wrap_after(burial, "_kill_tools", "tools killed")
    wrap_before(burial._Burial, "carry_out", "dead worker's file owned")
    _wrap_talk()
    _wrap_fork()


def _wrap_write(place: Any, name: str, point: str) -> None:
    inner = getattr(place, name)

    @wraps(inner)
    def written(*args: Any, **words: Any) -> Any:
        with write_point(point):
            return inner(*args, **words)

    setattr(place, name, written)


def _wrap_after(place: Any, name: str, point: str) -> None:
    inner = getattr(place, name)

    @wraps(inner)
    def done(*args: Any, **words: Any) -> Any:
        result = inner(*args, **words)
        reach(point)
        return result

    setattr(place, name, done)


def _wrap_talk() -> None:
    heard, say, answered = Workers._heard, Workers.say, Clients._answered

    def hears(self: Workers, peer: Any, word: FromWorker) -> None:
        if type(word).__name__ in HEARD:
            reach(f"{type(word).__name__} heard")
        heard(self, peer, word)

    def says(self: Workers, record: Record, word: ToWorker) -> None:
        if type(word).__name__ in SAID:
            reach(f"{type(word).__name__} to be said", record.session_id)
        say(self, record, word)

    def answers(self: Clients, effect: Effect, record: Record) -> None:
        if isinstance(effect, Reply | TellSettled):
            reach(f"{type(effect).__name__} to a client", record.session_id)
        answered(self, effect, record)

    Workers._heard = hears  # type: ignore[method-assign]
    Workers.say = says  # type: ignore[method-assign]
    Clients._answered = answers  # type: ignore[method-assign]


def _wrap_fork() -> None:
    fork = Nursery.fork

    async def forks(self: Nursery, orders: bytes, is_wanted: Callable[[], bool]) -> Any:
        reach("fork asked", ANYONE)
        process = await fork(self, orders, is_wanted)
        reach("forked", ANYONE)
        return process

    Nursery.fork = forks  # type: ignore[method-assign]


def _store_command(data: Path, runtime: Path) -> list[str]:
    words = store_child_command(data, runtime)
    words[words.index("paddock.supervisor.store_process")] = "tests.crash.faulty_store"
    return words


store_child_command = store_child._command

if __name__ == "__main__":
    Here.role = "supervisor"
    store_child._command = _store_command
    wrap()
    code = serve.EXIT_RESTART
    try:
        code = serve.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:  # noqa: BLE001 - as the ordinary main does
        serve.log.exception("fault")
    sys.stderr.flush()
    os._exit(code)
