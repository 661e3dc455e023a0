"""What is done again and again, whatever becomes of one round of it."""

import asyncio
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Never

import structlog

log = structlog.get_logger("paddock.supervisor.rounds")

type Part = Callable[[], object]
"""A function or a coroutine's; what it returns nobody wants."""


async def go_round(parts: Mapping[str, Part], pause_seconds: float) -> Never:
    """Do each of the parts, by their names, after each pause, until cancelled.

    One that fails keeps no other from its turn, and has its own again in the next round. Its story
    is in the log once, until it has succeeded in between.
    """
    failed: set[str] = set()
    while True:
        await asyncio.sleep(pause_seconds)
        for name, part in parts.items():
            try:
                work = part()
                if isawaitable(work):
                    await work
            except Exception:
                if name not in failed:
                    log.exception("round_failed", part=name)
                failed.add(name)
            else:
                failed.discard(name)
