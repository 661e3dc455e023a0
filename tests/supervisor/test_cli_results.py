"""What a query gave, in print: whole however many parts it comes in, or nothing of it."""

import csv
import io
import json

import pytest

from paddock.supervisor.cli import results
from paddock.supervisor.cli.printing import print_json
from paddock.supervisor.cli.results import CsvResult, JsonResult, TableResult

NAMES, TYPES = ["i", "text"], ["INTEGER", "VARCHAR"]
ROWS = [(1, 'é "quoted",\nand more'), (2, None), (3, "")]
PARTS = [
    pytest.param([], id="none"),
    pytest.param([[]], id="one empty"),
    pytest.param([ROWS], id="one"),
    pytest.param([ROWS[:1], [], ROWS[1:]], id="several"),
]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_json_in_parts_is_printed_as_the_whole_is(
    parts: list[list[tuple[int, str | None]]],
    is_terminal: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    with JsonResult() as result:
        result.begin(NAMES, TYPES)
        for part in parts:
            result.add(part)
        result.print()
    told = capsys.readouterr().out
    print_json([dict(zip(NAMES, row, strict=True)) for part in parts for row in part])
    assert told == capsys.readouterr().out


@pytest.mark.parametrize("kept", [1, 1024 * 1024])
def test_a_result_that_begins_anew_is_printed_once(
    kept: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "SPOOL_BYTES", kept)
    with JsonResult() as result, CsvResult() as sheet:
        for sink in (result, sheet):
            sink.begin(["lost"], ["VARCHAR"])
            sink.add([("of the store that died",)] * 50)
            sink.begin(NAMES, TYPES)
            sink.add(ROWS)
        result.print()
        assert json.loads(capsys.readouterr().out) == [
            dict(zip(NAMES, row, strict=True)) for row in ROWS
        ]
        sheet.print()
        lines = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
        assert lines == [NAMES, *([str(i), text or ""] for i, text in ROWS)]


def test_a_table_says_that_there_is_more(capsys: pytest.CaptureFixture[str]) -> None:
    table = TableResult()
    table.begin(["lost"], ["VARCHAR"])
    table.add([("of the store that died",)])
    table.begin(NAMES, TYPES)
    table.add(ROWS)
    table.print(2)
    told = capsys.readouterr()
    assert "lost" not in told.out
    assert len(told.out.splitlines()) == 3
    assert told.err == "the first 2 rows; --limit 0, --json or --csv gives all\n"
    table.print(0)
    assert capsys.readouterr().err == ""


def test_a_plan_is_shown_as_it_was_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    table = TableResult()
    table.begin(["explain_key", "explain_value"], ["VARCHAR", "VARCHAR"])
    table.add([("physical_plan", "┌───┐\n│ a │\n└───┘")])
    table.print(200)
    assert capsys.readouterr().out == "┌───┐\n│ a │\n└───┘\n"


def test_f15_a_name_of_a_column_does_not_drive_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = TableResult()
    table.begin(["\x1b[31mred\nand more", "b"], ["INTEGER", "INTEGER"])
    table.add([(1, 2)])
    table.print(0)
    assert capsys.readouterr().out == "red and more  b\n           1  2\n"
