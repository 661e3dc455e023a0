"""Rows as aligned lines: what is cut, and where wide characters stand."""

from paddock.supervisor.cli.tables import lines_of, narrowed


def test_values_stand_below_their_heads_and_numbers_end_where_theirs_end() -> None:
    lines = lines_of(("name", "calls"), [("a", "7"), ("longer", "12,000")], right={"calls"})
    assert lines == [
        "name     calls",
        "a            7",
        "longer  12,000",
    ]


def test_a_wide_character_takes_two_cells() -> None:
    lines = lines_of(("name", "status"), [("会話", "live"), ("talk", "live")])
    assert lines == ["name  status", "会話  live", "talk  live"]


def test_nothing_is_cut_where_there_is_room_for_all() -> None:
    assert lines_of(("a",), [("x" * 300,)]) == ["a", "x" * 300]
    assert lines_of(("a", "b"), [("x" * 8, "y" * 10)], room=20)[1] == "x" * 8 + "  " + "y" * 10


def test_the_widest_columns_are_cut_first_and_say_so() -> None:
    head, row = lines_of(("id", "text"), [("0123456789", "w" * 50)], room=30)
    assert row == "0123456789  " + "w" * 17 + "…"
    assert head == "id          text"


def test_ids_are_shown_by_the_end_that_tells_them_apart_where_there_is_no_room() -> None:
    ids = ["01a21bce-bfb4-7eb8-9a19-358eaefc42e4", "01a21bce-c9ba-7f2b-a094-ec08d55c88db"]
    rows = [(ids[0], "one"), (ids[1], "two")]
    assert lines_of(("session", "name"), rows, room=60)[1:] == [f"{ids[0]}  one", f"{ids[1]}  two"]
    assert lines_of(("session", "name"), rows, room=30) == [
        "session       name",
        "358eaefc42e4  one",
        "ec08d55c88db  two",
    ]
    assert lines_of(("session", "name"), rows, room=14)[1] == "358eaef…  one"


def test_a_wide_character_is_not_cut_in_its_middle() -> None:
    (_, row) = lines_of(("text",), [("会話会話会話",)], room=8)
    assert row == "会話会 …"


def test_widths_are_lowered_to_one_for_those_above_it() -> None:
    assert narrowed([3, 50, 8, 50], 40) == [3, 14, 8, 14]
    assert narrowed([3, 5], 8) == [3, 5]
    assert narrowed([50, 50], 2) == [4, 4]
