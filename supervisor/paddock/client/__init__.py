"""Paddock from Python: join the host of a home (or start one), and talk to its sessions.

::

    async with connect() as host:
        session = await host.ensure("fixer", cwd="app", mode="yolo")
        operation = await session.send("fix the failing test", key="first")
        outcome = await operation.wait()

``paddock.client.sync`` is the same for programs without an event loop.
"""

from paddock.client.feed import Feed, Noticed, Previewed, Told
from paddock.client.host import Connecting, Host, connect
from paddock.client.outcome import Outcome, Watch
from paddock.client.rows import Rows
from paddock.client.session import Operation, Session

__all__ = [
    "Connecting",
    "Feed",
    "Host",
    "Noticed",
    "Operation",
    "Outcome",
    "Previewed",
    "Rows",
    "Session",
    "Told",
    "Watch",
    "connect",
]
