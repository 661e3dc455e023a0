"""What an agent hands over, looked at where it does so: words, and JSON that its log can give back.

An error here is raised inside the agent, at the place of the call: it can be caught there, and else
ends the operation with its line. Nothing behind this door has to die of it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import cast

from pydantic import BaseModel, JsonValue
from pydantic_core import PydanticSerializationError, to_jsonable_python

from paddock.session_worker.sizes import ERROR_CHARACTERS, flaw_in, too_large
from paddock.store.errors import TooLarge

NAME_CHARACTERS = 4096
"""Of a step's key and a tool's name: they stand in every event of theirs, and in SQL."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def name(what: str, value: object) -> str:
    """Return a step's key or a tool's name.

    Raises:
        TypeError, ValueError: It is no text, or so long that it names nothing.
    """
    text = words(what, value)
    if len(text) > NAME_CHARACTERS:
        message = f"{what} has {len(text):,} characters, more than {NAME_CHARACTERS:,}: shorten it"
        raise ValueError(message)
    return text


def words(what: str, value: object) -> str:
    """Return a text.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, str):
        message = f"{what} must be a string, not {type(value).__name__}"
        raise TypeError(message)
    return str(value)


def plain(what: str, value: object) -> JsonValue:
    """Return a value as JSON: models, dates and dataclasses as pydantic draws them.

    Raises:
        TypeError: It holds what JSON cannot hold, or a key that is no string.
        ValueError: It holds a number that is none, or is nested too deeply.
        TooLarge: No event can hold it.
    """
    try:
        # Before it is drawn: JSON would make strings of all keys, and give others back.
        if _has_odd_key(value):
            message = f"{what} has a key that is no string: JSON has no others"
            raise TypeError(message)
        drawn = to_jsonable_python(value)
    except RecursionError as error:
        message = f"{what} is nested too deeply"
        raise ValueError(message) from error
    except PydanticSerializationError as error:
        message = f"{what} holds what JSON cannot hold: {error}"
        raise TypeError(message) from error
    except ValueError as error:  # a circle, too many levels, half a character in a key
        message = f"{what} cannot be written as JSON: {error}"
        raise ValueError(message) from error
    return fitting(what, cast("JsonValue", drawn))


def fitting(what: str, value: JsonValue) -> JsonValue:
    """Return a JSON value that an event can hold and give back.

    Raises:
        ValueError, TooLarge: None can.
    """
    flaw = flaw_in(value)
    if flaw is not None:
        message = f"{what} {flaw}"
        raise ValueError(message)
    reason = too_large(what, value, "keep it in a file, and its path here")
    if reason is not None:
        raise TooLarge(reason)
    return value


def same_in_every_process(value: object) -> JsonValue:
    """Return what tells a step's arguments from others: the same on re-entry, in another process.

    What JSON cannot hold (a client, a function) is told by its repr without the address in it, and
    a set is put in order, also in a model or dataclass. What can be read only once (a generator, a
    file) is never read here.

    Raises:
        ValueError, RecursionError: It holds itself, or half a character, or is nested too deeply.
    """
    return cast("JsonValue", to_jsonable_python(_in_order(value), fallback=_without_address))


def told(raised: BaseException) -> str:
    """Return what a user's code raised, in words; also where it has none."""
    try:
        said = str(raised)
        if isinstance(raised, BaseExceptionGroup):
            said = f"{said}: {'; '.join(map(told, raised.exceptions))}"
    except Exception:  # noqa: BLE001 - the user's own __str__
        said = "(its words cannot be told)"
    name = type(raised).__name__
    return f"{name}: {said}"[:ERROR_CHARACTERS] if said else name


def _in_order(value: object, above: tuple[object, ...] = ()) -> object:
    """Return a value without sets and iterators; a circle is kept, and found when it is drawn."""
    if isinstance(value, Iterator):
        return _without_address(value)
    if any(value is one for one in above):
        return value
    inside = (*above, value)
    match value:
        case dict():
            return {key: _in_order(one, inside) for key, one in value.items()}
        case list() | tuple():
            return [_in_order(one, inside) for one in value]
        case set() | frozenset():
            members = (same_in_every_process(one) for one in value)
            return sorted(members, key=lambda one: json.dumps(one, sort_keys=True))
        case BaseModel():
            return {name: _in_order(one, inside) for name, one in value}
        case bytes() | bytearray():
            return bytes(value).decode() if _is_text(value) else repr(bytes(value))
        case _ if is_dataclass(value):
            of = [field.name for field in fields(value)]
            return {name: _in_order(getattr(value, name, None), inside) for name in of}
        case _:
            return value


def _is_text(value: bytes | bytearray) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_address(value: object) -> str:
    try:
        return _ADDRESS.sub("", repr(value))
    except Exception:  # noqa: BLE001 - the user's own __repr__
        return type(value).__qualname__


def _has_odd_key(value: object, above: tuple[object, ...] = ()) -> bool:
    """Return whether a key is no string; in a circle, which is found later, at its first round."""
    if not isinstance(value, dict | list | tuple) or any(value is one for one in above):
        return False
    inner: Iterable[object] = value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return True
        inner = value.values()
    return any(_has_odd_key(one, (*above, value)) for one in inner)
