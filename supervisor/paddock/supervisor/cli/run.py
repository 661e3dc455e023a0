"""``paddock run``: one task for an agent, watched to its end."""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import (
    BadArgument,
    Mode,
    is_terminal,
    labels_of,
    model_for,
    read_words,
    result_of,
    with_host,
)
from paddock.supervisor.cli.printing import hint, print_json

if TYPE_CHECKING:
    from paddock.client import Host, Operation, Outcome, Session
    from paddock.store.events import Stored
    from paddock.supervisor.cli.asking import Asker
    from paddock.supervisor.cli.screen import Screen


def run(
    prompt: Annotated[
        str | None, typer.Argument(help="What is to be done; `-` reads it from stdin.")
    ] = None,
    *,
    agent: Annotated[
        str, typer.Option(help="Who does it: `builtin`, or MODULE:FUNCTION of a function agent.")
    ] = "builtin",
    model: Annotated[
        str | None,
        typer.Option(
            help="PROVIDER:MODEL, an alias, or script:FILE. "
            "Default: default_model, else the one with a key."
        ),
    ] = None,
    cwd: Annotated[Path | None, typer.Option(help="The workspace. Default: this folder.")] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="normal (the default) asks before it changes anything; yolo allows all."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the session.")] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Go on in this session instead of making one; --mode sets its mode."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME of a variable that its tools need besides.")
    ] = None,
    messages: Annotated[
        bool,
        typer.Option("--messages", help="stdin is a JSON list of messages; the last one counts."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one object at the end; ask nothing.")
    ] = False,
) -> int:
    """Give an agent one task, watch it, and answer its questions.

    In a terminal you are asked before anything is changed. Elsewhere, and with --json, nobody can
    be: what needs approval is then denied, and said so, unless --mode yolo allows all. Ctrl-C ends
    the operation; a second Ctrl-C leaves it running. The session stays: see `paddock show`.

    Examples:
      paddock run "fix the failing test"
      paddock run --mode yolo --cwd ../app "update the changelog" > answer.txt
      paddock run --model script:turns.json --json "go on"
      git diff | paddock run --model openai:gpt-5 -
    """
    words = last_message(read_words(prompt)) if messages else read_words(prompt)
    attended = is_terminal() and not as_json
    labels = labels_of(label)
    if session is not None:
        named = None if agent == "builtin" else agent
        _goes_on(agent=named, model=model, cwd=cwd, name=name, label=label, env=env)

    async def work(host: "Host") -> int:
        if session is not None:
            found = await host.session(session)
            if mode is not None:
                await found.set_mode(mode.value)
        else:
            found = await host.new(
                name,
                agent=agent,
                model=chosen,
                cwd=cwd,
                mode=(mode or Mode.NORMAL).value,
                unattended=not attended,
                labels=labels,
                environment=environment,
                python_path=(os.getcwd(),) if agent != "builtin" else (),  # noqa: PTH109
            )
        watching = Watching(found, attended=attended, is_quiet=as_json)
        outcome = await watching.run(words)
        if outcome is None:
            hint(f"left running; see `paddock attach {found.name or found.session_id}`")
            return exit_codes.KEYBOARD
        if as_json:
            print_json(result_of(outcome))
        if watching.denied and not attended:
            hint(
                f"{watching.denied} call(s) needed an approval, and nobody was there to be asked: "
                "denied; --mode yolo allows all"
            )
        return exit_codes.OUTCOMES[outcome.status]

    from paddock.client.environment import collect

    environment = collect(os.environ, env or ())
    chosen = None if session is not None else model_for(model, agent)
    if session is None:
        from paddock.client.host import workspace_at

        workspace_at(cwd)  # before a host is started for nothing
    return with_host(work)


def _goes_on(**options: object) -> None:
    """Raise BadArgument for an option of a new session where one is gone on in."""
    for name, value in options.items():
        if value is not None:
            message = f"--session goes on in a session as it was made; leave out --{name}"
            raise BadArgument(message)


def last_message(text: str) -> str:
    """Return the words of the last message of a JSON list of messages (X7).

    Raises:
        BadArgument: It is no such list, is empty, or its last message is not a user's text.
    """
    try:
        messages = json.loads(text)
    except ValueError as error:
        raise BadArgument(f"stdin is not JSON: {error}") from error
    if not isinstance(messages, list):
        raise BadArgument("stdin is no JSON list of messages")
    if not messages:
        raise BadArgument("the list of messages is empty; its last one is what is to be done")
    last = messages[-1]
    content = last.get("content") if isinstance(last, dict) else last
    if isinstance(last, dict) and last.get("role", "user") != "user":
        raise BadArgument(f"the last message is of role {last.get('role')!r}; it must be a user's")
    if not isinstance(content, str) or not content.strip():
        raise BadArgument("the last message has no text; only text can be sent")
    return content


class Watching:
    """One operation, shown as it goes, its approvals asked, Ctrl-C turned into an interrupt."""

    def __init__(self, session: "Session", *, attended: bool, is_quiet: bool) -> None:
        self._session = session
        self._attended = attended
        self._is_quiet = is_quiet
        self._pressed = 0
        self._main: asyncio.Task[Outcome] | None = None
        self._operation: Operation | None = None
        self._screen: Screen | None = None
        self._asker: Asker | None = None
        self._interrupts: set[asyncio.Task[None]] = set()
        self.denied = 0

    async def run(self, words: str) -> "Outcome | None":
        """Send the words and return how their operation ended; None if it was left running."""
        loop = asyncio.get_running_loop()
        self._main = asyncio.ensure_future(self._run(words))
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            return await self._main
        except asyncio.CancelledError:
            if self._pressed > 1:
                return None
            raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            for task in self._interrupts:
                task.cancel()

    # --- inside ---

    async def _run(self, words: str) -> "Outcome":
        from paddock.client.outcome import Watch
        from paddock.store.events import Stored
        from paddock.supervisor.cli.asking import Asker
        from paddock.supervisor.cli.screen import Screen

        operation = self._operation = await self._session.send(words)
        if self._pressed:
            self._begin_interrupt(operation)
        watch = Watch(operation.command_id, operation.operation_id)
        screen = self._screen = Screen(
            words=sys.stderr if self._is_quiet else sys.stdout,
            are_words_kept=not sys.stdout.isatty(),
        )
        if self._attended and not self._pressed:
            self._asker = Asker(self._session, screen)
        feed = self._session.follow(after=operation.sequence - 1, deltas=not self._is_quiet)
        outcome = None
        try:
            async with feed:
                async for told in feed:
                    if not self._is_quiet:
                        screen.show(told)
                    elif isinstance(told, Stored):
                        screen.count(told)
                    if self._asker is not None:
                        self._asker.take(told)
                        if feed.is_drained:
                            self._asker.ask()
                    if isinstance(told, Stored) and (outcome := watch.take(told)):
                        return outcome
                    if not self._attended and isinstance(told, Stored):
                        await self._deny(told, watch.operation_id)
                    if watch.lacks is not None and feed.is_caught_up:
                        raise self._session.lacking(watch.lacks)
            return watch.gone(self._session.session_id, feed.position)
        finally:
            screen.end_line()
            self.denied += screen.denied
            self._ask_no_more()

    async def _deny(self, told: "Stored", operation_id: str | None) -> None:
        """Deny what a session asks that was made to be asked, but by nobody who is here."""
        from paddock.session_worker.approvals import UNATTENDED
        from paddock.session_worker.errors import NothingToDecide
        from paddock.store.events import ApprovalRequested

        event = told.event
        if not isinstance(event, ApprovalRequested) or event.operation_id != operation_id:
            return
        with suppress(NothingToDecide):  # it was decided elsewhere, or before
            await self._session.decide(event.approval_id, "denied", note=UNATTENDED, door="cli")
            self.denied += 1

    def _interrupt(self) -> None:
        self._pressed += 1
        assert self._main is not None
        if self._pressed > 1:
            self._main.cancel()
            return
        hint("\ninterrupting … (Ctrl-C again leaves it running)")
        if self._screen is not None:
            self._screen.typed()
        self._ask_no_more()
        if self._operation is not None:  # else once it is known: it may be at work by now
            self._begin_interrupt(self._operation)

    def _ask_no_more(self) -> None:
        if self._asker is not None:
            self._asker.close()
            self._asker = None

    def _begin_interrupt(self, operation: "Operation") -> None:
        self._interrupts.add(asyncio.ensure_future(self._interrupt_operation(operation)))

    async def _interrupt_operation(self, operation: "Operation") -> None:
        from paddock.store.errors import PaddockError

        try:
            await operation.interrupt()
        except PaddockError as error:
            hint(error.message)
