"""Where a verb that only looks gets its answer: the host, if one runs; else the files themselves.

No host is started for looking: without one the store is opened for the call, or a session's own
file is read.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from paddock.store.ids import SessionId, is_uuid7

if TYPE_CHECKING:
    from paddock.client.store import Store


@asynccontextmanager
async def reading() -> "AsyncIterator[Store]":
    """Give the store: the running one, or one that is opened here for the call."""
    from paddock.client import connect
    from paddock.client.places import places_of
    from paddock.client.store import local_store
    from paddock.supervisor.errors import NoHost

    try:
        host = await connect(start=False, name="cli")
    except NoHost:
        async with local_store(places_of().data) as store:
            yield store
        return
    async with host:
        yield await host.store()


async def find(text: str) -> SessionId:
    """Return the id of a session by id, name, or a unique part of an id.

    Raises:
        SessionNotFound: There is none, or several.
    """
    from paddock.client import connect
    from paddock.client.files import find_session
    from paddock.client.places import places_of
    from paddock.supervisor.errors import NoHost

    if is_uuid7(text):
        return SessionId(text)
    try:
        async with await connect(start=False, name="cli") as host:
            return (await host.session(text)).session_id
    except NoHost:
        return find_session(places_of().data, text)


async def told_by_host(session_id: SessionId) -> dict[str, str | None]:
    """Return what only the host that runs knows of a session; nothing where none does.

    What keeps its tools in, and what is the trouble with it: who holds it, why it cannot write.
    """
    from paddock.client import connect
    from paddock.supervisor.errors import NoHost

    try:
        async with await connect(start=False, name="cli") as host:
            status, lives = await host.status(), await host.lives()
    except NoHost:
        return {}
    trouble = [
        life.get("fault") or life.get("error")
        for life in lives
        if life["session_id"] == session_id and life["life"] != "failed"
    ]
    told = {name: status.get(name) for name in ("sandbox", "cgroup")}
    return {"trouble": trouble[0]} | told if trouble else told
