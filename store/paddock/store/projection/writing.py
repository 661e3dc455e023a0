"""Putting a batch into DuckDB: all of it in one transaction, or none.

Events of 11 columns in one run: ``executemany`` 155 a second, one JSON parameter unnested 9,900,
the appender 44,000 (and 190,000 on a quiet machine). Times go in as integers and become timestamps
in the appender's statement, which is half the conversion. A flush costs about 0.7 ms whatever it
holds, so that a batch flushes only what it has rows for.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import duckdb

from paddock.store.projection import schema
from paddock.store.projection.folded import HOST, Batch, State
from paddock.store.projection.progress import Damage

_STATE_COLUMNS = {
    "session_id": "VARCHAR",
    "sequence": "BIGINT",
    "hash": "BLOB",
    "session": "VARCHAR",
    "open": "VARCHAR",
    "memory": "VARCHAR",
}

# A walk from the new head to the root. A tool's message shares the fate of the one that asked for
# it; one that nobody asked for (a function agent's call) is on every thread.
_RETHREAD = """
UPDATE internal.messages SET on_active_thread = CASE
    WHEN role = 'tool' THEN parent_message_id IS NULL OR parent_message_id IN (FROM walk)
    ELSE message_id IN (FROM walk) END
WHERE session_id = $session
"""
_WALK = """
WITH RECURSIVE walk(message_id) AS (
    SELECT $head::VARCHAR
    UNION
    SELECT m.parent_message_id FROM walk JOIN internal.messages m
        ON m.message_id = walk.message_id AND m.session_id = $session
    WHERE m.parent_message_id IS NOT NULL AND m.role <> 'tool'
)
"""


class Writer:
    """The one connection that writes; used by one thread at a time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._appenders = {view.name: _appender(connection, view) for view in schema.TABLES}
        self._gone = connection.query_appender(
            "DELETE FROM internal.state USING appender_data gone "
            "WHERE internal.state.session_id = gone.session_id",
            {"session_id": "VARCHAR"},
        )
        self._stale = connection.query_appender(
            "DELETE FROM internal.stamps USING appender_data stale "
            "WHERE internal.stamps.session_id = stale.session_id",
            {"session_id": "VARCHAR"},
        )
        self._stamps = connection.appender("internal.stamps")
        self._state = connection.query_appender(
            "INSERT INTO internal.state SELECT session_id, sequence, hash, session::JSON, "
            "open::JSON, memory::JSON FROM appender_data",
            _STATE_COLUMNS,
        )

    def stage(self, batch: Batch, states: Sequence[State], known: Sequence[str]) -> None:
        """Begin a transaction and give it a batch and the rows of the sessions that it changed.

        ``known`` are those of them that have a row already. Nobody else uses the connection until
        :meth:`commit`. All that holds Python's own lock is done here.

        Raises:
            duckdb.Error: Nothing of it was stored.
        """
        self.connection.begin()
        try:
            for name, appender in self._appenders.items():
                rows = getattr(batch, name)
                if rows:
                    appender.append_rows(rows)
            if known:
                self._gone.append_rows([(session_id,) for session_id in known])
            self._state.append_rows(states)
        except BaseException:
            self._undo()
            raise

    def commit(self, batch: Batch, known: Sequence[str]) -> None:
        """Store what was staged; durable on return.

        Raises:
            duckdb.Error: Nothing of it was stored.
        """
        connection = self.connection
        try:
            for name, appender in self._appenders.items():
                if getattr(batch, name):
                    appender.flush()
            for session_id, head in batch.branched.items():
                connection.execute(_WALK + _RETHREAD, {"session": session_id, "head": head})
            if known:
                self._gone.flush()
            self._state.flush()
            connection.commit()
        except BaseException:
            self._undo()
            raise

    def erase(self, session_ids: Sequence[str]) -> None:
        """Remove every row of the sessions, in one transaction."""
        connection = self.connection
        connection.begin()
        try:
            if HOST in session_ids:
                connection.execute("DELETE FROM internal.host_events")
            for table in (*schema.PER_SESSION, "state", "stamps", "damaged"):
                connection.execute(
                    f"DELETE FROM internal.{table} WHERE session_id IN "  # noqa: S608 - our own names
                    "(SELECT unnest($1::VARCHAR[]))",
                    [list(session_ids)],
                )
            connection.commit()
        except BaseException:
            self._undo()
            raise

    def note_damage(self, damage: Damage, at_us: int) -> None:
        """Remember that a session's file cannot be read on; one row a session."""
        connection = self.connection
        connection.begin()
        try:
            session_id = damage.session_id
            connection.execute("DELETE FROM internal.damaged WHERE session_id = ?", [session_id])
            connection.execute(
                "INSERT INTO internal.damaged VALUES (?, ?, ?, ?, make_timestamp(?))",
                [session_id, damage.sequence, damage.what, damage.is_deleted, at_us],
            )
            connection.commit()
        except BaseException:
            self._undo()
            raise

    def forget_damage(self, session_id: str) -> None:
        """The session's file can be read again."""
        self.connection.execute("DELETE FROM internal.damaged WHERE session_id = ?", [session_id])

    def stamp(self, stamps: Mapping[str, str]) -> None:
        """Remember what the files of these sessions looked like when all of them was projected."""
        connection = self.connection
        connection.begin()
        try:
            self._stale.append_rows([(session_id,) for session_id in stamps])
            self._stale.flush()
            self._stamps.append_rows(list(stamps.items()))
            self._stamps.flush()
            connection.commit()
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        ours = (self._gone, self._state, self._stale, self._stamps)
        for appender in (*self._appenders.values(), *ours):
            appender.clear()
        # Where the database itself failed there is nothing to roll back; the first error is told.
        with suppress(duckdb.Error):
            self.connection.rollback()


def _appender(connection: duckdb.DuckDBPyConnection, view: schema.View) -> duckdb.Appender:
    columns: dict[str, Any] = {}
    values = []
    for column in view.stored:
        name = schema.quoted(column.name)
        match column.type:
            case "TIMESTAMP":
                columns[column.name] = "BIGINT"
                values.append(f"make_timestamp({name})")
            case "JSON":
                columns[column.name] = "VARCHAR"
                values.append(f"{name}::JSON")
            case _:
                columns[column.name] = column.type
                values.append(name)
    statement = (
        f"INSERT INTO internal.{schema.quoted(view.name)} "  # noqa: S608 - our own names
        f"SELECT {', '.join(values)} FROM appender_data"
    )
    return connection.query_appender(statement, columns)
