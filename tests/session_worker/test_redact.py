"""Secrets do not reach what is written."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paddock.session_worker.redact import (
    FORMS,
    HELD_BYTES,
    Form,
    Redactor,
    may_hold_a_key,
    redact,
    redact_json,
)

# Put together here, so that nothing in this file has the form of a key.
KEYS = {
    "anthropic-key": "sk-ant-" + "api03-" + "a1B2" * 10,
    "api-key": "sk-" + "proj-" + "a1B2" * 10,
    "stripe-key": "sk_" + "live_" + "a1B2" * 6,
    "github-token": "ghp" + "_" + "a1B2" * 9,
    "gitlab-token": "glpat" + "-" + "a1B2" * 5,
    "aws-key": "AKIA" + "ABCDEFGH12345678",
    "google-key": "AIza" + "a1B2_" * 7,
    "slack-token": "xoxb" + "-123456789-" + "a1B2" * 4,
    "hugging-face-token": "hf" + "_" + "a1B2" * 9,
    "npm-token": "npm" + "_" + "a1B2" * 9,
    "jwt": ".".join(("eyJ" + "hbGciOiJI", "eyJ" + "zdWIiOiIx", "s5Zc_x-4mNeb")),
    "private-key": "-----BEGIN {0}-----\nMIIE\nabc=\n-----END {0}-----".format("RSA PRIVATE KEY"),
}
SURROUNDINGS = ("{}", "key={}", '"{}"', "KEY={}\nnext", "({}), and more", "https://x:{}@host/")


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("around", SURROUNDINGS)
def test_a_known_form_of_key_is_taken_out(kind: str, around: str) -> None:
    clean = redact(around.format(KEYS[kind]))
    assert clean == around.format(f"[redacted:{kind}]")


@pytest.mark.parametrize("length", [32, 48])
def test_a_plain_api_key_is_taken_out(length: int) -> None:
    assert redact("sk" + "-" + "aB1c" * (length // 4)) == "[redacted:api-key]"


def test_a_fine_grained_github_token_is_taken_out() -> None:
    assert redact("github" + "_pat_" + "a1B2_" * 8) == "[redacted:github-token]"


@pytest.mark.parametrize("word", ["Bearer", "bearer"])
def test_a_bearer_token_is_taken_out_and_the_word_stays(word: str) -> None:
    text = f"Authorization: {word} abcdef.123456/789+0=="
    assert redact(text) == f"Authorization: {word} [redacted:bearer-token]"


def test_a_private_key_in_json_or_cut_short_is_taken_out() -> None:
    begin = "-----BEGIN " + "PRIVATE KEY-----"
    assert redact(f'{{"k": "{begin}\\nMIIE\\nab="}}') == '{"k": "[redacted:private-key]"}'
    assert redact(f"{begin}\nMIIEabc") == "[redacted:private-key]"


@pytest.mark.parametrize(
    "text",
    [
        "task-management-of-the-whole-department",
        "a disk-usage-of-forty-two-percent-is-fine",
        "The bearer of this letter is a friend.",
        "eyJust a word",
        "AKIAtoo-short",
        "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNr",
        ".sk-fading-circle .sk-circle-container-of-many",
        "class Sk_Live: pass",
        "",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_given_secrets_are_taken_out_the_longest_first() -> None:
    secrets = ["correct horse", "correct horse battery"]
    assert redact("a correct horse battery b", secrets) == "a [redacted:secret] b"


def test_a_short_secret_is_left_alone() -> None:
    assert redact("a password is a word", ["a", "word", ""]) == "a password is a word"


def test_json_is_redacted_in_its_depth_and_signatures_are_left_alone() -> None:
    key = KEYS["anthropic-key"]
    value = {"a": [key, 1, None, {"b": key}], key: True, "signature": key}
    assert redact_json(value, untouched=["signature"]) == {
        "a": ["[redacted:anthropic-key]", 1, None, {"b": "[redacted:anthropic-key]"}],
        "[redacted:anthropic-key]": True,
        "signature": key,
    }


pieces = st.one_of(st.sampled_from(sorted(KEYS.values())), st.text(), st.sampled_from("-_.=: \n\\"))


@given(st.lists(pieces).map("".join), st.lists(st.text(min_size=8, max_size=12), max_size=3))
def test_redacting_twice_changes_nothing_more(text: str, secrets: list[str]) -> None:
    once = redact(text, secrets)
    assert redact(once, secrets) == once


def test_a_key_behind_what_only_looks_like_one_is_taken_out() -> None:
    key = KEYS["anthropic-key"]
    assert redact(f"disk-ant-and-a-half_{key}") == "disk-ant-and-a-half_[redacted:anthropic-key]"


@given(st.lists(pieces).map("".join), st.text(min_size=8))
def test_no_given_secret_is_left(text: str, secret: str) -> None:
    marks = [f"[redacted:{kind}]" for kind in (*KEYS, "secret", "bearer-token")]
    assume(not any(secret in mark for mark in marks))
    assert secret not in redact(f"{text} {secret} {text}", [secret])


def test_a_secret_that_is_a_word_of_our_marks_leaves_them_alone() -> None:
    once = redact(KEYS["private-key"], ["private-"])
    assert once == redact(once, ["private-"]) == "[redacted:private-key]"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.clue)
@given(data=st.data())
def test_what_fits_a_form_is_found_by_the_search_for_all_of_them(
    form: Form, data: st.DataObject
) -> None:
    key = data.draw(st.from_regex(form.pattern))
    around = data.draw(st.sampled_from([*SURROUNDINGS, "ä{}", "{}\ud800", "AKIA{}", "\0{}\0"]))
    assert may_hold_a_key(around.replace("{}", key))


def test_the_search_for_all_forms_passes_what_only_holds_their_clues() -> None:
    assert not may_hold_a_key(" ".join(form.clue for form in FORMS if not form.may_follow_a_word))
    assert not may_hold_a_key("he is the bearer of a name like gh_ or sk-4 \xff")


# -- streams ---------------------------------------------------------------------------------------

SECRET = "correct horse\nbattery stäple"


def streamed(data: bytes, borders: list[int], secrets: list[str]) -> bytes:
    redactor = Redactor(secrets)
    cuts = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    pieces = [data[start:end] for start, end in pairwise(cuts)]
    return b"".join([*map(redactor.feed, pieces), redactor.end()])


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("border", [1, 5, 17, -3])
def test_p_a_key_that_a_border_of_a_stream_cuts_is_taken_out(kind: str, border: int) -> None:
    key, before = KEYS[kind].encode(), b"x " * HELD_BYTES
    data = before + key + b"\n" + b"y " * HELD_BYTES
    at = len(before) + (border if border > 0 else len(key) + border)
    clean = streamed(data, [at, at + 2 * HELD_BYTES], [])
    assert clean == before + f"[redacted:{kind}]".encode() + b"\n" + b"y " * HELD_BYTES


@given(st.lists(st.integers(0, 200_000), max_size=8), st.integers(0, 90_000), st.binary(max_size=9))
def test_a_secret_is_taken_out_of_a_stream_wherever_it_is_cut(
    borders: list[int], place: int, noise: bytes
) -> None:
    data = b"\xff\x00 " * 30_000
    data = data[:place] + SECRET.encode() + noise + data[place:] + b"-" + SECRET.encode()
    clean = streamed(data, borders, [SECRET])
    assert SECRET.encode() not in clean
    assert clean == data.replace(SECRET.encode(), b"[redacted:secret]")


def test_f10_a_stream_without_an_end_to_a_key_is_given_out_all_the_same() -> None:
    redactor = Redactor()
    given_out = [redactor.feed(b"sk-ant-" + b"a" * 1_000_000)]
    given_out += [redactor.feed(b"a" * 1_000_000) for _ in range(10)]
    assert sum(map(len, given_out)) > 0
    assert b"".join(given_out).startswith(b"[redacted:anthropic-key]")
