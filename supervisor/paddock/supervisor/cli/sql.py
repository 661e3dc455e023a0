"""``paddock sql``: the whole history, running sessions included, asked in SQL."""

import csv
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import BadArgument, read_words, run_async
from paddock.supervisor.cli.printing import hint, print_json, print_table
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
    compactions annotations events host_events. Works with and without a host. Times are UTC.

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
        writer.writerows([csv_cell(value) for value in row] for row in rows)
    else:
        shown = list(rows)[: limit or None]
        numbers = [
            name
            for place, name in enumerate(rows.columns)
            if shown and all(isinstance(row[place], int | float | None) for row in shown)
        ]
        told = [[table_cell(value) for value in row] for row in shown]
        print_table(rows.columns, told, empty="no rows", right=numbers)
        if len(shown) < len(rows):
            hint(f"{len(shown)} of {len(rows)} rows shown; --limit 0 or --json gives all")
    return exit_codes.DONE


def csv_cell(value: Any) -> Any:
    """Return a value as CSV has it: as in JSON, but for decimals, which keep all their digits."""
    from paddock.store.protocol import json_value
    from paddock.supervisor.cli.printing import json_of

    match value:
        case bool() | dict() | list() | tuple():
            return json_of(json_value(value))
        case None | str() | int() | float() | Decimal():
            return value
        case _:
            return json_value(value)


def table_cell(value: Any) -> Any:
    """Return a value as a table has it: times in UTC and whole, as a query takes them."""
    match value:
        case datetime():
            moment = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return moment.isoformat(sep=" ", timespec="microseconds")
        case bytes():
            return value.hex()
        case _:
            return value
