"""Twenty sessions that work until they are told that it is enough, and all that was seen of them.

Each session's script goes on as long as it is asked to. What its tools really did stands in its
workspace: ``effects.log`` gets a line each time a shell command or a payment runs.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from paddock.client import Host, Outcome, Session
from paddock.session_worker.errors import NothingToDecide
from paddock.session_worker.protocol import Annotate
from paddock.store.events import ApprovalRequested, Stored
from paddock.store.ids import SessionId
from paddock.testing import call, turn, write_script
from paddock.testing.scripts import Turn
from tests.crash.crash_agents import LEDGER

SESSIONS = 20
PROMPTS = 60
"""More than any session gets to answer before it is enough."""
PATIENCE_SECONDS = 200.0
"""For the answer to a command: hosts come and go meanwhile."""
HERE = Path(__file__).parent
KILLED = frozenset({"signal", "unknown"})
"""Reasons of those who were killed; of an adopted one the kernel may not tell by what."""


@dataclass(slots=True)
class Actor:
    """One session, what was shown of it, and what it was told to do."""

    name: str
    session: Session
    workspace: Path
    shown: list[Stored] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    """Commands of which a client was told that they were carried out."""
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def session_id(self) -> SessionId:
        """Whose it is."""
        return self.session.session_id

    @property
    def is_teller(self) -> bool:
        """Whether it is a function agent."""
        return self.name.startswith("teller")


class Crowd:
    """All sessions, those who give them work, and those who watch."""

    def __init__(self, folder: Path, dice: random.Random, size: int = SESSIONS) -> None:
        self.actors: list[Actor] = []
        self.is_enough = False
        self.seen = 0
        self.folder = folder
        self._dice = dice
        self._size = size
        self._moved = asyncio.Condition()

    async def gather(self, host: Host) -> None:
        """Make the sessions."""
        for number in range(self._size):
            kind = ("coder", "coder", "asker", "coder", "teller")[number % 5]
            name = f"{kind}-{number}"
            workspace = self.folder / name
            workspace.mkdir(parents=True)
            if kind == "teller":
                session = await host.new(
                    name, agent="crash_agents:teller", python_path=(str(HERE),), cwd=workspace
                )
            else:
                mode = "normal" if kind == "asker" else "yolo"
                model = write_script(self.folder / f"{name}.json", self._script(name))
                session = await host.new(name, model=model, mode=mode, cwd=workspace)  # type: ignore[arg-type]
            self.actors.append(Actor(name, session, workspace))

    def _script(self, name: str) -> list[Turn]:
        turns: list[Turn] = []
        for prompt in range(PROMPTS):
            token = f"{name}.{prompt}"
            turns += [
                turn(
                    "First the shell.",
                    call("bash", command=f"sleep 0.0{self._dice.randint(1, 9)}; {_log(token, 1)}"),
                    call("ls", path="."),
                    delay_ms=self._dice.randint(0, 60),
                    prompt=prompt,
                ),
                turn(
                    "Then files.",
                    call("write_file", path=f"{prompt}.txt", content=f"{token} old\n"),
                    delay_ms=self._dice.randint(0, 60),
                    prompt=prompt,
                ),
                turn(
                    call("edit_file", path=f"{prompt}.txt", old_string=" old", new_string=" new"),
                    call("bash", command=_log(token, 2)),
                    prompt=prompt,
                ),
                turn(f"done: {token}", prompt=prompt),
            ]
        return turns

    # --- work ---

    async def work(self, actor: Actor) -> None:
        """Give a session one piece of work after another until it is enough."""
        for prompt in range(PROMPTS):
            if self.is_enough:
                return
            if prompt % 3 == 1:
                await self._annotate(actor, prompt)
            operation = await actor.session.send(
                f"{actor.name}.{prompt}", key=f"prompt {prompt}", deadline_seconds=PATIENCE_SECONDS
            )
            actor.accepted.append(operation.command_id)
            actor.outcomes.append(await operation.wait())

    async def _annotate(self, actor: Actor, prompt: int) -> None:
        command_id = actor.session.host.new_command_id()
        await actor.session.command(
            Annotate(key="prompt", value=prompt),
            command_id=command_id,
            deadline_seconds=PATIENCE_SECONDS,
        )
        actor.accepted.append(command_id)

    async def watch(self, actor: Actor) -> None:
        """Take down all that is shown of a session, and decide what it asks for."""
        decisions: set[asyncio.Task[None]] = set()
        try:
            async for stored in actor.session.events():
                actor.shown.append(stored)
                if isinstance(stored.event, ApprovalRequested):
                    task = asyncio.create_task(self._approve(actor, stored.event))
                    decisions.add(task)
                    task.add_done_callback(decisions.discard)
                self.seen += 1
                async with self._moved:
                    self._moved.notify_all()
        finally:
            for task in decisions:
                task.cancel()

    async def _approve(self, actor: Actor, asked: ApprovalRequested) -> None:
        with suppress(NothingToDecide):  # it died with its operation
            await actor.session.approve(asked.approval_id)

    async def wait_for_events(self, count: int) -> None:
        """Return when so many more events were shown."""
        wanted = self.seen + count
        await self.wait_until(lambda: self.seen >= wanted)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when something holds of what was shown."""
        async with self._moved:
            await self._moved.wait_for(condition)

    # --- what really happened ---

    def effect_faults(self, actor: Actor, log: list[Stored]) -> list[str]:
        """Compare what the tools did with what the log says that they did."""
        started: dict[str, int] = {}
        ended: dict[str, int] = {}
        tokens: dict[str, str] = {}
        for stored in log:
            event = stored.event
            if event.kind == "tool_call_requested" and event.tool in {"bash", "post"}:
                tokens[event.tool_call_id] = _token_of(event.arguments)
            elif event.kind == "tool_call_started" and event.tool_call_id in tokens:
                token = tokens[event.tool_call_id]
                started[token] = started.get(token, 0) + 1
            elif event.kind == "tool_call_finished" and event.tool_call_id in tokens:
                token = tokens[event.tool_call_id]
                ended[token] = ended.get(token, 0) + (event.status == "ok")
        ledger = actor.workspace / LEDGER
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        faults = [f"{line!r} ran and was never started" for line in set(lines) - set(started)]
        for token, starts in started.items():
            done = lines.count(token)
            if not ended.get(token, 0) <= done <= starts:
                faults.append(
                    f"{token!r}: {starts} starts, {ended.get(token)} ok, ran {done} times"
                )
            if actor.is_teller and starts > 1:
                faults.append(f"{token!r} was paid {starts} times")
        return faults

    def work_faults(self, actor: Actor, log: list[Stored]) -> list[str]:
        """Compare what completed with what stands in the workspace."""
        faults = []
        deaths = Counter(
            stored.event.struck_operation_id
            for stored in log
            if stored.event.kind == "worker_exited" and stored.event.reason in KILLED
        )
        for prompt, outcome in enumerate(actor.outcomes):
            token = f"{actor.name}.{prompt}"
            if outcome.status == "interrupted" and deaths[outcome.operation_id] > 1:
                continue  # it was killed twice: quarantined, as it must be
            if outcome.status != "completed":
                faults.append(f"{token}: {outcome.status}: {outcome.error}")
            elif outcome.final_message != f"done: {token}":
                faults.append(f"{token}: it said {outcome.final_message!r}")
            elif not actor.is_teller:
                file = actor.workspace / f"{prompt}.txt"
                if file.read_text() != f"{token} new\n":
                    faults.append(f"{token}: its file holds {file.read_text()!r}")
        return faults


def _log(token: str, place: int) -> str:
    return f"echo {token}.{place} >> {LEDGER}"


def _token_of(arguments: object) -> str:
    assert isinstance(arguments, dict)
    command = arguments.get("command")
    if isinstance(command, str):
        return command.partition("echo ")[2].partition(" ")[0]
    return str(arguments["token"])
