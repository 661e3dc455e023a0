"""Identifiers: UUIDv7 made from a time and random bytes."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.store.ids import RANDOM_BYTES, is_uuid7, time_of, uuid7

TIMES = st.integers(0, (2**48 - 1) * 1000 + 999)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@settings(deadline=None)
@given(at_us=TIMES, random_bytes=RANDOM)
def test_an_id_is_a_uuid_of_version_7_that_tells_its_time(at_us: int, random_bytes: bytes) -> None:
    text = uuid7(at_us, random_bytes)
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == text
    assert is_uuid7(text)
    assert time_of(text) == at_us // 1000 * 1000


@settings(deadline=None)
@given(first=TIMES, second=TIMES, random_bytes=RANDOM, other=RANDOM)
def test_ids_sort_by_the_microsecond_they_were_made_in(
    first: int, second: int, random_bytes: bytes, other: bytes
) -> None:
    early, late = sorted((first, second))
    if early < late:
        assert uuid7(early, random_bytes) < uuid7(late, other)


@settings(deadline=None)
@given(at_us=TIMES, random_bytes=RANDOM, other=RANDOM)
def test_other_random_bytes_give_another_id_of_the_same_time(
    at_us: int, random_bytes: bytes, other: bytes
) -> None:
    # Of ten bytes 62 bits are used: those behind the variant.
    used = [int.from_bytes(one[2:]) & (2**62 - 1) for one in (random_bytes, other)]
    assert (uuid7(at_us, random_bytes) == uuid7(at_us, other)) == (used[0] == used[1])


@pytest.mark.parametrize("size", [0, 9, 11, 16])
def test_ten_random_bytes_are_taken(size: int) -> None:
    with pytest.raises(ValueError, match="10 random bytes"):
        uuid7(0, bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 36,
        "0197f3c0-0000-4000-8000-000000000000",  # version 4
        "0197f3c0-0000-7000-c000-000000000000",  # another variant
        "0197F3C0-0000-7000-8000-00000000000A",  # upper case
        "0197f3c000007000800000000000000000",  # no hyphens
        "0197f3c0-0000-7000-8000-00000000000",
        "0197f3c0-0000-7000-8000-0000000000000",
        "0197f3c0-0000-7000-8000-00000000000\n",
        "0197f3c0-0000-7000-8000-00000000000٣",  # a digit, but not ours
        "0197f3c0-0000-7000-8000-0000000-0000",
        "../../../../../../../../etc/passwd--",
    ],
)
def test_what_is_no_uuid_of_version_7_is_told(text: str) -> None:
    assert not is_uuid7(text)
    with pytest.raises(ValueError, match="no UUIDv7"):
        time_of(text)


@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_either_a_uuid_that_python_reads_the_same_or_none(text: str) -> None:
    if is_uuid7(text):
        assert str(uuid.UUID(text)) == text
