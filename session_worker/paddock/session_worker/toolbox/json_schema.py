"""Check a JSON value against a JSON schema, as far as tools' parameters use one; pure.

It names faults early, for the model to mend; the tool itself checks in full. Understood: ``type
properties required additionalProperties items enum const anyOf oneOf allOf $ref`` and the bounds of
numbers, texts and lists. What is not understood is taken to be right.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

type Schema = Mapping[str, object]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Final[Mapping[str, Callable[[object], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        _is_number(value) and not (isinstance(value, float) and not value.is_integer())
    ),
    "number": _is_number,
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, Mapping),
}
_BOUNDS: Final[Mapping[str, tuple[str, Callable[[float, float], bool]]]] = {
    "minimum": ("at least", lambda value, bound: value >= bound),
    "maximum": ("at most", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("more than", lambda value, bound: value > bound),
    "exclusiveMaximum": ("less than", lambda value, bound: value < bound),
}
_LENGTHS: Final[Mapping[str, tuple[str, Callable[[float, float], bool]]]] = {
    "minLength": ("at least", lambda length, bound: length >= bound),
    "maxLength": ("at most", lambda length, bound: length <= bound),
    "minItems": ("at least", lambda length, bound: length >= bound),
    "maxItems": ("at most", lambda length, bound: length <= bound),
}


def faults(value: object, schema: Schema) -> list[str]:
    """Return what is wrong with the value, each fault with the argument that has it."""
    return list(_faults(value, schema, schema, ""))


def _faults(value: object, schema: Schema, top: Schema, name: str) -> Iterator[str]:
    schema = _followed(schema, top)
    if not _has_type(value, schema.get("type")):
        yield f"{_of(name)} must be {_words(schema['type'])}"
        return
    if "enum" in schema and value not in _list(schema["enum"]):
        yield f"{_of(name)} must be one of {', '.join(map(repr, _list(schema['enum'])))}"
    if "const" in schema and value != schema["const"]:
        yield f"{_of(name)} must be {schema['const']!r}"
    for key in ("anyOf", "oneOf"):
        choices = [_schema(choice) for choice in _list(schema.get(key))]
        if choices and not any(not list(_faults(value, one, top, name)) for one in choices):
            yield f"{_of(name)} fits none of the forms it may have"
    for part in _list(schema.get("allOf")):
        yield from _faults(value, _schema(part), top, name)
    if isinstance(value, Mapping):
        yield from _object_faults(value, schema, top, name)
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from _faults(item, _schema(schema.get("items")), top, f"{name}.{at}".strip("."))
    yield from _bound_faults(value, schema, name)


def _object_faults(
    value: Mapping[object, object], schema: Schema, top: Schema, name: str
) -> Iterator[str]:
    known = _schema(schema.get("properties"))
    for key in _list(schema.get("required")):
        if key not in value:
            yield f"missing argument {f'{name}.{key}'.strip('.')!r}"
    more = schema.get("additionalProperties", True)
    for key, inner in value.items():
        inner_name = f"{name}.{key}".strip(".")
        if key in known:
            yield from _faults(inner, _schema(known[str(key)]), top, inner_name)
        elif more is False:
            yield f"unknown argument {inner_name!r}"
        else:
            yield from _faults(inner, _schema(more), top, inner_name)


def _bound_faults(value: object, schema: Schema, name: str) -> Iterator[str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        measured, bounds, what = float(value), _BOUNDS, ""
    elif isinstance(value, str | list | tuple):
        measured, bounds, what = float(len(value)), _LENGTHS, " long"
    else:
        return
    for key, (words, holds) in bounds.items():
        bound = schema.get(key)
        if isinstance(bound, int | float) and not holds(measured, bound):
            yield f"{_of(name)} must be {words} {bound:g}{what}"


def _followed(schema: Schema, top: Schema) -> Schema:
    """Return the schema that a reference names; one that cannot be followed allows everything."""
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str):
        if reference in seen or not reference.startswith("#/"):
            return {}
        seen.add(reference)
        found: object = top
        for part in reference[2:].split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        schema = _schema(found)
    return schema


def _has_type(value: object, wanted: object) -> bool:
    names = [name for name in _list(wanted) if name in _TYPES] or None
    return names is None or any(_TYPES[str(name)](value) for name in names)


def _words(wanted: object) -> str:
    return " or ".join(f"of type {name}" for name in _list(wanted))


def _of(name: str) -> str:
    return f"argument {name!r}" if name else "the arguments"


def _schema(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
