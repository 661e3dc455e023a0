"""How ``paddock sql`` writes the values of a result."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from paddock.supervisor.cli.printing import cell
from paddock.supervisor.cli.results import csv_cell, table_cell

AT = datetime(2026, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001 - as DuckDB gives it: UTC, unsaid
IN_TOKYO = AT.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=9)))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (AT, "2026-01-02T03:04:05.000006Z"),
        (IN_TOKYO, "2026-01-02T03:04:05.000006Z"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(seconds=90), 90_000.0),
        (b"\x00\xff", "00ff"),
        (True, "true"),
        (None, None),
        (1.5, 1.5),
        (Decimal("12345678901234567890.12"), Decimal("12345678901234567890.12")),
        ([1, {"at": AT}], '[1, {"at": "2026-01-02T03:04:05.000006Z"}]'),
        ('yes, "that"', 'yes, "that"'),
    ],
)
def test_csv_has_values_as_json_has_them(value: Any, told: Any) -> None:
    assert csv_cell(value) == told


def test_a_table_shows_times_as_a_query_takes_them() -> None:
    for value in (AT, IN_TOKYO):
        assert table_cell(value) == "2026-01-02 03:04:05.000006"
    assert table_cell(b"\x00\xff") == "00ff"
    assert table_cell(1.5) == 1.5


def test_a_large_number_is_no_line_of_digits() -> None:
    assert (cell(1e300), cell(-2e15), cell(30_208.94)) == ("1e+300", "-2e+15", "30,208.9")
    assert cell(1_234_567.89) == "1,234,567.9"


def test_a_price_keeps_its_cents() -> None:
    assert (cell(6.43), cell(12.05), cell(1_204.5), cell(0.0123)) == (
        "6.43",
        "12.05",
        "1,204.5",
        "0.0123",
    )
