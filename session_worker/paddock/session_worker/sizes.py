"""How large what comes from outside may be, so that the event that is to hold it can be stored.

Looked at where it comes in: there it has somebody who can be told, and nothing has to die of it.
"""

import json

from pydantic_core import to_jsonable_python

from paddock.store.session_file import EVENT_LIMIT_BYTES

PART_LIMIT_BYTES = EVENT_LIMIT_BYTES - 1024 * 1024
"""Of a command, an answer, a state: what else stands in its event is far below a mebibyte."""

LARGEST_VALUE_BYTES = 16 * 1024 * 1024
"""Of a Python tool's value (as JSON) that stands in its result; a larger one is an output only."""
VALUE_TOO_LARGE = "value_too_large"
"""The error kind of such a result, which is ok."""

ERROR_CHARACTERS = 64 * 1024
"""Of what a user's code raised: more is cut."""


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
