"""What a user's SQL may do: read the views, all of them, and nothing else."""

import gc
import math
import shutil
import threading
import weakref
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from paddock.store.errors import SqlRefused, TimedOut
from paddock.store.projection import Database, Projector
from paddock.store.protocol import json_rows, pack_rows, unpack_rows
from paddock.store.query import Asking, Cancelled, query_json
from paddock.store.session_file import SessionFile, folder_of
from tests.store.logs import Story, a_day, append


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    data = tmp_path_factory.mktemp("data")
    a_day(1, turns=2).write(data)
    opened = Database(data / "projection.duckdb")
    projector = Projector(opened, data)
    projector.scan()
    projector.catch_up()
    yield opened
    projector.close()
    opened.close()


@pytest.fixture
def with_output(tmp_path: Path) -> Iterator[tuple[Database, Story, str]]:
    """Give a database, a session in it, and the digest of an output of 20,000,000 bytes."""
    story = Story(1).create().start()
    folder = folder_of(tmp_path, story.session_id)
    with SessionFile.create(folder, story.session_id, at_us=1) as file:
        append(file, story.happened)
        digest = file.put_blob("é123456789".encode() * (20_000_000 // 11) + b"end").digest
    opened = Database(tmp_path / "projection.duckdb")
    projector = Projector(opened, tmp_path)
    projector.scan()
    projector.catch_up()
    yield opened, story, digest
    projector.close()
    opened.close()


def rows(database: Database, query: str, *params: object) -> list[tuple[object, ...]]:
    with Asking(database, query, params) as asking:
        return [row for chunk in asking.chunks() for row in chunk]


def all_rows(database: Database) -> int:
    counted = rows(database, "SELECT count(*) FROM events")
    number = counted[0][0]
    assert isinstance(number, int)
    return number


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO internal.events VALUES (1)",
        "WITH x AS (INSERT INTO internal.meta VALUES ('a', 'b') RETURNING key) SELECT * FROM x",
        "EXPLAIN ANALYZE INSERT INTO internal.meta VALUES ('a', 'b')",
        "EXPLAIN ANALYZE DELETE FROM internal.events",
        "DELETE FROM internal.events",
        "UPDATE internal.meta SET value = 'x'",
        "TRUNCATE internal.events",
        "DROP TABLE internal.events",
        "DROP VIEW sessions",
        "CREATE TABLE t(a INT)",
        "CREATE TEMP TABLE t(a INT)",
        "CREATE MACRO m() AS 1",
        "MERGE INTO internal.meta USING (SELECT 1) ON false WHEN NOT MATCHED THEN INSERT",
        "COPY sessions TO '/tmp/paddock-test.csv'",
        "COPY internal.meta FROM '/etc/passwd'",
        "EXPORT DATABASE '/tmp/paddock-test'",
        "ATTACH '/tmp/paddock-test.duckdb'",
        "DETACH main",
        "PRAGMA database_list",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "SET threads = 64",
        "SET VARIABLE x = 1",
        "RESET threads",
        "USE internal",
        "LOAD httpfs",
        "INSTALL httpfs",
        "CHECKPOINT",
        "FORCE CHECKPOINT",
        "VACUUM",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "SELECT * FROM checkpoint()",
        'SELECT * FROM "force_checkpoint"()',
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM read_json('/etc/passwd')",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM read_duckdb('/tmp/paddock-test.duckdb')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT getenv('HOME')",
        "SELECT * FROM enable_logging()",
        "SELECT * FROM query('DELETE FROM internal.events')",
        "SELECT * FROM database",
        "SELECT * FROM sessions; SELECT * FROM sessions",
        "SELECT 1; DELETE FROM internal.events",
        "",
        "   ;  ",
        "-- nothing",
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT ?",
    ],
)
def test_what_does_more_than_read_the_views_is_refused(database: Database, query: str) -> None:
    before = all_rows(database)
    with pytest.raises(SqlRefused):
        rows(database, query)
    assert all_rows(database) == before


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM sessions",
        "FROM messages",
        "TABLE events;",
        "VALUES (1)",
        "EXPLAIN SELECT * FROM tool_calls",
        "EXPLAIN ANALYZE SELECT count(*) FROM events",
        "DESCRIBE tool_calls",
        "SUMMARIZE operations",
        "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
    ],
)
def test_what_only_reads_is_answered(database: Database, query: str) -> None:
    assert rows(database, query)


def test_only_the_views_are_shown(database: Database) -> None:
    shown = {name for (name,) in rows(database, "SHOW TABLES")}
    assert shown == {
        "sessions",
        "messages",
        "operations",
        "model_calls",
        "tool_calls",
        "approvals",
        "worker_runs",
        "file_changes",
        "compactions",
        "annotations",
        "events",
        "host_events",
    }


def test_parameters_are_bound_by_place_and_by_name(database: Database) -> None:
    query = "SELECT count(*) FROM events WHERE kind = ? AND sequence < ?"
    assert rows(database, query, "session_created", 5) == [(1,)]
    with Asking(database, "SELECT $a || $b", {"a": "x'; --", "b": "y"}) as asking:
        assert list(asking.chunks()) == [[("x'; --y",)]]


def test_a_query_that_takes_too_long_is_interrupted(database: Database) -> None:
    endless = "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(10000000) b(i)"
    with (
        pytest.raises(TimedOut) as caught,
        Asking(database, endless, timeout_seconds=0.2) as asking,
    ):
        list(asking.chunks())
    assert caught.value.facts["seconds"] == 0.2
    assert rows(database, "SELECT 1") == [(1,)]


def test_a_result_that_is_read_too_slowly_times_out_as_well(database: Database) -> None:
    with (
        pytest.raises(TimedOut),
        Asking(database, "FROM range(100000000)", timeout_seconds=0.1) as asking,
    ):
        for _ in asking.chunks():
            pass


def test_a_query_can_be_cancelled_from_another_thread(database: Database) -> None:
    endless = "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(10000000) b(i)"
    asking = Asking(database, endless)
    other = threading.Timer(0.1, asking.cancel)
    other.start()
    with pytest.raises(Cancelled), asking:
        list(asking.chunks())
    other.join()


def test_a_result_comes_in_bounded_chunks_and_need_not_be_read_to_its_end(
    database: Database,
) -> None:
    with Asking(database, "FROM range(10000000)") as asking:
        chunks = asking.chunks()
        assert len(next(chunks)) == 8
        assert len(next(chunks)) == 500
    with Asking(database, "SELECT repeat('x', 1000000) FROM range(100)") as asking:
        sizes = [len(chunk) for chunk in asking.chunks()]
    assert sum(sizes) == 100
    assert max(sizes[1:]) == 1  # of 1 MB each


def test_a_row_limit_is_kept_and_told(database: Database) -> None:
    with Asking(database, "FROM range(10)", row_limit=4) as asking:
        assert sum(len(chunk) for chunk in asking.chunks()) == 4
        assert asking.is_cut
    with Asking(database, "FROM range(10)", row_limit=10) as asking:
        assert sum(len(chunk) for chunk in asking.chunks()) == 10
        assert not asking.is_cut
    with Asking(database, "FROM range(10)", row_limit=0) as asking:
        assert list(asking.chunks()) == []
        assert asking.is_cut


def test_times_are_utc_wherever_the_host_is(database: Database) -> None:
    query = "SELECT now() AS n, 1 AS x, created_at FROM sessions WHERE created_at < now()"
    with Asking(database, query) as asking:
        ((now, _, created),) = next(asking.chunks())
        assert asking.types == ["TIMESTAMP", "INTEGER", "TIMESTAMP"]
    today = datetime.now(UTC).replace(tzinfo=None)
    assert abs(now - today) < timedelta(minutes=5)
    assert created.tzinfo is None


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT [TIMESTAMPTZ '2026-01-01 00:00:00+05'] AS x", [["2025-12-31T19:00:00.000000Z"]]),
        (
            "SELECT {'a': TIMESTAMPTZ '2026-01-01 00:00:00+05', 'b': [1]} AS x",
            [{"a": "2025-12-31T19:00:00.000000Z", "b": [1]}],
        ),
        (
            "SELECT MAP {'a': TIMESTAMPTZ '2026-01-01 00:00:00+05'} AS x, ? AS y",
            [{"a": "2025-12-31T19:00:00.000000Z"}, "p"],
        ),
        (
            """SELECT TIMESTAMPTZ '2026-01-01 00:00:00+05' AS a, ';' AS b,
               TIMESTAMPTZ '2026-01-02 00:00:00+05' AS a; -- é; behind it""",
            ["2025-12-31T19:00:00.000000Z", ";", "2026-01-01T19:00:00.000000Z"],
        ),
    ],
)
def test_times_with_a_zone_are_utc_wherever_they_stand(
    database: Database, query: str, told: list[object]
) -> None:
    (row,) = query_json(database, query, ["p"] if "?" in query else None)
    assert list(row.values()) == told


def test_no_column_takes_the_name_of_another(database: Database) -> None:
    (row,) = query_json(database, "SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a")
    assert row == {"a": 1, "a_3": 2, "a_2": 3, "a_4": 4}


def test_json_rows_are_what_json_can_say(database: Database) -> None:
    query = """SELECT TIMESTAMP '2026-01-02 03:04:05.123456' AS at,
        170141183460469231731687303715884105727 AS huge, (-9223372036854775808)::BIGINT AS low,
        'nan'::DOUBLE AS nan, 'inf'::DOUBLE AS inf, '{"a": [1, null]}'::JSON AS j, [1, 2] AS l,
        {'k': DATE '2026-01-02'} AS s, 1.50::DECIMAL(5,2) AS d, '\\x00\\xFF'::BLOB AS b,
        NULL AS n, true AS t, INTERVAL 1500 MILLISECONDS AS i,
        MAP {'x': 1} AS m, 1 AS t, uuid '00000000-0000-0000-0000-000000000001' AS u"""
    (row,) = query_json(database, query)
    assert row == {
        "at": "2026-01-02T03:04:05.123456Z",
        "huge": 2**127 - 1,
        "low": -(2**63),
        "nan": None,
        "inf": None,
        "j": {"a": [1, None]},
        "l": [1, 2],
        "s": {"k": "2026-01-02"},
        "d": 1.5,
        "b": "00ff",
        "n": None,
        "t": True,
        "i": 1500.0,
        "m": {"x": 1},
        "t_2": 1,
        "u": "00000000-0000-0000-0000-000000000001",
    }


def test_values_survive_the_wire() -> None:
    values = (
        datetime(1969, 1, 2, 3, 4, 5, 678),  # noqa: DTZ001 - as DuckDB gives them
        date(2026, 1, 2),
        timedelta(days=-1, microseconds=3),
        Decimal("1.50"),
        2**100,
        -(2**63),
        "\ud800 lone, \x00 nul",
        b"\xff",
        [1, [2, {"a": date(2026, 1, 2)}]],
        None,
        math.inf,
    )
    assert unpack_rows(pack_rows([values, values])) == [values, values]


def test_a_json_column_that_is_no_json_is_given_as_text() -> None:
    told = [("{broken",), (None,), ('{"n": [1e400]}',)]
    assert json_rows(["a"], ["JSON"], told) == [{"a": text} for (text,) in told]


def test_the_file_it_reads_is_for_its_owner_alone(database: Database) -> None:
    path: Path = database.path
    assert path.stat().st_mode & 0o777 == 0o600


def test_f10_sql_gives_the_whole_of_an_output(with_output: tuple[Database, Story, str]) -> None:
    """It had only its digest and size."""
    database, story, digest = with_output
    query = "SELECT session_id, output_text(session_id, ?) AS it FROM sessions"
    with Asking(database, query, [digest]) as asking:
        ((session, text),) = [row for chunk in asking.chunks() for row in chunk]
        assert asking.types == ["VARCHAR", "VARCHAR"]
    assert session == story.session_id
    assert text.startswith("é123456789é1")
    assert len(text.encode("utf-8", "replace")) <= 16 * 1024 * 1024 + 2
    part = "SELECT output_text(session_id, ?, 10999, 13), updated_at::TIMESTAMPTZ FROM sessions"
    assert rows(database, part, digest)[0][0] == "9é123456789\ufffd"
    end = "SELECT output_text(session_id, ?, first_byte := 19999990) FROM sessions"
    assert str(rows(database, end, digest[:12])[0][0]).endswith("9end")


def test_an_output_that_is_not_there_is_null(with_output: tuple[Database, Story, str]) -> None:
    database, story, digest = with_output
    query = "SELECT output_text(s, b, f) FROM (VALUES (?, ?, ?)) _(s, b, f)"
    for given in (
        (story.session_id, None, 0),
        (None, digest, 0),
        (story.session_id, digest, None),
        (story.session_id, "ab" * 32, 0),
        (str(a_day(2).session_id), digest, 0),
        ("../../etc/passwd", digest, 0),
    ):
        assert rows(database, query, *given) == [(None,)]
    assert rows(database, query, story.session_id, digest, 10**12) == [("",)]
    for number in range(2):  # erased while its file is open, too
        with Asking(
            database, f"{query}, range(100)", [story.session_id, digest, 19_999_990]
        ) as asked:
            chunks = asked.chunks()
            assert next(chunks)[0][0] is not None or number == 1
            shutil.rmtree(folder_of(database.path.parent, story.session_id), ignore_errors=True)
            assert [row for chunk in chunks for row in chunk][-1] == (None,)


def test_outputs_come_one_at_a_time_and_end_when_nobody_waits(
    with_output: tuple[Database, Story, str],
) -> None:
    database, _, digest = with_output
    query = "SELECT output_text(session_id, ?) FROM sessions, range(1000)"
    with Asking(database, query, [digest]) as asking:
        chunks = asking.chunks()
        assert len(next(chunks)) == 1
        asking.cancel()
        with pytest.raises(Cancelled):
            next(chunks)
    with Asking(database, query, [digest], timeout_seconds=1) as asking, pytest.raises(TimedOut):
        list(map(len, asking.chunks()))


def test_the_text_of_an_output_cannot_be_looked_into_by_the_query(
    with_output: tuple[Database, Story, str],
) -> None:
    database, _, digest = with_output
    with pytest.raises(SqlRefused, match="No function matches"):
        rows(database, "SELECT 1 FROM sessions WHERE output_text(session_id, ?) LIKE '%a'", digest)


def test_a_query_that_is_over_leaves_nothing_for_the_collector(database: Database) -> None:
    gc.disable()
    try:
        asking = Asking(database, "SELECT count(*) FROM events")
        with asking:
            assert list(asking.chunks())
        left = weakref.ref(asking)
        del asking
        assert left() is None, "it has a thread, a cursor and the database"
    finally:
        gc.enable()
