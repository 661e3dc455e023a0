"""One session's whole life, in which one fault strikes at one point; and what must hold after it.

Born, sent words that need an approval and have an effect, annotated, suspended, woken by more
words, deleted. The client does what a client does: it asks again, with the same ids, for what it
got no answer to.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from paddock.client import Host, Operation, Outcome, Session
from paddock.client.models import absolute_model
from paddock.session_worker.errors import NothingToDecide
from paddock.session_worker.protocol import Annotate
from paddock.store.door import StoreClient
from paddock.store.errors import Bug, PaddockError, PeerBroke, SessionNotFound, StoreError, TimedOut
from paddock.store.events import (
    ApprovalRequested,
    Limits,
    SessionConfig,
    Stored,
    ToolCallFinished,
    ToolCallRequested,
    ToolCallStarted,
    WorkerExited,
)
from paddock.store.ids import SessionId, ToolCallId
from paddock.store.session_file import folder_of
from paddock.supervisor.errors import CreationFailed, NoHost
from paddock.testing import call, turn, wait_until_async, write_script
from tests.crash import judge
from tests.crash.faults import ANYONE, ROOM_SUFFIX, Fault, Role
from tests.crash.faulty_host import FaultyHost
from tests.crash.matrix_effects import GATE, LEDGER, ORDERS, PARENT

type Agent = Literal["built-in", "function"]
type Trigger = Literal[
    "life",
    "worker death",
    "host start",
    "host end",
    "zygote start",
    "store start",
    "store end",
    "checkpoint",
    "erasure",
    "signal",
]
"""What brings a process to the point: the life itself, or what is done to it besides."""

SECONDS = 150.0
AGAIN_SECONDS = 0.1
WATCH_SECONDS = 0.05
CHECKPOINT_SECONDS = 5.0
FULL_SECONDS = 1.0
"""How long a disk is full at the most; it has room again when a write at a point has failed."""
HERE = Path(__file__).parent
MEMORY_MB = 400
SUSPEND_SECONDS = 5.0
TOOL_SECONDS = 8.0
ENDED_BY_HAND = frozenset({"SIGSTOP", "hang"})
"""A watcher waits a minute before it ends a supervisor that hangs, and that half of one for its
store. No cell waits for so long: the test does it."""
STATUS: dict[Fault, frozenset[str]] = {
    "SIGKILL": frozenset({"error"}),
    "SIGSTOP": frozenset({"timed_out"}),
    "SIGSEGV": frozenset({"error"}),
    "out of memory": frozenset({"limit_exceeded", "error"}),
    "hang": frozenset({"timed_out"}),
    "disk full": frozenset({"error"}),
}
"""The result of a tool that suffers it."""
REASONS: dict[Fault, frozenset[str]] = {
    "SIGKILL": frozenset({"signal"}),
    "SIGSTOP": frozenset({"stopped", "start_timeout", "suspend_timeout"}),
    "SIGSEGV": frozenset({"signal"}),
    # Before a worker has greeted nobody looks at its memory, and it is ended for being late; one
    # that is leaving grows until its deadline.
    "out of memory": frozenset({"out_of_memory", "exit_code", "start_timeout", "suspend_timeout"}),
    "hang": frozenset({"hang", "start_timeout", "suspend_timeout"}),
    "disk full": frozenset({"exit_code"}),
}
"""What the certificate of a worker says that died of it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault, at one point of one process, in the life of a session of one kind."""

    role: Role
    point: str
    fault: Fault
    agent: Agent
    trigger: Trigger = "life"

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.role}: {self.fault} at {self.point!r} ({self.agent} agent)"


@dataclass(slots=True)
class Life:
    """The life that a cell is about. ``play`` returns what did not hold."""

    made: FaultyHost
    host: Host
    cell: Cell
    session_id: SessionId
    workspace: Path
    session: Session = field(init=False)
    shown: list[Stored] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    struck: Path | None = None
    troubles: list[str] = field(default_factory=list)
    """What the client was told meanwhile: typed errors, each asked again."""

    async def play(self) -> list[str]:
        """Live it, and judge it."""
        self.workspace.mkdir(parents=True)
        self._prepare()
        following: asyncio.Task[None] | None = None
        minding = asyncio.create_task(self._mind())
        watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(SECONDS):
                await self._be_born()
                following = asyncio.create_task(self._follow())
                await self._be_used()
                if not self._ends_with_it:
                    await minding
                faults = await self._look_at_it_alive()
                await self._be_deleted()
                await minding
                faults += self._certificate_faults(self._log()) if not self._is_erased else []
                return faults + self._look_at_what_is_left()
        finally:
            for task in (minding, following, watching):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    # --- orders ---

    def _prepare(self) -> None:
        cell = self.cell
        if cell.role == "tool" and cell.trigger == "life":
            orders = {"fault": cell.fault, "at": cell.point}
            (self.workspace / ORDERS).write_text(json.dumps(orders))
        elif cell.trigger == "life":
            self._order()
        if not self._waits_at_gate:
            self._open_gate()

    def _order(self) -> None:
        subject = self.session_id if self.cell.role == "worker" else ANYONE
        self.struck = self.made.orders.give(
            self.cell.role, self.cell.point, self.cell.fault, subject
        )

    @property
    def _waits_at_gate(self) -> bool:
        """Whether the call waits until the fault has struck."""
        in_use = ("worker death", "host start", "zygote start", "store start", "signal")
        return self.cell.point == "call running" or self.cell.trigger in in_use

    @property
    def _ends_with_it(self) -> bool:
        """Whether the point is reached when all is looked at, or deleted, and not before."""
        at_the_end = ("session_deleted", "bury", "erasure", "erased", "question")
        return any(word in self.cell.point for word in at_the_end)

    @property
    def _is_erased(self) -> bool:
        return self.cell.trigger == "erasure"

    def _log(self) -> list[Stored]:
        return judge.read_log(self.made.data, self.session_id)

    def _open_gate(self) -> None:
        (self.workspace / GATE).touch()

    # --- who sees to it that it goes on ---

    async def _mind(self) -> None:
        """Bring the process to its point, wait for the fault, and do what is done about it."""
        if self.cell.role == "tool" and self.cell.trigger == "life":
            return
        if self.cell.trigger in {"worker death", "host start", "zygote start", "signal"}:
            await wait_until_async(self._call_waits, SECONDS, what="the call waits at the gate")
        await self._trigger()
        assert self.struck is not None, "the trigger gave the order"
        struck = self.struck

        async def is_struck() -> bool:
            return struck.exists()

        await wait_until_async(is_struck, SECONDS, what=f"{self.cell} has struck")
        self._end_by_hand()
        self._open_gate()
        if self.cell.fault == "disk full":
            await asyncio.sleep(FULL_SECONDS)
            struck.with_suffix(ROOM_SUFFIX).touch()

    async def _call_waits(self) -> bool:
        return bool(_started(self.shown, "one"))

    async def _trigger(self) -> None:
        """Do what brings the process to its point, where its life alone does not."""
        match self.cell.trigger:
            case "life":
                return
            case "worker death":
                self._order()
                self.made.kill_worker(self.session_id)
            case "host start":
                await asyncio.to_thread(self.made.kill)
                self._order()
            case "zygote start":
                await self._kill_named("zygote_pid", signal.SIGKILL)
            case "store start":
                await self._kill_named("store_pid", signal.SIGKILL)
            case "store end":
                await self._kill_named("store_pid", signal.SIGTERM)
            case "checkpoint":
                self._order()
                with suppress(PaddockError, TimeoutError):  # it does not answer, or dies of it
                    async with asyncio.timeout(CHECKPOINT_SECONDS), self._store() as store:
                        await store.checkpoint()
            case "host end":
                self._order()
            case "erasure":
                await wait_until_async(self._is_ordered, SECONDS, what="the deletion begins")
            case "signal":
                await wait_until_async(self._strike_keeper, what="the call has a keeper")

    async def _is_ordered(self) -> bool:
        return self.struck is not None

    async def _kill_named(self, name: str, number: signal.Signals) -> None:
        async def pid() -> int | None:
            found: int | None = (await self._insist(self.host.status))[name]
            return found

        found = await wait_until_async(pid, what=name)
        self._order()
        with suppress(ProcessLookupError):
            os.kill(found, number)

    async def _strike_keeper(self) -> bool:
        """Send the signal to the process that keeps the call's, once the call tells which it is."""
        told = self.workspace / PARENT
        if not told.exists():
            return False
        keeper = int(told.read_text())
        assert keeper != self.made.worker_pid(self.session_id), "a call has a keeper"
        os.kill(keeper, signal.Signals[self.cell.fault])
        self.struck = told
        return True

    def _store(self) -> StoreClient:
        return StoreClient(f"ipc://{self.made.places.runtime / 'store.sock'}")

    def _end_by_hand(self) -> None:
        """End a process that does not answer, where its watcher would take long."""
        assert self.struck is not None, "it was struck"
        if self.cell.role in {"supervisor", "store"} and self.cell.fault in ENDED_BY_HAND:
            with suppress(ProcessLookupError):
                os.kill(int(self.struck.read_text()), signal.SIGKILL)

    async def _watch(self) -> None:
        """Start the host again whenever it is gone, as the watcher of ``paddock up`` does."""
        while True:
            if not self.made.is_running:
                with suppress(AssertionError):  # it died on its way, too
                    await asyncio.to_thread(self.made.start)
            await asyncio.sleep(WATCH_SECONDS)

    # --- the client ---

    async def _insist[T](self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer; what is wrong with the host or the disk passes."""
        while True:
            try:
                return await ask()
            except (StoreError, PeerBroke, Bug, TimedOut, CreationFailed, NoHost) as error:
                self.troubles.append(error.code)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _be_born(self) -> None:
        config = self._config()
        self.session = await self._insist(
            lambda: self.host.create_session(config, session_id=self.session_id)
        )

    def _config(self) -> SessionConfig:
        is_builtin = self.cell.agent == "built-in"
        return SessionConfig(
            name=f"s{self.session_id[-12:]}",
            agent="builtin" if is_builtin else "matrix_agents:clerk",
            model=absolute_model(self._script()) if is_builtin else None,
            python_path=() if is_builtin else (str(HERE),),
            workspace=str(self.workspace),
            limits=Limits(memory_mb=MEMORY_MB),
            environment={"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE)},
        )

    def _script(self) -> str:
        turns = []
        for prompt, words in enumerate(("one", "two")):
            effect = f"{sys.executable} -S -m matrix_effects {words}.effect"
            gated = call("bash", command=effect, timeout_seconds=TOOL_SECONDS)
            turns += [
                turn(gated, prompt=prompt),
                turn(f"done: {words}", prompt=prompt),
            ]
        return write_script(self.workspace.with_suffix(".script.json"), turns)

    async def _be_used(self) -> None:
        await self._speak("one")
        command_id = self.host.new_command_id()
        await self._insist(
            lambda: self.session.command(Annotate(key="remark", value="one"), command_id=command_id)
        )
        self.accepted.append(command_id)
        if self.cell.trigger == "host end":
            with suppress(PaddockError):  # it dies of it, or does not answer
                await self.host.down(force=True, deadline_seconds=SUSPEND_SECONDS)
        else:
            await self._insist(lambda: self.session.suspend(SUSPEND_SECONDS))
        await self._speak("two")

    async def _speak(self, words: str) -> None:
        async def send() -> Operation:
            return await self.session.send(words, key=words, deadline_seconds=30)

        operation = await self._insist(send)
        self.accepted.append(operation.command_id)
        self.outcomes.append(await self._insist(operation.wait))

    async def _follow(self) -> None:
        approvals: set[asyncio.Task[None]] = set()
        try:
            async for stored in self.session.events():
                self.shown.append(stored)
                if isinstance(stored.event, ApprovalRequested):
                    approvals.add(asyncio.create_task(self._approve(stored.event)))
        finally:
            for task in approvals:
                task.cancel()
            await asyncio.gather(*approvals, return_exceptions=True)

    async def _approve(self, asked: ApprovalRequested) -> None:
        with suppress(NothingToDecide):  # it died with its operation
            await self._insist(lambda: self.session.approve(asked.approval_id))

    async def _be_deleted(self) -> None:
        command_id = self.host.new_command_id()
        if self.cell.trigger == "erasure":
            self._order()
        for _ in range(2):  # the same command has the same answer
            await self._insist(
                lambda: self.session.delete(command_id=command_id, erase=self._is_erased)
            )
        with suppress(SessionNotFound):
            await self._insist(lambda: self.session.send("three"))
            self.troubles.append("it was used after its deletion")

    # --- what must hold ---

    async def _look_at_it_alive(self) -> list[str]:
        log: list[Stored] = []

        async def is_shown() -> bool:
            nonlocal log
            log = self._log()
            return bool(self.shown) and self.shown[-1].sequence == len(log)

        await wait_until_async(is_shown, SECONDS, what="all was shown")
        faults = [
            *judge.faults_of(log, is_live=True),
            *judge.file_faults(self.made.data, self.session_id),
            *judge.shown_faults(self.shown, log),
            *self._command_faults(log),
            *self._effect_faults(log),
            *(await self._sql_faults(log)),
        ]
        for words, outcome in zip(("one", "two"), self.outcomes, strict=True):
            if (outcome.status, outcome.final_message) != ("completed", f"done: {words}"):
                faults.append(f"{words!r} ended as {outcome}")
        return faults

    def _command_faults(self, log: list[Stored]) -> list[str]:
        there = {one.event.command_id for one in log if one.event.kind == "command_accepted"}
        return [f"command {one} is lost" for one in self.accepted if one not in there]

    def _effect_faults(self, log: list[Stored]) -> list[str]:
        """What the tool did is what the log says: never more than it was started, nor unasked."""
        ledger = self.workspace / LEDGER
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        faults = []
        for words in ("one", "two"):
            starts = _started(log, words)
            results = [_result(log, one) for one in starts]
            done = lines.count(f"{words}.effect")
            if not results.count("ok") <= done <= len(starts):
                faults.append(f"{words}: started {len(starts)} times, {results}, done {done} times")
            if self.cell.agent == "function" and len(starts) != 1:
                faults.append(f"{words}: its call was started {len(starts)} times")
        if self.cell.role == "tool":
            first = _result(log, _started(log, "one")[0])
            if first not in STATUS[self.cell.fault]:
                faults.append(f"the tool's result is {first!r}")
        return faults

    def _certificate_faults(self, log: list[Stored]) -> list[str]:
        """Whoever died has a certificate that says of what; nobody else died."""
        deaths = [one.event for one in log if isinstance(one.event, WorkerExited)]
        crashes = [one for one in deaths if one.ending == "crashed"]
        if self.cell.role != "worker":
            return []
        assert self.struck is not None, "it was struck"
        pid = int(self.struck.read_text())
        certificates = [one for one in deaths if one.pid == pid]
        if self.cell.fault != "disk full" and not certificates:
            return [f"process {pid} has no certificate"]
        return [
            f"the certificate says {one.reason!r}"
            for one in crashes
            if one.pid == pid and one.reason not in REASONS[self.cell.fault]
        ]

    async def _sql_faults(self, log: list[Stored]) -> list[str]:
        query = (
            "SELECT count(*), min(sequence), max(sequence), count(DISTINCT sequence) "
            "FROM events WHERE session_id = ?"
        )
        found: list[tuple[int, ...]] = []

        async def asked() -> list[tuple[int, ...]]:
            return [tuple(row) for row in await self.host.sql(query, [self.session_id])]

        wanted = [(len(log), 1, len(log), len(log))]

        async def is_seen() -> bool:
            found[:] = await self._insist(asked)
            return found == wanted

        try:
            await wait_until_async(is_seen, what="SQL sees it")
        except AssertionError:
            return [f"SQL counts {found}, the file {wanted}"]
        runs = "SELECT count(*) FROM worker_runs WHERE session_id = ?"
        ((count,),) = await self._insist(lambda: self.host.sql(runs, [self.session_id]))
        born = {one.generation for one in log if one.event.kind == "worker_started"}
        dead = {one.event.worker_generation for one in log if isinstance(one.event, WorkerExited)}
        return [] if count == len(born | dead) else [f"worker_runs has {count} of {born | dead}"]

    def _look_at_what_is_left(self) -> list[str]:
        folder = folder_of(self.made.data, self.session_id)
        if self._is_erased:
            return [f"{folder} is still there"] if folder.exists() else []
        log = self._log()
        faults = judge.faults_of(log, is_live=False)
        faults += judge.file_faults(self.made.data, self.session_id)
        if log[-1].event.kind != "session_deleted" and not any(
            one.event.kind == "session_deleted" for one in log
        ):
            faults.append("it has no session_deleted")
        return faults + [one for one in self.troubles if " " in one]


def _started(log: Sequence[Stored], words: str) -> list[ToolCallId]:
    """Return the calls with effects for these words that were started."""
    asked = {
        one.event.tool_call_id
        for one in log
        if isinstance(one.event, ToolCallRequested)
        and one.event.tool in {"bash", "record"}
        and f"{words}.effect" in json.dumps(one.event.arguments)
    }
    started = [one.event for one in log if isinstance(one.event, ToolCallStarted)]
    return [event.tool_call_id for event in started if event.tool_call_id in asked]


def _result(log: Sequence[Stored], call_id: ToolCallId) -> str | None:
    for stored in log:
        event = stored.event
        if isinstance(event, ToolCallFinished) and event.tool_call_id == call_id:
            return event.status
    return None
