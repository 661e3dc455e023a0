"""Take secrets out of text before it is written anywhere; pure.

Two things are secrets: the values a session was given as such, and what has the form of a
well-known key. Each becomes ``[redacted:KIND]``. Redacting what is redacted changes nothing.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic_core import SchemaValidator, core_schema

SHORTEST_SECRET = 8  # below, a value is likely to be an ordinary word, and a text full of marks


@dataclass(frozen=True, slots=True)
class Form:
    """A form of key: ``clue`` stands in every one of them.

    ``begins`` is with what it may begin, where that is not the clue. ``within`` is a pattern that
    looks neither ahead nor back and is found in all that has this form, where the pattern does.
    """

    kind: str
    clue: str
    pattern: re.Pattern[str]
    within: str
    begins: tuple[str, ...] = ()
    may_follow_a_word: bool = False


def _form(
    kind: str,
    clue: str,
    rest: str,
    *,
    head: str = "",
    ahead: str = "",
    begins: tuple[str, ...] = (),
) -> Form:
    """Return a form whose keys begin with the clue, or with the pattern ``head``.

    Behind a letter or a digit it is the end of an ordinary word: task-…, disk-…. That is looked for
    behind the beginning, which lets the engine jump from one to the next.
    """
    head = head or re.escape(clue)
    pattern = re.compile(f"{head}(?<![A-Za-z0-9]{head}){rest}{ahead}")
    return Form(kind, clue, pattern, head + rest, begins)


_TOKEN = "[A-Za-z0-9_-]"  # noqa: S105 - a class of characters
FORMS = (
    _form("anthropic-key", "sk-ant-", f"{_TOKEN}{{16,}}"),
    # OpenAI and those who speak its protocol. With hyphens only after a known word: names such as
    # sk-ecdsa-sha2-nistp256 and classes of style sheets look the same.
    _form(
        "api-key",
        "sk-",
        rf"(?:(?:proj|svcacct|admin|None|or-v1)-{_TOKEN}{{20,}}|[A-Za-z0-9]{{32,}})",
    ),
    *(
        _form(
            "stripe-key",
            f"k_{use}_",
            "[A-Za-z0-9]{16,}",
            head=f"[sr]k_{use}_",
            begins=(f"sk_{use}_", f"rk_{use}_"),
        )
        for use in ("live", "test")
    ),
    _form("github-token", "github_pat_", "[A-Za-z0-9_]{22,}"),
    *(_form("github-token", f"gh{letter}_", "[A-Za-z0-9]{30,}") for letter in "pousr"),
    _form("gitlab-token", "glpat-", f"{_TOKEN}{{20,}}"),
    _form("aws-key", "AKIA", "[0-9A-Z]{16}", ahead="(?![0-9A-Za-z])"),
    _form("aws-key", "ASIA", "[0-9A-Z]{16}", ahead="(?![0-9A-Za-z])"),
    _form("google-key", "AIza", f"{_TOKEN}{{35}}"),
    _form("google-secret", "GOCSPX-", f"{_TOKEN}{{20,}}"),
    _form("slack-token", "xox", "[abeoprs]-[A-Za-z0-9-]{10,}"),
    _form("slack-token", "xapp-", "[A-Za-z0-9-]{20,}"),
    _form("hugging-face-token", "hf_", "[A-Za-z0-9]{30,}"),
    _form("npm-token", "npm_", "[A-Za-z0-9]{36,}"),
    _form("pypi-token", "pypi-AgE", f"{_TOKEN}{{50,}}"),
    _form("jwt", "eyJ", rf"{_TOKEN}{{8,}}\.eyJ{_TOKEN}{{8,}}\.{_TOKEN}{{8,}}"),
    # The signature of a key block may be missing where an output was cut: then to where it breaks.
    Form(
        "private-key",
        "PRIVATE KEY-----",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"
            r"(?:[A-Za-z0-9+/=\s:,.-]|\\[nr])*?"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----"
            r"|(?=[^A-Za-z0-9+/=\s:,.\\-])|(?=\\(?![nr]))|\Z)"
        ),
        "PRIVATE KEY-----",
        may_follow_a_word=True,
    ),
)
_BEARER = re.compile(r"([Bb]earer[ \t]+)([A-Za-z0-9._~+/-]{16,}=*)")
HELD_BYTES = 16 * 1024
"""The longest key that is found where a border between pieces goes through it: a private key of
16,384 bits has 13,000 bytes."""
LONGEST_HELD_BYTES = 4 * 1024 * 1024
MARK_START = "[redacted:"
_SECRET_MARK = "[redacted:secret]"  # noqa: S105 - what stands in place of one
_KINDS = sorted({"secret", "bearer-token", *(form.kind for form in FORMS)})
_MARK = re.compile(rf"(\[redacted:(?:{'|'.join(_KINDS)})\])")
_OTHERS = (("earer", _BEARER), (MARK_START, _MARK))
# All of them at once. To look for 24 clues one after the other took 13 ms a megabyte, and for all
# forms in the regular expressions of Rust, which pydantic brings, 0.05 to 0.25.
_ANY = SchemaValidator(
    core_schema.str_schema(
        pattern="|".join(
            (
                *(form.within for form in FORMS),
                _BEARER.pattern,
                re.escape(MARK_START),
            )
        ),
        regex_engine="rust-regex",
    )
)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return the text without the given secret values and without what has a key's form.

    Secret values shorter than eight characters are left alone. A text without any is returned as it
    is, after one search for all forms and one for each value (0.1 and 0.4 ms a megabyte).
    """
    values = usable(secrets)
    if not may_hold_a_key(text):
        return _without_values(text, values)
    if MARK_START not in text:
        return _redacted(text, values)
    # What stands in a mark is ours and no secret, not even where a secret is a word of it.
    pieces = _MARK.split(text)
    pieces[::2] = [_redacted(piece, values) for piece in pieces[::2]]
    return "".join(pieces)


def may_hold_a_key(text: str) -> bool:
    """Whether something in the text has a key's form, or is a mark in place of one; never too few.

    Much quicker than to look for each form.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate, which Rust has no text for
            return True
    return _ANY.isinstance_python(text)


class Redactor:
    """Redacts a stream of bytes, in whatever pieces it comes.

    Bytes that are no text pass as they are. What a border between pieces might have cut is held
    back until it is whole, so that every secret and key of up to ``HELD_BYTES`` is found.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """Take the secret values; each is looked for as UTF-8."""
        given = [secret.encode("utf-8", "replace").decode("latin-1") for secret in secrets]
        self._secrets = usable(given)
        self._keeps = max([HELD_BYTES, *map(len, self._secrets)])
        self._held = ""  # each byte a character: the forms of keys are all ASCII
        self._before = ""

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; return what is sure by now."""
        self._held += data.decode("latin-1")
        if len(self._held) <= 2 * self._keeps:
            return b""
        return self._give(self._sure())

    def end(self) -> bytes:
        """Return the rest."""
        return self._give(len(self._held))

    def _sure(self) -> int:
        """Return how far no secret reaches over: everything before is whole."""
        sure = uncut(self._held, len(self._held) - self._keeps, self._secrets)
        # What is longer than any key is known to be, and goes on, is given out as it is known.
        return sure if len(self._held) - sure < LONGEST_HELD_BYTES else len(self._held)

    def _give(self, count: int) -> bytes:
        piece, self._held = self._held[:count], self._held[count:]
        if not piece:
            return b""
        clean = redact(self._before + piece, self._secrets)[len(self._before) :]
        self._before = piece[-1]
        return clean.encode("latin-1")


def uncut(text: str, place: int, secrets: Sequence[str]) -> int:
    """Return the place, or one before it, at which a cut goes through nothing secret."""
    patterns = [re.compile(re.escape(one)) for one in secrets if one in text]
    if may_hold_a_key(text):
        patterns += [form.pattern for form in FORMS if form.clue in text]
        patterns += [pattern for clue, pattern in _OTHERS if clue in text]
    spans = sorted((found.span() for one in patterns for found in one.finditer(text)), reverse=True)
    for start, end in spans:
        if start < place < end:
            place = start
    return place


def redact_json(
    value: object, secrets: Sequence[str] = (), untouched: Collection[str] = ()
) -> object:
    """Return a JSON value with every text in it redacted, names included; unchanged parts as is.

    What stands under a name in ``untouched`` is left alone: signatures and encrypted reasoning must
    come back to their maker bit by bit.
    """
    match value:
        case str():
            return redact(value, secrets)
        case dict():
            return {
                _name(name, secrets): inner
                if name in untouched
                else redact_json(inner, secrets, untouched)
                for name, inner in value.items()
            }
        case list() | tuple():
            return [redact_json(inner, secrets, untouched) for inner in value]
        case _:
            return value


def _name(name: object, secrets: Sequence[str]) -> object:
    return redact(name, secrets) if isinstance(name, str) else name


def usable(secrets: Sequence[str]) -> list[str]:
    """Return the secrets that can be looked for, the longest first: one may be part of another."""
    values = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
    return sorted(values, key=lambda secret: (-len(secret), secret))


def _redacted(text: str, secrets: Sequence[str]) -> str:
    """Return the text, in which no mark stands, redacted."""
    text = _without_values(text, secrets)
    for form in FORMS:
        if form.clue in text:
            text = form.pattern.sub(f"[redacted:{form.kind}]", text)
    if "earer" in text:
        text = _BEARER.sub(r"\1[redacted:bearer-token]", text)
    return text


def _without_values(text: str, secrets: Sequence[str]) -> str:
    found = [secret for secret in secrets if secret in text]
    return re.sub("|".join(map(re.escape, found)), _SECRET_MARK, text) if found else text
