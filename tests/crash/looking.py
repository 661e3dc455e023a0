"""What must hold of a crowd when it is at rest, and of its home when the host has gone."""

import os
from contextlib import suppress
from pathlib import Path

import psutil

from paddock.client import Host
from paddock.store.door import StoreClient
from paddock.store.events import Stored
from paddock.store.ids import SessionId
from paddock.store.session_file import sessions_in
from paddock.testing import HostForTests, wait_until, wait_until_async
from tests.crash import judge
from tests.crash.crowd import Actor, Crowd

COUNTS = """
SELECT session_id, count(*), min(sequence), max(sequence), count(DISTINCT sequence)
FROM events GROUP BY session_id
"""
APPLIED = "SELECT session_id, last_sequence FROM sessions"


async def wait_until_all_is_told(crowd: Crowd, made: HostForTests, host: Host) -> None:
    """Wait until every session is at rest and all of its events were shown."""

    async def is_told() -> bool:
        lives = {life["session_id"]: life["life"] for life in await host.lives()}
        return all(
            actor.shown[-1].sequence == judge.head_of(made.data, actor.session_id)
            # One that was killed at rest, while there was no host, is left at rest.
            and lives.get(actor.session_id, "cold") in {"live", "cold"}
            for actor in crowd.actors
        )

    await wait_until_async(is_told, what="all events were shown and all sessions rest")


async def look(crowd: Crowd, made: HostForTests, host: Host) -> list[str]:
    """Return all faults, from the files and from SQL, while the host runs."""
    faults: list[str] = []
    counted = {row[0]: tuple(row[1:]) for row in await host.sql(COUNTS)}
    applied = {row[0]: row[1] for row in await host.sql(APPLIED)}
    live = {life["session_id"] for life in await host.lives()}
    for actor in crowd.actors:
        log = judge.read_log(made.data, actor.session_id)
        found = [
            *judge.faults_of(log, is_live=actor.session_id in live),
            *judge.file_faults(made.data, actor.session_id),
            *judge.shown_faults(actor.shown, log),
            *acceptance_faults(actor, log),
            *crowd.work_faults(actor, log),
            *crowd.effect_faults(actor, log),
        ]
        head = len(log)
        if counted.get(actor.session_id) != (head, 1, head, head):
            found.append(f"SQL counts {counted.get(actor.session_id)} of {head} events")
        if applied.get(actor.session_id) != head:
            found.append(f"SQL is at {applied.get(actor.session_id)} of {head}")
        faults += [f"{actor.name} ({actor.session_id}): {fault}" for fault in found]
    status = await host.status()
    assert status["store_pid"] is not None
    async with StoreClient(f"ipc://{made.places.runtime / 'store.sock'}") as store:
        faults += await store.verify()
    return faults


def acceptance_faults(actor: Actor, log: list[Stored]) -> list[str]:
    """Each command that a client was told of is in the log (that it is once, the judge sees)."""
    there = {stored.event.command_id for stored in log if stored.event.kind == "command_accepted"}
    return [f"command {one} is lost" for one in actor.accepted if one not in there]


def left_over(made: HostForTests) -> list[str]:
    """Return the processes that have to do with the home, once they had a moment to go."""

    def none_left() -> bool:
        return not processes_of(made.home)

    with suppress(AssertionError):
        wait_until(none_left, 10.0)
    return processes_of(made.home)


def processes_of(home: Path) -> list[str]:
    """Describe every process whose command line or environment names the home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = " ".join((*process.cmdline(), *process.environ().values()))
            if str(home / "data") in words or f"PADDOCK_HOME={home}" in words:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def after_the_end(crowd: Crowd, made: HostForTests) -> list[str]:
    """Look at the files once more: every generation has its certificate now."""
    ours: set[SessionId] = {actor.session_id for actor in crowd.actors}
    faults = [f"a session nobody made: {one}" for one in set(sessions_in(made.data)) - ours]
    for actor in crowd.actors:
        log = judge.read_log(made.data, actor.session_id)
        found = judge.faults_of(log, is_live=False) + judge.file_faults(made.data, actor.session_id)
        faults += [f"{actor.name} at the end: {fault}" for fault in found]
    return faults
