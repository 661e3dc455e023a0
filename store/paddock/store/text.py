"""What text must be to be stored: no half characters. And the words that end a cut output."""

import re

from pydantic import JsonValue

ALL_IS_KEPT = "[all of it is kept: "
"""How the last line begins of what a model sees of a large output: it says where the rest is."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = "\N{REPLACEMENT CHARACTER}"


def whole(text: str) -> str:
    """Return the text with U+FFFD for each lone surrogate, which UTF-8 cannot hold (F16)."""
    return text if text.isascii() else _SURROGATE.sub(_WHOLE, text)


def whole_value(value: JsonValue) -> JsonValue:
    """Return a JSON value, all of whose strings are as :func:`whole` gives them."""
    match value:
        case str():
            return whole(value)
        case list() | tuple():
            return [whole_value(one) for one in value]
        case dict():
            return whole_object(value)
        case _:
            return value


def whole_object(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a JSON object, all of whose strings are as :func:`whole` gives them."""
    return {whole(key): whole_value(one) for key, one in value.items()}
