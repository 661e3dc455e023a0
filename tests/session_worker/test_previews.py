"""What is shown of a text in the making: as much as can be, and nothing of a secret."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.session_worker.previews import LONGEST_WORD, Preview, PreviewRedactor
from paddock.session_worker.protocol import Delta
from paddock.session_worker.redact import HELD_BYTES, redact
from tests.session_worker.test_redact import KEYS, SECRET, pieces


def previewed(text: str, borders: list[int], secrets: list[str]) -> list[str]:
    redactor = PreviewRedactor(secrets)
    cuts = [0, *sorted(border % (len(text) + 1) for border in borders), len(text)]
    pieces = [text[start:end] for start, end in pairwise(cuts)]
    return [*map(redactor.feed, pieces), redactor.end()]


parts = st.lists(pieces | st.sampled_from([*KEYS.values(), SECRET]), max_size=6)
borders = st.lists(st.integers(0, 5_000), max_size=12)


@given(parts, borders)
def test_a_preview_shows_what_the_event_will_say_wherever_it_is_cut(
    parts: list[str], borders: list[int]
) -> None:
    text = " ".join(parts)
    assert "".join(previewed(text, borders, [SECRET])) == redact(text, [SECRET])


@given(parts, borders)
def test_a_preview_shows_no_secret_that_the_event_will_not_show(
    parts: list[str], borders: list[int]
) -> None:
    text = "".join(parts)
    shown, event = "".join(previewed(text, borders, [SECRET])), redact(text, [SECRET])
    for secret in (SECRET, *KEYS.values()):
        assert shown.count(secret) <= event.count(secret)


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_comes_letter_by_letter_is_never_shown(kind: str) -> None:
    text = f"it is {KEYS[kind]}\nand more"
    shown = previewed(text, list(range(len(text))), [])
    assert "".join(shown) == redact(text)
    assert len(shown) > len("it is and more")  # the words before and behind came as they came


def test_a_preview_holds_back_nothing_of_ordinary_words() -> None:
    redactor = PreviewRedactor([SECRET])
    words = ["Let me", " look at", " the file…", "\n", "....", "42%"]
    assert [redactor.feed(word) for word in words] == words


def test_f10_a_preview_of_a_word_without_an_end_is_shown_all_the_same() -> None:
    redactor = PreviewRedactor()
    shown = [redactor.feed("sk-ant-" + "a" * LONGEST_WORD) for _ in range(3)]
    assert any(shown)
    assert "".join(shown).startswith("[redacted:anthropic-key]")


@pytest.mark.parametrize("start", ["-----BEGIN PRIVATE KEY-----\n", "sk-ant-", "Bearer "])
@pytest.mark.parametrize("more", ["-", "a", "- "])
def test_f10_what_a_preview_holds_back_has_a_bound(start: str, more: str) -> None:
    redactor = PreviewRedactor()
    count = len(redactor.feed(start + "a" * 40))
    for fed in range(1, 30):
        count += len(redactor.feed(more * 4_000))
        assert fed * 4_000 * len(more) - count < 2 * HELD_BYTES


def test_a_preview_tells_where_it_stands_in_what_was_shown() -> None:
    shown: list[Delta] = []
    preview = Preview("m", "text", [SECRET], shown.append)
    for text in ("a ", SECRET[:4], SECRET[4:] + " z"):
        preview.add(text)
    preview.end()
    assert "".join(delta.text for delta in shown) == "a [redacted:secret] z"
    assert [delta.offset for delta in shown] == [0, 2]
    preview.reset()
    preview.add("anew")
    assert shown[-1] == Delta(message_id="m", channel="text", offset=0, text="anew")
