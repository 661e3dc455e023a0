"""Values and events made by our own code, in half the time: what is of its very type is taken.

pydantic reads every value of a model that is made; in a stream of events that cost as much as
writing them durably (``benchmarks/README.md``). So the constructor of each model is written out
for its fields, as ``dataclasses`` does. Where every value is of exactly the type that its field
tells, it is taken as it is; for all else (another type, a subclass, nested JSON, a number that JSON
has not) pydantic decides as ever, and converts or refuses it. What is read (``model_validate``) is
pydantic's alone.
"""

from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, NewType, TypeAliasType, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

type Names = dict[str, Any]
"""What a written constructor can name beside its arguments."""

_PLAIN = frozenset({str, int, bool, type(None)})
_EXACT = {str: "str", int: "int", bool: "bool"}
# How an instance of a frozen model is filled: its slots' own setters take two thirds of the time of
# ``object.__setattr__``, which looks each of them up.
_SETTERS = {
    f"_set_{slot.strip('_')}": vars(BaseModel)[slot].__set__
    for slot in (
        "__dict__",
        "__pydantic_fields_set__",
        "__pydantic_extra__",
        "__pydantic_private__",
    )
}


class Made(BaseModel):
    """A model whose constructor is quick; all its fields count as set, whether given or not."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Give the class its own constructor; pydantic's where some field has no test."""
        type.__setattr__(cls, "__init__", _constructor(cls) or BaseModel.__init__)


def _constructor(model: type[BaseModel]) -> Callable[..., None] | None:
    """Return the constructor of a model, or None where pydantic's own must do."""
    names: Names = {
        "_all_of": _all_of,
        "_is_flat": _is_flat,
        "_plain": _PLAIN,
        **_SETTERS,
        "_check": BaseModel.__init__,
        "_fields": set(model.model_fields),
        "_missing": object(),
    }
    required, optional, tests, values = [], [], [], []
    for name, field in model.model_fields.items():
        if get_origin(_bare(field.annotation)) is Literal and name in {"kind", "type"}:
            names["_tag"] = (
                field.default
            )  # its one value; who gives it nonetheless goes the long way
            values.append(f"{name!r}: _tag")
            continue
        test = _test(field.annotation, name, names)
        if test is None or field.metadata or field.validation_alias is not None:
            return None
        if field.is_required():
            required.append(name)
            tests.append(test)
        elif field.default_factory is None:
            names[f"_{name}"] = field.default
            optional.append(f"{name}=_{name}")
            tests.append(f"({name} is _{name} or {test})")
        else:
            names[f"_{name}"] = field.default_factory
            optional.append(f"{name}=_missing")
            tests.append(f"({name} is _missing or {test})")
        values.append(f"{name!r}: {_value(name, field)}")
    return _written(names, required, optional, tests, values)


def _written(
    names: Names, required: list[str], optional: list[str], tests: list[str], values: list[str]
) -> Callable[..., None]:
    given = [*required, *(text.partition("=")[0] for text in optional)]
    arguments = ", ".join([*(["*"] if given else []), *required, *optional, "**more"])
    pairs = "".join(f"({name!r}, {name}), " for name in given)
    source = f"""
def __init__(self, /, {arguments}):
    if not more and {" and ".join(tests or ["True"])}:
        _set_dict(self, {{{", ".join(values)}}})
        _set_pydantic_fields_set(self, _fields)
        _set_pydantic_extra(self, None)
        _set_pydantic_private(self, None)
    else:
        for each in ({pairs}):
            if each[1] is not _missing:
                more[each[0]] = each[1]
        _check(self, **more)
"""
    exec(source, names)  # noqa: S102 - written from our own classes' fields, as dataclasses does
    constructor: Any = names["__init__"]
    # Else pydantic would call it for what it reads, instead of filling the instance itself.
    constructor.__pydantic_base_init__ = True
    return constructor  # type: ignore[no-any-return]


def _value(name: str, field: FieldInfo) -> str:
    """Return what is kept of an argument: a dict is copied, as pydantic does."""
    bare = _bare(field.annotation)
    members = [_bare(member) for member in get_args(bare)] if _is_union(bare) else [bare]
    kept = name
    if any(get_origin(member) is dict for member in members):
        kept = f"dict({name}) if {name} is not None else None"
    if field.default_factory is not None:
        return f"_{name}() if {name} is _missing else {kept}"
    return kept


def _test(kind: Any, name: str, names: Names) -> str | None:
    """Return an expression that is true only of a value of that kind; None if there is none."""
    if kind is JsonValue:
        return f"type({name}) in _plain"
    bare = _bare(kind)
    if bare in _EXACT:
        return f"type({name}) is {_EXACT[bare]}"
    if bare is float:
        return f"(type({name}) is float and {name} - {name} == 0.0)"  # finite
    if bare is type(None):
        return f"{name} is None"
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return f"type({name}) is {_named(bare, names)}"
    if _is_union(bare):
        tests = [_test(member, name, names) for member in get_args(bare)]
        known = [test for test in tests if test is not None]
        return f"({' or '.join(sorted(known, key=len))})" if len(known) == len(tests) else None
    return _test_of_many(bare, name, names)


def _test_of_many(bare: Any, name: str, names: Names) -> str | None:
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        return f"(type({name}) is str and {name} in {_named(frozenset(arguments), names)})"
    if origin is tuple and arguments[1:] == (...,):
        item = _bare(arguments[0])
        members = frozenset(map(_bare, get_args(item)) if _is_union(item) else (item,))
        if not all(one is str or _is_model(one) for one in members):
            return None
        return f"(type({name}) is tuple and _all_of({name}, {_named(members, names)}))"
    if origin is dict and arguments == (str, JsonValue):
        return f"_is_flat({name})"
    return None


def _named(value: object, names: Names) -> str:
    name = f"_v{len(names)}"
    names[name] = value
    return name


def _bare(kind: Any) -> Any:
    """Return a type without the names and notes that were put on it."""
    while True:
        if isinstance(kind, NewType):
            kind = kind.__supertype__
        elif isinstance(kind, TypeAliasType) and kind is not JsonValue:
            kind = kind.__value__
        elif get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        else:
            return kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in {Union, UnionType}


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _all_of(values: tuple[object, ...], types: frozenset[type]) -> bool:
    for value in values:  # noqa: SIM110 - a loop takes a third of the time of all() here
        if type(value) not in types:
            return False
    return True


def _is_flat(value: object) -> bool:
    """Whether it is an object of JSON whose values are texts, integers, truths or nothing."""
    if type(value) is not dict:
        return False
    for key, inner in value.items():
        if type(key) is not str or type(inner) not in _PLAIN:
            return False
    return True


__all__ = ["Made"]
