"""A session's file whose commits tell their points: before, in, and after, by the kinds in them."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from paddock.store.events import EventBase
from paddock.store.session_file import SessionFile
from paddock.store.session_file.database import INSERT_EVENT
from tests.crash.faults import give_room, reach


def wrap_session_file() -> None:
    """Have every commit of this process reach its points."""
    append, commit, make = SessionFile.append, SessionFile._commit, SessionFile.make

    def appended(self: SessionFile, events: Sequence[EventBase], **words: Any) -> int:
        kinds = list(dict.fromkeys(event.kind for event in events))
        try:
            for kind in kinds:
                reach(f"{kind}:before", self.session_id)
            first = append(self, events, **words)
        except BaseException:
            give_room()
            raise
        for kind in kinds:
            reach(f"{kind}:after", self.session_id)
        return first

    def committed(self: SessionFile, connection: Any, rows: Any) -> None:
        kinds = list(dict.fromkeys(row[3] for row in rows))
        commit(self, _Watched(connection, self.session_id, kinds), rows)  # type: ignore[arg-type]

    def made(folder: Any, session_id: Any, first: Any, **words: Any) -> None:
        try:
            reach("session_created:before", session_id)
            make(folder, session_id, first, **words)
        except BaseException:
            give_room()
            raise
        reach("session_created:after", session_id)

    SessionFile.append = appended  # type: ignore[method-assign]
    SessionFile._commit = committed  # type: ignore[method-assign]
    SessionFile.make = staticmethod(made)  # type: ignore[method-assign]


class _Watched:
    """A connection in a commit: reaches the points between the last insert and the commit."""

    def __init__(self, connection: sqlite3.Connection, who: str, kinds: Sequence[str]) -> None:
        self._connection = connection
        self._who = who
        self._kinds = kinds

    def execute(self, statement: str, *values: Any) -> Any:
        """Execute; an insert that is a transaction by itself is taken apart into its steps."""
        if statement == INSERT_EVENT:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(statement, *values)
            return self.execute("COMMIT")
        if statement == "COMMIT":
            for kind in self._kinds:
                reach(f"{kind}:in", self._who)
        return self._connection.execute(statement, *values)

    def executemany(self, statement: str, values: Any) -> Any:
        """Execute for each."""
        return self._connection.executemany(statement, values)
