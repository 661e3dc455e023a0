"""Verbs about questions: what waits for a decision, and deciding it."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import BadArgument, run_async, with_host
from paddock.supervisor.cli.printing import ago, call_line, print_json, print_table, say
from paddock.supervisor.cli.sessions import AsJson

if TYPE_CHECKING:
    from paddock.client import Host
    from paddock.client.approvals import OpenApproval

Ids = Annotated[
    list[str], typer.Argument(metavar="APPROVAL...", help="Ids, or unique parts of ids.")
]
Note = Annotated[str | None, typer.Option(help="What the agent and the history are told.")]


def approvals(*, as_json: AsJson = False) -> int:
    """List what waits for a decision in all sessions, oldest first. Works without a host, too.

    Examples:
      paddock approvals
      paddock approvals --json | jq -r '.[].approval_id'
    """
    from paddock.client.approvals import open_approvals
    from paddock.client.places import places_of
    from paddock.supervisor.cli.source import reading

    async def work() -> "list[OpenApproval]":
        async with reading() as store:
            return await open_approvals(store, places_of().data)

    asked = run_async(work())
    if as_json:
        print_json(
            [
                {
                    "approval_id": one.approval_id,
                    "session_id": one.session_id,
                    "operation_id": one.operation_id,
                    "tool_call_id": one.tool_call_id,
                    "tool": one.tool,
                    "arguments": one.arguments,
                    "requested_at": datetime.fromtimestamp(one.requested_at / 1e6, UTC),
                }
                for one in asked
            ]
        )
        return exit_codes.DONE
    now = datetime.now(UTC)
    print_table(
        ["approval", "session", "call", "waits"],
        [
            [
                one.approval_id,
                one.session_id,
                call_line(one.tool, one.arguments),
                ago(datetime.fromtimestamp(one.requested_at / 1e6, UTC), now),
            ]
            for one in asked
        ],
        empty="nothing waits for a decision",
    )
    return exit_codes.DONE


def approve(
    ids: Ids,
    *,
    always: Annotated[
        bool, typer.Option("--always", help="Its tool, from now on in that session.")
    ] = False,
    pattern: Annotated[
        str | None, typer.Option(help="Every shell command of this pattern, from now on.")
    ] = None,
    note: Note = None,
) -> int:
    """Let a call run.

    Examples:
      paddock approve 01e7
      paddock approve --always 01e7
      paddock approve --pattern "git *" 01e7
    """
    if always and pattern is not None:
        raise BadArgument("--always and --pattern exclude each other; --pattern is the narrower")
    scope = "pattern" if pattern is not None else "tool" if always else "once"

    async def work(host: "Host") -> int:
        for one in ids:
            session = await host.decide(
                one, "allowed", scope=scope, pattern=pattern, note=note, door="cli"
            )
            say(f"{one}: allowed in {session.session_id}")
        return exit_codes.DONE

    return with_host(work)


def deny(ids: Ids, *, note: Note = None) -> int:
    """Do not let a call run; the agent is told, with the note, and goes on.

    Examples:
      paddock deny 01e7
      paddock deny --note "use the staging database" 01e7
    """

    async def work(host: "Host") -> int:
        for one in ids:
            session = await host.decide(one, "denied", note=note, door="cli")
            say(f"{one}: denied in {session.session_id}")
        return exit_codes.DONE

    return with_host(work)
