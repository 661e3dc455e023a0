"""Entries of a snapshot that are made when they are asked for: like a dict to everybody."""

import copy

import pytest
from pydantic import TypeAdapter, ValidationError

from paddock.store.shelf import Shelf, packed

NUMBERS: TypeAdapter[list[int]] = TypeAdapter(list[int])


def shelf() -> Shelf[str, list[int]]:
    return Shelf(NUMBERS, {"a": b"[1]", "b": b"[2,3]"})


def test_a_value_is_made_once_and_what_is_changed_in_it_stays() -> None:
    entries = shelf()
    entries["a"].append(4)
    assert entries["a"] == [1, 4]
    assert entries.get("a") == [1, 4]
    assert entries.get("c") is None
    assert packed(NUMBERS, entries) == {"a": b"[1,4]", "b": b"[2,3]"}


def test_every_way_to_read_it_gives_made_values() -> None:
    made = {"a": [1], "b": [2, 3]}
    assert list(shelf()) == ["a", "b"]
    assert list(shelf().values()) == [[1], [2, 3]]
    assert dict(shelf().items()) == made
    assert dict(shelf()) == made
    assert {**shelf()} == made
    assert copy.deepcopy(shelf()) == made
    assert repr(shelf()) == repr(made)
    assert shelf().pop("b") == [2, 3]
    assert shelf().pop("c", None) is None
    assert shelf() == made
    assert made == shelf()
    assert shelf() == shelf()
    assert shelf() != {"a": [1]}


def test_what_is_not_of_its_kind_is_told_when_it_is_asked_for() -> None:
    entries = Shelf(NUMBERS, {"a": b'["x"]'})
    with pytest.raises(ValidationError):
        entries["a"]
