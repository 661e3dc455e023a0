"""The store process as the supervisor keeps it: started, told of new heads, started again.

One that answers nothing for half a minute is killed: what it keeps can be made anew from the
sessions' files, and until then nobody gets an answer. No session ever waits for it. What cannot be
told to it is dropped: it reads the files.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import zmq

from paddock.store.errors import PeerBroke
from paddock.store.ids import SessionId
from paddock.store.protocol import SAID, Done, Erase, GetSession, GetStatus, Heads, pack, unpack
from paddock.supervisor.processes import Process, Status

GATHER_SECONDS = 0.02
"""Heads are gathered for so long: at 5,000 events/s a message each costs more than it tells."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
LEAVE_SECONDS = 5.0
HEADS_AT_ONCE = 1000
SILENT_SECONDS = 30.0
LOOKS = 3
"""How often it is asked without an answer: time in which this process stood still is no silence."""
BEGIN_SECONDS = 60.0
"""Until its first answer it may wait for the store before it, and read what is damaged."""
KNOWS_SECONDS = 5.0
"""How long it is waited for where only it may know of a session."""
ANSWER_SECONDS = 0.01
COUNT_SECONDS = 0.5
"""How long a status waits for the store's own counters; then those of the last answer must do."""
COUNT_AGAIN_SECONDS = 0.005
STATUS_REQUEST = 1
"""The number of these; others have those that follow."""

COUNTERS = ("bad_messages", "strangers", "refused_of_sessions")

type Note = Callable[[str, str, dict[str, object]], None]


class StoreChild:
    """One store process at a time, for as long as the host lives."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        data: Path,
        runtime: Path,
        command: Sequence[str] | None,
        note: Note,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._socket_path = runtime / "store.sock"
        self.address = f"ipc://{self._socket_path}"
        self.process: Process | None = None
        self.restarts = 0
        self._command = command if command is not None else _command(data, runtime)
        self._note = note
        self._heads: dict[SessionId, int] = {}
        self._erasing: dict[int, SessionId] = {}
        self._asked: dict[int, asyncio.Future[bool]] = {}
        self._number = STATUS_REQUEST
        self._timer: asyncio.TimerHandle | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._started_at = 0.0
        self._is_leaving = False
        self._silent_seconds = silent_seconds
        self._looking: asyncio.TimerHandle | None = None
        self._unanswered = 0
        self._has_answered = False
        self._why_killed: str | None = None
        self._counted: dict[str, int] = {}
        self._counted_before: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._answered = 0
        self._gone = asyncio.Event()
        self._log: int | None = None
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 1000)
        self._socket.connect(self.address)

    def start(self) -> None:
        """Start it. What fails is tried again, a little later each time."""
        if self._is_leaving or not self._command:
            self._gone.set()
            return
        self._timer = None
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        try:
            child = _started(self._command)
        except OSError as error:
            self._note("failed", "store", {"error": str(error)})
            self._start_later()
            return
        self.process = child
        self._unanswered, self._has_answered, self._why_killed = 0, False, None
        self._looking = loop.call_later(self._silent_seconds / LOOKS, self._look)
        self.process.watch(self._ended)
        self._note("started", "store", {"pid": child.pid})

    def tell(self, session_id: SessionId, head: int) -> None:
        """Tell it, soon, that a log has grown."""
        self._heads[session_id] = head
        if len(self._heads) == 1:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._tell_heads)

    def erase(self, session_id: SessionId) -> None:
        """Have it remove every row of a session, the files of which are gone."""
        self._number += 1
        self._erasing[self._number] = session_id
        self._send(pack(self._number, Erase(session_id=session_id)))

    async def knows(self, session_id: SessionId) -> bool:
        """Return whether it shows a session; False where it does not answer in time."""
        if self.process is None:
            return False
        loop = asyncio.get_running_loop()
        self._number += 1
        number, asked = self._number, loop.create_future()
        self._asked[number] = asked
        self._send(pack(number, GetSession(session_id=session_id)))
        until = loop.time() + KNOWS_SECONDS
        while not asked.done() and loop.time() < until and not self._socket.closed:
            await asyncio.sleep(ANSWER_SECONDS)
            self._take_answers()
        self._asked.pop(number, None)
        return asked.done() and asked.result()

    def erasing(self) -> set[SessionId]:
        """Return the erased sessions of which it may still have rows."""
        self._take_answers()
        return set(self._erasing.values())

    async def counters(self) -> dict[str, int]:
        """Return what was refused at its door, by all store processes that this host has had."""
        self._number += 1
        wanted = self._number
        self._send(pack(wanted, GetStatus()))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + COUNT_SECONDS
        # One that has no socket yet has refused nobody. Answers are else not waited for, so they
        # are looked for.
        is_listening = self.process is not None and os.path.exists(self._socket_path)  # noqa: ASYNC240, PTH110 - one name
        while is_listening and self._answered < wanted and loop.time() < deadline:
            await asyncio.sleep(COUNT_AGAIN_SECONDS)
            self._take_answers()
        return {name: self._counted_before[name] + self._counted.get(name, 0) for name in COUNTERS}

    async def leave(self) -> None:
        """End it: asked first, killed at the deadline."""
        self._is_leaving = True
        self._look_no_more()
        if self._timer is not None:
            self._timer.cancel()
            self._gone.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process is None:
                break
            self.process.send(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._gone.wait()
        self._socket.close()
        # One that was killed, or had not come to it yet, left the file of its socket.
        self._socket_path.unlink(missing_ok=True)

    def _ended(self, status: Status) -> None:
        detail: dict[str, object] = {"exit_code": status.exit_code, "signal": status.signal}
        detail["pid"] = self.process.pid if self.process else None
        if self._why_killed is not None:
            detail["reason"] = self._why_killed
        self.process = None
        self._counted_before = {
            name: count + self._counted.get(name, 0) for name, count in self._counted_before.items()
        }
        self._counted = {}
        self._erasing.clear()  # the next one finds no files of them before it answers
        self._look_no_more()
        self._note("stopped" if self._is_leaving else "died", "store", detail)
        if self._is_leaving:
            self._gone.set()
            return
        if asyncio.get_running_loop().time() - self._started_at > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self._start_later()

    def _look(self) -> None:
        """Ask whether it answers; kill it when it did not for too long."""
        self._take_answers()
        loop = asyncio.get_running_loop()
        is_begun = self._has_answered or loop.time() - self._started_at > BEGIN_SECONDS
        if self.process is not None and is_begun and self._unanswered >= LOOKS:
            self._why_killed = f"answered nothing for {self._silent_seconds:g} s, and was killed"
            self.process.send(signal.SIGKILL)  # its end is noticed, and the next one is started
            return
        self._unanswered += 1
        self._send(pack(STATUS_REQUEST, GetStatus()))
        self._looking = loop.call_later(self._silent_seconds / LOOKS, self._look)

    def _look_no_more(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _start_later(self) -> None:
        self.restarts += 1
        self._timer = asyncio.get_running_loop().call_later(self._pause, self.start)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def _tell_heads(self) -> None:
        heads, self._heads = self._heads, {}
        items = list(heads.items())
        for start in range(0, len(items), HEADS_AT_ONCE):
            self._send(pack(0, Heads(heads=dict(items[start : start + HEADS_AT_ONCE]))))

    def _send(self, frame: bytes) -> None:
        if self._socket.closed:
            return
        with suppress(zmq.Again):
            self._socket.send(frame, zmq.DONTWAIT)
        self._take_answers()

    def _take_answers(self) -> None:
        """Take what it answered: of interest is only that it did, and to what."""
        with suppress(zmq.Again):
            while not self._socket.closed:
                frame = self._socket.recv(zmq.DONTWAIT)
                self._unanswered, self._has_answered = 0, True
                with suppress(PeerBroke):  # a store of another version
                    number, word = unpack(frame, SAID)
                    if isinstance(word, Done):
                        self._erasing.pop(number, None)
                        self._answered = max(self._answered, number)
                        self._learn(word.result)
                    if number in self._asked:
                        self._asked.pop(number).set_result(isinstance(word, Done))

    def _learn(self, told: Mapping[str, object]) -> None:
        """Learn the counters of a status; other answers have none."""
        for name in COUNTERS:
            if isinstance(count := told.get(name), int):
                self._counted[name] = count


def _started(command: Sequence[str]) -> Process:
    """Start a process. Raises OSError: there is none."""
    child = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
    )
    try:
        process = Process(child.pid, os.pidfd_open(child.pid))
    except OSError:  # as many descriptors are open as may be
        child.kill()
        child.wait()
        raise
    child.returncode = 0  # it is reaped through its pidfd
    return process


def _command(data: Path, runtime: Path) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "paddock.supervisor.store_process"),
        *("--data", str(data), "--runtime", str(runtime)),
        *("--supervisor-pid", str(os.getpid())),
        # Without a host `sql` opens the file itself: a store whose host was killed serves nobody,
        # keeps the next one waiting, and would be there still after a `down` (L21).
        *("--grace-seconds", "0.5", "--wait-seconds", "15"),
    ]
