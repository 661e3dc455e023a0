"""``paddock attach`` and ``paddock wait``: be there while a session works."""

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import LARGEST, is_terminal, run_async, with_host
from paddock.supervisor.cli.printing import hint, print_json, say
from paddock.supervisor.cli.sessions import AsJson, One

if TYPE_CHECKING:
    from paddock.client import Host, Session
    from paddock.store.session import Session as State


def attach(
    session: One,
    *,
    after: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST, help="Show from this event on. Default: the operation."),
    ] = None,
    wake: Annotated[bool, typer.Option("--wake", help="Wake it, and keep it awake.")] = False,
) -> int:
    """Watch a session, answer its questions, and talk to it.

    What you type is sent to it, unless it is the answer to a question. Ctrl-C (or Ctrl-D) leaves;
    the session goes on. To end what it does: `paddock interrupt`.

    Examples:
      paddock attach fixer
      paddock attach --after 0 fixer      # from its beginning
    """

    async def work(host: "Host") -> int:
        found = await host.session(session)
        state = await found.state()
        begin = after if after is not None else _before_open_work(state)
        if await _follow(found, begin, wake=wake):
            hint(f"detached; {found.name or found.session_id} goes on by itself")
        return exit_codes.DONE

    return with_host(work)


def _before_open_work(state: "State") -> int:
    """Return the sequence after which to begin: the words that the open operation is about."""
    operation = state.conversation.operation
    if operation is None:
        return state.sequence
    begun = [
        message.sequence
        for message in state.conversation.messages.values()
        if message.operation_id == operation.operation_id
    ]
    return min(begun, default=state.sequence) - 1


async def _follow(session: "Session", after: int, *, wake: bool) -> bool:
    """Show a session until its user leaves; return whether it is still there."""
    from paddock.supervisor.cli.asking import Asker
    from paddock.supervisor.cli.screen import Screen

    screen = Screen(shows_users=True, are_words_kept=not sys.stdout.isatty())
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def leave() -> None:
        hint("")  # below the terminal's ^C
        screen.typed()
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, leave)

    async def send(line: str) -> None:
        await session.send(line)

    asker = Asker(session, screen, otherwise=send, at_end=task.cancel) if is_terminal() else None
    try:
        with contextlib.suppress(asyncio.CancelledError):
            async with session.follow(after=after, wake=wake) as feed:
                screen.note(f"attached to {session.name or session.session_id}; Ctrl-C leaves")
                async for told in feed:
                    screen.show(told)
                    if asker is not None:
                        asker.take(told)
                        if feed.is_drained:
                            asker.ask()
            screen.note("the session was deleted")
            return False
        return True
    finally:
        task.uncancel()
        screen.end_line()
        loop.remove_signal_handler(signal.SIGINT)
        if asker is not None:
            asker.close()


def wait(
    session: One,
    *,
    deadline: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
    as_json: AsJson = False,
) -> int:
    """Wait until a session is at rest: nothing at work, nothing queued.

    The exit code tells how its last operation ended. A session that waits for an approval is not
    at rest.

    Examples:
      paddock wait fixer && paddock send fixer "commit it"
      paddock wait --deadline 600 --json fixer
    """
    from paddock.client.files import read_state
    from paddock.client.places import places_of
    from paddock.supervisor.cli.source import find

    session_id = run_async(find(session))
    state = read_state(places_of().data, session_id)
    if not _is_at_rest(state):

        async def work(host: "Host") -> int:
            nonlocal state
            state = await _wait_at_rest(await host.session(session_id), deadline)
            return exit_codes.DONE

        with_host(work)
    return _tell(state, session, as_json=as_json)


def _tell(state: "State", session: str, *, as_json: bool) -> int:
    ended = state.conversation.ended
    status: str | None = ended.status if ended is not None else None
    if state.life.status in ("failed", "deleted"):
        status = "session_failed" if state.life.status == "failed" else "deleted"
    told = {
        "session_id": state.session_id,
        "status": status,
        "operation_id": ended.operation_id if ended is not None else None,
        "error": ended.error if ended is not None else state.life.reason,
        "sequence": state.sequence,
    }
    if as_json:
        print_json(told)
    else:
        say(f"{session}: {status or 'at rest'}")
    return exit_codes.OUTCOMES[status] if status else exit_codes.DONE


async def _wait_at_rest(session: "Session", deadline: float | None) -> "State":
    from paddock.store.errors import TimedOut
    from paddock.store.events import Stored
    from paddock.store.fold import evolve

    state = await session.state()
    try:
        async with asyncio.timeout(deadline):
            if _is_at_rest(state):
                return state
            if (lacks := _lacks(state)) is not None:
                raise session.lacking(lacks)
            async with session.follow(after=state.sequence, deltas=False) as feed:
                async for told in feed:
                    if isinstance(told, Stored):
                        evolve(state, told)
                        if _is_at_rest(state):
                            return state
                    if feed.is_caught_up and (lacks := _lacks(state)) is not None:
                        raise session.lacking(lacks)
    except TimeoutError as error:
        message = f"{session.name or session.session_id} is not at rest after {deadline:g} s"
        raise TimedOut(message, seconds=deadline) from error
    state.life.status = "deleted"
    return state


def _lacks(state: "State") -> str | None:
    """Return what credentials the open operation waits for."""
    operation = state.conversation.operation
    call = operation.model_call if operation is not None else None
    is_lacking = call is not None and call.failed and call.error_kind == "needs_credentials"
    return call.error if call is not None and is_lacking else None


def _is_at_rest(state: "State") -> bool:
    if state.life.status in ("failed", "deleted"):
        return True
    conversation = state.conversation
    is_busy = conversation.operation is not None or conversation.queue or state.unanswered()
    return not is_busy
