"""Lists of sessions: every filter alone and with every other, against the same done by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from paddock.store import events as e
from paddock.store.errors import SessionNotFound
from paddock.store.process import LocalStore, open_local
from paddock.store.protocol import SessionFilter
from tests.store.logs import START_US, Story

STEP_US = 1_000_000
NAMES = ("created_after_us", "created_before_us", "updated_after_us", "updated_before_us")


def test_a_model_is_found_by_its_own_name_and_with_its_provider(tmp_path: Path) -> None:
    asked = Story(1).create(model="anthropic:large").start()
    asked.ask("x")
    asked.think(model="large")
    fresh = Story(2).create(model="anthropic:large")
    other = Story(3).create(model="anthropic:larger")
    for story in (asked, fresh, other):
        story.write(tmp_path)
    with open_local(tmp_path) as opened:

        def found(model: str) -> set[object]:
            rows, _ = opened.list_sessions(SessionFilter(model=model))
            return {row["session_id"] for row in rows}

        assert found("anthropic:large") == {asked.session_id, fresh.session_id}
        assert found("large") == {asked.session_id}
        assert found("openai:arge") == set()


def stories() -> list[Story]:
    """Return twelve sessions that differ in all that can be filtered by."""
    found: list[Story] = []
    for n in range(12):
        parent = found[0].session_id if n % 5 == 1 else None
        story = Story(n, now_us=START_US + n * STEP_US).create(
            name=f"name-{n}" if n % 2 else None,
            title=None if n % 3 else f"Title É{n % 2}",
            labels={"team": "ab"[n % 2]} | ({"a.b\"'$ c": "x"} if n % 4 == 0 else {}),
            model="mn"[n % 2],
            agent="builtin" if n % 3 else "support",
            project="p" if n % 2 else None,
            parent_session_id=parent,
        )
        if n % 6:
            story.start()
            for _ in range(n % 3):
                story.ask(f"Words of {n}, 100% sure_ly")
                story.end()
            if n % 4 == 1:
                story.exit()
            if n % 4 == 2:
                story.exit(ending="crashed", reason="signal").fail()
        if n == 11:
            story.delete()
        found.append(story)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStore]:
    data = tmp_path_factory.mktemp("data")
    for story in stories():
        story.write(data)
    with open_local(data) as opened:
        yield opened


@pytest.fixture(scope="module")
def facts(store: LocalStore) -> list[dict[str, Any]]:
    """Return every session's row, with what its users said, and its times in microseconds."""
    names = [name for (name, *_) in store.sql("DESCRIBE sessions").rows]
    query = (
        "SELECT s.*, epoch_us(created_at) AS created_us, epoch_us(updated_at) AS updated_us, "
        "(SELECT string_agg(text, ' ') FROM messages m WHERE m.session_id = s.session_id) AS said "
        "FROM sessions s"
    )
    rows = store.sql(query).rows
    columns = [*names, "created_us", "updated_us", "said"]
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    labels = {
        story.session_id: happened.event.config.labels
        for story in stories()
        for happened in story.happened[:1]
        if isinstance(happened.event, e.SessionCreated)
    }
    for fact in found:
        fact["labels"] = labels[fact["session_id"]]
    return found


def fits(fact: dict[str, Any], wanted: SessionFilter) -> bool:
    """Say by hand whether a session is let through."""
    spoken = " ".join(str(fact[name] or "") for name in ("title", "name", "said")).lower()
    return all(
        (
            wanted.created_after_us is None or fact["created_us"] > wanted.created_after_us,
            wanted.created_before_us is None or fact["created_us"] < wanted.created_before_us,
            wanted.updated_after_us is None or fact["updated_us"] > wanted.updated_after_us,
            wanted.updated_before_us is None or fact["updated_us"] < wanted.updated_before_us,
            all(
                key in fact["labels"] and value in {None, fact["labels"][key]}
                for key, value in wanted.labels.items()
            ),
            fact["status"] in wanted.status if wanted.status else fact["status"] != "deleted",
            not wanted.stage or fact["stage"] in wanted.stage,
            not wanted.attention or fact["attention"] in wanted.attention,
            wanted.model is None or fact["model"] == wanted.model,
            wanted.agent is None or fact["agent"] == wanted.agent,
            wanted.project is None or fact["project"] == wanted.project,
            wanted.name is None or fact["name"] == wanted.name,
            wanted.parent_session_id is None
            or fact["parent_session_id"] == wanted.parent_session_id,
            wanted.text is None or wanted.text.lower() in spoken,
        )
    )


def by_hand(facts: list[dict[str, Any]], wanted: SessionFilter) -> tuple[list[str], int]:
    key = {"created": "created_us", "updated": "updated_us", "messages": "message_count"}
    left = [fact for fact in facts if fits(fact, wanted)]
    left.sort(
        key=lambda fact: (fact[key[wanted.order_by]], fact["session_id"]),
        reverse=wanted.descending,
    )
    ids = [fact["session_id"] for fact in left]
    end = None if wanted.limit is None else wanted.offset + wanted.limit
    return ids[wanted.offset : end], len(left)


moments = st.none() | st.integers(-1, 13).map(lambda n: START_US + n * STEP_US + 1_000)
filters = st.builds(
    SessionFilter,
    created_after_us=moments,
    created_before_us=moments,
    updated_after_us=moments,
    updated_before_us=moments,
    labels=st.dictionaries(
        st.sampled_from(["team", "a.b\"'$ c", "none"]),
        st.sampled_from(["a", "b", "x", None]),
        max_size=2,
    ),
    status=st.lists(
        st.sampled_from(["live", "suspended", "failed", "deleted"]), max_size=3, unique=True
    ).map(tuple),
    stage=st.lists(st.sampled_from(["resting", "working"]), max_size=1).map(tuple),
    attention=st.lists(st.sampled_from(["failed", "approval"]), max_size=1).map(tuple),
    model=st.sampled_from([None, None, None, "m", "n", "x"]),
    agent=st.sampled_from([None, None, "support", "builtin"]),
    project=st.sampled_from([None, None, None, "p"]),
    name=st.sampled_from([None, None, None, None, "name-3"]),
    parent_session_id=st.sampled_from([None, None, None, stories()[0].session_id]),
    text=st.sampled_from([None, None, None, "title é1", "NAME-", "100% sure_", "words of 5", "zz"]),
    order_by=st.sampled_from(["created", "updated", "messages"]),
    descending=st.booleans(),
    limit=st.none() | st.integers(0, 13),
    offset=st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(filters)
def test_s23_filters_work_in_every_combination(
    store: LocalStore, facts: list[dict[str, Any]], wanted: SessionFilter
) -> None:
    found, total = store.list_sessions(wanted)
    assert ([row["session_id"] for row in found], total) == by_hand(facts, wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        *(SessionFilter(**{name: START_US + 5 * STEP_US}) for name in NAMES),  # type: ignore[arg-type]
        SessionFilter(labels={"team": "a"}),
        SessionFilter(labels={"a.b\"'$ c": None}),
        SessionFilter(status=("failed", "deleted")),
        SessionFilter(status=("live",)),
        SessionFilter(attention=("failed",)),
        SessionFilter(model="n"),
        SessionFilter(agent="support"),
        SessionFilter(project="p"),
        SessionFilter(name="name-3"),
        SessionFilter(parent_session_id=stories()[0].session_id),
        SessionFilter(text="words of 5"),
        SessionFilter(text="title é1"),
        SessionFilter(limit=3, offset=2, order_by="messages"),
    ],
    ids=lambda wanted: "-".join(sorted(wanted.model_fields_set)),
)
def test_s23_each_filter_alone_lets_some_through_and_keeps_some_out(
    store: LocalStore, facts: list[dict[str, Any]], wanted: SessionFilter
) -> None:
    found, total = store.list_sessions(wanted)
    assert ([row["session_id"] for row in found], total) == by_hand(facts, wanted)
    assert 0 < len(found) < 12


def test_s5_a_list_has_all_sessions_but_the_deleted(store: LocalStore) -> None:
    found, total = store.list_sessions()
    assert total == len(found) == 11
    deleted, _ = store.list_sessions(SessionFilter(status=("deleted",)))
    assert [row["session_id"] for row in deleted] == [stories()[11].session_id]


@pytest.mark.parametrize("order_by", ["created", "updated", "messages"])
@pytest.mark.parametrize("descending", [True, False])
def test_s6_pages_by_limit_and_offset_make_up_the_whole_list(
    store: LocalStore, order_by: Any, descending: bool
) -> None:
    whole, _ = store.list_sessions(SessionFilter(order_by=order_by, descending=descending))
    paged: list[dict[str, Any]] = []
    for offset in range(0, 12, 4):
        page, total = store.list_sessions(
            SessionFilter(order_by=order_by, descending=descending, limit=4, offset=offset)
        )
        assert total == 11
        paged += page
    assert paged == whole


def test_a_row_of_a_list_is_the_row_of_the_view(store: LocalStore) -> None:
    (row,), _ = store.list_sessions(SessionFilter(name="name-3"))
    assert row == store.session(str(row["session_id"]))
    assert row["created_at"] == "2026-09-21T14:13:23.001000Z"
    assert row["labels"] == {"team": "b"}


def test_an_unknown_session_is_not_found(store: LocalStore) -> None:
    with pytest.raises(SessionNotFound):
        store.session("nobody")


def test_a_filter_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ValidationError):
        SessionFilter.model_validate({"lables": {}})
