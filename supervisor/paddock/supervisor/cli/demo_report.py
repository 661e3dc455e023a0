"""What the demonstration says at its end: straight from SQL, and from the files themselves."""

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

from paddock.supervisor.cli import demo_agent, demo_data
from paddock.supervisor.cli.printing import print_table, say

if TYPE_CHECKING:
    from paddock.supervisor.cli.demo_stage import Actor, Stage

SESSIONS = """
SELECT s.name, s.status, o.status AS outcome, s.message_count AS messages, o.tool_calls AS calls,
       s.generation AS starts, s.last_sequence AS events, round(o.duration_ms) AS ms
FROM sessions s LEFT JOIN operations o USING (session_id) ORDER BY s.created_at
"""
TOOLS = """
SELECT tool, count(*) AS calls,
       count(*) FILTER (status <> 'ok') AS failures,
       count(*) FILTER (status = 'interrupted') AS interrupted,
       round(quantile_cont(duration_ms, 0.5), 1) AS p50_ms,
       round(quantile_cont(duration_ms, 0.95), 1) AS p95_ms
FROM tool_calls GROUP BY tool ORDER BY calls DESC, tool
"""
DEATHS = """
SELECT s.name, r.generation AS start, r.pid, r.ending, r.reason, r.signal, r.last_stage AS stage,
       len(r.open_tool_call_ids) AS open_calls, r.tools_killed AS tools,
       round(r.peak_rss_bytes / 1e6, 1) AS peak_mb, r.action, r.ready_again_ms AS ready_again_ms
FROM worker_runs r JOIN sessions s USING (session_id)
WHERE r.ended_at IS NOT NULL ORDER BY r.ended_at
"""
RESULTS = """
SELECT count(*) FILTER (kind = 'tool_call_requested'), count(*) FILTER (kind = 'tool_call_started'),
       count(*) FILTER (kind = 'tool_call_finished')
FROM events WHERE session_id = ?
"""


async def report(stage: "Stage") -> list[str]:
    """Print what happened, check that nothing was lost, and return what is not as it must be."""
    say("\nWhat happened, straight from SQL:")
    for title, query in (
        ("sessions", SESSIONS),
        ("tool calls", TOOLS),
        ("ends of workers, each with its certificate", DEATHS),
    ):
        rows = await stage.host.sql(query)
        say(f"\n  {title}")
        print_table(rows.columns, list(rows), right=_numbers(list(rows), rows.columns))
    faults: list[str] = []
    say("\nChecked:")
    for actor in stage.actors.values():
        faults += await _check(stage, actor)
    faults += await _check_deaths(stage)
    for fault in faults:
        say(f"  ✗ {fault}")
    if not faults:
        say("  ✓ every event that was shown is stored exactly once; no sequence has a gap")
        say("  ✓ every call has exactly one result; the interrupted one was asked again by its id")
        say(NEXT)
    return faults


NEXT = """
Next, with a real model (the one provider whose key is there is taken, and named):

  export ANTHROPIC_API_KEY=…          # or OPENAI_API_KEY
  cd your/project
  paddock run "fix the failing test"
  paddock ls
  paddock sql "select tool, count(*), median(duration_ms) from tool_calls group by tool"
"""


def _numbers(rows: "list[tuple[object, ...]]", columns: tuple[str, ...]) -> list[str]:
    return [
        name
        for place, name in enumerate(columns)
        if all(isinstance(row[place], int | float | None) for row in rows)
    ]


async def _check(stage: "Stage", actor: "Actor") -> list[str]:
    """Return what is wrong with one session's work, its events, and its file."""
    from paddock.store.session_file import folder_of, verify

    faults: list[str] = []
    outcome = actor.outcome
    if outcome is None or outcome.status != "completed":
        faults.append(f"{actor.name}: its operation ended {outcome and outcome.status}")
    if actor.name in {repository.name for repository in demo_data.REPOSITORIES}:
        faults += await asyncio.to_thread(_check_tests, actor)
    else:
        faults += _check_ledger(actor)
    session_id = actor.session.session_id
    found = await asyncio.to_thread(verify, folder_of(stage.places.data, session_id), session_id)
    faults += [f"{actor.name}: {problem.what}" for problem in found.problems]
    seen = [stored.sequence for stored in actor.seen]
    if seen != list(range(1, len(seen) + 1)):
        faults.append(f"{actor.name}: its events were not seen each once and in order")
    if found.head < len(seen):
        faults.append(f"{actor.name}: {len(seen)} events were shown and {found.head} are stored")
    requested, started, finished = (await stage.host.sql(RESULTS, [session_id]))[0]
    if requested != finished or started > requested:
        faults.append(f"{actor.name}: {requested} calls, {started} starts, {finished} results")
    return faults


def _check_tests(actor: "Actor") -> list[str]:
    """Run a repository's tests, here and not in a session."""
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "-q"],
        cwd=actor.workspace,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 0:
        say(f"  ✓ {actor.name}: its tests pass")
        return []
    return [f"{actor.name}: its tests fail: {done.stderr.strip().splitlines()[-1]}"]


def _check_ledger(actor: "Actor") -> list[str]:
    """Look whether each payment was posted exactly once."""
    lines = (actor.workspace / demo_agent.LEDGER).read_text(encoding="utf-8").splitlines()
    posted = [line.split(",")[0] for line in lines]
    if posted == [str(number) for number in range(1, demo_agent.PAYMENTS + 1)]:
        say(f"  ✓ {actor.name}: {len(posted)} payments, each posted exactly once")
        return []
    return [f"{actor.name}: payments posted were {', '.join(posted)}"]


async def _check_deaths(stage: "Stage") -> list[str]:
    """Look whether exactly the worker that was killed has a certificate of it."""
    rows = await stage.host.sql(
        "SELECT s.name, r.signal FROM worker_runs r JOIN sessions s USING (session_id)"
        " WHERE r.ending = 'crashed'"
    )
    killed = [(demo_data.INTERVALS.name, 9)]
    if [tuple(row) for row in rows] != killed:
        return [f"deaths on record are {list(rows)}, and {killed} was killed"]
    say("  ✓ the worker that was killed has its certificate, and no other died")
    return []
