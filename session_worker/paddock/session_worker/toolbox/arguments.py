"""The arguments of a call: what a tool takes, and which faults a call's arguments have."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from paddock.session_worker.toolbox.contract import BadCall

# A file's path, under either of the names that models know it by.
FilePath = Annotated[
    str,
    Field(
        validation_alias=AliasChoices("path", "file_path"),
        min_length=1,
        description="The file, relative to the workspace or absolute.",
    ),
]


class Arguments(BaseModel):
    """Base of the built-in tools' arguments: frozen, nothing beyond the fields, no guessing."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True
    )


@cache
def schema(kind: type[Arguments], *, by_alias: bool = False) -> dict[str, object]:
    """Return the JSON schema a model is shown, without the titles that only cost it tokens.

    Drawn once for each kind; not to be changed by who gets it.
    """
    drawn = kind.model_json_schema(by_alias=by_alias)
    return _plain({key: value for key, value in drawn.items() if key != "description"})


def read[A: Arguments](kind: type[A], tool: str, arguments: Mapping[str, object]) -> A:
    """Return the arguments of a call, checked.

    Raises:
        BadCall: Names every argument that is missing, unknown, or of the wrong type.
    """
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        raise BadCall(f"{tool}: {'; '.join(faults_of(error))}") from error


def faults_of(error: ValidationError) -> list[str]:
    """Return what is wrong with each argument, in words that name it and never show its value."""
    return [_fault(tuple(item["loc"]), item["type"], item["msg"]) for item in error.errors()]


def _fault(where: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(map(str, where))
    match kind:
        case "missing":
            return f"missing argument {name!r}"
        case "extra_forbidden":
            return f"unknown argument {name!r}"
        case _:
            return f"argument {name!r}: {message}" if name else message


def _plain(schema: dict[str, object]) -> dict[str, object]:
    """Return the schema without ``title``s; properties that bear that name stay."""
    plain: dict[str, object] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key in ("properties", "$defs") and isinstance(value, dict):
            plain[key] = {name: _plain(inner) for name, inner in value.items()}
        elif isinstance(value, dict):
            plain[key] = _plain(value)
        elif isinstance(value, list):
            plain[key] = [_plain(item) if isinstance(item, dict) else item for item in value]
        else:
            plain[key] = value
    return plain
