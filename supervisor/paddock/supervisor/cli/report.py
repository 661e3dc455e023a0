"""``paddock report``: ready questions about everything that ever happened."""

from typing import Annotated

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import BadArgument
from paddock.supervisor.cli.printing import print_json, print_table, say
from paddock.supervisor.cli.sessions import AsJson
from paddock.supervisor.cli.sql import (
    DEADLINE_SECONDS,
    SHOWN_ROWS,
    AsCsv,
    Deadline,
    Limit,
    answer,
)


def report(
    name: Annotated[str | None, typer.Argument(help="Which one. None: what there is.")] = None,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print its query instead.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    limit: Limit = SHOWN_ROWS,
    deadline: Deadline = DEADLINE_SECONDS,
) -> int:
    """Answer a ready question about all sessions. Works with and without a host.

    Examples:
      paddock report
      paddock report tools
      paddock report cost --csv > cost.csv
      paddock report failures --sql
    """
    from paddock.store import reports

    if name is None:
        rows = [(each, reports.says(each)) for each in reports.names()]
        if as_json:
            print_json([{"name": each, "says": says} for each, says in rows])
        else:
            print_table(("report", "what it answers"), rows)
        return exit_codes.DONE
    if name not in reports.names():
        message = f"there is no report {name!r}; there are {', '.join(reports.names())}"
        raise BadArgument(message, report=name)
    query = reports.query_of(name)
    if sql:
        say(query.rstrip())
        return exit_codes.DONE
    return answer(query, as_json=as_json, as_csv=as_csv, limit=limit, deadline=deadline)
