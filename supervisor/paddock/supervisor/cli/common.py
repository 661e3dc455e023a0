"""What several verbs share: the loop, the host, a file's text, the form of a result."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from paddock.store.errors import Refused

if TYPE_CHECKING:
    from paddock.client import Host, Outcome, Session


LARGEST = 10**12
"""What a number of an event or of rows can be at most; the wire and SQL take none above 2**63."""


class Mode(StrEnum):
    """How a session treats what needs approval."""

    NORMAL = "normal"
    YOLO = "yolo"


class BadArgument(Refused):
    """What was typed cannot be meant; says what can."""

    code = "bad_argument"


def run_async[T](work: Coroutine[Any, Any, T]) -> T:
    """Run a verb to its end."""
    return asyncio.run(work)


@asynccontextmanager
async def host_of(*, start: bool = True) -> "AsyncIterator[Host]":
    """Give the host of the home, started if need be and wanted."""
    from paddock.client import connect

    host = await connect(start=start, name="cli")
    try:
        yield host
    finally:
        await host.close()


def is_terminal() -> bool:
    """Whether a person can be asked: both what is read and what is shown is a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def read_words(argument: str | None, what: str = "PROMPT") -> str:
    """Return the words of an argument; ``-`` (or none, in a pipe) reads them from stdin.

    Raises:
        BadArgument: There are none, or they are not text.
    """
    if argument is not None and argument != "-":
        text = argument
    elif argument is None and sys.stdin.isatty():
        raise BadArgument(f"{what} is missing; give it as an argument, or `-` to read stdin")
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"stdin is not UTF-8 text (byte {error.start}); {what} must be text"
            raise BadArgument(message) from error
    if not text.strip():
        raise BadArgument(f"{what} is empty; say what is to be done")
    return text


def model_for(model: str | None, agent: str) -> str | None:
    """Return the model to ask: the one named, ``default_model``, or that of the one key here.

    A function agent asks models by itself, or none, so it is given none that was not named.

    Raises:
        BadConfiguration: None was named, and the settings cannot be read.
        UnknownModel: No model goes by that name; or a script cannot be read.
        NeedsCredentials: Its key is not in the environment.
        NoModel: None was named and none can be chosen.
    """
    from paddock.client.models import absolute_model, check_model
    from paddock.session_worker.models.catalog import default_model

    if model is not None:
        absolute = absolute_model(model)
        assert absolute is not None
        check_model(absolute, os.environ)
        return absolute
    if agent != "builtin":
        return None
    from paddock.supervisor.cli.printing import hint
    from paddock.supervisor.home import read_configuration

    if configured := read_configuration({}).settings.default_model:
        chosen = absolute_model(configured)
        check_model(chosen, os.environ)
        hint(f"model: {chosen} (it is default_model; --model names another)")
        return chosen
    chosen = default_model(os.environ)
    hint(f"model: {chosen} (its key is here; --model names another)")
    return chosen


def result_of(outcome: "Outcome") -> dict[str, Any]:
    """Return the outcome of an operation as ``run --json`` and ``replay --json`` print it."""
    usage: dict[str, Any] = outcome.usage.model_dump()
    usage["cost_usd"] = outcome.cost_usd
    return {
        "session_id": outcome.session_id,
        "status": outcome.status,
        "final_message": outcome.final_message,
        "operation_id": outcome.operation_id,
        "usage": usage,
        "duration_ms": round(outcome.duration_ms, 3),
        "error": outcome.error,
    }


def labels_of(words: list[str] | None) -> dict[str, str]:
    """Return labels from ``key=value`` words (X6).

    Raises:
        BadArgument: One has no ``=``, or nothing before it.
    """
    labels: dict[str, str] = {}
    for word in words or []:
        key, found, value = word.partition("=")
        if not found or not key:
            raise BadArgument(f"{word!r} is no label; write key=value")
        labels[key] = value
    return labels


async def sessions_of(host: "Host", texts: list[str]) -> "list[Session]":
    """Return the sessions of names, ids or parts of ids; all are found before any is used."""
    return [await host.session(text) for text in texts]


type Work = Callable[["Host"], Coroutine[Any, Any, int | None]]


def with_host(work: Work, *, start: bool = True) -> int:
    """Run a verb that speaks to the host; return its exit code."""

    async def body() -> int:
        async with host_of(start=start) as host:
            return await work(host) or 0

    return run_async(body())
