"""``paddock sql``: the whole history, running sessions included, asked in SQL."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import BadArgument, read_words, run_async
from paddock.supervisor.cli.printing import hint
from paddock.supervisor.cli.results import CsvResult, JsonResult, TableResult
from paddock.supervisor.cli.sessions import AsJson

if TYPE_CHECKING:
    from paddock.store.protocol import Sink

SHOWN_ROWS = 200
"""What a terminal table shows at most; --json and --csv give every row."""
DEADLINE_SECONDS = 60.0

AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")]
Limit = Annotated[int, typer.Option(min=0, help="Rows of the table; 0 for all.")]
Deadline = Annotated[
    float, typer.Option(min=0.001, help="Seconds that the query may take, to its last row.")
]


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT or EXPLAIN; `-` reads it from stdin.")
    ] = None,
    *,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A value for each `?`, in order.")
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    limit: Limit = SHOWN_ROWS,
    deadline: Deadline = DEADLINE_SECONDS,
) -> int:
    """Ask about everything that ever happened. Nothing can be changed by it.

    Views: sessions messages operations model_calls tool_calls approvals worker_runs file_changes
    compactions annotations events host_events. Works with and without a host. Times are UTC.

    Examples:
      paddock sql "select tool, count(*), median(duration_ms) from tool_calls group by tool"
      paddock sql "select * from worker_runs where ending = 'crashed'" --json
      paddock sql "select text from messages where session_id = ?" -p 019a2c7e-...
      paddock sql "select * from events" --csv --deadline 600 > events.csv
      paddock sql "describe sessions"
    """
    text = read_words(query, "QUERY")
    return answer(text, param or (), as_json=as_json, as_csv=as_csv, limit=limit, deadline=deadline)


def answer(
    query: str,
    params: Sequence[str] = (),
    *,
    as_json: bool,
    as_csv: bool,
    limit: int,
    deadline: float,
) -> int:
    """Print what a query gives; return the exit code.

    Raises:
        PaddockError: It is refused, or fails; nothing was printed.
    """
    if as_json and as_csv:
        raise BadArgument("--json and --csv exclude each other")

    def ask(sink: "Sink", row_limit: int | None = None) -> None:
        async def work() -> str | None:
            from paddock.supervisor.cli.source import reading

            async with reading() as store:
                return await store.sql_into(
                    sink, query, params, deadline_seconds=deadline, row_limit=row_limit
                )

        if notice := run_async(work()):
            hint(f"note: {notice}")

    if as_json:
        with JsonResult() as result:
            ask(result)
            result.print()
    elif as_csv:
        with CsvResult() as sheet:
            ask(sheet)
            sheet.print()
    else:
        table = TableResult()
        ask(table, limit + 1 if limit else None)
        table.print(limit)
    return exit_codes.DONE
