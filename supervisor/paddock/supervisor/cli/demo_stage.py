"""The stage of the demonstration: four sessions, what is seen of them, and what is done to them."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.supervisor.cli import demo_data
from paddock.supervisor.cli.printing import call_line, one_line, say

if TYPE_CHECKING:
    from paddock.client import Host, Outcome, Session
    from paddock.client.places import Places
    from paddock.store.events import Stored

STAGE_SECONDS = 60.0
KEEPS_BOOKS = "bookkeeper"


@dataclass(slots=True)
class Actor:
    """A session of the demonstration, and all that was seen of it."""

    name: str
    session: "Session"
    workspace: Path
    seen: "list[Stored]" = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: "Outcome | None" = None
    calls: dict[str, str] = field(default_factory=dict)

    async def wait_for(self, happened: "Callable[[Stored], bool]", after: int = 0) -> "Stored":
        """Return the first event above ``after`` that is what is waited for."""
        while True:
            for stored in self.seen:
                if stored.sequence > after and happened(stored):
                    return stored
            self.moved.clear()
            await self.moved.wait()

    @property
    def head(self) -> int:
        """The sequence of the last event seen."""
        return self.seen[-1].sequence if self.seen else 0


class Stage:
    """The folder, the host, the four sessions, and what is done to them."""

    def __init__(self, folder: Path, places: "Places") -> None:
        self.folder = folder
        self.places = places
        self.actors: dict[str, Actor] = {}
        self.kills: list[str] = []
        self.host_pids: list[int] = []
        self._began = time.monotonic()
        self._host: Host | None = None
        self._watching: list[asyncio.Task[None]] = []

    @property
    def host(self) -> "Host":
        """The client."""
        assert self._host is not None, "the play has begun"
        return self._host

    def tell(self, who: str, what: str) -> None:
        """Say what happens, with the time since the beginning."""
        say(f"{time.monotonic() - self._began:6.2f}s  {who:<11}{one_line(what, 110)}")

    async def play(self) -> None:
        """Have them work, and kill what can be killed meanwhile."""
        from paddock.client import connect

        self.host_pids.append(await self._start_host())
        self._host = await connect(self.folder / "home", start=False, name="demo")
        self.tell("host", f"up, pid {self.host_pids[0]}, everything under {self.folder}")
        await self._cast()
        async with self._following():
            work = [asyncio.create_task(self._work(actor)) for actor in self.actors.values()]
            troubles = asyncio.create_task(self._troubles())
            try:
                await asyncio.gather(troubles, *work)
            finally:
                for task in (troubles, *work):
                    task.cancel()

    async def clear(self) -> None:
        """End the host and wait until it is gone."""
        from paddock.store.errors import PaddockError

        if self._host is not None:
            with contextlib.suppress(PaddockError):
                await self._host.down(force=True, deadline_seconds=5)
            await self._host.close()
        for pid in self.host_pids:
            await _wait_gone(pid)

    # --- the work ---

    async def _start_host(self) -> int:
        from paddock.client.starting import start_host

        return await start_host(self.places, deadline_seconds=30, idle_exit_seconds=120)

    async def _cast(self) -> None:
        """Make four workspaces and a session in each."""
        for repository in demo_data.REPOSITORIES:
            workspace = self.folder / repository.name
            workspace.mkdir()
            for name, text in repository.files.items():
                (workspace / name).write_text(text, encoding="utf-8")
            script = self.folder / f"{repository.name}.json"
            script.write_text(json.dumps(repository.turns), encoding="utf-8")
            await self._enter(repository.name, workspace, model=f"script:{script}")
        books = self.folder / KEEPS_BOOKS
        books.mkdir()
        await self._enter(KEEPS_BOOKS, books, agent="paddock.supervisor.cli.demo_agent:bookkeeper")

    async def _enter(self, name: str, workspace: Path, **config: str) -> None:
        began = time.monotonic()
        session = await self.host.new(name, cwd=workspace, mode="yolo", **config)  # type: ignore[arg-type]
        self.actors[name] = Actor(name, session, workspace)
        self.tell(name, f"a session of its own process, ready in {_ms(began)}")

    async def _work(self, actor: Actor) -> None:
        prompts = {one.name: one.prompt for one in demo_data.REPOSITORIES}
        operation = await actor.session.send(prompts.get(actor.name, "spring"), key="demo")
        actor.outcome = await operation.wait()
        self.tell(actor.name, f"{actor.outcome.status}: {actor.outcome.final_message}")

    @contextlib.asynccontextmanager
    async def _following(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._follow(actor)) for actor in self.actors.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, actor: Actor) -> None:
        async for stored in actor.session.events():
            actor.seen.append(stored)
            actor.moved.set()
            self._show(actor, stored)

    def _show(self, actor: Actor, stored: "Stored") -> None:
        event = stored.event
        match event.kind:
            case "tool_call_requested":
                actor.calls[event.tool_call_id] = call_line(event.tool, event.arguments, 70)
            case "tool_call_started":
                self.tell(actor.name, f"● {self._brief(actor, event.tool_call_id)}")
            case "tool_call_finished" if event.status != "ok":
                what = f"exit code {event.exit_code}" if event.exit_code else event.status
                self.tell(actor.name, f"  {self._brief(actor, event.tool_call_id)}: {what}")
            case _:
                return

    def _brief(self, actor: Actor, tool_call_id: str) -> str:
        return actor.calls.get(tool_call_id, "a call").replace(demo_data.PYTHON, "python")

    # --- the troubles ---

    async def _troubles(self) -> None:
        await asyncio.gather(self._kill_worker(), self._suspend_and_wake())
        await self._kill_host()

    async def _kill_worker(self) -> None:
        """Kill a worker in the middle of a tool call; it comes back and the call is asked again."""
        actor = self.actors[demo_data.INTERVALS.name]
        started = await actor.wait_for(
            lambda stored: (
                stored.event.kind == "tool_call_started"
                and demo_data.SLOW_MARK in actor.calls.get(stored.event.tool_call_id or "", "")
            )
        )
        pid = await self._pid_of(actor)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        self.kills.append(actor.name)
        self.tell(actor.name, f"✂ kill -9 {pid}, its worker, in the middle of that call")
        back = await actor.wait_for(
            lambda stored: stored.event.kind == "worker_started", started.sequence
        )
        self.tell(
            actor.name,
            f"✓ back after {_ms(began)} as generation {back.generation}: the call is "
            "`interrupted`, never silently run again",
        )

    async def _suspend_and_wake(self) -> None:
        """Suspend a session while it works; woken, it goes on where it was."""
        actor = self.actors[demo_data.INVOICE.name]
        await actor.wait_for(lambda stored: stored.event.kind == "tool_call_finished")
        began = time.monotonic()
        await actor.session.suspend(deadline_seconds=5)
        self.tell(actor.name, f"✂ suspended in its work after {_ms(began)}: no process is left")
        began = time.monotonic()
        generation = await actor.session.resume()
        self.tell(actor.name, f"✓ woken in {_ms(began)} as generation {generation}: it goes on")

    async def _kill_host(self) -> None:
        """Kill the host while they work; the next one adopts their workers."""
        books = self.actors[KEEPS_BOOKS]
        await books.wait_for(lambda stored: stored.event.kind == "tool_call_finished")
        before = {life["session_id"]: life["pid"] for life in await self.host.lives()}
        busy = sum(actor.outcome is None for actor in self.actors.values())
        old = self.host_pids[-1]
        os.kill(old, signal.SIGKILL)
        await _wait_gone(old)
        self.tell("host", f"✂ kill -9 {old}, the host itself, while {busy} sessions work")
        began = time.monotonic()
        self.host_pids.append(await self._start_host())
        self.kills.append("host")
        after = {life["session_id"]: life["pid"] for life in await self._lives_of(before)}
        kept = sum(after.get(one) == pid for one, pid in before.items())
        self.tell(
            "host",
            f"✓ the next one, pid {self.host_pids[-1]}, adopted {kept} of {len(before)} workers "
            f"after {_ms(began)}",
        )

    async def _lives_of(self, wanted: "dict[str, int]") -> "list[dict[str, int]]":
        """Return the workers once all that are wanted are there (or their work is done)."""
        until = time.monotonic() + STAGE_SECONDS
        while True:
            lives = await self.host.lives()
            if wanted.keys() <= {life["session_id"] for life in lives if life.get("pid")}:
                return lives
            if time.monotonic() > until:
                return lives
            await asyncio.sleep(0.01)

    async def _pid_of(self, actor: Actor) -> int:
        for life in await self.host.lives():
            if life["session_id"] == actor.session.session_id:
                return int(life["pid"])
        message = f"{actor.name} is at work and has no process"
        raise AssertionError(message)


async def _wait_gone(pid: int) -> None:
    """Return when a process is gone; if it is our child, its exit status is taken."""
    until = time.monotonic() + STAGE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(0.005)


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"
