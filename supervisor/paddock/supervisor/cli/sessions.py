"""Verbs that make sessions, give them words, and end or wake them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import (
    BadArgument,
    Mode,
    labels_of,
    model_for,
    read_words,
    result_of,
    sessions_of,
    with_host,
)
from paddock.supervisor.cli.printing import hint, print_json, say

if TYPE_CHECKING:
    from paddock.client import Host

Sessions = Annotated[
    list[str], typer.Argument(metavar="SESSION...", help="Names, ids, or unique parts of ids.")
]
One = Annotated[
    str, typer.Argument(metavar="SESSION", help="A name, an id, or a unique part of an id.")
]
Deadline = Annotated[float, typer.Option(min=0, help="Seconds until a tool at work is killed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def new(
    name: Annotated[str | None, typer.Argument(help="A name for it; must be free.")] = None,
    *,
    named: Annotated[
        str | None, typer.Option("--name", help="The same, as `run` takes it.")
    ] = None,
    agent: Annotated[str, typer.Option(help="`builtin`, or MODULE:FUNCTION.")] = "builtin",
    model: Annotated[str | None, typer.Option(help="PROVIDER:MODEL, or script:FILE.")] = None,
    cwd: Annotated[Path | None, typer.Option(help="The workspace. Default: this folder.")] = None,
    mode: Annotated[Mode, typer.Option(help="normal asks; yolo allows all.")] = Mode.NORMAL,
    unattended: Annotated[
        bool, typer.Option("--unattended", help="Nobody can be asked: deny instead.")
    ] = False,
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME of a variable that its tools need besides.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="What the agent is told first.")] = None,
    as_json: AsJson = False,
) -> int:
    """Make a session without giving it work; print its id.

    Examples:
      paddock new fixer --cwd ../app
      paddock new --agent my_agents:support --label team=billing
      paddock new nightly --model script:turns.json --mode yolo --json
    """
    from paddock.client.environment import collect
    from paddock.client.host import workspace_at

    if name is not None and named is not None:
        raise BadArgument("one name is enough: NAME or --name")
    labels = labels_of(label)
    environment = collect(os.environ, env or ())
    chosen = model_for(model, agent)
    workspace_at(cwd)

    async def work(host: "Host") -> None:
        session = await host.new(
            name if name is not None else named,
            agent=agent,
            model=chosen,
            cwd=cwd,
            mode=mode.value,
            unattended=unattended,
            labels=labels,
            environment=environment,
            system_prompt=system_prompt,
            python_path=(os.getcwd(),) if agent != "builtin" else (),  # noqa: PTH109
        )
        if as_json:
            print_json({"session_id": session.session_id, "name": session.name})
        else:
            say(session.session_id)

    return with_host(work)


def send(
    session: One,
    text: Annotated[str | None, typer.Argument(help="The words; `-` reads stdin.")] = None,
    *,
    key: Annotated[
        str | None, typer.Option(help="Sent once: the same key again gives the same operation.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the operation's end.")] = False,
    deadline: Annotated[
        float | None, typer.Option(min=0, help="Seconds to wait at most; the operation goes on.")
    ] = None,
    shell: Annotated[
        bool, typer.Option("--shell", help="The words are a shell command of your own.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Give a session words: an operation of their own, or queued behind the one at work.

    It returns when they are durable and answered for; nothing of them can be lost after that.

    Examples:
      paddock send fixer "now run the tests"
      paddock send fixer --wait --json "and write the changelog"
      paddock send nightly --key 2026-05-01 "make the report"
      paddock send fixer --shell "git status"
    """
    words = read_words(text, "TEXT")

    async def work(host: "Host") -> int:
        found = await host.session(session)
        begin = found.shell if shell else found.send
        operation = await begin(words, key=key)
        if wait:
            outcome = await operation.wait(deadline)
            if as_json:
                print_json(result_of(outcome))
            else:
                from paddock.supervisor.cli.printing import clean

                say(clean(outcome.final_message or f"({outcome.status})"))
                if outcome.error:
                    hint(f"{outcome.status}: {outcome.error}")
            return exit_codes.OUTCOMES[outcome.status]
        told = {
            "session_id": found.session_id,
            "command_id": operation.command_id,
            "operation_id": operation.operation_id,
            "queued": operation.is_queued,
            "sequence": operation.sequence,
        }
        if as_json:
            print_json(told)
        else:
            say("queued" if operation.is_queued else f"operation {operation.operation_id}")
        return exit_codes.DONE

    return with_host(work)


def interrupt(sessions: Sessions) -> int:
    """End what sessions are doing: open calls are cancelled, process groups killed.

    Examples:
      paddock interrupt fixer
    """

    async def work(host: "Host") -> None:
        for found in await sessions_of(host, sessions):
            await found.interrupt()
            say(f"{found.name or found.session_id}: interrupted")

    return with_host(work)


def suspend(
    sessions: Sessions,
    *,
    deadline: Deadline = 10.0,
    idle_only: Annotated[
        bool, typer.Option("--idle-only", help="Leave a session that is at work alone.")
    ] = False,
) -> int:
    """Let sessions rest without a process; any command wakes them.

    A tool at work is let finish until the deadline, then killed; the operation goes on at the next
    wake.

    Examples:
      paddock suspend fixer
      paddock suspend --idle-only fixer nightly
    """

    async def work(host: "Host") -> None:
        for found in await sessions_of(host, sessions):
            was_live = await found.suspend(deadline, force=not idle_only)
            say(f"{found.name or found.session_id}: {'suspended' if was_live else 'was at rest'}")

    return with_host(work)


def resume(
    sessions: Sessions,
    *,
    reset: Annotated[
        bool, typer.Option("--reset", help="Free a session that failed: count its deaths anew.")
    ] = False,
) -> int:
    """Wake sessions.

    Examples:
      paddock resume fixer
      paddock resume --reset fixer      # after it failed, and its cause was mended
    """

    async def work(host: "Host") -> None:
        for found in await sessions_of(host, sessions):
            generation = await found.resume(reset=reset)
            say(f"{found.name or found.session_id}: live (generation {generation})")

    return with_host(work)


def rm(
    sessions: Sessions,
    *,
    deadline: Deadline = 10.0,
) -> int:
    """Delete sessions: they are stopped, hidden from lists, and take no commands any more.

    What they did can still be asked in SQL. `paddock erase` leaves no byte.

    Examples:
      paddock rm fixer
    """

    async def work(host: "Host") -> None:
        for found in await sessions_of(host, sessions):
            await found.delete(deadline_seconds=deadline)
            say(f"{found.name or found.session_id}: deleted")

    return with_host(work)


def erase(
    sessions: Sessions,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    deadline: Deadline = 10.0,
) -> int:
    """Delete sessions and leave no byte of them: events, blobs, rows and logs.

    Examples:
      paddock erase fixer
      paddock erase --yes 019a2c
    """

    async def work(host: "Host") -> int:
        found = await sessions_of(host, sessions)
        if not yes:
            import sys

            names = ", ".join(one.name or one.session_id for one in found)
            if not sys.stdin.isatty():
                raise BadArgument(f"erasing {names} cannot be undone; say --yes")
            if not typer.confirm(f"Erase {names}? This cannot be undone."):
                return exit_codes.REFUSED
        for one in found:
            await one.delete(erase=True, deadline_seconds=deadline)
            say(f"{one.name or one.session_id}: erased")
        return exit_codes.DONE

    return with_host(work)
