"""The driver of function agents: the user's code in a loop and thread of its own.

A function that blocks or loops delays only itself: the worker's own loop goes on beating, taking
commands and committing. The two speak through stimuli, each answered once it is durable.
"""

import asyncio
import contextlib
import importlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from types import FunctionType, ModuleType

from paddock.agent import handed
from paddock.agent.context import Context, NextTurn
from paddock.agent.declare import AGENT_MARK, TOOL_MARK, AgentSpec, ToolDeclaration
from paddock.session_worker.approvals import Toolkit
from paddock.session_worker.commands import take_from_queue
from paddock.session_worker.errors import AgentNotFound
from paddock.session_worker.ledger import Moment, open_calls
from paddock.session_worker.stimuli import AgentEnded, FromAgent
from paddock.session_worker.tools import (
    BadSignature,
    Limits,
    Tool,
    ToolSpec,
    Warm,
    python_tool,
    schema_of,
)
from paddock.session_worker.turn import InFlight, RunAgent, Step, advance, advance_calls
from paddock.store.events import OperationFailed, TextPart
from paddock.store.ids import OperationId
from paddock.store.session import Session, thread


@dataclass(frozen=True, slots=True)
class LoadedAgent:
    """An agent's function, and the tools that its module, and those which that names, declare."""

    spec: AgentSpec
    tools: tuple[ToolDeclaration, ...]


def load_agent(reference: str, python_path: Iterable[str]) -> LoadedAgent:
    """Import ``module:function`` (or ``module``, if it holds one agent) and return the agent.

    Raises:
        AgentNotFound: There is no such module or agent in it; says which are. The user's fault.
    """
    module_name, _, attribute = reference.partition(":")
    folders = list(python_path)
    for folder in folders:
        if folder not in sys.path:
            # At the end: what a workspace holds never shadows a module of ours (DESIGN §3).
            sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # any code of the user's may run here
        message = f"agent {reference!r}: its module cannot be imported: {_raised(error)}"
        message += _shadowed(module_name, folders)
        raise AgentNotFound(message, agent=reference) from error
    agents = _marked(module, AGENT_MARK, AgentSpec)
    tools = _tools_of(module)
    if attribute:
        found = agents.get(attribute) or next(
            (spec for spec in agents.values() if spec.name == attribute), None
        )
    else:
        found = next(iter(agents.values())) if len(set(agents.values())) == 1 else None
    if found is None:
        known = ", ".join(f"{module_name}:{name}" for name in agents) or "none"
        message = f"agent {reference!r} is not there; agents of that module: {known}"
        raise AgentNotFound(message + _shadowed(module_name, folders), agent=reference)
    return LoadedAgent(found, tools)


def _raised(error: BaseException) -> str:
    """Return what an import raised, and in which line of which file."""
    said = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
    places = [(at.filename, at.lineno) for at in frames if not at.filename.startswith("<frozen ")]
    if isinstance(error, SyntaxError) and error.filename:
        places = [(error.filename, error.lineno)]
    return f"{said} ({places[-1][0]}, line {places[-1][1]})" if places else said


def _shadowed(module_name: str, folders: list[str]) -> str:
    """Say that a module of the user's has the name of one that is found before it, if so."""
    package = module_name.partition(".")[0]
    own = PathFinder.find_spec(package, folders)
    found = sys.modules.get(package)
    taken = found.__spec__ if found is not None else None
    if own is None or taken is None or own.origin == taken.origin:
        return ""
    return f"; {package!r} is {taken.origin}, not {own.origin}: give that another name"


def _marked[T](module: ModuleType, mark: str, kind: type[T]) -> dict[str, T]:
    return {
        name: spec
        for name, value in vars(module).items()
        if isinstance(spec := getattr(value, mark, None), kind)
    }


def _tools_of(module: ModuleType) -> tuple[ToolDeclaration, ...]:
    """Return the tools that a module holds, or another that is a name in it, one for each name.

    Of others only plain functions are looked at: what else they hold may not like to be asked.
    """
    others = [value for value in vars(module).values() if isinstance(value, ModuleType)]
    far = [
        declared
        for other in others
        for value in vars(other).values()
        if isinstance(value, FunctionType)
        and isinstance(declared := vars(value).get(TOOL_MARK), ToolDeclaration)
    ]
    near = _marked(module, TOOL_MARK, ToolDeclaration).values()
    return tuple({declared.name: declared for declared in (*far, *near)}.values())


def declared_tool(
    declared: ToolDeclaration,
    python_path: Iterable[str],
    bounds: Limits,
    warm: Warm | None = None,
) -> Tool:
    """Return a marked function as a tool that runs in a child process.

    Raises:
        AgentNotFound: Its signature cannot be told to a model. The agent's author's fault.
    """
    try:
        parameters = schema_of(declared.function)
    except BadSignature as error:
        message = f"tool {declared.reference!r}: {error}"
        raise AgentNotFound(message, tool=declared.reference) from error
    spec = ToolSpec(
        name=declared.name,
        description=declared.description,
        parameters=parameters,
        effects=declared.effects,
        approval=declared.approval,
        timeout_seconds=declared.timeout_seconds,
        output_limit_bytes=bounds.output_bytes,
        exclusive=declared.exclusive,
    )
    return python_tool(declared.reference, spec, tuple(python_path), bounds, warm)


class FunctionDriver:
    """Runs a function agent: feeds it its turns, and ends it when it is to stop."""

    def __init__(self, agent: LoadedAgent) -> None:
        self.agent = agent
        self._desk: _Desk | None = None

    def advance(self, session: Session, in_flight: InFlight, toolkit: Toolkit, now: Moment) -> Step:
        """Return the next step: calls first, then the agent itself."""
        operation = session.conversation.operation
        if operation is None:
            return Step() if in_flight.stopping else Step(take_from_queue(session, now))
        if operation.operation == "shell":
            return advance(session, in_flight, toolkit, now)
        calls = advance_calls(session, in_flight, toolkit)
        if calls.events or calls.effects:
            return calls
        if in_flight.agent is not None or in_flight.stopping:
            return Step()
        if not _has_words(session, operation.operation_id) and not open_calls(session):
            return Step(
                [
                    OperationFailed(
                        operation_id=operation.operation_id,
                        error_kind="no_input",
                        error="the operation has no words to work on",
                    )
                ]
            )
        return Step(effects=[RunAgent(operation.operation_id)])

    def run(
        self, session: Session, operation_id: OperationId, arrive: Callable[[FromAgent], None]
    ) -> None:
        """Give an operation to the agent, entering its function if it is not waiting for one."""
        turn = NextTurn(operation_id, _words_of(session, operation_id))
        if self._desk is None or not self._desk.give(turn):
            self._desk = _Desk(arrive)
            state = dict(session.conversation.state)
            tools = {declared.name: declared.reference for declared in self.agent.tools}
            context = Context(session.session_id, state, self._desk, tools)
            self._desk.give(turn)
            self._desk.start(self.agent.spec, context)

    def stop(self) -> None:
        """Cancel the agent's function; what it waits for is not waited for any more."""
        if self._desk is not None:
            self._desk.stop()


class _Desk:
    """Between the agent's thread and the worker's loop."""

    def __init__(self, arrive: Callable[[FromAgent], None]) -> None:
        self.is_open = True
        self.is_stopping = False
        """Whether it was asked to end: then whatever its function comes to is no result."""
        self._arrive = arrive
        self._worker_loop = asyncio.get_running_loop()
        self._agent_loop = asyncio.new_event_loop()
        self._turns: asyncio.Queue[NextTurn] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._gate = threading.Lock()
        """Between giving a turn and the agent's end, which nothing else puts in an order."""
        self._given: OperationId | None = None
        self._taken: OperationId | None = None

    def start(self, spec: AgentSpec, context: Context) -> None:
        """Enter the agent's function in a thread of its own."""
        thread_ = threading.Thread(
            target=self._run, args=(spec, context), name="paddock-agent", daemon=True
        )
        thread_.start()

    def give(self, turn: NextTurn) -> bool:
        """Give the agent its next turn; False if its function has ended."""
        with self._gate:
            if not self.is_open:
                return False
            self._given = turn.operation_id
            self._agent_loop.call_soon_threadsafe(self._turns.put_nowait, turn)
            return True

    def stop(self) -> None:
        """Cancel the agent."""
        self.is_open, self.is_stopping = False, True
        with contextlib.suppress(RuntimeError):  # its loop ended by itself
            self._agent_loop.call_soon_threadsafe(self._cancel)

    async def next_turn(self) -> NextTurn:
        """Wait for the next turn; from the agent's thread.

        Raises:
            CancelledError: There is none for this function any more: it was to stop, and did not.
        """
        if self.is_stopping:
            raise asyncio.CancelledError
        turn = await self._turns.get()
        self._taken = turn.operation_id
        return turn

    def post(self, question: FromAgent) -> None:
        """Hand a question to the worker's loop; from the agent's thread."""
        with contextlib.suppress(RuntimeError):  # the worker is leaving
            self._worker_loop.call_soon_threadsafe(self._arrive, question)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self, spec: AgentSpec, context: Context) -> None:
        asyncio.set_event_loop(self._agent_loop)
        try:
            try:
                error = self._agent_loop.run_until_complete(self._live(spec, context))
            except BaseException as raised:  # noqa: BLE001 - as SystemExit in a task that it made
                error = self._told(raised)
            self._end(error)
            self._agent_loop.run_until_complete(self._agent_loop.shutdown_asyncgens())
        finally:
            self._agent_loop.close()

    async def _live(self, spec: AgentSpec, context: Context) -> str | None:
        """Return what the agent's function raised; None where it came to its end."""
        self._task = asyncio.current_task()
        if self.is_stopping and self._task is not None:
            self._task.cancel()
        try:
            await spec.function(context)
        except asyncio.CancelledError as raised:
            # What it waits for may be cancelled by anybody, its own code first of all.
            return f"{self._told(raised)}: cancelled by its own code, nobody asked it to stop"
        except BaseException as raised:  # noqa: BLE001 - user's code: its operation fails with it
            return self._told(raised)
        return None

    def _told(self, raised: BaseException) -> str:
        """Return what the agent raised, in words; where it did goes to the worker's stderr."""
        if not self.is_stopping:
            traceback.print_exception(raised)
        return handed.told(raised)

    def _end(self, error: str | None) -> None:
        with self._gate:
            self.is_open = False
        # What was given after the last turn it took is not its doing: it is entered anew for that.
        # Unless it took none: it was entered for that one, and would end so again.
        worked_on = self._taken or self._given
        untaken = self._given if self._given != worked_on else None
        # Stopped it may come to any end: what it had open is cancelled, or left for the next start.
        kind = "stopped" if self.is_stopping else "agent_error"
        self.post(AgentEnded(worked_on, error, kind, untaken))


def _has_words(session: Session, operation_id: OperationId) -> bool:
    return any(message.operation_id == operation_id for message in thread(session.conversation))


def _words_of(session: Session, operation_id: OperationId) -> str:
    """Return what the user said in an operation."""
    return "\n\n".join(
        part.text
        for message in thread(session.conversation)
        if message.operation_id == operation_id
        for part in message.user_parts
        if isinstance(part, TextPart)
    )
