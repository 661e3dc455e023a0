"""What the ingest benchmark compares with: plain SQLite as the floor, `eventsourcing` as the peer.

Both are given their rows or facts ready made, which the log has to make from real events.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from pydantic import JsonValue

from paddock.store.events import Event, payload_of
from paddock.store.session_file.chain import GENESIS

type PlainRow = tuple[
    int, int, int, str, str | None, str | None, str | None, str | None, str, bytes
]

TABLE = """
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY, generation INTEGER NOT NULL, occurred_at INTEGER NOT NULL,
    kind TEXT NOT NULL, operation_id TEXT, message_id TEXT, tool_call_id TEXT, command_id TEXT,
    payload TEXT NOT NULL, hash BLOB NOT NULL
) STRICT
"""


def plain_rows(events: Sequence[Event], at_us: int) -> list[PlainRow]:
    """Return the rows that the log would have for these events."""
    return [
        (
            sequence,
            1,
            at_us,
            event.kind,
            event.operation_id,
            event.message_id,
            event.tool_call_id,
            event.command_id,
            payload_of(event),
            GENESIS,
        )
        for sequence, event in enumerate(events, start=1)
    ]


class PlainFile:
    """A table in a file, as one writes it with `sqlite3` alone."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(TABLE)

    def append(self, rows: Sequence[PlainRow]) -> None:
        """Insert rows in one durable transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(f"INSERT INTO events VALUES ({'?, ' * 9}?)", rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


type Facts = dict[str, JsonValue]


class Talk(Aggregate):
    """A session as one writes it with `eventsourcing`: what happens, and what it adds up to.

    The library stores every argument of an event's method, also what the fold has no use for.
    """

    def __init__(self) -> None:
        self.head: str | None = None
        self.messages: dict[str, Facts] = {}
        self.calls: dict[str, Facts] = {}
        self.operation: str | None = None

    @event("Said")
    def say(self, message_id: str, operation_id: str, facts: Facts) -> None:  # noqa: ARG002
        """A message joins the conversation."""
        self.messages[message_id] = facts
        self.head = message_id

    @event("CallChanged")
    def change_call(self, tool_call_id: str, operation_id: str, kind: str, facts: Facts) -> None:  # noqa: ARG002
        """A tool call moves on."""
        self.calls.setdefault(tool_call_id, {}).update(facts, stage=kind)

    @event("Moved")
    def move(self, kind: str, operation_id: str | None, facts: Facts) -> None:  # noqa: ARG002
        """Anything else."""
        self.operation = None if kind == "operation_completed" else operation_id


type Step = tuple[str, str | None, str | None, str | None, Facts]


def steps_of(events: Sequence[Event]) -> list[Step]:
    """Return kind, ids and facts of each event."""
    return [
        (
            event.kind,
            event.operation_id,
            event.message_id,
            event.tool_call_id,
            event.model_dump(mode="json", exclude_none=True),
        )
        for event in events
    ]


class PeerFile:
    """One aggregate in an SQLite file of its own, saved by the library."""

    def __init__(self, path: Path) -> None:
        self._app: Application[UUID] = Application(
            {
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": str(path),
            }
        )
        self._talk = Talk()
        self._app.save(self._talk)

    def append(self, steps: Sequence[Step]) -> None:
        """Let each of them happen, and save them in one durable transaction."""
        talk = self._talk
        for kind, operation_id, message_id, tool_call_id, facts in steps:
            if kind.endswith("message_added"):
                talk.say(message_id or "", operation_id or "", facts)
            elif tool_call_id is not None:
                talk.change_call(tool_call_id, operation_id or "", kind, facts)
            else:
                talk.move(kind, operation_id, facts)
        self._app.save(talk)

    def close(self) -> None:
        """Close the file."""
        self._app.close()
