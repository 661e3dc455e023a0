"""F12: the order of events is their number; no clock and no time zone has a say in it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.store.events import SessionConfig, SessionCreated, SessionTitled
from paddock.store.ids import CommandId, SessionId, uuid7
from paddock.store.process import open_local
from paddock.store.session_file import SessionFile, SessionReader, events_of, folder_of, verify

NOW_US = 1_790_000_000_000_000
SESSION = SessionId(uuid7(NOW_US, b"0123456789"))
HOUR_US = 3_600_000_000
STEPS = (0, 5, -HOUR_US, 2, 48 * HOUR_US, -30 * 365 * 24 * HOUR_US, 1, 1, 0)
"""By so much the clock is ahead of NOW_US at each event: a summer's end, a dead battery, NTP."""


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "America/St_Johns"])
def _zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def write(data: Path) -> list[str]:
    """Write an event at each step of the clock; return their titles in the order of writing."""
    created = SessionCreated(config=SessionConfig(workspace="/"), command_id=CommandId(SESSION))
    with SessionFile.create(folder_of(data, SESSION), SESSION, at_us=NOW_US) as file:
        file.append([created], generation=0, at_us=NOW_US)
        for number, step in enumerate(STEPS):
            event = SessionTitled(title=f"title {number}")
            file.append([event], generation=0, at_us=NOW_US + step)
    return [f"title {number}" for number in range(len(STEPS))]


@pytest.mark.usefixtures("_zone")
def test_f12_clock_steps_and_time_zones_never_change_order(tmp_path: Path) -> None:
    titles = write(tmp_path)
    folder = folder_of(tmp_path, SESSION)
    assert verify(folder, SESSION).ok
    with SessionReader(folder, SESSION) as reader:
        stored = list(events_of(SESSION, reader.rows(0)))
    assert [one.sequence for one in stored] == list(range(1, len(STEPS) + 2))
    assert [getattr(one.event, "title", None) for one in stored[1:]] == titles
    with open_local(tmp_path) as store:
        rows = store.sql(
            "SELECT epoch_us(occurred_at), json_extract_string(payload, 'title') FROM events "
            "WHERE kind = 'session_titled' ORDER BY sequence"
        ).rows
        assert [title for _, title in rows] == titles
        assert [at for at, _ in rows] == [NOW_US + step for step in STEPS], "told as it was"
        assert store.sql("SELECT title FROM sessions").rows == [(titles[-1],)]
        assert store.verify() == []
