"""What of that which comes from outside an event can hold, and its log give back.

Looked at where it comes in: there it has somebody who can be told, and nothing has to die of it.
"""

import json
import math

from pydantic_core import to_jsonable_python

from paddock.store.events import MOST_TOKENS
from paddock.store.session_file import EVENT_LIMIT_BYTES

PART_LIMIT_BYTES = EVENT_LIMIT_BYTES - 1024 * 1024
"""Of a command, an answer, a state: what else stands in its event is far below a mebibyte."""

LARGEST_VALUE_BYTES = 16 * 1024 * 1024
"""Of a Python tool's value (as JSON) that stands in its result; a larger one is an output only."""
VALUE_TOO_LARGE = "value_too_large"
"""The error kind of such a result, which is ok."""

ERROR_CHARACTERS = 64 * 1024
"""Of what a user's code raised: more is cut."""


LEVELS = 100
"""Of lists and objects in one another: reading the log ends at 200 of them, writing it at 255."""

LARGEST_COUNT = MOST_TOKENS
"""Of tokens or milliseconds."""

DIGITS = 4300
"""Of a whole number: neither Python nor what reads the log takes more."""


def stored_bytes(value: object) -> int:
    """Return how many bytes a value takes as JSON."""
    text = json.dumps(value, ensure_ascii=False, default=to_jsonable_python)
    return len(text.encode("utf-8", "surrogatepass"))  # half characters are mended only later


def too_large(what: str, value: object, advice: str) -> str | None:
    """Return what to say of a value that no event can hold, or None if one can."""
    size = stored_bytes(value)
    if size <= PART_LIMIT_BYTES:
        return None
    return f"{what} has {size:,} bytes (as JSON), more than {PART_LIMIT_BYTES:,}: {advice}"


def flaw_in(value: object, level: int = 0) -> str | None:
    """Return what a JSON value holds that its log would not take or give back, or None.

    That is, numbers that are none or have too many digits, and too many levels.
    """
    match value:
        case float() if not math.isfinite(value):
            return f"holds {value!r}, which is no number in JSON"
        case int() if abs(value) >= _BEYOND_DIGITS:
            return f"holds a whole number of more than {DIGITS:,} digits"
        case dict() | list() | tuple() if level == LEVELS:
            return f"is nested more than {LEVELS} levels deep"
        case dict():
            found = (flaw_in(one, level + 1) for one in value.values())
        case list() | tuple():
            found = (flaw_in(one, level + 1) for one in value)
        case _:
            return None
    return next((flaw for flaw in found if flaw is not None), None)


_BEYOND_DIGITS = 10**DIGITS
