"""What can be asked: the views and their columns, and the tables behind them.

The one place where they are named: the tables' DDL, the views, the comments in the database and
``docs/SQL.md`` are all made from ``VIEWS``. Times are UTC TIMESTAMPs in microseconds, durations
DOUBLE milliseconds, sizes BIGINT bytes, money DOUBLE US dollars; NULL is "not known".

An entity that can still change (a running call, a live worker) stands, as JSON, in the one row
that its session has in ``internal.state``; what is closed is appended to a table and never touched
again. A view is the two together. So a batch writes few tables, and ten million calls stay columns.
"""
# ruff: noqa: S608 - every name in these statements is our own

from dataclasses import dataclass
from typing import Literal

SCHEMA_VERSION = 6
"""Raised with every change here or in the fold: a database of another version is made anew."""

HOST = "host"
"""The id under which the host's own log is kept; it is no session and shows in no list of them."""

type Type = Literal[
    "VARCHAR", "BIGINT", "INTEGER", "DOUBLE", "BOOLEAN", "TIMESTAMP", "JSON", "VARCHAR[]"
]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a view; ``stored`` is False where the view works it out."""

    name: str
    type: Type
    says: str = ""
    stored: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """A view, and how its rows are kept.

    ``opens``: its rows may be open, then in ``internal.state``. ``wide``: it is made from the
    state alone (``sessions``).
    """

    name: str
    says: str
    columns: tuple[Column, ...]
    opens: bool = False
    wide: bool = False

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns of the table behind it, in order."""
        return tuple(column for column in self.columns if column.stored)


def _text(name: str, says: str = "") -> Column:
    return Column(name, "VARCHAR", says)


def _big(name: str, says: str = "") -> Column:
    return Column(name, "BIGINT", says)


def _number(name: str, says: str = "") -> Column:
    return Column(name, "INTEGER", says)


def _ms(name: str, says: str = "") -> Column:
    return Column(name, "DOUBLE", says)


def _time(name: str, says: str = "") -> Column:
    return Column(name, "TIMESTAMP", says)


_SESSION = _text("session_id", "UUIDv7 of the session")
_OPERATION = _text("operation_id", "the operation it belongs to")

SESSIONS = View(
    "sessions",
    "One row a session, deleted ones included (not erased ones). One whose file cannot be read "
    "is as it was last seen.",
    (
        _SESSION,
        _text("name", "the unique name it was given, if any"),
        _text("title"),
        _text("status", "live, suspended, failed or deleted"),
        _text("stage", "resting, working (an operation is open) or waiting (for a decision)"),
        _text(
            "attention",
            "what it needs from a person: approval, question, failed (or damaged), budget or "
            "credentials",
        ),
        _time("waiting_since", "since when it needs that"),
        _text("agent"),
        _text("agent_version"),
        _text("source", "paddock, or what it was imported from"),
        _text("project", "a label given by its client"),
        _text("owner", "a label given by its client"),
        Column("labels", "JSON", "an object of texts"),
        _text("model", "of the newest event that names one"),
        _text("workspace", "its folder"),
        _text("repo"),
        _text("branch"),
        _text("commit_start", "of the workspace when it was first seen"),
        _text("commit_end", "of the workspace as last seen"),
        _text("parent_session_id", "the session that made it"),
        _big("forked_from_sequence", "the event of the parent up to which it is a copy"),
        _time("created_at"),
        _time("updated_at", "its last event"),
        _time("last_activity_at", "its last event that was not about its worker"),
        _number("generation", "how many times a worker was started for it"),
        _big("message_count", "user, assistant and tool messages, on every branch"),
        _big("last_sequence", "its last event known here"),
        _text("open_operation_id", "the operation at work"),
        _big(
            "input_tokens",
            "of all answers to its model calls, cached ones included; NULL as soon as one did not "
            "tell",
        ),
        _big("output_tokens", "likewise"),
        Column(
            "cost_usd",
            "DOUBLE",
            "of all answers to its model calls; NULL as soon as one is unpriced",
        ),
    ),
    wide=True,
)

MESSAGES = View(
    "messages",
    "User, assistant and tool messages, on every branch.",
    (
        _SESSION,
        _big("sequence"),
        _text("message_id", "of a tool message: its call's id"),
        _text("parent_message_id", "of a tool message: the message that asked for the call"),
        _OPERATION,
        _text("role", "user, assistant or tool"),
        _text("text"),
        _text("model"),
        Column(
            "on_active_thread", "BOOLEAN", "whether it is on the walk from the head to the root"
        ),
        _time("created_at"),
    ),
)

OPERATIONS = View(
    "operations",
    "One row a piece of work: from words to rest.",
    (
        _SESSION,
        _text("operation_id"),
        _text("kind", "turn, shell or compaction"),
        _text(
            "status",
            "running, completed, failed, cancelled or interrupted; failed, too, with its session, "
            "and running again when that is freed",
        ),
        _time("started_at"),
        _time("ended_at"),
        _ms("duration_ms", "from start to end, all waits and rests in it"),
        _big("model_calls", "requests to a model, retries included"),
        _big("tool_calls"),
        _ms("model_ms", "summed over its model calls, as far as it is known of them"),
        _ms("tool_ms", "likewise over its tool calls, some of which ran side by side"),
        _ms("wait_ms", "summed waits for a decision"),
        Column("cost_usd", "DOUBLE", "NULL as soon as one answer of its model calls is unpriced"),
        _text("error_kind"),
        _text("error"),
        Column("outcome", "VARCHAR", "what its last annotation `outcome` says", stored=False),
    ),
    opens=True,
)

MODEL_CALLS = View(
    "model_calls",
    "One row a request to a model; a retry is a row of its own.",
    (
        _SESSION,
        _OPERATION,
        _text("message_id", "the answer in the making"),
        _text("purpose", "turn, title, compaction or sub_agent"),
        _text("provider"),
        _text("model"),
        _number("attempt", "1 is the first"),
        _text("status", "running, ok, error, cancelled or interrupted"),
        _number("http_status"),
        _ms("retry_after_ms", "what the provider asked to wait"),
        _time("started_at"),
        _ms("ttft_ms", "until the first token"),
        _ms("duration_ms", "NULL where it was cut off and nobody saw when"),
        _big("input_tokens", "cached ones included"),
        _big("cache_read_tokens"),
        _big("cache_write_tokens"),
        _big("output_tokens"),
        _big("reasoning_tokens"),
        Column("cost_usd", "DOUBLE", "NULL: not priced"),
        _big("context_tokens", "how full the context was"),
        _big("context_limit"),
        _text("error"),
    ),
    opens=True,
)

TOOL_CALLS = View(
    "tool_calls",
    "One row a tool call: request, decision, start and result.",
    (
        _SESSION,
        _OPERATION,
        _text("message_id", "the answer that asked for it"),
        _text("tool_call_id"),
        _text("tool"),
        _text("mcp_server"),
        Column(
            "arguments", "JSON", "texts of more than 10,000 characters are cut; `events` has them"
        ),
        _text("command_head", "the first word of a shell command"),
        _text("effects", "none, idempotent or write"),
        _text(
            "custody",
            "executed (we ran it), gated (we were asked before), observed (told afterwards)",
        ),
        _text(
            "status",
            "requested, waiting, started, ok, error, denied, cancelled, timed_out, limit_exceeded "
            "or interrupted",
        ),
        Column("is_error", "BOOLEAN", "it ended and its status is not ok; NULL while it is open"),
        _number("exit_code"),
        _text("error_kind"),
        _text("error"),
        _text(
            "error_signature",
            "the error without what differs each time: numbers, paths, ids; of a command that left "
            "with a code it is the last line that it wrote",
        ),
        _number("generation", "the worker that ran it, or was asked for it"),
        _time("requested_at"),
        _time("decided_at"),
        _time("started_at"),
        _time("finished_at"),
        _ms("wait_ms", "for a decision; 0 where nobody was asked"),
        _ms("duration_ms", "of running; NULL where it was cut off and nobody saw when"),
        _big("output_bytes"),
        _text("output_head", "the first 2,000 characters of what the model saw"),
        _text("output_blob", "the digest of the whole output; output_text gives it"),
    ),
    opens=True,
)

APPROVALS = View(
    "approvals",
    "One row a decision about a tool call, asked or by rule.",
    (
        _text("approval_id", "NULL where nobody had to be asked"),
        _SESSION,
        _OPERATION,
        _text("tool_call_id"),
        _time("requested_at", "NULL where nobody was asked"),
        _time("decided_at", "NULL while open, and where the request died with its operation"),
        _text("decision", "allowed or denied"),
        _text("scope", "once, tool or pattern"),
        _text("rule"),
        _text("decided_by"),
        _text("door", "cli, client, rule or policy"),
    ),
    opens=True,
)

WORKER_RUNS = View(
    "worker_runs",
    "One row a process that owned a session, with the certificate of its end.",
    (
        _SESSION,
        _number("generation"),
        _big("pid"),
        _text("agent"),
        _text("paddock_version"),
        _time("started_at", "NULL where it died before its first commit"),
        _ms("ready_ms", "from the decision to start it to its first commit"),
        _time("ended_at", "NULL while it lives"),
        _text("ending", "suspended, finished or crashed"),
        _number("signal"),
        _number("exit_code"),
        _text("reason"),
        _text("last_stage"),
        _text("open_operation_id"),
        Column("open_tool_call_ids", "VARCHAR[]"),
        _big("peak_rss_bytes"),
        _big("memory_limit_bytes"),
        Column("cpu_seconds", "DOUBLE"),
        _text("last_words", "the end of its stderr"),
        _text("stacks", "of its threads, where it hung"),
        _text("in_delivery_command_id"),
        _number("tools_killed"),
        _text("action", "restarted, left_down or none"),
        Column(
            "ready_again_ms",
            "DOUBLE",
            "from a crash to the start of the next worker that came up",
            stored=False,
        ),
    ),
    opens=True,
)

FILE_CHANGES = View(
    "file_changes",
    "One row a change of a file by a tool.",
    (
        _SESSION,
        _OPERATION,
        _text("tool_call_id"),
        _text("path", "from the session's workspace on where it lies in it, else absolute"),
        _text("change", "created, modified or deleted"),
        _big("lines_added"),
        _big("lines_removed"),
        _time("changed_at"),
    ),
)

COMPACTIONS = View(
    "compactions",
    "One row a summary that took the place of earlier messages.",
    (
        _SESSION,
        _OPERATION,
        _big("sequence"),
        _text("trigger", "manual, auto or overflow"),
        _big("tokens_before"),
        _big("tokens_after"),
        _time("created_at"),
    ),
)

ANNOTATIONS = View(
    "annotations",
    "One row a remark of a client about a session or one of its operations.",
    (
        _SESSION,
        _text("operation_id", "NULL: about the session"),
        _text("key"),
        Column("value", "JSON"),
        _text("by", 'a word of SQL: write `"by"`'),
        _time("created_at"),
    ),
)

EVENTS = View(
    "events",
    "Everything that happened, one row an event. A session's own order is `sequence`.",
    (
        _big("position", "order of projection over all sessions; changes on rebuild"),
        _SESSION,
        _big("sequence", "from 1, without a gap"),
        _number("generation"),
        _time("occurred_at"),
        _text("kind"),
        _text("operation_id"),
        _text("message_id"),
        _text("tool_call_id"),
        _text("command_id"),
        Column("payload", "JSON"),
    ),
)

HOST_EVENTS = View(
    "host_events",
    "Starts, stops and deaths of supervisor, store and zygote.",
    (
        _big("epoch"),
        _time("at", 'a word of SQL: write `"at"`'),
        _text("kind"),
        _text("subject"),
        Column("detail", "JSON"),
    ),
)

VIEWS = (
    SESSIONS,
    MESSAGES,
    OPERATIONS,
    MODEL_CALLS,
    TOOL_CALLS,
    APPROVALS,
    WORKER_RUNS,
    FILE_CHANGES,
    COMPACTIONS,
    ANNOTATIONS,
    EVENTS,
    HOST_EVENTS,
)
"""All that a user is shown, in the order of ``docs/SQL.md``."""

TABLES = tuple(view for view in VIEWS if not view.wide)
"""The views with a table of the same name in ``internal``."""

PER_SESSION = tuple(view.name for view in TABLES if view is not HOST_EVENTS)
"""The tables that hold rows of a session."""

ALL_TABLES = (*(view.name for view in TABLES), "state", "stamps", "damaged")
"""All tables of ``internal`` that hold something of sessions or the host."""

_STATE = """\
CREATE SCHEMA internal;
CREATE TABLE internal.meta(key VARCHAR, value VARCHAR);
CREATE TABLE internal.state(
    session_id VARCHAR, sequence BIGINT, hash BLOB, session JSON, open JSON, memory JSON
);
CREATE VIEW internal.applied AS SELECT session_id, sequence, hash FROM internal.state;
CREATE TABLE internal.stamps(session_id VARCHAR, stamp VARCHAR);
CREATE TABLE internal.damaged(
    session_id VARCHAR, sequence BIGINT, what VARCHAR, is_deleted BOOLEAN, seen_at TIMESTAMP
);
"""


OUTPUT_BYTES = 16 * 1024 * 1024
"""The most of an output that one value of a result holds; its row has to fit into a frame."""
OUTPUT_SESSION = "output of session"
OUTPUT_STRUCT = (
    f"STRUCT({chr(34)}{OUTPUT_SESSION}{chr(34)} VARCHAR, blob VARCHAR, first_byte BIGINT, "
    "byte_count BIGINT)"
)
"""The type by which a column of outputs is known among those of a result."""
OUTPUT_TEXT = f"""\
CREATE MACRO main.output_text(
    session_id, output_blob, first_byte := 0, byte_count := {OUTPUT_BYTES}
) AS CASE WHEN output_blob IS NOT NULL THEN struct_pack(
    "{OUTPUT_SESSION}" := CAST(session_id AS VARCHAR), blob := CAST(output_blob AS VARCHAR),
    first_byte := CAST(first_byte AS BIGINT), byte_count := CAST(byte_count AS BIGINT)
) END;
"""
"""Names an output; ``query.outputs`` puts its text in that place when the row goes out."""

FUNCTIONS = f"""\
## output_text(session_id, output_blob [, first_byte, byte_count])

The whole of an output that was too large for `text`, as a column of the result: at most
{OUTPUT_BYTES:,} bytes of it, from `first_byte` on. NULL where there is none, or where the session
is erased. It is read from the session's file when its row goes out: the query can choose and order
rows by what the views hold, but not look into this text. More of it gives `paddock output`.

```sql
SELECT tool, output_text(session_id, output_blob, 0, 1000)
FROM tool_calls WHERE output_bytes > 1000000 ORDER BY finished_at DESC LIMIT 10
```
"""


def ddl() -> str:
    """Return the statements that make an empty database of this version."""
    parts = [_STATE]
    parts += [_table(view) for view in TABLES]
    parts += [_open_rows(view) for view in TABLES if view.opens]
    parts += [_view(view) for view in VIEWS]
    parts += [_comments(view) for view in VIEWS]
    parts.append(OUTPUT_TEXT)
    parts.append(f"INSERT INTO internal.meta VALUES ('schema_version', '{SCHEMA_VERSION}');")
    return "\n".join(parts)


def quoted(name: str) -> str:
    """Return a name as SQL takes it whatever it is."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _names(columns: tuple[Column, ...], prefix: str = "") -> str:
    return ", ".join(prefix + quoted(column.name) for column in columns)


def _table(view: View) -> str:
    # No primary key and no index: they quadruple the file and stall readers (measured).
    columns = ", ".join(f"{quoted(column.name)} {column.type}" for column in view.stored)
    return f"CREATE TABLE internal.{quoted(view.name)}({columns});"


def _in_json(column: Column) -> str:
    """Return the type by which a column of the state's JSON is read; times are microseconds."""
    return "BIGINT" if column.type == "TIMESTAMP" else column.type


def _structure(columns: tuple[Column, ...]) -> str:
    fields = []
    for column in columns:
        kind = '["VARCHAR"]' if column.type == "VARCHAR[]" else f'"{_in_json(column)}"'
        fields.append(f'"{column.name}":{kind}')
    return "{" + ",".join(fields) + "}"


def _from_struct(column: Column) -> str:
    field = f"r.{quoted(column.name)}"
    value = f"make_timestamp({field})" if column.type == "TIMESTAMP" else field
    return f"{value} AS {quoted(column.name)}"


_DELETED = "is_deleted OR r.status = 'deleted'"
_OF_DAMAGED = {
    "status": f"CASE WHEN {_DELETED} THEN 'deleted' ELSE coalesce(r.status, 'failed') END",
    "attention": f"CASE WHEN {_DELETED} THEN NULL ELSE 'failed' END",
    "waiting_since": f"CASE WHEN {_DELETED} THEN NULL ELSE seen_at END",
}
"""What a damaged session's own events do not tell of it."""


def _of_session(column: Column) -> str:
    value, damaged = _from_struct(column), _OF_DAMAGED.get(column.name)
    if damaged is None:
        return value
    name = f" AS {quoted(column.name)}"
    return f"CASE WHEN is_damaged THEN {damaged} ELSE {value.removesuffix(name)} END{name}"


def _open_rows(view: View) -> str:
    columns = ", ".join(_from_struct(column) for column in view.stored)
    shape = _literal(f"[{_structure(view.stored)}]")
    return (
        f"CREATE VIEW internal.{quoted('open_' + view.name)} AS SELECT {columns} FROM ("
        f"SELECT unnest(from_json(json_extract(open, '$.{view.name}'), {shape})) AS r "
        "FROM internal.state WHERE open IS NOT NULL);"
    )


def _union(view: View) -> str:
    names = _names(view.stored)
    table = f"SELECT {names} FROM internal.{quoted(view.name)}"
    if not view.opens:
        return table
    return f"{table} UNION ALL SELECT {names} FROM internal.{quoted('open_' + view.name)}"


def _view(view: View) -> str:
    head = f"CREATE VIEW main.{quoted(view.name)} AS"
    if view is SESSIONS:
        columns = ", ".join(_of_session(column) for column in view.columns)
        shape = _literal(_structure(view.columns))
        return (
            f"{head} SELECT {columns} FROM (SELECT from_json(s.session, {shape}) AS r, "
            "d.session_id IS NOT NULL AS is_damaged, d.is_deleted, d.seen_at "
            "FROM internal.state s LEFT JOIN internal.damaged d ON d.session_id = s.session_id "
            "WHERE s.session IS NOT NULL UNION ALL "
            f"SELECT from_json(json_object('session_id', session_id), {shape}), true, is_deleted, "
            f"seen_at FROM internal.damaged WHERE session_id <> {_literal(HOST)} AND session_id "
            "NOT IN (SELECT session_id FROM internal.state WHERE session IS NOT NULL));"
        )
    if view is OPERATIONS:
        return (
            # Rows stand in the order of the log, which no clock changes (F12); null takes it back.
            f"{head} WITH said AS (SELECT session_id, operation_id, "
            "arg_max_null(value ->> '$', rowid) AS outcome FROM internal.annotations "
            "WHERE key = 'outcome' AND operation_id IS NOT NULL GROUP BY ALL) "
            f"SELECT {_names(view.stored, 'o.')}, said.outcome FROM ({_union(view)}) o "
            "LEFT JOIN said ON said.session_id = o.session_id "
            "AND said.operation_id = o.operation_id;"
        )
    if view is WORKER_RUNS:
        return (
            f"{head} SELECT {_names(view.stored)}, CASE WHEN ending = 'crashed' THEN "
            # One that died before its first commit has no start: it did not bring it back.
            "epoch_us(lead(started_at IGNORE NULLS) OVER "
            "(PARTITION BY session_id ORDER BY generation) "
            f"- ended_at) / 1000.0::DOUBLE END AS ready_again_ms FROM ({_union(view)});"
        )
    return f"{head} {_union(view)};"


def _comments(view: View) -> str:
    name = f"main.{quoted(view.name)}"
    lines = [f"COMMENT ON VIEW {name} IS {_literal(view.says)};"]
    lines += [
        f"COMMENT ON COLUMN {name}.{quoted(column.name)} IS {_literal(column.says)};"
        for column in view.columns
        if column.says
    ]
    return "\n".join(lines)


def document() -> str:
    """Return ``docs/SQL.md``."""
    lines = [
        "# What can be asked",
        "",
        "<!-- Made from store/paddock/store/projection/schema.py by",
        "     `python -m paddock.store.projection > docs/SQL.md`. Do not edit. -->",
        "",
        "`paddock sql QUERY` asks the views below, running sessions included. One SELECT (or",
        "EXPLAIN, DESCRIBE, SHOW) a query; it reaches nothing outside this database, and writes",
        "nothing. What else is in there (the schema `internal`) is another with any version.",
        "Times are UTC timestamps in microseconds, durations (`_ms`) milliseconds, sizes bytes,",
        "money US dollars. NULL means *not known*, and never zero.",
        "",
    ]
    for view in VIEWS:
        lines += [
            f"## {view.name}",
            "",
            view.says,
            "",
            "| column | type | |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {column.name} | {column.type} | {column.says} |" for column in view.columns]
        lines.append("")
    lines.append(FUNCTIONS)
    return "\n".join(lines)
