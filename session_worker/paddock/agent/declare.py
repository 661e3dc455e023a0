"""Saying that a function is an agent, or a tool: two decorators that only mark it."""

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from paddock.agent.context import Context

AGENT_MARK = "__paddock_agent__"
TOOL_MARK = "__paddock_tool__"

_EFFECTS = ("none", "idempotent", "write")
_APPROVALS = ("allow", "ask")


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent that is a function."""

    name: str
    version: str | None
    function: "Callable[[Context], Awaitable[None]]"


@dataclass(frozen=True, slots=True)
class ToolDeclaration:
    """A function that is run as a tool: in a child process, recorded, perhaps after approval."""

    name: str
    reference: str
    """``module:qualname``: how the child process finds it."""
    description: str
    effects: Literal["none", "idempotent", "write"]
    approval: Literal["allow", "ask"]
    timeout_seconds: float
    exclusive: bool
    function: Callable[..., Any]


def progress(text: str) -> None:
    """Say, from within a tool, how far it is: a line that whoever watches the session sees at once.

    It is a preview, dropped when nobody watches, and no part of the tool's result; it is what
    ``print`` does as well.
    """
    print(text, flush=True)  # noqa: T201 - a tool's output is how it is heard


def agent[F: Callable[..., Awaitable[None]]](
    name: str, *, version: str | None = None
) -> Callable[[F], F]:
    """Mark an async function of one :class:`Context` as an agent.

    ``version`` stands in the log, so that outcomes can be compared between versions.

    Raises:
        TypeError: It marks a function that is not async, or one that yields; name or version are no
            strings.
    """
    _check_texts({"an agent's name": name, "an agent's version": version or ""})

    def mark(function: F) -> F:
        what = _what_else(function)
        if what is not None:
            message = (
                f"agent {name!r}: {function.__qualname__} is {what}; "
                "an agent is 'async def' and takes its turns with 'async for turn in s.turns()'"
            )
            raise TypeError(message)
        setattr(function, AGENT_MARK, AgentSpec(name, version, function))
        return function

    return mark


def tool[F: Callable[..., Any]](
    *,
    effects: Literal["none", "idempotent", "write"] = "write",
    approval: Literal["allow", "ask"] = "ask",
    timeout_seconds: float = 60.0,
    exclusive: bool | None = None,
    name: str | None = None,
) -> Callable[[F], F]:
    """Mark a function of an importable module as a tool; it stays callable as it is.

    ``exclusive`` (by default what writes) means that no other call runs beside it.

    Raises:
        TypeError, ValueError: One of them is not what it can be.
    """
    if effects not in _EFFECTS or approval not in _APPROVALS:
        message = f"a tool's effects are one of {_EFFECTS}, its approval one of {_APPROVALS}"
        raise ValueError(message)
    if not 0 < timeout_seconds < math.inf:
        message = f"a tool's timeout_seconds must be a number above 0, not {timeout_seconds!r}"
        raise ValueError(message)
    _check_texts({"a tool's name": name or ""})

    def mark(function: F) -> F:
        declaration = ToolDeclaration(
            name or function.__name__,
            f"{function.__module__}:{function.__qualname__}",
            (function.__doc__ or "").strip(),
            effects,
            approval,
            timeout_seconds,
            effects == "write" if exclusive is None else exclusive,
            function,
        )
        setattr(function, TOOL_MARK, declaration)
        return function

    return mark


def _check_texts(given: Mapping[str, object]) -> None:
    for what, value in given.items():
        if not isinstance(value, str):
            message = f"{what} must be a string, not {type(value).__name__}"
            raise TypeError(message)


def _what_else(function: Callable[..., object]) -> str | None:
    """Return what a function is that can be no agent; None of one that is async, or may be."""
    inner = inspect.unwrap(function)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        return "a generator (it yields)"
    if inspect.isfunction(inner) and not inspect.iscoroutinefunction(inner):
        return "not async"
    return None
