"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Awaitable, Callable

LOOK_AGAIN_SECONDS = 0.005
DEADLINE_SECONDS = 30.0


class NotYet(AssertionError):
    """The deadline passed and the condition did not hold."""


def wait_until[T](
    condition: Callable[[], T],
    deadline_seconds: float = DEADLINE_SECONDS,
    *,
    what: str | None = None,
) -> T:
    """Return the first truthy value of a condition, looked at until the deadline.

    Raises:
        NotYet: It never held; ``what`` says what was waited for.
    """
    until = time.monotonic() + deadline_seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise NotYet(_message(condition, what, deadline_seconds, value))
        time.sleep(LOOK_AGAIN_SECONDS)
    return value


async def wait_until_async[T](
    condition: Callable[[], Awaitable[T | None]],
    deadline_seconds: float = DEADLINE_SECONDS,
    *,
    what: str | None = None,
) -> T:
    """Return the first truthy value of an async condition; as :func:`wait_until`."""
    until = time.monotonic() + deadline_seconds
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > until:
            raise NotYet(_message(condition, what, deadline_seconds, value))
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _message(condition: object, what: str | None, seconds: float, value: object) -> str:
    name = what or getattr(condition, "__name__", repr(condition))
    return f"not within {seconds:g} s: {name} (it was {value!r} at the end)"
