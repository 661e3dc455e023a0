"""What is shown of a message or an output in the making: without secrets, its place told."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from paddock.session_worker.protocol import Delta
from paddock.session_worker.redact import FORMS, HELD_BYTES, MARK_START, redact, uncut, usable

CONTEXT_CHARACTERS = 32
"""More than any key's beginning has."""
LONGEST_WORD = 4 * 1024
"""How far a word may go on that could be a key, before it is shown as it is known by then."""
LONGEST_BEGIN = 80
"""More than the first line of a private key has."""


def _beginnings(of: Iterable[str]) -> str:
    """Return a pattern of each of these and of all that they begin with."""
    found = {word[:count] for word in of for count in range(1, len(word) + 1)}
    return "|".join(map(re.escape, sorted(found, key=len, reverse=True)))


_KEYS = [
    begin for form in FORMS if not form.may_follow_a_word for begin in form.begins or (form.clue,)
]
# Of each text these look at one place, or go through it once: it comes in thousands of pieces, and
# whoever writes it may mean ill. Those named ``_LAST`` are for a text that is turned around.
_KEY = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, _KEYS))})")
_BEGUN = re.compile(
    rf"(?:(?<![A-Za-z0-9])(?:{_beginnings(_KEYS)})"
    rf"|{_beginnings((MARK_START, 'Bearer', 'bearer', '-----BEGIN '))})\Z"
)
_KEY_BLOCK = re.compile("(?=(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----))")
_KEY_BLOCK_END = re.compile("-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_LAST_WORD = re.compile(r"\S*")
_LAST_BEARER = re.compile(r"\S*[ \t]+rerae[bB]")
_LAST_MARK = re.compile(r"[a-z-]*" + re.escape(MARK_START[::-1]))
_LAST_BEGIN = re.compile(r"-{0,5}[A-Z0-9 ]{0,55} NIGEB-----")


class PreviewRedactor:
    """Redacts a text in the making, in whatever pieces it comes, and holds little of it back.

    What it gives out does not end in what may be the beginning of a secret or a key. A word that
    goes on for ``LONGEST_WORD`` characters is given out as it is known then, and a private key
    after ``HELD_BYTES``.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._secrets = usable(secrets)
        self._most_held = max([HELD_BYTES, *map(len, self._secrets)])
        self._held = ""
        self._before = ""

    def feed(self, text: str) -> str:
        """Take the next piece; return what is sure by now."""
        self._held += text
        begun = self._begun()
        sure = uncut(self._held, begun, self._secrets)
        return self._give(sure if len(self._held) - sure <= self._most_held else begun)

    def end(self) -> str:
        """Return the rest."""
        return self._give(len(self._held))

    def _begun(self) -> int:
        """Return from where on something secret may have begun that is not whole; else the end."""
        text = self._held
        starts = [len(text) - _shared(text, secret) for secret in self._secrets]
        for secret in self._secrets:  # a mark will stand there, behind which a key may begin
            if secret in text:
                text = text.replace(secret, "]" * len(secret))
        return min(*starts, _word_begun(text), _block_begun(text))

    def _give(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        if not piece:
            return ""
        clean = redact(self._before + piece, self._secrets)[len(self._before) :]
        self._before = _context(self._before + clean)
        return clean


def _word_begun(text: str) -> int:
    """Return where a key of one word, a bearer's token or a mark may have begun; else the end."""
    end = len(text)
    back = text[: -LONGEST_WORD - 1 : -1]
    word = end - _length(_LAST_WORD, back)
    key = _KEY.search(text, word)
    begun = _BEGUN.search(text, max(0, end - CONTEXT_CHARACTERS))
    starts = [found.start() for found in (key, begun) if found is not None]
    starts += [end - _length(pattern, back) for pattern in (_LAST_BEARER, _LAST_MARK)]
    return min(starts)


def _block_begun(text: str) -> int:
    """Return where a private key may have begun that has not ended; else the end."""
    end = len(text)
    starts = [end - _length(_LAST_BEGIN, text[: -LONGEST_BEGIN - 1 : -1])]
    window = max(0, end - HELD_BYTES)
    ended = max((found.start() for found in _KEY_BLOCK_END.finditer(text, window)), default=-1)
    blocks = _KEY_BLOCK.finditer(text, window)
    starts.append(next((block.start() for block in blocks if block.end(1) > ended), end))
    return min(starts)


def _length(pattern: re.Pattern[str], text: str) -> int:
    """Return how long what stands at the beginning is; 0 if it does not."""
    found = pattern.match(text)
    return 0 if found is None else found.end()


def _context(shown: str) -> str:
    """Return the end of what was shown, by which the next piece is told from a key in a word."""
    last = shown[-CONTEXT_CHARACTERS:]
    behind_mark = last.rpartition("]")[2]
    # Where it begins within something, a letter says that it goes on from there.
    return f"x{last}" if behind_mark == last != shown else behind_mark


def _shared(text: str, secret: str) -> int:
    """Return how much of a secret's beginning the text ends in, but for the whole of it."""
    longest = min(len(text), len(secret) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(secret[:n])), 0)


class Preview:
    """One text in the making, shown piece by piece.

    Its offsets count what was shown, and so they fit the event that follows, which is redacted too.
    """

    def __init__(
        self,
        message_id: str,
        channel: Literal["text", "thinking", "output"],
        secrets: Sequence[str],
        show: Callable[[Delta], object],
    ) -> None:
        self._message_id = message_id
        self._channel = channel
        self._secrets = secrets
        self._show = show
        self.reset()

    def add(self, text: str) -> None:
        """Take what came; show what is sure to hold no part of a secret."""
        self._say(self._redactor.feed(text))

    def end(self) -> None:
        """Show the rest: nothing more comes."""
        self._say(self._redactor.end())

    def reset(self) -> None:
        """Begin anew."""
        self._redactor = PreviewRedactor(self._secrets)
        self._offset = 0

    def _say(self, text: str) -> None:
        if text:
            self._show(
                Delta(
                    message_id=self._message_id,
                    channel=self._channel,
                    offset=self._offset,
                    text=text,
                )
            )
            self._offset += len(text)
