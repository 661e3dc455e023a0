"""Verbs about the host itself: start it, end it, look at it."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import run_async, with_host
from paddock.supervisor.cli.printing import (
    cell,
    duration,
    hint,
    print_json,
    print_table,
    say,
    size,
)
from paddock.supervisor.cli.sessions import AsJson

if TYPE_CHECKING:
    from paddock.client import Host

STORE_SECONDS = 3.0
"""For the store's own word; one that is being started takes about a second."""
NEXT_SECONDS = 10.0
"""For the host that a watcher starts: a second, several where much is done besides."""
Deadline = Annotated[float, typer.Option(min=0, help="Seconds until sessions at work are stopped.")]


def up(
    *,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay here, as a service manager wants it.")
    ] = False,
    idle_exit: Annotated[
        float | None, typer.Option(min=0, help="Leave after so many idle seconds. Default: never.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Start the host of this home, detached; where one runs already, say so.

    A small process stays beside it and starts it again if it dies; sessions live through that.

    Examples:
      paddock up
      paddock up --foreground          # under systemd
      PADDOCK_HOME=/srv/agents paddock up
    """
    from paddock.client.places import announced, places_of
    from paddock.client.starting import serve_here, start_host

    places = places_of()
    if foreground:
        serve_here(places, idle_exit)

    async def work() -> int:
        found = announced(places)
        was_up = found is not None and found.is_live()
        pid = (
            found.pid
            if was_up and found is not None
            else await start_host(
                places, deadline_seconds=30, idle_exit_seconds=idle_exit, watched=True
            )
        )
        if as_json:
            print_json({"pid": pid, "was_up": was_up, "data": str(places.data)})
        else:
            say(f"{'already up' if was_up else 'up'}: pid {pid}, data in {places.data}")
        return exit_codes.DONE

    return run_async(work())


def down(
    *,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also while operations are open; do not ask.")
    ] = False,
    deadline: Deadline = 20.0,
) -> int:
    """End the host: sessions come to rest, workers leave.

    Where operations are open it asks first; where nobody can be asked it refuses. What is cut off
    goes on by itself when the host is up again.

    Examples:
      paddock down
      paddock down --force --deadline 5
    """
    from paddock.client.places import places_of, was_killed
    from paddock.store.errors import Refused
    from paddock.supervisor.errors import NoHost

    async def work(host: "Host") -> int:
        try:
            await host.down(force=force, deadline_seconds=deadline)
        except Refused as error:
            if error.code != "busy" or not _may_go_on(error.facts, error.message):
                raise
            await host.down(force=True, deadline_seconds=deadline)
        say("down")
        return exit_codes.DONE

    try:
        return with_host(work, start=False)
    except NoHost:
        if not was_killed(places_of()):
            say("no host runs here")
            return exit_codes.DONE
    # Its workers live on, and its watcher starts the next one. Two that were started at once would
    # follow each other: the second comes when the first was ended.
    run_async(_wait_for_next())
    return with_host(work)


async def _wait_for_next() -> None:
    """Wait a while for the host that a watcher starts after one was killed."""
    from paddock.client.places import announced, places_of

    places, loop = places_of(), asyncio.get_running_loop()
    until = loop.time() + NEXT_SECONDS
    while loop.time() < until:
        found = announced(places)
        if found is not None and found.is_live():
            return
        await asyncio.sleep(NEXT_SECONDS / 200)


def _may_go_on(facts: Any, message: str) -> bool:
    import sys

    if not sys.stdin.isatty():
        return False
    hint(message)
    for open_one in facts.get("open", ()):
        hint(f"  {cell(open_one)}")
    return typer.confirm("End the host all the same? The operations go on when it is up again.")


def restart(*, deadline: Deadline = 20.0) -> int:
    """End the host and start it anew; workers live on and are adopted, tools included.

    Where the settings are wrong it is not ended.

    Examples:
      paddock restart          # after an upgrade
    """
    from paddock.client.places import announced, places_of
    from paddock.client.starting import check_settings, start_host
    from paddock.store.errors import PaddockError
    from paddock.supervisor.errors import NoHost

    places = places_of()

    async def start() -> int:
        try:
            return await start_host(
                places, deadline_seconds=30, idle_exit_seconds=None, watched=True
            )
        except PaddockError:
            hint("no host runs now; sessions at work go on by themselves, until there is one again")
            raise

    async def work() -> int:
        from paddock.client import connect

        check_settings(places)
        try:
            async with await connect(start=False, name="cli") as host:
                await host.down(force=True, keep_workers=True, deadline_seconds=deadline)
        except NoHost:
            hint("no host was running")
        found = announced(places)
        is_back = found is not None and found.is_live()
        pid = found.pid if is_back and found is not None else await start()
        say(f"restarted: pid {pid}")
        return exit_codes.DONE

    return run_async(work())


def status(*, as_json: AsJson = False) -> int:
    """Say what the host is and how it fares; exit code 5 where none runs.

    Examples:
      paddock status
      paddock status --json | jq .workers
    """

    async def work(host: "Host") -> int:
        told = {**await host.status(), **await _store_of(host)}
        if as_json:
            print_json(told)
            return exit_codes.DONE
        for name, value in told.items():
            say(f"{name.replace('_', ' '):<24}{_shown(name, value)}")
        return exit_codes.DONE

    return with_host(work, start=False)


async def _store_of(host: "Host") -> dict[str, Any]:
    """Return how the store fares, in a line, and why it made its file anew, if it did."""
    try:
        async with asyncio.timeout(STORE_SECONDS):
            found = await (await host.store()).status()
    except TimeoutError:
        word = "does not answer; the host starts one that ended, and host.log says why it did"
        return {"store": word, "store_notice": None}
    told: dict[str, Any] = {"store": found.word, "store_notice": found.notice}
    if found.state == "rebuilding":
        told["store_rebuilt"] = found.progress
    return told


def ps(*, as_json: AsJson = False) -> int:
    """List the workers that live now, from the host's own memory; nothing where no host runs.

    Examples:
      paddock ps
      paddock ps --json | jq '.[].pid'
    """
    from paddock.supervisor.errors import NoHost

    async def work(host: "Host") -> int:
        _print_workers(await host.lives(), as_json=as_json)
        return exit_codes.DONE

    try:
        return with_host(work, start=False)
    except NoHost:
        _print_workers([], as_json=as_json)
        return exit_codes.DONE


def _print_workers(workers: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(workers)
        return
    columns = ["session", "name", "pid", "gen", "version", "stage", "idle", "memory", "operation"]
    rows = [
        [
            worker.get("session_id"),
            worker.get("name"),
            worker.get("pid"),
            worker.get("generation"),
            worker.get("paddock_version"),
            worker.get("stage") if worker.get("life") == "live" else worker.get("life"),
            duration(worker.get("idle_seconds") or 0.0),
            _memory_of(worker),
            worker.get("operation_id"),
        ]
        for worker in workers
    ]
    print_table(columns, rows, empty="no worker lives", right=("pid", "gen", "memory"))
    for worker in workers:
        if worker.get("fault") or worker.get("error"):
            hint(f"{worker.get('session_id')}: {worker.get('fault') or worker.get('error')}")


def _memory_of(worker: dict[str, Any]) -> str:
    """Return what a session uses, its tools included where that is summed up, of its limit."""
    used = size(worker.get("memory_bytes") or worker.get("rss_bytes"))
    limit = worker.get("memory_limit_bytes")
    return f"{used} of {size(limit)}" if limit else used


def _shown(name: str, value: Any) -> str:
    if name.endswith("_seconds") and isinstance(value, int | float):
        return duration(float(value))
    if name.endswith("_bytes") and isinstance(value, int | float):
        return size(value)
    return cell(value)
