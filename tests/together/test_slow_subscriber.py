"""F9: a subscriber that stops reading costs the host little memory, and misses nothing."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from paddock.supervisor.protocol import Alive
from paddock.testing import HostForTests
from tests.together.hosting import PlainClient

EVENTS = 60
EVENT_BYTES = 1_000_000
MOST_BYTES = 40_000_000
"""A third of what was said: each remark stands in its command and in its event."""


@pytest.fixture
def made(home: Path) -> Iterator[HostForTests]:
    made = HostForTests(home)
    yield made
    made.end()


def test_f9_a_subscriber_that_stops_reading_costs_the_host_little_and_misses_nothing(
    made: HostForTests, ground: Path
) -> None:
    process = psutil.Process(made.start())
    runtime = made.places.runtime
    with closing(PlainClient(runtime, "slow")) as slow, closing(PlainClient(runtime)) as client:
        session = client.create(ground)
        subscription = slow.subscribe(session)
        _say(client, session, 0)
        before = process.memory_info().rss
        for number in range(1, EVENTS):
            _say(client, session, number)
            slow.say(Alive())  # it is there, and does not read
        assert process.memory_info().rss - before < MOST_BYTES
        rows = slow.rows(subscription, lambda rows: _remarks(rows) == EVENTS)
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))


def _remarks(rows: list[list[Any]]) -> int:
    return sum(row[3] == "session_annotated" for row in rows)


def _say(client: PlainClient, session: str, number: int) -> None:
    text = "x" * EVENT_BYTES
    _, request = client.command(session, "annotate", key=f"k{number}", value=text)
    client.answer(request)
