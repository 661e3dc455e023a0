"""Events: what is stored of them is what comes back, in this version and in those to come."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from paddock.store.errors import NewerFormat
from paddock.store.events import (
    CONVERSATION,
    FORMAT_VERSION,
    KINDS,
    LIFECYCLE,
    BudgetExceeded,
    Event,
    EventBase,
    SessionAnnotated,
    SessionTitled,
    decode,
    payload_of,
)
from paddock.store.ids import OperationId, SessionId
from paddock.store.session_file import SessionFile, SessionReader, events_of, verify
from paddock.store.session_file.chain import GENESIS, check
from tests.store.any_event import events
from tests.store.filebench import AT_US, SESSION, every_row, own

GOLDEN = Path(__file__).parent / "golden"
IDS = ("operation_id", "message_id", "tool_call_id", "command_id")


def again(event: EventBase) -> Event:
    """Return what the log gives back of an event."""
    return decode(event.kind, payload_of(event), **{name: getattr(event, name) for name in IDS})


@settings(deadline=None)
@given(event=events())
def test_every_event_comes_back_as_it_was(event: EventBase) -> None:
    assert again(event) == event


@settings(deadline=None)
@given(event=events())
def test_a_payload_is_strict_json_without_what_stands_in_columns(event: EventBase) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    fields = json.loads(payload_of(event), parse_constant=refuse)
    assert isinstance(fields, dict)
    assert not {"kind", *IDS} & set(fields)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batches=st.lists(st.lists(events(), min_size=1, max_size=4), min_size=1, max_size=6),
    generation=st.integers(0, 2**63 - 1),
    at_us=st.integers(-(2**63), 2**63 - 1),
)
def test_s1_any_list_of_events_round_trips_through_a_session_s_file(
    tmp_path: Path, batches: list[list[EventBase]], generation: int, at_us: int
) -> None:
    folder = tmp_path / "session"
    shutil.rmtree(folder, ignore_errors=True)
    with SessionFile.create(folder, SESSION, at_us=AT_US) as file:
        for batch in batches:
            file.append(batch, generation=generation, at_us=at_us)
        with SessionReader(folder, SESSION) as reader:
            live = every_row(reader)
    with own(folder) as file:
        stored = list(events_of(SESSION, every_row(file)))
        assert live == every_row(file)
    assert [one.event for one in stored] == [event for batch in batches for event in batch]
    assert {(one.generation, one.occurred_at) for one in stored} == {(generation, at_us)}
    previous = GENESIS
    for sequence, row in enumerate(live, start=1):
        check(previous, SESSION, row, sequence)
        previous = row.hash
    # The blobs that were drawn exist nowhere, and that is all there is to say.
    assert all("is missing" in problem.what for problem in verify(folder, SESSION).problems)


def test_every_kind_is_in_one_half_and_once() -> None:
    assert len(KINDS) == len(LIFECYCLE) + len(CONVERSATION)
    halves = [get_args(half.__value__) for half in get_args(Event.__value__)]
    assert [*halves[0], *halves[1]] == [*LIFECYCLE, *CONVERSATION]
    for kind, model in KINDS.items():
        assert kind == kind.lower()
        assert model.__name__.lower() == kind.replace("_", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}])
def test_a_number_that_json_cannot_hold_is_refused_where_the_event_is_made(value: object) -> None:
    with pytest.raises(ValidationError):
        SessionAnnotated.model_validate({"key": "x", "value": value})
    with pytest.raises(ValidationError):
        BudgetExceeded(operation_id=OperationId("o"), limit="x", maximum=float("nan"), reached=1)


def test_an_unknown_kind_is_told_as_a_newer_version_s() -> None:
    with pytest.raises(NewerFormat, match="upgrade"):
        decode("session_teleported", "{}")


def test_a_field_that_is_unknown_is_passed_over() -> None:
    assert decode("session_titled", '{"title":"x","font":"y"}') == SessionTitled(title="x")


def test_events_are_frozen() -> None:
    with pytest.raises(ValidationError):
        SessionTitled(title="x").title = "y"  # type: ignore[misc]


# --- golden files ---------------------------------------------------------------------------------


def golden_lines() -> list[dict[str, str]]:
    lines = (GOLDEN / "events-1.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_kind_has_a_golden_payload_of_each_version() -> None:
    assert FORMAT_VERSION == 1, "add golden files of the new version, and keep the old ones"
    missing = set(KINDS) - {line["kind"] for line in golden_lines()}
    assert not missing, "a new kind: add a line for it to golden/events-1.jsonl"


@pytest.mark.parametrize("line", golden_lines(), ids=lambda line: line["kind"])
def test_what_version_1_wrote_is_read_for_ever(line: dict[str, str]) -> None:
    event = decode(line["kind"], line["payload"], **{name: line.get(name) for name in IDS})
    # What is read is what was meant: nothing of the old payload is lost on the way.
    now, then = json.loads(payload_of(event)), json.loads(line["payload"])
    assert now | then == now


def test_a_file_of_version_1_is_read_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "session.sqlite").write_bytes((GOLDEN / "session-1.sqlite").read_bytes())
    session_id = SessionId("01a3185c-5000-7000-8203-040506070809")
    assert verify(folder, session_id).ok
    with SessionFile.own(folder, session_id) as file:
        rows = every_row(file)
        stored = list(events_of(session_id, rows))
        assert {one.event.kind for one in stored} <= {line["kind"] for line in golden_lines()}
        assert len(stored) >= 44
        assert all(first.sequence + 1 == second.sequence for first, second in pairwise(stored))
        assert b"".join(file.blob(blob_of(file))) == b"a golden blob " * 10
        snapshot = file.snapshot(1)
        assert snapshot is not None
        assert snapshot.state == b"a golden state"
        assert file.append([SessionTitled(title="on")], generation=2, at_us=AT_US) == len(rows) + 1
    assert verify(folder, session_id).ok


def blob_of(file: SessionFile) -> str:
    return file.put_blob(b"a golden blob " * 10).digest
