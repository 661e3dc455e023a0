"""What a worker says to its stderr file holds no secret."""

import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.session_worker.words import LIMIT_BYTES, CleanWords

SECRET = "correct-horse-battery"
KEY = "sk-" + "ant-" + "a1B2" * 10


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for descriptor in ends:
        os.close(descriptor)


def test_secrets_in_last_words_are_taken_out(pipe: tuple[int, int]) -> None:
    words = CleanWords(pipe[1], [SECRET])
    try:
        raise ValueError(f"no luck with {SECRET} and {KEY}")
    except ValueError:
        traceback.print_exc(file=words)
    said = os.read(pipe[0], 65536).decode()
    assert "ValueError: no luck with [redacted:secret] and [redacted:anthropic-key]" in said
    assert "test_words.py" in said


def test_a_secret_in_two_writes_is_taken_out(pipe: tuple[int, int]) -> None:
    words = CleanWords(pipe[1], [])
    words.know([SECRET])
    for piece in (SECRET[:7], SECRET[7:], "\n", "half a line"):
        words.write(piece)
    assert os.read(pipe[0], 65536) == b"[redacted:secret]\n"
    words.flush()
    assert os.read(pipe[0], 65536) == b"half a line"


def test_a_private_key_of_many_lines_is_taken_out(pipe: tuple[int, int]) -> None:
    words = CleanWords(pipe[1], [])
    kind = "PRIVATE KEY-----"
    print(f"-----BEGIN {kind}\nMIIE\nabc=", file=words)
    print(f"-----END {kind}\nthat was it", file=words)
    assert os.read(pipe[0], 65536) == b"[redacted:private-key]\nthat was it\n"


def test_a_file_of_last_words_does_not_grow_for_ever_and_keeps_the_end(tmp_path: Path) -> None:
    file = tmp_path / "stderr.1"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    words = CleanWords(descriptor, [])
    for number in range(30):
        print(number, "x" * (LIMIT_BYTES // 10), file=words)
    os.close(descriptor)
    kept = file.read_text()
    assert len(kept) < LIMIT_BYTES * 1.2
    assert kept.startswith("… (1,")
    assert kept.splitlines()[-1].startswith("29 x")


def test_f16_half_a_character_in_last_words_shows(pipe: tuple[int, int]) -> None:
    print("a\ud800b", file=CleanWords(pipe[1], []))
    assert os.read(pipe[0], 65536) == b"a\\ud800b\n"
