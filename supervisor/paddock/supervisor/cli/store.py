"""``paddock store``: check what is stored, and make again what can be made again."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import run_async, with_host
from paddock.supervisor.cli.printing import hint, one_line, print_json, say
from paddock.supervisor.cli.sessions import AsJson

if TYPE_CHECKING:
    from paddock.client import Host
    from paddock.store.session_file import Report

store = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Verify, rebuild, snapshot what is stored.",
)


def verify(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSION]...", help="Default: all of them.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> int:
    """Check sessions' files against their hash chains and witnesses; exit code 1 on a fault.

    Works beside running sessions and without a host; changes nothing.

    Examples:
      paddock store verify
      paddock store verify fixer --json
    """
    from paddock.client.places import places_of
    from paddock.store.session_file import folder_of, host_place, sessions_in
    from paddock.store.session_file import verify as verify_file
    from paddock.supervisor.cli.source import find

    data = places_of().data
    chosen = [run_async(find(text)) for text in sessions or ()] or sessions_in(data)
    reports = [(one, _verified(one, folder_of(data, one), verify_file)) for one in chosen]
    faults = [(one, report) for one, report in reports if report["problems"]]
    del host_place
    if as_json:
        print_json([{"session_id": one, **report} for one, report in reports])
    else:
        for one, report in faults:
            for problem in report["problems"]:
                where = f" at event {problem['sequence']}" if problem["sequence"] else ""
                say(one_line(f"{one}{where}: {problem['what']}", 300))
        events = sum(report["events"] for _, report in reports)
        say(f"{len(reports)} sessions, {events} events, {len(faults)} with a fault")
    return exit_codes.FAILED if faults else exit_codes.DONE


def _verified(session_id: Any, folder: Any, verify_file: Any) -> dict[str, Any]:
    from paddock.store.errors import PaddockError

    try:
        report: Report = verify_file(folder, session_id)
    except PaddockError as error:
        problems = [{"sequence": error.facts.get("sequence"), "what": error.message}]
        return {"events": 0, "head": 0, "problems": problems, "ok": False}
    return {
        "events": report.events,
        "head": report.head,
        "problems": [
            {"sequence": problem.sequence, "what": problem.what} for problem in report.problems
        ],
        "ok": report.ok,
    }


def rebuild() -> int:
    """Make the DuckDB file anew from the sessions' files, while these go on.

    Examples:
      paddock store rebuild
    """
    from paddock.client.places import places_of
    from paddock.client.store import rebuild_locally
    from paddock.supervisor.errors import NoHost

    async def work(host: "Host") -> int:
        applied = await host.rebuild_store()
        say(f"rebuilt: {applied} events")
        return exit_codes.DONE

    try:
        return with_host(work, start=False)
    except NoHost:
        hint("no host runs: rebuilding here")
        say(f"rebuilt: {rebuild_locally(places_of().data)} events")
        return exit_codes.DONE


def snapshot() -> int:
    """Bring the DuckDB file up to date with all sessions and checkpoint it.

    Examples:
      paddock store snapshot
    """
    from paddock.client.places import places_of
    from paddock.client.store import snapshot_locally
    from paddock.supervisor.errors import NoHost

    async def work(host: "Host") -> int:
        say(await host.snapshot_store())
        return exit_codes.DONE

    try:
        return with_host(work, start=False)
    except NoHost:
        say(str(snapshot_locally(places_of().data)))
        return exit_codes.DONE


def _add() -> None:
    from paddock.supervisor.cli.main import help_of

    for function in (verify, rebuild, snapshot):
        store.command(function.__name__, help=help_of(function))(function)


_add()
