"""Blocking work beside an event loop."""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine


async def in_thread[T](work: Callable[[], T], *, niceness: int = 0) -> T:
    """Run blocking work in a thread of its own and await its result.

    Not in the loop's executor: a few calls stuck on a dead file system would fill that, and its
    threads are waited for when the process ends. ``niceness`` lets others go first, where the
    system knows that of a thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may itself be None

    def run() -> None:
        result, error = None, None
        try:
            if niceness:
                _give_way(niceness)
            result = work()
        except BaseException as caught:  # noqa: BLE001 - handed over
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="paddock-tool", daemon=True).start()
    return await future


def _give_way(niceness: int) -> None:
    """Make this thread no less nice than that, where a thread can be."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(niceness, os.getpriority(os.PRIO_PROCESS, me)))


async def to_its_end[T](work: Coroutine[object, object, T] | asyncio.Future[T]) -> T:
    """Await bounded work to its end, however often the caller is cancelled meanwhile.

    The cancellation is not lost: CancelledError is raised then.
    """
    task = asyncio.ensure_future(work)
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        task.exception()  # looked at, so that it is not reported as forgotten
        raise asyncio.CancelledError
    return task.result()
