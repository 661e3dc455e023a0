"""What is done to a crowd while it works: a schedule drawn beforehand, and who carries it out."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from paddock.client import Host, Session
from paddock.session_worker.toolbox.processes import owned_processes
from paddock.store.errors import PeerBroke, SessionNotFound, StoreError, TimedOut
from paddock.testing import HostForTests, call, turn, wait_until_async, write_script
from tests.crash import judge
from tests.crash.crowd import Actor, Crowd

type Deed = Literal[
    "worker",
    "store",
    "zygote",
    "supervisor",
    "all",
    "mid-start",
    "stop",
    "tool",
    "suspend",
    "restart",
    "delete",
    "interrupt",
]
"""Whom to kill (``all`` at once; ``mid-start``: a host, and then a worker and the zygote of the
next), or what else to do: stop a worker with SIGSTOP, end a tool, and what users do."""

KILLS: tuple[Deed, ...] = (
    *("worker",) * 8,
    *("store",) * 2,
    *("zygote",) * 2,
    *("supervisor",) * 2,
    "all",
    "mid-start",
)
DEEDS: tuple[Deed, ...] = (
    *KILLS,
    *("stop",) * 2,
    *("tool",) * 4,
    *("suspend",) * 3,
    *("restart",) * 2,
    *("delete",) * 2,
    *("interrupt",) * 2,
)
SUSPEND_SECONDS = 10.0
LEAVE_SECONDS = 60.0
AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Action:
    """One deed, when so many more events were shown, to the first of these who can suffer it."""

    deed: Deed
    after_events: int
    order: tuple[int, ...]

    def __str__(self) -> str:
        """Return it in a few words."""
        return f"{self.deed} after {self.after_events} ({self.order[0]} first)"


def drawn(dice: random.Random, deeds: Iterable[Deed], size: int) -> list[Action]:
    """Return the deeds in some order, with everything else that chance decides about them."""
    deck = list(deeds)
    dice.shuffle(deck)
    return [
        Action(deed, dice.randint(20, 150), tuple(dice.sample(range(size), size))) for deed in deck
    ]


@dataclass(slots=True)
class Doer:
    """Carries a schedule out, and remembers what became of those who were deleted."""

    made: HostForTests
    crowd: Crowd
    host: Host
    story: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _guests: int = 0

    def counts(self) -> Counter[str]:
        """Return how often what was done."""
        return Counter(one.split()[0] for one in self.story)

    async def carry_out(self, schedule: Iterable[Action]) -> None:
        """Do one thing after the other; then it is enough."""
        for action in schedule:
            await self.crowd.wait_for_events(action.after_events)
            self.story.append(f"{action.deed} after {self.crowd.seen} events")
            await self._do(action)
        self.crowd.is_enough = True

    async def _do(self, action: Action) -> None:
        match action.deed:
            case "worker":
                await self._signal_worker(action, signal.SIGKILL)
            case "stop":
                await self._signal_worker(action, signal.SIGSTOP)
            case "store" | "zygote":
                await self._kill_named(f"{action.deed}_pid")
            case "supervisor":
                await self._kill_supervisor()
            case "all":
                await self._kill_all(action)
            case "mid-start":
                await self._kill_supervisor()
                await self._signal_worker(action, signal.SIGKILL)
                await self._kill_named("zygote_pid")
            case "tool":
                self._kill_tool(action)
            case "suspend":
                await self._suspend(self.crowd.actors[action.order[0]])
            case "restart":
                await self._restart()
            case "delete":
                await self._be_deleted(await self._guest())
            case "interrupt":
                await self._be_interrupted(await self._guest())

    # --- kills ---

    async def _signal_worker(self, action: Action, number: signal.Signals) -> None:
        async def pick() -> int | None:
            pids = (self._worker_pid(place) for place in action.order)
            return next((pid for pid in pids if pid is not None), None)

        kill(await wait_until_async(pick, what="a live worker"), number)

    def _worker_pid(self, place: int) -> int | None:
        return self.made.worker_pid(self.crowd.actors[place].session_id)

    async def _kill_named(self, name: str) -> None:
        async def pid() -> int | None:
            found: int | None = (await self.host.status())[name]
            return found

        kill(await wait_until_async(pid, what=name))

    async def _kill_supervisor(self) -> None:
        await asyncio.to_thread(self.made.kill)
        await asyncio.to_thread(self.made.start)

    async def _kill_all(self, action: Action) -> None:
        """Kill the supervisor, and before the next one comes, some workers and the rest."""
        status = await self.host.status()
        await asyncio.to_thread(self.made.kill)
        for place in action.order[:5]:
            kill(self._worker_pid(place))
        kill(status["zygote_pid"])
        kill(status["store_pid"])
        await asyncio.to_thread(self.made.start)

    def _kill_tool(self, action: Action) -> None:
        """Kill whatever a call keeps running at this moment, or what keeps it; nothing may run."""
        for place in action.order:
            found = owned_processes(f"{self.crowd.actors[place].session_id}.")
            tools = [one.pid for one in found if one.pid != self._worker_pid(place)]
            if tools:
                kill(tools[0])
                return

    # --- what users do ---

    async def _suspend(self, actor: Actor) -> None:
        await self._insist(lambda: actor.session.suspend(SUSPEND_SECONDS))
        await self._insist(actor.session.resume)

    async def _restart(self) -> None:
        """Restart the host as ``paddock restart`` does: its workers go on meanwhile."""
        with suppress(PeerBroke):  # it takes its time, or was gone before it could answer
            await self.host.down(keep_workers=True)

        async def is_gone() -> bool:
            return not self.made.is_running

        await wait_until_async(is_gone, LEAVE_SECONDS, what="the host left")
        await asyncio.to_thread(self.made.start)

    async def _guest(self) -> Session:
        """Return a session with an operation that would take long."""
        self._guests += 1
        folder = self.crowd.folder / f"guest-{self._guests}"
        folder.mkdir(parents=True)
        long = turn(call("bash", command="sleep 1000"))
        model = write_script(folder.with_suffix(".json"), [long, turn("slept"), turn("again")])
        session = await self._insist(
            lambda: self.host.ensure(folder.name, model=model, mode="yolo", cwd=folder)
        )
        await self._insist(lambda: session.send("sleep", key="sleep"))
        return session

    async def _be_deleted(self, session: Session) -> None:
        """Delete it in the middle of its operation: nothing of it is written or runs any more."""
        command_id = self.host.new_command_id()
        await self._insist(lambda: session.delete(command_id=command_id))
        head = judge.head_of(self.made.data, session.session_id)
        with suppress(SessionNotFound):
            await self._insist(lambda: session.send("more"))
            self.faults.append(f"{session.session_id} was used after its deletion")
        self._look_at_guest(session, head)

    async def _be_interrupted(self, session: Session) -> None:
        """Interrupt its operation, and end it."""
        await self._insist(session.interrupt)
        await self._be_deleted(session)

    def _look_at_guest(self, session: Session, head: int) -> None:
        log = judge.read_log(self.made.data, session.session_id)
        found = judge.faults_of(log, is_live=False)
        if len(log) != head:
            found.append(f"{len(log) - head} events were written after its deletion")
        running = owned_processes(f"{session.session_id}.")
        found += [f"process {one.pid} of it runs" for one in running]
        self.faults += [f"guest {session.session_id}: {fault}" for fault in found]

    async def _insist[T](self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer: hosts come and go meanwhile."""
        while True:
            try:
                return await ask()
            except (PeerBroke, StoreError, TimedOut):
                await asyncio.sleep(AGAIN_SECONDS)


def kill(pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may have gone meanwhile."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
