"""Texts as the views show them: cut where they are long, alike where they mean the same."""

import re
from typing import Any

from paddock.store.text import ALL_IS_KEPT

ARGUMENT_CHARACTERS = 10_000
SIGNATURE_CHARACTERS = 160


_VARYING = re.compile(
    r"(?P<id>\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{12,}\b)"
    r"|(?P<path>(?:[\w.~-]*/)+[\w.~-]+)"
    r"|(?P<number>\d+(?:[.,:]\d+)*)"
)
_STAND_INS = {"id": "<id>", "path": "<path>", "number": "<n>"}


def signature(kind: str, text: str) -> str:
    """Return an error as ``kind: its telling line``, without what differs from time to time.

    The telling line is the last that is not blank: of a traceback the exception, of a command's
    output what it said before it went.
    """
    lines = [line.strip() for line in text[-4_000:].splitlines() if line.strip()]
    if lines and lines[-1].startswith(ALL_IS_KEPT):
        del lines[-1]
    line = lines[-1][:400] if lines else ""
    told = _VARYING.sub(lambda found: _STAND_INS[str(found.lastgroup)], line)
    return f"{kind}: {told}"[:SIGNATURE_CHARACTERS] if told else kind


def shorten(value: Any) -> Any:
    """Return a JSON value with its long texts cut; how much is missing is told in their place."""
    match value:
        case str() if len(value) > ARGUMENT_CHARACTERS:
            left = len(value) - ARGUMENT_CHARACTERS
            return f"{value[:ARGUMENT_CHARACTERS]}… ({left} more characters, see events)"
        case dict():
            return {key: shorten(item) for key, item in value.items()}
        case list():
            return [shorten(item) for item in value]
        case _:
            return value
