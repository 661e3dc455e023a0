"""``paddock deaths``: what died, of what, doing what, its last words, and what was done."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.certificate import Death, OpenCall, lines, moment
from paddock.supervisor.cli.common import LARGEST, BadArgument, run_async
from paddock.supervisor.cli.printing import hint, moment_of, print_json, print_lines
from paddock.supervisor.cli.sessions import AsJson

if TYPE_CHECKING:
    from paddock.client.store import Store

SHOWN = 20
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

WORKERS = """
SELECT r.session_id, s.name, r.generation, r.pid, r.agent, r.paddock_version, r.ended_at,
       r.reason, r.signal, r.exit_code, r.last_stage, r.open_operation_id, r.open_tool_call_ids,
       o.kind AS operation, r.in_delivery_command_id, r.peak_rss_bytes, r.memory_limit_bytes,
       r.last_words, r.stacks, r.tools_killed, r.action, r.ready_again_ms
FROM worker_runs r LEFT JOIN sessions s USING (session_id)
LEFT JOIN operations o
    ON o.session_id = r.session_id AND o.operation_id = r.open_operation_id
WHERE r.ending = 'crashed' AND r.ended_at >= ? AND r.session_id = coalesce(?, r.session_id)
ORDER BY r.ended_at DESC, r.generation DESC LIMIT ?
"""
CALLS = """
SELECT tool_call_id, tool, arguments, started_at, finished_at FROM tool_calls
WHERE list_contains(?, tool_call_id)
"""
PROMPTS = """
SELECT operation_id, first(text ORDER BY created_at) AS text FROM messages
WHERE role = 'user' AND list_contains(?, operation_id) GROUP BY operation_id
"""
HOST = """
SELECT e."at", e.subject, e.kind, e.detail,
       (SELECT min(n."at") FROM host_events n
        WHERE n.subject = e.subject AND n.kind = 'started' AND n."at" >= e."at") AS again_at
FROM host_events e WHERE e.kind IN ('died', 'failed') AND e."at" >= ?
ORDER BY e."at" DESC LIMIT ?
"""


def deaths(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="Only its; else the host's as well.")
    ] = None,
    *,
    since: Annotated[
        str | None, typer.Option(help="A span (90s, 30m, 12h, 1d, 2w) or a date. Default: all.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, max=LARGEST, help="The last; 0 for all.")] = SHOWN,
    full: Annotated[bool, typer.Option("--full", help="Last words and stacks to the end.")] = False,
    as_json: AsJson = False,
) -> int:
    """Tell what died, of what, doing what, its last words, and what was done; the last one last.

    Workers of sessions, and the host's own processes: supervisor, store, zygote. Works with and
    without a host. A line that does not begin with a blank is a death.

    Examples:
      paddock deaths
      paddock deaths fixer --full
      paddock deaths --since 1d --json | jq -r '.[].cause' | sort | uniq -c
    """
    from paddock.supervisor.cli.source import find, reading

    begin = begin_of(since, datetime.now(UTC))

    async def work() -> list[Death]:
        session_id = None if session is None else await find(session)
        async with reading() as store:
            found = await of_workers(store, begin, session_id, limit)
            if session_id is None:
                found += await of_host(store, begin, limit)
        return sorted(found, key=lambda death: death.at)

    found = run_async(work())
    shown = found[-limit:] if limit else found
    if as_json:
        print_json([death.as_json() for death in shown])
        return exit_codes.DONE
    for death in shown:
        print_lines(lines(death, is_full=full))
    if not shown:
        hint("nothing died" + (f" since {since}" if since else ""))
    elif limit and len(found) >= limit:
        hint(f"the last {len(shown)}; --limit 0 gives all")
    return exit_codes.DONE


def begin_of(text: str | None, now: datetime) -> datetime:
    """Return the time from which on deaths are told.

    Raises:
        BadArgument: The text is neither a span nor a date.
    """
    if text is None:
        return datetime.fromtimestamp(0, UTC)
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    try:
        if span is not None:
            return now - timedelta(seconds=float(span[1]) * UNITS[span[2]])
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadArgument(
            f"--since {text!r} is neither a span (30m, 12h, 1d) nor a date (2026-01-31)"
        ) from error


# --- from SQL ---


async def of_workers(
    store: "Store", begin: datetime, session_id: str | None, limit: int
) -> list[Death]:
    """Return the certified deaths of workers."""
    rows = (await store.sql(WORKERS, (plain(begin), session_id, limit or None))).json()
    call_ids = [one for row in rows for one in _list(row["open_tool_call_ids"])]
    operations = [row["open_operation_id"] for row in rows if row["open_operation_id"]]
    calls: dict[Any, dict[str, Any]] = {}
    prompts: dict[Any, Any] = {}
    if call_ids:
        calls = {row["tool_call_id"]: row for row in (await store.sql(CALLS, (call_ids,))).json()}
    if operations:
        found = (await store.sql(PROMPTS, (operations,))).json()
        prompts = {row["operation_id"]: row["text"] for row in found}
    return [_of_row(row, calls, prompts) for row in rows]


def _of_row(
    row: dict[str, Any], calls: dict[Any, dict[str, Any]], prompts: dict[Any, Any]
) -> Death:
    at = moment_of(row["ended_at"])
    assert at is not None, "a death has its time"
    open_calls = (calls.get(call_id) for call_id in _list(row["open_tool_call_ids"]))
    return Death(
        at=at,
        what="worker",
        pid=row["pid"],
        session_id=row["session_id"],
        name=row["name"],
        generation=row["generation"],
        agent=row["agent"],
        paddock_version=row["paddock_version"],
        reason=row["reason"],
        signal=row["signal"],
        exit_code=row["exit_code"],
        last_stage=row["last_stage"],
        operation_id=row["open_operation_id"],
        operation=row["operation"],
        prompt=prompts.get(row["open_operation_id"]),
        calls=tuple(_call(call, at) for call in open_calls if call is not None),
        in_delivery_command_id=row["in_delivery_command_id"],
        peak_rss_bytes=row["peak_rss_bytes"],
        memory_limit_bytes=row["memory_limit_bytes"],
        last_words=row["last_words"],
        stacks=row["stacks"],
        tools_killed=row["tools_killed"] or 0,
        action=row["action"],
        restarted_after_ms=row["ready_again_ms"] if row["action"] == "restarted" else None,
    )


def _call(row: dict[str, Any], died_at: datetime) -> OpenCall:
    """Return a call as it stood when its worker died: what closed it came later."""
    began = moment_of(row["started_at"])
    arguments = row["arguments"] if isinstance(row["arguments"], dict) else {}
    is_running = began is not None and began <= died_at
    return OpenCall(row["tool_call_id"], row["tool"], arguments, is_running)


async def of_host(store: "Store", begin: datetime, limit: int) -> list[Death]:
    """Return the deaths of the host's own processes."""
    rows = (await store.sql(HOST, (plain(begin), limit or None))).json()
    return [_of_host_row(row) for row in rows]


def _of_host_row(row: dict[str, Any]) -> Death:
    at, again = moment_of(row["at"]), moment_of(row["again_at"])
    assert at is not None, "an event has its time"
    detail = row["detail"] if isinstance(row["detail"], dict) else json.loads(row["detail"] or "{}")
    number, code = detail.get("signal"), detail.get("exit_code")
    reason = "signal" if number is not None else "exit_code" if code is not None else "unknown"
    found_at = detail.get("found_at")
    words = detail.get("error") or detail.get("reason")
    if row["kind"] == "failed":
        words = f"did not come up: {words}"
    return Death(
        at=at,
        what=row["subject"],
        pid=detail.get("pid"),
        reason=reason,
        signal=number,
        exit_code=code,
        detail=words,
        found_at=None if found_at is None else moment(found_at),
        last_words=detail.get("last_words"),
        action="none" if again is None else "restarted",
        restarted_after_ms=None if again is None else (again - at).total_seconds() * 1000,
    )


def plain(moment: datetime) -> datetime:
    """Return a time as the store's columns have it: UTC, unsaid."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
