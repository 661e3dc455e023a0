"""``paddock sql``: the whole history, running sessions included, asked in SQL."""

import csv
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import BadArgument, read_words, run_async
from paddock.supervisor.cli.printing import cell, hint, print_json, print_table
from paddock.supervisor.cli.sessions import AsJson

if TYPE_CHECKING:
    from paddock.client import Rows

SHOWN_ROWS = 200
"""What a terminal table shows at most; --json and --csv give every row."""


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT or EXPLAIN; `-` reads it from stdin.")
    ] = None,
    *,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A value for each `?`, in order.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Rows of the table; 0 for all.")] = SHOWN_ROWS,
) -> int:
    """Ask about everything that ever happened. Nothing can be changed by it.

    Views: sessions messages operations model_calls tool_calls approvals worker_runs file_changes
    compactions annotations events host_events. Works with and without a host.

    Examples:
      paddock sql "select tool, count(*), median(duration_ms) from tool_calls group by tool"
      paddock sql "select * from worker_runs where ending = 'crashed'" --json
      paddock sql "select text from messages where session_id = ?" -p 019a2c7e-...
      paddock sql "describe sessions"
    """
    if as_json and as_csv:
        raise BadArgument("--json and --csv exclude each other")
    text = read_words(query, "QUERY")

    async def work() -> "Rows":
        from paddock.supervisor.cli.source import reading

        async with reading() as store:
            return await store.sql(text, param or ())

    rows = run_async(work())
    if rows.notice:
        hint(f"note: {rows.notice}")
    if as_json:
        print_json(rows.json())
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(rows.columns)
        writer.writerows([_csv_cell(value) for value in row] for row in rows)
    else:
        shown = list(rows)[: limit or None]
        numbers = [
            name
            for place, name in enumerate(rows.columns)
            if shown and all(isinstance(row[place], int | float | None) for row in shown)
        ]
        print_table(rows.columns, shown, empty="no rows", right=numbers)
        if len(shown) < len(rows):
            hint(f"{len(shown)} of {len(rows)} rows shown; --limit 0 or --json gives all")
    return exit_codes.DONE


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str | int | float) or value is None:
        return value
    from paddock.supervisor.cli.printing import json_of

    return cell(value) if not isinstance(value, dict | list | tuple) else json_of(value)
