"""``paddock store``: check what is stored, and make again what can be made again."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import BadArgument, run_async
from paddock.supervisor.cli.printing import hint, one_line, print_json, say, size
from paddock.supervisor.cli.sessions import AsJson
from paddock.supervisor.cli.source import reading

if TYPE_CHECKING:
    from paddock.store.ids import SessionId
    from paddock.store.protocol import StoreStatus
    from paddock.store.session_file import Report

TELL_SECONDS = 2.0
CREATION_SECONDS = 60.0
"""A name is reserved before its session is made, which waits for a room."""

store = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Verify, rebuild, snapshot what is stored.

\b
Examples:
  paddock store verify
  paddock store rebuild
  paddock store snapshot /tmp/paddock.duckdb
""",
)


def verify(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSION]...", help="Default: all of them.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> int:
    """Check sessions' files against their hash chains and witnesses; exit code 1 on a fault.

    A session that SQL or the host knows, and of which no file is there, is a fault, too.

    Works beside running sessions and without a host; changes nothing.

    Examples:
      paddock store verify
      paddock store verify fixer --json
    """
    from paddock.client.places import places_of
    from paddock.store.session_file import folder_of, sessions_in
    from paddock.store.session_file import verify as verify_file
    from paddock.supervisor.cli.source import find

    data = places_of().data
    named = [run_async(find(text)) for text in sessions or ()]
    known = run_async(_known(data))  # before it is looked which of them are there
    lost = _lost(known, data)
    chosen = named or sorted({*sessions_in(data), *lost})
    reports = [
        (one, _lost_report(one, data))
        if one in lost
        else (one, _verified(one, folder_of(data, one), verify_file))
        for one in chosen
    ]
    faults = [(one, report) for one, report in reports if report["problems"]]
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


async def _known(data: Path) -> set["SessionId"]:
    """Return the sessions that SQL shows, or the host's own file has something of."""
    from paddock.client import connect
    from paddock.store.errors import PaddockError
    from paddock.store.ids import SessionId
    from paddock.store.projection import FILE_NAME, known_sessions, sessions_shown
    from paddock.store.session_file import host_place
    from paddock.supervisor.errors import NoHost

    known: set[str] = set()
    with suppress(PaddockError):
        known |= {one for one in known_sessions(host_place(data).database) if _is_old(one)}
    try:
        async with await connect(start=False, name="cli") as host:
            rows = await host.sql("SELECT session_id FROM sessions")
            known |= {row[0] for row in rows}
    except NoHost:
        known |= await asyncio.to_thread(sessions_shown, data / FILE_NAME)
    except PaddockError as error:
        hint(f"the store cannot be asked which sessions there were: {error.message}")
    return {SessionId(one) for one in known}


def _is_old(session_id: str) -> bool:
    """Whether a session's creation, which begins with its name, is over for sure."""
    made_at = int(session_id.replace("-", "")[:12], 16) / 1000  # a UUIDv7 begins with its time
    return time.time() - made_at > CREATION_SECONDS


def _lost(known: set["SessionId"], data: Path) -> set["SessionId"]:
    """Return which of the known sessions are not there, and were not deleted."""
    from paddock.store.errors import StoreError
    from paddock.store.projection import tombstones
    from paddock.store.session_file import host_place, sessions_in

    lost = known.difference(sessions_in(data))
    with suppress(StoreError):
        lost = lost.difference(tombstones(host_place(data).database, lost) if lost else ())
    return lost


def _lost_report(session_id: "SessionId", data: Path) -> dict[str, Any]:
    from paddock.store.session_file import folder_lost, folder_of
    from paddock.store.session_file.place import place_of

    what = folder_lost(place_of(folder_of(data, session_id))).message
    return {"events": 0, "head": 0, "problems": [{"sequence": 1, "what": what}], "ok": False}


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

    How far it is stands on stderr, a line every two seconds.

    Examples:
      paddock store rebuild
    """
    last = time.monotonic()

    def told(status: "StoreStatus") -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            hint(f"rebuilding: {status.progress}")

    async def work() -> int:
        async with reading() as found:
            status = await found.rebuild(told)
        events = f"{status.events} events, the host's own among them"
        say(f"{status.word}: {status.sessions} sessions; {events}")
        return exit_codes.DONE

    return run_async(work())


def snapshot(
    file: Annotated[Path, typer.Argument(help="Where the copy goes; must not be there yet.")],
) -> int:
    """Write a copy of the DuckDB file, whole and up to date, for other tools to open.

    Examples:
      paddock store snapshot /tmp/paddock.duckdb
    """
    if file.exists():
        raise BadArgument(f"{str(file)!r} is there already; name a new file")

    async def work() -> int:
        async with reading() as found:
            await found.sql("SELECT 1")  # so that the copy holds what is durable now
            size_bytes = await found.snapshot(file.absolute())
        say(f"{file}: {size(size_bytes)}")
        return exit_codes.DONE

    return run_async(work())


def _add() -> None:
    from paddock.supervisor.cli.main import help_of

    for function in (verify, rebuild, snapshot):
        store.command(function.__name__, help=help_of(function))(function)


_add()
