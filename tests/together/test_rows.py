"""What a query gave, as the tables of those libraries that are installed."""

import pytest

from paddock.client import Rows

ROWS = Rows(("a", "a"), ("INTEGER", "INTEGER"), [(1, 2), (3, 4)])


def test_two_columns_of_one_name_are_two_in_every_form() -> None:
    assert ROWS.dicts() == [{"a": 1, "a_2": 2}, {"a": 3, "a_2": 4}]


@pytest.mark.parametrize(("library", "form"), [("polars", "pl"), ("pyarrow", "arrow")])
def test_two_columns_of_one_name_are_two_in_a_table(library: str, form: str) -> None:
    pytest.importorskip(library)
    table = getattr(ROWS, form)()
    assert [
        table[name].to_pylist() if form == "arrow" else table[name].to_list()
        for name in ("a", "a_2")
    ] == [[1, 3], [2, 4]]
