"""Each view against rows folded by hand, and the ten questions that the views must answer."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from paddock.store import events as e
from paddock.store import reports
from paddock.store.events import stored_of
from paddock.store.fold import evolve
from paddock.store.ids import MessageId, ModelCallId
from paddock.store.projection import Database, Projector
from paddock.store.projection.schema import VIEWS, document
from paddock.store.query import query_json
from paddock.store.session import Session
from paddock.store.text import ALL_IS_KEPT
from tests.store.logs import START_US, Story, a_day

ROOT = Path(__file__).resolve().parent.parent.parent
type Ask = Callable[..., list[dict[str, JsonValue]]]


class Host:
    """A data folder with a database over it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.database = Database(data / "projection.duckdb")
        self.projector = Projector(self.database, data)

    def project(self) -> None:
        self.projector.scan()
        self.projector.catch_up()

    def ask(self, query: str, *params: object) -> list[dict[str, JsonValue]]:
        return query_json(self.database, query, list(params))

    def close(self) -> None:
        self.projector.close()
        self.database.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


def at(us: int) -> str:
    """Return a time as JSON rows give it."""
    text = datetime.fromtimestamp(us / 1_000_000, UTC).replace(tzinfo=None)
    return text.isoformat(timespec="microseconds") + "Z"


def tell(host: Host, story: Story) -> str:
    story.write(host.data)
    host.project()
    return story.session_id


def test_the_views_have_exactly_the_columns_of_their_contract(host: Host) -> None:
    for view in VIEWS:
        described = host.ask(f"DESCRIBE {view.name}")
        assert [(row["column_name"], row["column_type"]) for row in described] == [
            (column.name, column.type) for column in view.columns
        ]


def test_the_document_is_made_from_the_schema() -> None:
    assert (ROOT / "docs" / "SQL.md").read_text(encoding="utf-8") == document()


def test_an_empty_store_has_empty_views(host: Host) -> None:
    assert {view.name: host.ask(f"FROM {view.name}") for view in VIEWS} == {
        view.name: [] for view in VIEWS
    }


def test_s9_sessions_follow_creation_configuration_and_title(host: Host) -> None:
    story = Story(1).create(
        name="fixer",
        title="first",
        agent="support",
        agent_version="7",
        project="web",
        owner="ann",
        labels={"team": "a", "x": "1"},
        repo="git@x:y",
        branch="main",
        commit="c0ffee",
    )
    created = story.now_us
    story.start()
    story.add(e.SessionTitled(title="Fix the login"))
    story.add(e.SessionConfigured(labels={"team": "b"}, owner="bob"))
    story.add(e.WorkspaceChanged(workspace="/w", repo="git@x:y", branch="fix", commit="bada55"))
    tell(host, story)
    (row,) = host.ask("FROM sessions")
    assert row == {
        "session_id": story.session_id,
        "name": "fixer",
        "title": "Fix the login",
        "status": "live",
        "stage": "resting",
        "attention": None,
        "waiting_since": None,
        "agent": "support",
        "agent_version": "7",
        "source": "paddock",
        "project": "web",
        "owner": "bob",
        "labels": {"team": "b"},
        "model": "script:fix.json",
        "workspace": "/w",
        "repo": "git@x:y",
        "branch": "fix",
        "commit_start": "c0ffee",
        "commit_end": "bada55",
        "parent_session_id": None,
        "forked_from_sequence": None,
        "created_at": at(created),
        "updated_at": at(story.now_us),
        "last_activity_at": at(story.now_us - 1000),
        "generation": 1,
        "message_count": 0,
        "last_sequence": 5,
        "open_operation_id": None,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": 0.0,
    }


def test_s7_the_model_follows_the_newest_event_that_names_one(host: Host) -> None:
    story = Story(1).create(model="a").start()
    story.ask("hello")
    answer = story.think(model="b")
    story.add(e.TodosUpdated())
    session = tell(host, story)
    assert host.ask("SELECT model FROM sessions") == [{"model": "b"}]
    length = len(story.happened)
    story.say(answer, "hi")  # names "script"
    story.add(e.SessionTitled(title="t"), e.ModelChanged(model="c"))
    story.add(e.ModeChanged(mode="plan"))
    story.write_more(host.data, length)
    host.projector.catch_up(session)
    assert host.ask("SELECT model FROM sessions") == [{"model": "c"}]


def test_s8_message_count_follows_the_three_message_events_only(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("hello")
    answer = story.think()
    call = story.call(answer)
    story.say(answer, "I look.", [call])
    story.decide(call)
    story.run(call)
    story.finish(call)
    story.add(
        e.AssistantMessageInterrupted(
            message_id=answer, operation_id=story.at_work(), text="x", reason="cut"
        )
    )
    tell(host, story)
    assert host.ask("SELECT message_count FROM sessions") == [{"message_count": 3}]
    assert host.ask("SELECT role, text FROM messages ORDER BY sequence") == [
        {"role": "user", "text": "hello"},
        {"role": "assistant", "text": "I look."},
        {"role": "tool", "text": "3 passed"},
    ]


def test_a_session_sums_the_tokens_that_were_told_though_others_were_not(host: Host) -> None:
    story = Story(1).create().start()
    for tokens in ((100, 20), (7, None), (3, 5)):
        story.ask("hello")
        story.say(story.think(tokens=tokens), "hi")
        story.end()
    tell(host, story)
    query = "SELECT input_tokens, output_tokens FROM sessions"
    assert host.ask(query) == [{"input_tokens": 110, "output_tokens": None}]
    state = Session(story.session_id)
    for row in story.rows():
        evolve(state, stored_of(story.session_id, row))
    totals = state.conversation.totals
    assert (totals.uncounted_input_calls, totals.uncounted_output_calls) == (0, 1)


def stages(host: Host) -> tuple[JsonValue, ...]:
    (row,) = host.ask("SELECT status, stage, attention, waiting_since FROM sessions")
    return tuple(row.values())


def test_status_stage_and_attention_follow_what_happens(host: Host) -> None:
    story = Story(1).create()
    told = 0

    def after() -> tuple[JsonValue, ...]:
        nonlocal told
        if told == 0:
            story.write(host.data)
        else:
            story.write_more(host.data, told)
        told = len(story.happened)
        host.project()
        return stages(host)

    assert after() == ("suspended", "resting", None, None)
    story.start()
    assert after() == ("live", "resting", None, None)
    story.ask("do it")
    assert after() == ("live", "working", None, None)
    call = story.call(story.think())
    approval = story.ask_leave(call)
    asked = at(story.now_us)
    assert after() == ("live", "waiting", "approval", asked)
    story.exit(reason="idle")
    assert after() == ("suspended", "waiting", "approval", asked)
    story.start()
    story.decide(call, approval)
    assert after() == ("live", "working", None, None)
    operation = story.operation
    assert operation is not None
    story.add(e.BudgetExceeded(operation_id=operation, limit="tokens", maximum=1, reached=2))
    assert after() == ("live", "working", "budget", at(story.now_us))
    story.finish(call)
    story.end("failed")
    story.ask("again")
    assert after() == ("live", "working", None, None)
    story.exit(ending="crashed", reason="signal", signal=9)
    story.fail()
    assert after() == ("failed", "resting", "failed", at(story.now_us))
    story.add(e.SessionResumed(reason="asked", reset=True))
    assert after() == ("suspended", "working", None, None)
    story.start().exit(reason="needs_credentials")
    assert after() == ("suspended", "working", "credentials", at(story.now_us))
    story.delete()
    assert after() == ("deleted", "resting", None, None)


def test_operations_add_up_what_they_did(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    started = story.now_us
    answer = story.think(took_ms=500, retries=1, cost=0.25)
    first, second = story.call(answer), story.call(answer)
    story.decide(first)
    story.run(first)
    story.finish(first, took_ms=30)
    approval = story.ask_leave(second)
    story.decide(second, approval, after_ms=2_000)
    story.run(second)
    story.finish(second, "error", took_ms=10, error="no", error_kind="exit")
    operation = story.end()
    tell(host, story)
    assert host.ask("FROM operations") == [
        {
            "session_id": story.session_id,
            "operation_id": operation,
            "kind": "turn",
            "status": "completed",
            "started_at": at(started),
            "ended_at": at(story.now_us),
            "duration_ms": (story.now_us - started) / 1000,
            "model_calls": 2,
            "tool_calls": 2,
            "model_ms": 550.0,
            "tool_ms": 40.0,
            "wait_ms": 2_000.0,
            "cost_usd": 0.25,
            "error_kind": None,
            "error": None,
            "outcome": None,
        }
    ]


def test_p4_what_a_failed_session_left_open_ended_until_that_is_freed(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    answer = story.think()
    ran, asked = story.call(answer), story.call(answer)
    story.decide(ran)
    story.run(ran)
    story.ask_leave(asked)
    story.exit(ending="crashed", reason="signal", signal=9, action="left_down")
    operation, failed_at = story.at_work(), story.now_us + 1000
    story.fail()
    length = len(story.happened)
    tell(host, story)
    query = "SELECT status, ended_at, error_kind FROM operations"
    calls = "SELECT status, is_error, finished_at IS NULL AS open FROM tool_calls ORDER BY ALL"
    ended = {"status": "failed", "ended_at": at(failed_at), "error_kind": "crash_loop"}
    interrupted = {"status": "interrupted", "is_error": True, "open": False}
    waiting = {"status": "waiting", "is_error": None, "open": True}
    assert host.ask(query) == [ended]
    assert host.ask(calls) == [interrupted, waiting]
    assert stages(host) == ("failed", "resting", "failed", at(failed_at))
    assert host.ask("SELECT open_operation_id AS o FROM sessions") == [{"o": None}]

    story.add(e.SessionResumed(reason="asked", reset=True))
    story.start()
    story.operation = operation
    story.write_more(host.data, length)
    length = len(story.happened)
    host.project()
    assert host.ask(query) == [{"status": "running", "ended_at": None, "error_kind": None}]
    assert host.ask(calls) == [{"status": "started", "is_error": None, "open": True}, waiting]
    assert host.ask("SELECT open_operation_id AS o FROM sessions") == [{"o": operation}]

    story.finish(ran, "interrupted")
    story.finish(asked, "denied", took_ms=0)
    story.say(story.think(), "Done.")
    story.end()
    story.write_more(host.data, length)
    host.project()
    assert host.ask("SELECT status, ended_at, model_calls, tool_calls FROM operations") == [
        {"status": "completed", "ended_at": at(story.now_us), "model_calls": 2, "tool_calls": 2}
    ]
    assert [row["status"] for row in host.ask(calls)] == ["denied", "interrupted"]


def test_what_a_failed_session_left_open_stays_failed_when_that_is_deleted(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    answer = story.think()
    ran, never = story.call(answer), story.call(answer)
    story.decide(ran)
    story.run(ran)
    story.exit(ending="crashed", reason="signal", signal=9, action="left_down")
    failed_at = story.now_us + 1000
    story.fail()
    story.delete()
    tell(host, story)
    assert host.ask("SELECT status, ended_at, error_kind FROM operations") == [
        {"status": "failed", "ended_at": at(failed_at), "error_kind": "crash_loop"}
    ]
    # What never began cannot have run twice or half.
    assert {row["tool_call_id"]: row["status"] for row in host.ask("FROM tool_calls")} == {
        ran: "interrupted",
        never: "cancelled",
    }


@pytest.mark.parametrize(
    ("how", "kind", "error"),
    [
        ("failed", "model", "gone"),
        ("cancelled", None, "asked"),
        ("interrupted", "quarantined", "struck twice"),
    ],
)
def test_operations_say_how_they_ended(
    host: Host, how: str, kind: str | None, error: str | None
) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    story.end(how)
    tell(host, story)
    assert host.ask("SELECT status, error_kind, error FROM operations") == [
        {"status": how, "error_kind": kind, "error": error}
    ]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("cancelled", "cancelled"),
        ("interrupted", "interrupted"),
        ("suspended", "interrupted"),
        ("overloaded", "error"),
    ],
)
def test_a_request_that_no_model_failed_at_is_no_error_of_a_model(
    host: Host, kind: str, status: str
) -> None:
    """Whoever counted a provider's errors counted interrupts among them."""
    story = Story(1).create().start()
    story.ask("do it")
    at_work, message, call = story.at_work(), MessageId(story.new_id()), ModelCallId(story.new_id())
    begun = e.ModelCallStarted(operation_id=at_work, message_id=message, model_call_id=call)
    story.add(begun)
    story.add(
        e.ModelCallFailed(
            operation_id=at_work,
            message_id=message,
            model_call_id=call,
            error_kind=kind,
            error="why",
        )
    )
    story.end()
    tell(host, story)
    assert host.ask("SELECT status, error FROM model_calls") == [{"status": status, "error": "why"}]


def test_an_unpriced_call_makes_the_cost_unknown_and_never_zero(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("one")
    story.say(story.think(cost=0.5), "a")
    story.end()
    tell(host, story)
    assert host.ask("SELECT cost_usd FROM sessions") == [{"cost_usd": 0.5}]
    length = len(story.happened)
    story.ask("two")
    story.say(story.think(cost=None), "b")
    story.end()
    story.write_more(host.data, length)
    host.project()
    assert host.ask("SELECT cost_usd FROM sessions") == [{"cost_usd": None}]
    assert host.ask("SELECT cost_usd FROM operations ORDER BY started_at") == [
        {"cost_usd": 0.5},
        {"cost_usd": None},
    ]
    assert host.ask("SELECT sum(input_tokens) AS t FROM model_calls") == [{"t": 200}]


def test_outcome_is_what_an_annotation_says_of_the_operation(host: Host) -> None:
    story = Story(1).create().start()
    operation = story.turn()
    for verdict in ("bad", "good"):
        story.add(
            e.SessionAnnotated(operation_id=operation, key="outcome", value=verdict, by="ann")
        )
    story.add(e.SessionAnnotated(key="note", value={"a": [1]}))
    tell(host, story)
    assert host.ask("SELECT outcome FROM operations") == [{"outcome": "good"}]
    assert host.ask(
        'SELECT key, value, "by", operation_id FROM annotations ORDER BY created_at'
    ) == [
        {"key": "outcome", "value": "bad", "by": "ann", "operation_id": operation},
        {"key": "outcome", "value": "good", "by": "ann", "operation_id": operation},
        {"key": "note", "value": {"a": [1]}, "by": None, "operation_id": None},
    ]


def test_f12_the_last_outcome_counts_whatever_the_clock_said(host: Host) -> None:
    story = Story(1).create().start()
    story.turn("one", calls=0)
    operation = story.turn("two", calls=0)

    def say(value: JsonValue) -> list[JsonValue]:
        length = len(story.happened)
        story.now_us -= 3_600_000_000  # the clock was set back
        story.add(e.SessionAnnotated(operation_id=operation, key="outcome", value=value))
        story.write_more(host.data, length)
        host.project()
        rows = host.ask("SELECT outcome FROM operations WHERE operation_id = ?", operation)
        return [row["outcome"] for row in rows]

    story.write(host.data)
    assert say("good") == ["good"]
    assert say("bad") == ["bad"]
    assert say(None) == [None]
    assert say({"of": 1}) == ['{"of":1}']


def test_model_calls_show_each_attempt(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    began = story.now_us + 1_000
    answer = story.think(model="m", retries=1, took_ms=600, cost=0.1, tokens=(10, 5))
    tell(host, story)
    first, second = host.ask("FROM model_calls ORDER BY started_at")
    assert first == {
        "session_id": story.session_id,
        "operation_id": story.operation,
        "message_id": answer,
        "purpose": "turn",
        "provider": "test",
        "model": "m",
        "attempt": 1,
        "status": "error",
        "http_status": 429,
        "retry_after_ms": 1_000.0,
        "started_at": at(began),
        "ttft_ms": None,
        "duration_ms": 50.0,
        "input_tokens": None,
        "cache_read_tokens": None,
        "cache_write_tokens": None,
        "output_tokens": None,
        "reasoning_tokens": None,
        "cost_usd": None,
        "context_tokens": None,
        "context_limit": 200_000,
        "error": "429 Too Many Requests",
    }
    assert (second["attempt"], second["status"], second["http_status"]) == (2, "ok", 200)
    assert (second["ttft_ms"], second["duration_ms"]) == (200.0, 600.0)
    assert (second["input_tokens"], second["output_tokens"], second["cost_usd"]) == (10, 5, 0.1)
    assert (second["context_tokens"], second["error"]) == (10, None)


def test_a_model_call_whose_worker_died_was_interrupted(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    story.think()
    del story.happened[-1]  # the answer never came
    story.crash()
    tell(host, story)
    assert host.ask("SELECT status FROM model_calls") == [{"status": "interrupted"}]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("cancelled", "cancelled"),
        ("suspended", "interrupted"),
        ("interrupted", "interrupted"),
        ("rate_limited", "error"),
        ("needs_credentials", "error"),
    ],
)
def test_a_model_call_that_was_ended_from_here_is_no_error_of_its_model(
    host: Host, kind: str, status: str
) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    message = story.think()
    begun = story.happened[-2].event
    assert isinstance(begun, e.ModelCallStarted)
    del story.happened[-1]  # the answer never came
    story.add(
        e.ModelCallFailed(
            operation_id=story.at_work(),
            message_id=message,
            model_call_id=begun.model_call_id,
            error_kind=kind,
            error="gone",
        )
    )
    tell(host, story)
    assert host.ask("SELECT status, error FROM model_calls") == [
        {"status": status, "error": "gone"}
    ]


def test_tool_calls_show_request_decision_start_and_result(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    answer = story.think()
    call = story.call(answer, arguments={"command": "pytest -q", "n": [1, None]})
    requested = story.now_us
    session = tell(host, story)
    length = len(story.happened)

    def now(*names: str) -> list[JsonValue]:
        nonlocal length
        story.write_more(host.data, length)
        length = len(story.happened)
        host.projector.catch_up(session)
        (row,) = host.ask(f"SELECT {', '.join(names)} FROM tool_calls")
        return list(row.values())

    (row,) = host.ask("FROM tool_calls")
    assert row == {
        "session_id": session,
        "operation_id": story.operation,
        "message_id": answer,
        "tool_call_id": call,
        "tool": "bash",
        "mcp_server": None,
        "arguments": {"command": "pytest -q", "n": [1, None]},
        "command_head": "pytest",
        "effects": "write",
        "custody": "executed",
        "status": "requested",
        "is_error": None,
        "exit_code": None,
        "error_kind": None,
        "error": None,
        "error_signature": None,
        "generation": 1,
        "requested_at": at(requested),
        "decided_at": None,
        "started_at": None,
        "finished_at": None,
        "wait_ms": None,
        "duration_ms": None,
        "output_bytes": None,
        "output_head": None,
        "output_blob": None,
    }
    approval = story.ask_leave(call)
    assert now("status") == ["waiting"]
    story.decide(call, approval, after_ms=1_500)
    assert now("status", "decided_at", "wait_ms") == ["requested", at(story.now_us), 1_500.0]
    story.run(call)
    assert now("status", "started_at", "is_error") == ["started", at(story.now_us), None]
    story.finish(
        call,
        "error",
        took_ms=70,
        text="FAILED tests/test_a.py::test_b - assert 3 == 4\n1 failed in 0.12s",
        exit_code=1,
        output_blob="ab" * 32,
    )
    assert now("status", "is_error", "exit_code", "duration_ms", "finished_at", "output_blob") == [
        "error",
        True,
        1,
        70.0,
        at(story.now_us),
        "ab" * 32,
    ]
    assert now("error_signature", "arguments", "wait_ms") == [
        "error: <n> failed in <n>s",
        {"command": "pytest -q", "n": [1, None]},
        1_500.0,
    ]


def test_failed_commands_are_told_apart_by_what_they_wrote(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    answer = story.think()
    for text, more in (
        ("Exit code 128\nfatal: not a git repository\n", {"exit_code": 128}),
        ("Exit code 2\nls: cannot access '/a/b1'", {"exit_code": 2}),
        ("Exit code 1", {"exit_code": 1}),
        ("Exit code 1\n" + "x\n" * 2_000 + f"the end\n{ALL_IS_KEPT}…]", {"output_blob": "ab"}),
        ("Timed out after 5 s\nso far", {"error_kind": "timeout", "error": "Timed out after 5 s"}),
    ):
        call = story.call(answer)
        story.run(call)
        error = text.partition("\n")[0]
        told: dict[str, Any] = {"error_kind": "exit_code", "error": error, **more}
        story.finish(call, "error", text=text, **told)
    tell(host, story)
    rows = host.ask("SELECT error_signature FROM tool_calls ORDER BY finished_at")
    assert [row["error_signature"] for row in rows] == [
        "exit_code: fatal: not a git repository",
        "exit_code: ls: cannot access '<path>'",
        "exit_code: Exit code <n>",
        "exit_code: the end",
        "timeout: Timed out after <n> s",
    ]


def test_a_call_waits_for_a_decision_and_not_for_other_calls(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    answer = story.think()
    ruled, asked, forgotten = (story.call(answer) for _ in range(3))
    story.decide(ruled)
    story.ask_leave(forgotten)
    forgotten_at = story.now_us
    approval = story.ask_leave(asked)
    story.decide(asked, approval, after_ms=250)
    # Both wait for others before they start, and their result counts that as well.
    for call in (ruled, asked):
        story.now_us += 5_000_000
        story.run(call)
        story.finish(call, took_ms=10, wait_ms=5_250)
    story.finish(forgotten, "cancelled", took_ms=0, duration_ms=None)
    ended_at = story.now_us
    operation = story.end("cancelled")
    tell(host, story)
    waits = {row["tool_call_id"]: row["wait_ms"] for row in host.ask("FROM tool_calls")}
    assert waits == {ruled: 0.0, asked: 250.0, forgotten: (ended_at - forgotten_at) / 1000}
    assert host.ask("SELECT wait_ms FROM operations WHERE operation_id = ?", operation) == [
        {"wait_ms": 250.0 + (ended_at - forgotten_at) / 1000}
    ]


def test_how_long_it_ran_that_died_with_its_worker_is_not_known(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    call = story.call(story.think(took_ms=500))
    story.decide(call)
    story.run(call)
    story.now_us += 3 * 86_400_000_000  # the machine was off
    story.crash([call])
    story.think(took_ms=700)
    del story.happened[-1]
    story.now_us += 86_400_000_000
    story.crash()
    story.end()
    tell(host, story)
    query = "SELECT status, duration_ms FROM {} ORDER BY started_at"
    assert host.ask(query.format("tool_calls")) == [{"status": "interrupted", "duration_ms": None}]
    assert host.ask(query.format("model_calls")) == [
        {"status": "ok", "duration_ms": 500.0},
        {"status": "interrupted", "duration_ms": None},
    ]
    assert host.ask("SELECT model_ms, tool_ms FROM operations") == [
        {"model_ms": 500.0, "tool_ms": 0.0}
    ]


def test_a_request_is_closed_with_its_call(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    call = story.call(story.think())
    story.ask_leave(call)
    story.finish(call, "cancelled")
    tell(host, story)
    assert stages(host) == ("live", "working", None, None)
    assert host.ask("SELECT decision, decided_at FROM approvals") == [
        {"decision": None, "decided_at": None}
    ]


def test_approvals_show_who_decided_what_and_what_nobody_decided(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("do it")
    answer = story.think()
    by_rule, asked, left = story.call(answer), story.call(answer), story.call(answer)
    story.decide(by_rule, rule="approvals.tools")
    approval = story.ask_leave(asked)
    requested = story.now_us
    story.decide(
        asked, approval, decision="denied", scope="tool", decided_by="ann", after_ms=10, rule=None
    )
    abandoned = story.ask_leave(left)
    session = tell(host, story)
    query = "FROM approvals ORDER BY approval_id NULLS FIRST, requested_at"
    rows = host.ask(query)
    common = {"session_id": session, "operation_id": story.operation}
    assert rows[0] == common | {
        "approval_id": None,
        "tool_call_id": by_rule,
        "requested_at": None,
        "decided_at": at(requested - 1_000),
        "decision": "allowed",
        "scope": "once",
        "rule": "approvals.tools",
        "decided_by": None,
        "door": "rule",
    }
    assert rows[1] == common | {
        "approval_id": approval,
        "tool_call_id": asked,
        "requested_at": at(requested),
        "decided_at": at(requested + 10_000),
        "decision": "denied",
        "scope": "tool",
        "rule": None,
        "decided_by": "ann",
        "door": "cli",
    }
    assert (rows[2]["approval_id"], rows[2]["decision"]) == (abandoned, None)
    length = len(story.happened)
    story.finish(left, "cancelled")
    story.end("cancelled")
    story.write_more(host.data, length)
    host.project()
    assert [row["decision"] for row in host.ask(query)] == ["allowed", "denied", None]
    assert stages(host) == ("live", "resting", None, None)


def test_worker_runs_are_certificates(host: Host) -> None:
    story = Story(1).create().start()
    started = story.now_us
    story.ask("do it")
    operation = story.operation
    call = story.call(story.think())
    story.decide(call)
    story.run(call)
    story.exit(
        ending="crashed",
        reason="signal",
        signal=9,
        last_stage="working",
        open_tool_call_ids=(call,),
        memory_limit_bytes=2**30,
        cpu_seconds=1.5,
        last_words="Killed",
        tools_killed=2,
        action="restarted",
    )
    died = story.now_us
    story.start(after_ms=40)
    tell(host, story)
    first, second = host.ask("FROM worker_runs ORDER BY generation")
    assert first == {
        "session_id": story.session_id,
        "generation": 1,
        "pid": 4712,
        "agent": "builtin",
        "paddock_version": "0.1.0",
        "started_at": at(started),
        "ready_ms": 15.0,
        "ended_at": at(died),
        "ending": "crashed",
        "signal": 9,
        "exit_code": None,
        "reason": "signal",
        "last_stage": "working",
        "open_operation_id": operation,
        "open_tool_call_ids": [call],
        "peak_rss_bytes": 12_000_000,
        "memory_limit_bytes": 2**30,
        "cpu_seconds": 1.5,
        "last_words": "Killed",
        "stacks": None,
        "in_delivery_command_id": None,
        "tools_killed": 2,
        "action": "restarted",
        "ready_again_ms": 40.0,
    }
    assert (second["generation"], second["ended_at"], second["ready_again_ms"]) == (2, None, None)


def test_it_is_back_when_a_worker_came_up_and_not_when_one_died_starting(host: Host) -> None:
    story = Story(1).create().start()
    story.exit(ending="crashed", reason="signal", signal=9, action="restarted")
    story.generation += 1  # it dies before its first commit
    story.now_us += 49_000
    story.exit(ending="crashed", reason="signal", signal=9, action="restarted")
    story.start(after_ms=500)
    tell(host, story)
    assert host.ask("SELECT generation, ready_again_ms FROM worker_runs ORDER BY ALL") == [
        {"generation": 1, "ready_again_ms": 550.0},
        {"generation": 2, "ready_again_ms": 500.0},
        {"generation": 3, "ready_again_ms": None},
    ]


def test_a_worker_that_died_before_its_first_commit_has_a_row(host: Host) -> None:
    story = Story(1).create()
    story.generation = 1
    story.exit(ending="crashed", reason="start_timeout", action="left_down", pid=99)
    tell(host, story)
    (row,) = host.ask("SELECT generation, pid, started_at, reason, action FROM worker_runs")
    assert list(row.values()) == [1, 99, None, "start_timeout", "left_down"]


def test_file_changes_and_compactions_are_rows(host: Host) -> None:
    story = Story(1).create().start()
    message = story.ask("do it")
    call = story.call(story.think(), tool="edit_file", arguments={"path": "a.py"})
    story.change(call, "a.py", added=3, removed=1)
    changed = story.now_us
    assert story.operation is not None
    story.add(
        e.ConversationCompacted(
            message_id=message,
            operation_id=story.operation,
            summary="s",
            trigger="auto",
            tokens_before=1000,
            tokens_after=100,
        )
    )
    session = tell(host, story)
    assert host.ask("FROM file_changes") == [
        {
            "session_id": session,
            "operation_id": story.operation,
            "tool_call_id": call,
            "path": "a.py",
            "change": "modified",
            "lines_added": 3,
            "lines_removed": 1,
            "changed_at": at(changed),
        }
    ]
    assert host.ask("FROM compactions") == [
        {
            "session_id": session,
            "operation_id": story.operation,
            "sequence": len(story.happened),
            "trigger": "auto",
            "tokens_before": 1000,
            "tokens_after": 100,
            "created_at": at(story.now_us),
        }
    ]


def test_g3_the_active_thread_is_the_walk_from_the_head(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("first")
    answer = story.think()
    call = story.call(answer)
    story.say(answer, "looking", [call])
    story.decide(call)
    story.run(call)
    story.finish(call)
    story.end()
    session = tell(host, story)
    length = len(story.happened)

    def active() -> list[JsonValue]:
        nonlocal length
        story.write_more(host.data, length)
        length = len(story.happened)
        host.projector.catch_up(session)
        rows = host.ask("SELECT text FROM messages WHERE on_active_thread ORDER BY sequence")
        return [row["text"] for row in rows]

    assert active() == ["first", "looking", "3 passed"]
    old = story.head
    edited = story.ask("first, edited", parent=None)
    assert active() == ["first, edited"]
    second = story.think()
    story.say(second, "better")
    assert active() == ["first, edited", "better"]
    assert old is not None
    story.add(e.ConversationHeadChanged(message_id=old))
    assert active() == ["first", "looking", "3 passed"]
    story.add(e.ConversationHeadChanged(message_id=edited))
    story.head = edited
    story.say(story.think(), "best")
    assert active() == ["first, edited", "best"]


def test_s18_events_can_be_asked_by_all_that_names_them(host: Host) -> None:
    stories = [a_day(seed, turns=1) for seed in (1, 2)]
    for story in stories:
        story.write(host.data)
    host.project()
    story = stories[1]
    call = next(h.event.tool_call_id for h in story.happened if h.event.tool_call_id)
    operation = next(h.event.operation_id for h in story.happened if h.event.operation_id)
    by = "SELECT kind FROM events WHERE {} ORDER BY sequence"
    session = story.session_id
    kinds = [happened.event.kind for happened in story.happened]
    rows = host.ask(by.format("session_id = ?"), session)
    assert [row["kind"] for row in rows] == kinds
    rows = host.ask(by.format("session_id = ? AND sequence > 3"), session)
    assert [row["kind"] for row in rows] == kinds[3:]
    rows = host.ask(by.format("tool_call_id = ?"), call)
    assert [row["kind"] for row in rows] == [
        "tool_call_requested",
        "approval_decided",
        "tool_call_started",
        "tool_call_finished",
    ]
    rows = host.ask(by.format("operation_id = ?"), operation)
    assert len(rows) == sum(h.event.operation_id == operation for h in story.happened)
    rows = host.ask(by.format("kind = 'session_created'"))
    assert len(rows) == 2
    (row,) = host.ask("SELECT payload FROM events WHERE kind = 'tool_call_started' LIMIT 1")
    assert isinstance(row["payload"], dict)


def test_the_position_orders_events_over_all_sessions(host: Host) -> None:
    for seed in (1, 2, 3):
        a_day(seed, turns=1).write(host.data)
    host.project()
    (row,) = host.ask(
        "SELECT count(*) AS n, count(DISTINCT position) AS d, min(position) AS low, "
        "max(position) AS high FROM events"
    )
    assert row["n"] == row["d"] == row["high"]
    assert row["low"] == 1


def test_a_kind_of_a_newer_version_is_an_event_and_nothing_more() -> None:
    from paddock.store.projection import fold
    from paddock.store.projection.folded import Batch, Folded

    folded, batch = Folded("s"), Batch()
    row = e.Row(1, 0, START_US, "quantum_leap", None, None, None, None, '{"x":1}', b"h")
    fold.apply(folded, [row], batch)
    assert len(batch.events) == 1
    assert folded.sequence == 1


def test_long_arguments_are_cut_and_say_so(host: Host) -> None:
    story = Story(1).create().start()
    story.ask("write it")
    story.call(story.think(), tool="write_file", arguments={"path": "a", "content": "x" * 100_000})
    tell(host, story)
    (row,) = host.ask("SELECT arguments FROM tool_calls")
    arguments = row["arguments"]
    assert isinstance(arguments, dict)
    assert arguments["path"] == "a"
    content = arguments["content"]
    assert isinstance(content, str)
    assert content.endswith("(90000 more characters, see events)")
    assert host.ask(
        "SELECT length(payload) > 100000 AS w FROM events WHERE kind = ?", "tool_call_requested"
    ) == [{"w": True}]


@pytest.mark.parametrize("name", reports.names())
def test_each_report_answers_on_an_empty_and_on_a_full_store(host: Host, name: str) -> None:
    query = reports.query_of(name)
    assert host.ask(query) == []
    assert reports.says(name).endswith(".")
    story = Story(1, now_us=now_us()).create(project="web", agent_version="7").start()
    story.ask("do it")
    answer = story.think(cost=0.5, retries=1)
    first, second = story.call(answer), story.call(answer)
    for call in (first, second):
        approval = story.ask_leave(call)
        story.decide(call, approval, decided_by="ann")
        story.run(call)
    story.change(first, "shared.py")
    story.finish(first, "error", error="boom", error_kind="exit")
    story.crash([second])
    operation = story.end()
    story.add(e.SessionAnnotated(operation_id=operation, key="outcome", value="good"))
    story.ask("more")
    story.ask_leave(story.call(story.think()))
    story.write(host.data)
    other = Story(2, now_us=now_us()).create().start()
    other.ask("x")
    other.change(other.call(None), "shared.py")
    tell(host, other)
    rows = host.ask(query)
    assert rows
    EXPECTED[name](rows)


def test_files_of_one_name_in_two_workspaces_are_two_files(host: Host) -> None:
    for seed, workspace, path in (
        (1, "/home/ann/repo", "setup.py"),
        (2, "/home/bob/repo", "setup.py"),
        (3, "/home/bob", "/home/ann/repo/setup.py"),
        (4, "/", "home/ann/repo/setup.py"),
    ):
        story = Story(seed, now_us=now_us()).create(workspace=workspace).start()
        story.ask("x")
        story.change(story.call(None), path)
        tell(host, story)
    rows = host.ask(reports.query_of("shared_files"))
    assert [(row["path"], row["sessions"]) for row in rows] == [("/home/ann/repo/setup.py", 3)]


def test_how_fast_deaths_were_mended_leaves_out_what_was_left_down(host: Host) -> None:
    story = Story(1, now_us=now_us()).create().start()
    story.crash(back_after_ms=40)
    story.exit(ending="crashed", reason="signal", signal=9, action="left_down")
    story.fail()
    story.add(e.SessionResumed(reason="asked", reset=True), after_ms=86_400_000)
    story.start()
    tell(host, story)
    (row,) = host.ask(reports.query_of("deaths"))
    assert (row["deaths"], row["left_down"]) == (2, 1)
    assert (row["ready_again_p50_ms"], row["ready_again_max_ms"]) == (40.0, 40.0)


def now_us() -> int:
    """Return now: one of the questions is about today."""
    return int(datetime.now(UTC).timestamp() * 1_000_000) - 1_000_000


def _cost(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["project"], row["model"], row["cost_usd"]) == ("web", "script", 0.5)
    assert (row["calls"], row["unpriced_calls"]) == (3, 1)


def _waiting(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["attention"], row["tool"]) == ("approval", "bash")


def _failures(rows: list[dict[str, JsonValue]]) -> None:
    assert {row["error_signature"] for row in rows} == {
        "exit: boom",
        "interrupted: The host lost its worker.",
    }


def _tools(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["tool"], row["calls"], row["failed"], row["wait_p50_ms"]) == ("bash", 2, 2, 0.1)


def _deaths(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["reason"], row["signal"], row["deaths"]) == ("signal", 9, 1)
    assert row["ready_again_p50_ms"] == 40.0


def _interrupted(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["tool"], row["effects"], row["generation"]) == ("bash", "write", 1)


def _shared_files(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["path"], row["sessions"]) == ("/home/someone/repo/shared.py", 2)


def _approvals(rows: list[dict[str, JsonValue]]) -> None:
    assert [(row["decided_by"], row["decisions"], row["p50_ms"]) for row in rows] == [
        ("ann", 2, 0.1)
    ]


def _outcomes(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["agent_version"], row["good"], row["cost_usd_per_good"]) == ("7", 1, 0.5)


def _models(rows: list[dict[str, JsonValue]]) -> None:
    (row,) = rows
    assert (row["calls"], row["rate_limited"], row["retries"]) == (3, 1, 1)
    assert row["context_used"] == 100 / 200_000


EXPECTED: dict[str, Callable[[list[dict[str, JsonValue]]], None]] = {
    "cost": _cost,
    "waiting": _waiting,
    "failures": _failures,
    "tools": _tools,
    "deaths": _deaths,
    "interrupted": _interrupted,
    "shared_files": _shared_files,
    "approvals": _approvals,
    "outcomes": _outcomes,
    "models": _models,
}
