"""What a program hands over and cannot be meant is told in one line, by one class."""

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import ValidationError

from paddock.session_worker.errors import BadArgument

SHOWN_FAULTS = 3
SHOWN_CHARACTERS = 60


def plainly[C](client: type[C]) -> type[C]:
    """Let all public coroutines of a class raise BadArgument for what no word can be made of."""
    for name, method in list(vars(client).items()):
        if inspect.iscoroutinefunction(method) and not name.startswith("_"):
            setattr(client, name, _plain(method))
    return client


def _plain[**P, T](
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    @functools.wraps(method)
    async def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except ValidationError as error:
            raise BadArgument(_in_one_line(error)) from error

    return told


def _in_one_line(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    told = []
    for fault in faults[:SHOWN_FAULTS]:
        where = ".".join(str(part) for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        told.append(f"{where}: {said}, not {shown(fault['input'])}")
    if len(faults) > SHOWN_FAULTS:
        told.append(f"and {len(faults) - SHOWN_FAULTS} more")
    return "; ".join(told)


def shown(value: object) -> str:
    """Return a value as an error shows it: cut, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
