"""Any event that can have happened, for hypothesis: drawn from the models' own annotations."""

import types
from typing import Annotated, Any, Literal, NewType, TypeAliasType, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

from paddock.store.events import KINDS, EventBase

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: INTEGERS,
    float: FLOATS,
    bool: st.booleans(),
    type(None): st.none(),
    JsonValue: JSON,
}


def events() -> st.SearchStrategy[EventBase]:
    return st.one_of([of_model(model) for model in KINDS.values()])


def of_model(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    return st.builds(
        model, **{name: of_type(field.annotation) for name, field in model.model_fields.items()}
    )


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, NewType):
        return of_type(kind.__supertype__)
    if isinstance(kind, TypeAliasType):
        return of_type(kind.__value__)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return of_model(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return of_type(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in {Union, types.UnionType}:
        return st.one_of([of_type(member) for member in arguments])
    if origin is tuple:
        return st.lists(of_type(arguments[0]), max_size=3).map(tuple)
    assert origin is dict, kind
    return st.dictionaries(of_type(arguments[0]), of_type(arguments[1]), max_size=3)
