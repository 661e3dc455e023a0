"""A function's parameters as the arguments of a tool: their JSON schema, and checking them."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, create_model

from paddock.session_worker.toolbox.arguments import Arguments, faults_of, schema

type Function = Callable[..., Any]


class BadSignature(Exception):
    """A function cannot be a tool; the message names the parameter. Its author's fault."""

    code = "bad_signature"


class BadArguments(Exception):
    """The arguments of a call do not fit the function; the message names each fault."""

    code = "bad_arguments"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes: ``model`` has a field for each parameter, named after its place."""

    model: type[Arguments]
    names: tuple[str, ...]
    positional: frozenset[str]
    takes_more: bool


def schema_of(function: Function) -> dict[str, object]:
    """Return the JSON schema of a function's parameters, as a model is shown it.

    Raises:
        BadSignature: A parameter has no schema, or no name (``*args``).
    """
    try:
        drawn = dict(schema(signature_of(function).model, by_alias=True))
    except BadSignature:
        raise
    except Exception as error:  # pydantic has no common one for types without a schema
        raise BadSignature(f"{_name(function)} cannot be a tool: {error}") from error
    drawn.setdefault("properties", {})
    return drawn


def signature_of(function: Function) -> Signature:
    """Return what a function takes.

    Raises:
        BadSignature: An annotation cannot be read, or there is ``*args``.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
        hints = typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise BadSignature(f"{_name(function)} cannot be a tool: {error}") from error
    fields: dict[str, Any] = {}
    names, positional, takes_more = [], set(), False
    for place, parameter in enumerate(parameters):
        match parameter.kind:
            case inspect.Parameter.VAR_POSITIONAL:
                raise BadSignature(f"{_name(function)} cannot be a tool: *{parameter.name}")
            case inspect.Parameter.VAR_KEYWORD:
                takes_more = True
                continue
            case inspect.Parameter.POSITIONAL_ONLY:
                positional.add(parameter.name)
            case _:
                pass
        has_default = parameter.default is not inspect.Parameter.empty
        # The field's own name says only the place: a parameter may be called as a method of models.
        fields[f"parameter_{place}"] = (
            hints.get(parameter.name, Any),
            Field(parameter.default if has_default else ..., alias=parameter.name),
        )
        names.append(parameter.name)
    base = _Open if takes_more else _Closed
    return Signature(_model(base, fields), tuple(names), frozenset(positional), takes_more)


def bind(function: Function, arguments: Mapping[str, object]) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and named arguments for a call, checked and made the annotated types.

    Raises:
        BadSignature: The function cannot be a tool.
        BadArguments: They do not fit; each fault is named.
    """
    taken = signature_of(function)
    try:
        checked = taken.model.model_validate(dict(arguments))
    except ValidationError as error:
        raise BadArguments("; ".join(faults_of(error))) from error
    given, positional = {}, []
    for place, name in zip(taken.model.model_fields, taken.names, strict=True):
        if name in taken.positional:
            positional.append(getattr(checked, place))
        elif place in checked.model_fields_set:
            given[name] = getattr(checked, place)
    return positional, {**given, **(checked.model_extra or {})}


class _Closed(Arguments):
    model_config = ConfigDict(arbitrary_types_allowed=False, populate_by_name=False)


class _Open(_Closed):
    model_config = ConfigDict(extra="allow")


def _model(base: type[Arguments], fields: Mapping[str, Any]) -> type[Arguments]:
    return create_model("Parameters", __base__=base, **fields)


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", function))
