"""What a function agent works with: turns, steps, calls, replies, and its state."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args, get_type_hints

from pydantic import JsonValue, PydanticUserError, TypeAdapter
from pydantic_core import to_json

from paddock.agent import handed
from paddock.agent.declare import TOOL_MARK, ToolDeclaration
from paddock.session_worker.ledger import digest_of
from paddock.session_worker.sizes import (
    LARGEST_VALUE_BYTES,
    VALUE_TOO_LARGE,
)
from paddock.session_worker.stimuli import (
    CallWanted,
    FromAgent,
    Replied,
    StateKept,
    StepBegun,
    StepEnded,
)
from paddock.store.errors import Refused, TooLarge
from paddock.store.events import Effects
from paddock.store.ids import OperationId
from paddock.store.session import Call, Step
from paddock.store.text import whole_value


class OperationEnded(Refused):
    """The turn's operation was ended (cancelled, or diverged): nothing more is done for it."""

    code = "operation_ended"


class StepFailed(Refused):
    """A step raised when it ran; its error was recorded and is raised again on re-entry."""

    code = "step_failed"


class StepInterrupted(Refused):
    """A step that writes was cut off by a death: whether it took effect is not known."""

    code = "step_interrupted"


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a tool call ended; an error or a denial is a result, not an exception."""

    status: str
    text: str
    _value: JsonValue
    error: str | None
    error_kind: str | None = None

    @property
    def value(self) -> JsonValue:
        """What a Python tool returned; None of other tools.

        Raises:
            TooLarge: It returned more than 16 MiB (as JSON): that was kept as the call's output,
                head and tail of which are in ``text``; ``paddock output`` has all of it.
        """
        if self.error_kind == VALUE_TOO_LARGE:
            message = "the call's value is too large to be given back; have the tool write a file"
            raise TooLarge(message, limit_bytes=LARGEST_VALUE_BYTES)
        return self._value

    @property
    def is_error(self) -> bool:
        """Whether it ended otherwise than well."""
        return self.status != "ok"


@dataclass(frozen=True, slots=True)
class NextTurn:
    """An operation that an agent is to work on."""

    operation_id: OperationId
    text: str


class Desk(Protocol):
    """Where an agent's questions to the ledger go; each is answered once it is durable."""

    @property
    def is_stopping(self) -> bool:
        """Whether the agent was asked to end: what it leaves then is cut off and not done."""

    async def next_turn(self) -> NextTurn:
        """Wait for the next operation."""

    def post(self, question: FromAgent) -> None:
        """Hand a question to the ledger."""


class Turn:
    """One operation: what was said, and the way to answer."""

    def __init__(self, context: "Context", told: NextTurn) -> None:
        self.operation_id = told.operation_id
        self.text = told.text
        self.is_answered = False
        self._context = context

    async def reply(self, text: str) -> None:
        """Answer, and end the turn: message, state and the operation's end in one commit.

        Raises:
            TypeError, ValueError: The text is none, or the state holds what JSON cannot hold.
            TooLarge: No event can hold the text and the state; the turn is not answered.
            OperationEnded: The turn was answered before.
        """
        await self._context._end_turn(self, handed.words("a reply", text))  # noqa: SLF001 - its own turn


class Context:
    """A function agent's view of its session; ``state`` is JSON values, kept at each reply."""

    def __init__(
        self, session_id: str, state: dict[str, JsonValue], desk: Desk, tools: Mapping[str, str]
    ) -> None:
        self.session_id = session_id
        self.state = state
        self._desk = desk
        self._tools = tools
        """Which function goes by the name of each tool: ``module:qualname``."""
        self._turn: Turn | None = None
        self._kept = digest_of(state)
        self._places: dict[str, int] = {}

    async def turns(self) -> AsyncIterator[Turn]:
        """Give each turn: new, queued, or entered again after a death.

        A turn that was left without a reply ends without a message, unless the agent was asked to
        stop: what was interrupted is cancelled, and what was suspended is given again.

        Raises:
            RuntimeError: They are asked for anew within a turn: none comes before its reply.
        """
        if self._turn is not None and not self._turn.is_answered and not self._desk.is_stopping:
            message = "s.turns() within a turn, which has no reply yet: reply to it first"
            raise RuntimeError(message)
        while True:
            told = await self._desk.next_turn()
            self._turn = Turn(self, told)
            self._places.clear()
            yield self._turn
            if not self._turn.is_answered and not self._desk.is_stopping:
                await self._end_turn(self._turn, None)

    async def step[T](
        self,
        key: str,
        function: Callable[..., T | Awaitable[T]],
        *args: object,
        effects: Literal["none", "idempotent", "write"] = "write",
        **kwargs: object,
    ) -> T:
        """Run a function once and record its value; on re-entry give the recorded value back.

        ``key`` names the step within its turn; used again it counts on (``plan``, ``plan#2``). The
        value must be JSON-able, or of the function's annotated return type; what is given back is
        what is recorded, the first time as well. The arguments tell whether it is the same step on
        re-entry: an object that is no JSON (a client, a function) by its repr without the address.

        Raises:
            TypeError, ValueError: The key, the effects, the arguments or the annotated type can be
                none; nothing ran.
            StepFailed: It raised, now or when it ran.
            StepInterrupted: It writes, and was cut off by a death.
            OperationEnded: The turn's operation was ended meanwhile.
        """
        key = handed.name("the key of a step", key)
        _check_step(key, function, effects)
        adapter = _returned_by(key, function)
        digest = _digest_of_arguments(key, [args, kwargs])
        operation_id = self._open_turn().operation_id
        place = self._place(key)
        recorded = await self._ask(
            lambda answer: StepBegun(operation_id, place, digest, effects, answer)
        )
        if isinstance(recorded, Step):
            return cast("T", _value_of(recorded, adapter))
        if recorded != "run":
            raise _ended(operation_id)
        began = time.monotonic()
        value: JsonValue = None
        error: str | None = None
        result: T | None = None
        try:
            result = await _run(function, args, kwargs)
            value = whole_value(_drawn(f"the value of step {place!r}", result, adapter))
            result = _read(value, adapter)  # on re-entry it is this one as well
        except asyncio.CancelledError as raised:
            if _is_cancelled():
                raise  # the step is cut off with its agent, or by it
            value, error = None, handed.told(raised)
        except (Exception, SystemExit, KeyboardInterrupt) as raised:  # noqa: BLE001 - user's code
            # Recorded, and raised again.
            value, error = None, handed.told(raised)
        elapsed = (time.monotonic() - began) * 1000
        await self._ask(
            lambda answer: StepEnded(operation_id, place, value, error, elapsed, answer)
        )
        if error is not None:
            raise StepFailed(f"step {place!r}: {error}", step_key=place)
        return result  # type: ignore[return-value]  # it ran without an error

    async def call(self, tool: "Callable[..., Any] | str", **arguments: Any) -> CallResult:
        """Have a tool called: decided, recorded, run in a process of its own.

        ``tool`` is a function marked with :func:`~paddock.agent.tool`, in the agent's module or in
        one that is a name there (``from . import tools``); or the name of one, or of a built-in.

        Raises:
            TypeError, ValueError: It is no tool of this agent's, or the arguments hold what JSON
                cannot hold.
            OperationEnded: The turn's operation was ended meanwhile.
            TooLarge: No event can hold the arguments.
        """
        name = tool if isinstance(tool, str) else self._name_of(_declared(tool))
        name = handed.name("the name of a tool", name)
        plain = cast("dict[str, JsonValue]", handed.plain(f"a call of {name!r}", arguments))
        operation_id = self._open_turn().operation_id
        place = self._place(f"call {name}")
        call = await self._ask(lambda answer: CallWanted(operation_id, place, name, plain, answer))
        if not isinstance(call, Call) or call.status is None:
            raise _ended(operation_id)
        return CallResult(call.status, call.text, call.value, call.error, call.error_kind)

    async def save(self) -> None:
        """Make the state durable now, in the middle of a turn.

        Raises:
            TypeError, ValueError: It holds what JSON cannot hold.
            TooLarge: No event can hold it; keep what is large in a file.
        """
        state = self._state()
        self._kept = digest_of(state)
        await self._ask(lambda answer: StateKept(state, answer))

    async def _end_turn(self, turn: Turn, text: str | None) -> None:
        if turn.is_answered:
            message = "the turn was answered before: one reply each"
            raise OperationEnded(message, operation_id=turn.operation_id)
        state = self._state()
        handed.fitting("a reply with the state", [text, cast("JsonValue", state)])
        turn.is_answered = True
        changed = digest_of(state) != self._kept
        self._kept = digest_of(state)
        await self._ask(
            lambda answer: Replied(turn.operation_id, text, state if changed else None, answer)
        )

    def _state(self) -> dict[str, JsonValue]:
        plain = handed.plain("the state", self.state)
        if not isinstance(plain, dict):
            message = f"the state must be a dict, not {type(self.state).__name__}"
            raise TypeError(message)
        return plain

    def _name_of(self, declared: ToolDeclaration) -> str:
        known = self._tools.get(declared.name)
        if known == declared.reference:
            return declared.name
        message = (
            f"tool {declared.name!r} ({declared.reference}) is not one of its agent's: have it, or "
            "its module, as a name in the agent's module"
            if known is None
            else f"two tools go by the name {declared.name!r}, {known} and {declared.reference}: "
            "give one another, @tool(name=...)"
        )
        raise ValueError(message)

    def _open_turn(self) -> Turn:
        if self._turn is None or self._turn.is_answered:
            message = "steps and calls belong into a turn, before its reply"
            raise OperationEnded(message)
        return self._turn

    def _place(self, key: str) -> str:
        count = self._places[key] = self._places.get(key, 0) + 1
        return key if count == 1 else f"{key}#{count}"

    async def _ask(self, question: Callable[[Future[object]], FromAgent]) -> object:
        answer: Future[object] = Future()
        self._desk.post(question(answer))
        return await asyncio.wrap_future(answer)


def _is_cancelled() -> bool:
    """Return whether the present task was itself cancelled, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _run[T](
    function: Callable[..., T | Awaitable[T]], args: tuple[object, ...], kwargs: dict[str, object]
) -> T:
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)  # type: ignore[no-any-return]
    result = await asyncio.to_thread(function, *args, **kwargs)
    if inspect.isawaitable(result):
        return await result
    return result


def _check_step(key: str, function: object, effects: object) -> None:
    if not callable(function):
        message = f"step {key!r} needs a function, not {type(function).__name__}"
        raise TypeError(message)
    known = get_args(Effects.__value__)
    if effects not in known:
        message = f"step {key!r}: its effects must be one of {', '.join(known)}"
        raise ValueError(message)


def _digest_of_arguments(key: str, arguments: list[object]) -> str:
    try:
        return digest_of(handed.same_in_every_process(arguments))
    except (ValueError, RecursionError) as error:  # a circle, half a character, too many levels
        message = f"the arguments of step {key!r} cannot be told from others: {error}"
        raise ValueError(message) from error


def _drawn(what: str, value: object, adapter: TypeAdapter[Any]) -> JsonValue:
    """Return a step's value as JSON, by its function's annotation, if it has one."""
    if adapter.core_schema["type"] == "any":
        return handed.plain(what, value)
    drawn = adapter.dump_python(value, mode="json", by_alias=False, round_trip=True)
    return handed.fitting(what, drawn)


def _read[T](value: JsonValue, adapter: TypeAdapter[T]) -> T:
    """Return what was drawn as its function's type again: a strict model, too, takes its JSON."""
    if adapter.core_schema["type"] == "any":
        return cast("T", value)
    return adapter.validate_json(to_json(value), by_alias=True, by_name=True)


def _returned_by(key: str, function: Callable[..., object]) -> TypeAdapter[Any]:
    """Return how the function's values are written and read: by its annotation, if it has one."""
    try:
        returned = get_type_hints(function).get("return", Any)
    except Exception:  # noqa: BLE001 - whatever the user's annotations come to
        returned = Any  # those that cannot be resolved say nothing
    try:
        return TypeAdapter(returned)
    except PydanticUserError as error:
        message = (
            f"step {key!r}: no value can be recorded of the type that its function is annotated to "
            f"return, {returned!r}; annotate what JSON holds, a dataclass or a pydantic model"
        )
        raise TypeError(message) from error


def _value_of[T](step: Step, adapter: "TypeAdapter[T]") -> T:
    if step.status == "ok":
        return _read(step.value, adapter)
    if step.status == "error":
        raise StepFailed(f"step {step.step_key!r}: {step.error}", step_key=step.step_key)
    message = (
        f"step {step.step_key!r} writes and was cut off by a death: look whether it took effect,"
        " and go on with a step of another key"
    )
    raise StepInterrupted(message, step_key=step.step_key)


def _declared(function: Callable[..., Any]) -> ToolDeclaration:
    declaration = getattr(function, TOOL_MARK, None)
    if not isinstance(declaration, ToolDeclaration):
        message = f"{function!r} is no tool: mark it with @tool(...)"
        raise TypeError(message)
    return declaration


def _ended(operation_id: OperationId) -> OperationEnded:
    message = f"operation {operation_id!r} was ended; leave the turn"
    return OperationEnded(message, operation_id=operation_id)
