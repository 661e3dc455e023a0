"""What of an output is shown: readable, bounded, the cut marked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.session_worker.toolbox.edits import Edit, apply, count_lines
from paddock.session_worker.toolbox.output import decode, join, safe, shorten


def test_f16_nul_and_lone_surrogates_show() -> None:
    assert safe("a\0b\ud800c") == "a␀b�c"
    assert decode(b"\xff\xfea\0") == "��a␀"


def test_nothing_cut_nothing_marked() -> None:
    assert join(b"abc", b"", 3) == "abc"
    assert shorten("abc", 3) == "abc"


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
@pytest.mark.parametrize("limit", range(8, 16))
def test_a_cut_goes_through_no_character(character: str, limit: int) -> None:
    text = shorten(character * 50, limit)
    assert "�" not in text
    head, _, tail = text.partition("\n\n[... ")
    assert set(head + tail.rpartition("]\n\n")[2]) <= {character}
    shown = len(head.encode()) + len(tail.rpartition("]\n\n")[2].encode())
    assert f"{50 * len(character.encode()) - shown:,} of" in text


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_bytes_become_a_text_that_can_be_stored(data: bytes, limit: int) -> None:
    for text in (decode(data), shorten(decode(data), limit), join(data[:limit], b"", len(data))):
        assert text.encode().decode() == text
        assert "\0" not in text


@given(st.text(), st.text(min_size=1), st.text(), st.text())
def test_one_edit_changes_one_place_and_no_other(
    before: str, old: str, new: str, after: str
) -> None:
    try:
        content = (before + old + after).encode()
        edit = Edit(old, new, "first")
        old.encode()
        new.encode()
    except UnicodeEncodeError:
        return
    if old == new:
        return
    edited = apply(content, [edit])
    assert edited.content == content.replace(old.encode(), new.encode(), 1)
    assert edited.replacements == 1


lines = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=12)


@given(lines, lines)
def test_counted_lines_agree_with_the_lengths(before: list[bytes], after: list[bytes]) -> None:
    added, removed = count_lines(b"".join(before), b"".join(after))
    assert 0 <= added <= len(after)
    assert 0 <= removed <= len(before)
    assert len(before) - removed + added == len(after)


def test_many_changed_lines_are_counted_without_pairing_them() -> None:
    before = b"".join(b"%d\n" % n for n in range(3000))
    assert count_lines(b"same\n" + before, b"same\n" + before.replace(b"1", b"x")) == (2991, 2991)
