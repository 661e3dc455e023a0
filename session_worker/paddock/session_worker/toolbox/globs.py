"""Glob patterns as regular expressions; pure and, for the search script, standard library only.

``*`` and ``?`` stay within one name, ``**`` spans folders, ``[a-z]`` and ``[!a-z]`` are sets,
``{a,b}`` alternatives that may be nested, a backslash takes the next character as it is. Names that
begin with a dot are names like others.
"""

import re
from collections.abc import Callable

type Matches = Callable[[str], bool]

ALTERNATIVES_AT_MOST = 1000  # {a,b}{c,d}… doubles with each pair


class BadPattern(ValueError):
    """A pattern cannot be read; the message says where. The asker's fault."""


def path_glob(pattern: str) -> Matches:
    """Return a test of whole relative paths: ``*.py`` means those of the top folder alone.

    Raises:
        BadPattern: It cannot be read.
    """
    return _matcher(pattern.removeprefix("./"))


def include_glob(patterns: str) -> Matches:
    """Return the test that an ``include`` of a search means.

    Several patterns are parted by spaces or commas; one match is enough. One without a slash is
    about names, wherever they are; one with a slash is about the path; ``!`` before it excludes.

    Raises:
        BadPattern: One of them cannot be read.
    """
    wanted: list[Matches] = []
    unwanted: list[Matches] = []
    for pattern in _parted(patterns):
        kind, text = (unwanted, pattern[1:]) if pattern.startswith("!") else (wanted, pattern)
        text = f"{text}**" if text.endswith("/") else text
        kind.append(_matcher(text.removeprefix("./").lstrip("/") if "/" in text else f"**/{text}"))

    def matches(path: str) -> bool:
        return (not wanted or any(test(path) for test in wanted)) and not any(
            test(path) for test in unwanted
        )

    return matches


def translate(pattern: str) -> str:
    """Return the regular expression of a pattern without alternatives, for whole relative paths."""
    result, at = [], 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            result.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            result.append(".*")
            at += 2
        else:
            piece, at = _one(pattern, at)
            result.append(piece)
    return "".join(result)


def alternatives(pattern: str) -> list[str]:
    """Return the patterns that one with braces stands for; itself when it has none.

    Raises:
        BadPattern: They are too many.
    """
    start = _unescaped(pattern, "{", 0)
    end = _closing(pattern, start) if start >= 0 else -1
    if end < 0:
        return [pattern]
    before, inner, after = pattern[:start], pattern[start + 1 : end], pattern[end + 1 :]
    found = [
        before + choice + rest
        for part in _split(inner, ",")
        for choice in alternatives(part)
        for rest in alternatives(after)
    ]
    if len(found) > ALTERNATIVES_AT_MOST:
        raise BadPattern(f"{pattern!r} stands for more than {ALTERNATIVES_AT_MOST} patterns")
    return found


def _matcher(pattern: str) -> Matches:
    expression = "|".join(translate(one) for one in alternatives(pattern))
    try:
        compiled = re.compile(f"(?:{expression})\\Z", re.DOTALL)
    except re.error as error:
        raise BadPattern(f"the pattern {pattern!r} cannot be read: {error}") from error
    return lambda path: compiled.match(path) is not None


def _one(pattern: str, at: int) -> tuple[str, int]:
    """Return the expression of what stands at a place, and where it ends."""
    match pattern[at]:
        case "*":
            return "[^/]*", at + 1
        case "?":
            return "[^/]", at + 1
        case "\\" if at + 1 < len(pattern):
            return re.escape(pattern[at + 1]), at + 2
        case "[":
            end = pattern.find("]", at + 2 + (pattern[at + 1 : at + 2] in ("!", "^")))
            if end > 0:
                return _set(pattern[at + 1 : end]), end + 1
            return r"\[", at + 1
        case plain:
            return re.escape(plain), at + 1


def _set(inner: str) -> str:
    negated = inner[:1] in ("!", "^")
    body = inner[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return f"(?!/)[{'^' if negated else ''}{body}]"


def _parted(patterns: str) -> list[str]:
    parts = [part for word in _split(patterns, " ") for part in _split(word, ",")]
    return [part for part in parts if part]


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator that stands outside of braces and is not escaped."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth = max(depth - 1, 0)
        elif character == separator and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def _unescaped(text: str, character: str, start: int) -> int:
    at = text.find(character, start)
    while at > 0 and text[at - 1] == "\\":
        at = text.find(character, at + 1)
    return at


def _closing(text: str, start: int) -> int:
    """Return where the brace that opens at ``start`` closes, or -1."""
    depth, at = 0, start
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return -1
