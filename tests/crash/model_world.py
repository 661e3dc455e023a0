"""The real host under a model-based test: what a client did to it, and what it was told.

Everything runs in a loop of its own thread, so that feeds go on between two steps of the model.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddock.client import Host, Operation, Outcome, Session, connect
from paddock.session_worker.errors import NothingToDecide
from paddock.session_worker.protocol import Annotate
from paddock.store.errors import PeerBroke, Refused, SessionNotFound, StoreError, TimedOut
from paddock.store.events import ApprovalRequested, Stored
from paddock.supervisor.errors import NoHost
from paddock.testing import HostForTests, call, turn, wait_until_async, write_script
from tests.crash import judge

SECONDS = 120.0
AGAIN_SECONDS = 0.05
PROMPTS = 40
LEDGER = "effects.log"


@dataclass(slots=True)
class Player:
    """One session: what was asked of it, and what was told about it."""

    session: Session
    workspace: Path
    shown: list[Stored] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    operations: dict[str, Operation] = field(default_factory=dict)
    """By the key with which their words were sent."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    kills: int = 0
    interrupts: int = 0
    is_deleted: bool = False
    feed: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Its name, which is its folder's."""
        return self.workspace.name


class World:
    """A host, its client, and the sessions of one example."""

    def __init__(self, made: HostForTests, folder: Path) -> None:
        self.made = made
        self.players: list[Player] = []
        self.host: Host
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="client")
        self._thread.start()
        folder.mkdir(parents=True)
        made.start()
        self.run(self.reconnect())

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop and return what came of it."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, SECONDS), self._loop)
        return future.result(SECONDS + 5)

    def close(self) -> None:
        """Let go of the client and the loop."""
        self.run(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- the client ---

    async def reconnect(self) -> None:
        """Come back as another client, which goes on where the last one was shown to."""
        await self._disconnect()
        self.host = await connect(self.made.home, start=False, name="model")
        for player in self.players:
            player.session = Session(self.host, player.session.session_id, player.name)
            self._follow(player)

    async def _disconnect(self) -> None:
        feeds = [player.feed for player in self.players if player.feed is not None]
        for feed in feeds:
            feed.cancel()
        await asyncio.gather(*feeds, return_exceptions=True)
        if hasattr(self, "host"):
            await self.host.close()

    def _follow(self, player: Player) -> None:
        async def follow() -> None:
            after = player.shown[-1].sequence if player.shown else 0
            with suppress(SessionNotFound):  # it was deleted
                async for stored in player.session.events(after=after):
                    player.shown.append(stored)
                    if isinstance(stored.event, ApprovalRequested):
                        await self._approve(player, stored.event)

        player.feed = asyncio.get_running_loop().create_task(follow())

    async def _approve(self, player: Player, asked: ApprovalRequested) -> None:
        with suppress(NothingToDecide, SessionNotFound):  # it died with its operation
            await self.insist(lambda: player.session.approve(asked.approval_id))

    async def insist[T](self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer; a refusal is one."""
        while True:
            try:
                return await ask()
            except (PeerBroke, StoreError, TimedOut, NoHost):
                await asyncio.sleep(AGAIN_SECONDS)

    # --- commands ---

    async def create(self) -> None:
        """Make a session whose every words have an effect that needs an approval."""
        workspace = self._folder / f"{self._folder.name}-{len(self.players)}"
        workspace.mkdir()
        model = write_script(workspace.with_suffix(".json"), self._script())
        session = await self.insist(
            lambda: self.host.ensure(workspace.name, model=model, mode="normal", cwd=workspace)
        )
        player = Player(session, workspace)
        self.players.append(player)
        self._follow(player)

    def _script(self) -> list[Any]:
        turns: list[Any] = []
        for prompt in range(PROMPTS):
            effect = call("bash", command=f"echo {prompt} >> {LEDGER}; sleep 0.05")
            turns += [turn(effect, prompt=prompt), turn(f"done {prompt}", prompt=prompt)]
        return turns

    async def send(self, player: Player, key: str) -> None:
        """Send words; the same key again must be the same operation."""

        async def send() -> Operation:
            return await player.session.send(f"words {key}", key=key, deadline_seconds=60)

        operation = await self.insist(send)
        known = player.operations.setdefault(key, operation)
        assert known.command_id == operation.command_id, "a key is one command"
        assert known.sequence == operation.sequence, "which is answered once"
        player.accepted.append(operation.command_id)

    async def annotate(self, player: Player, value: int) -> None:
        """Leave a remark."""
        command_id = self.host.new_command_id()
        remark = Annotate(key="remark", value=value)
        await self.insist(lambda: player.session.command(remark, command_id=command_id))
        player.accepted.append(command_id)

    async def interrupt(self, player: Player) -> None:
        """Interrupt whatever it does."""
        player.interrupts += 1
        with suppress(Refused):  # it does nothing
            await self.insist(player.session.interrupt)

    async def suspend(self, player: Player) -> None:
        """Let it rest."""
        await self.insist(player.session.suspend)

    async def resume(self, player: Player) -> None:
        """Wake it."""
        await self.insist(player.session.resume)

    async def delete(self, player: Player) -> None:
        """End it for good."""
        command_id = self.host.new_command_id()
        for _ in range(2):
            await self.insist(lambda: player.session.delete(command_id=command_id))
        player.is_deleted = True

    async def use_deleted(self, player: Player) -> None:
        """Whoever uses it afterwards is told that there is none."""
        with suppress(SessionNotFound):
            await self.insist(lambda: player.session.send("more"))
            raise AssertionError("a deleted session took words")

    # --- kills ---

    def kill_worker(self, player: Player, number: signal.Signals) -> None:
        """Signal its worker, if there is one."""
        pid = self.made.worker_pid(player.session.session_id)
        if pid is not None:
            player.kills += 1
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def kill_named(self, name: str) -> None:
        """Kill the store or the zygote."""
        status = await self.insist(self.host.status)
        if status[name] is not None:
            with suppress(ProcessLookupError):
                os.kill(status[name], signal.SIGKILL)

    def kill_host(self) -> None:
        """Kill the supervisor, and start the next."""
        self.made.kill()
        self.made.start()

    # --- the end ---

    async def settle(self) -> None:
        """Wait until every operation of whoever is left has ended, and all of it was shown."""
        for player in self.players:
            if player.is_deleted:
                continue
            await self.insist(player.session.resume)
            for key, operation in player.operations.items():
                player.outcomes[key] = await self.insist(operation.wait)

            async def is_shown(player: Player = player) -> bool:
                head = judge.head_of(self.made.data, player.session.session_id)
                return bool(player.shown) and player.shown[-1].sequence == head

            await wait_until_async(is_shown, SECONDS, what=f"all of {player.name} was shown")

    async def counted(self, player: Player) -> list[tuple[Any, ...]]:
        """Return how many events of a session SQL counts."""
        query = "SELECT count(*), max(sequence) FROM events WHERE session_id = ?"
        rows = await self.insist(lambda: self.host.sql(query, [player.session.session_id]))
        return [tuple(row) for row in rows]
