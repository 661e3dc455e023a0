"""The host's settings and folders: flags > PADDOCK_* > TOML > defaults, each with its origin.

Pure: the environment and the file's text come in as arguments; ``home`` touches the disk.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paddock.supervisor.errors import BadConfiguration
from paddock.supervisor.fleet import AtCapacity

TABLE = "host"
PREFIX = "PADDOCK_"
DATA, RUNTIME, CONFIG = "data", "run", "config"
"""The names of the folders in a ``PADDOCK_HOME``."""
LARGEST = 10**12
"""Of a count: the wire takes no number above 2**63, and bytes are a million times the megabytes."""


class Settings(BaseModel):
    """How a host behaves. Times are seconds; the reasons stand in ``docs/OPERATIONS.md``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_after_seconds: Annotated[float, Field(ge=0)] = 900.0
    orphan_grace_seconds: Annotated[float, Field(ge=0)] = 300.0
    hang_after_seconds: Annotated[float, Field(gt=0)] = 30.0
    suspend_deadline_seconds: Annotated[float, Field(gt=0)] = 10.0
    start_timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    adopt_within_seconds: Annotated[float, Field(gt=0)] = 10.0
    max_restarts: Annotated[int, Field(ge=0, le=LARGEST)] = 3
    max_restarts_an_hour: Annotated[int, Field(ge=0, le=LARGEST)] = 20
    max_live_sessions: Annotated[int, Field(ge=1, le=LARGEST)] = 256
    at_capacity: AtCapacity = "suspend_idle"
    max_waiting_commands: Annotated[int, Field(ge=1, le=LARGEST)] = 64
    leave_after_seconds: Annotated[float, Field(ge=0)] | None = None
    """A host that nobody uses leaves after so long; None: it stays until it is told to."""
    default_model: str | None = None
    memory_limit_mb: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    memory_reserve_mb: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    """Below so much available memory sessions at rest are suspended; 0: never."""
    cgroups: Literal["auto", "off"] = "auto"
    """Whether tools are put into control groups where the machine gives them."""
    sandbox: Literal["auto", "require", "off"] = "auto"
    """Whether the kernel keeps tools out of the host's folders: where it can, or run none."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a host keeps what."""

    data: Path
    runtime: Path
    config: Path

    @property
    def home(self) -> Path | None:
        """The folder that is Paddock's own as a whole; None where it has only its parts in XDG's.

        Sockets may lie elsewhere: their paths have to be short.
        """
        above = self.data.parent
        return above if (self.data, self.config) == (above / DATA, above / CONFIG) else None

    @property
    def config_file(self) -> Path:
        """The TOML file of the user's own settings."""
        return self.config / "config.toml"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings and folders, and for each of them where it comes from."""

    settings: Settings
    folders: Folders
    origins: Mapping[str, str]


def folders_of(
    environ: Mapping[str, str], flags: Mapping[str, object], *, uid: int, temporary: Path
) -> tuple[Folders, dict[str, str]]:
    """Return the host's folders and where each comes from.

    Everything is under ``PADDOCK_HOME`` where that is set, else in the XDG folders; ``--data`` and
    ``--runtime`` (``PADDOCK_DATA``, ``PADDOCK_RUNTIME``) name one of them.

    Raises:
        BadConfiguration: A folder that is needed cannot be told (no HOME).
    """
    folders: dict[str, Path] = {}
    origins: dict[str, str] = {}
    for name, below in (("data", DATA), ("runtime", RUNTIME), ("config", CONFIG)):
        variable = PREFIX + name.upper()
        if flags.get(name):
            folders[name], origins[name] = Path(str(flags[name])), f"--{name}"
        elif environ.get(variable):
            folders[name], origins[name] = Path(environ[variable]), variable
        elif flags.get("home"):
            folders[name], origins[name] = Path(str(flags["home"])) / below, "--home"
        elif environ.get("PADDOCK_HOME"):
            folders[name] = Path(environ["PADDOCK_HOME"]) / below
            origins[name] = "PADDOCK_HOME"
        else:
            folders[name], origins[name] = _default(name, environ, uid, temporary)
    return Folders(**{name: path.absolute() for name, path in folders.items()}), origins


def load(
    folders: Folders,
    origins: Mapping[str, str],
    *,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    toml: str | None,
) -> Configuration:
    """Return the configuration. ``toml`` is the text of ``folders.config_file``, None if missing.

    Raises:
        BadConfiguration: A value is wrong, or a key unknown; names where it stands and what is
            allowed. The user's fault.
    """
    values: dict[str, object] = {}
    found = dict(origins)
    for key, value in _toml_values(toml, folders.config_file).items():
        values[key], found[key] = value, str(folders.config_file)
    for key in Settings.model_fields:
        variable = PREFIX + key.upper()
        if variable in environ:
            values[key], found[key] = environ[variable], variable
        if flags.get(key) is not None:
            values[key], found[key] = flags[key], "--" + key.replace("_", "-")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _bad(error, found) from error
    for key in Settings.model_fields:
        found.setdefault(key, "default")
    return Configuration(settings, folders, found)


def _toml_values(toml: str | None, path: Path) -> dict[str, Any]:
    if toml is None:
        return {}
    try:
        tables = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        message = f"{str(path)!r} is no TOML: {error}"
        raise BadConfiguration(message, path=str(path)) from error
    unknown = [key for key in tables if key != TABLE]
    host = tables.get(TABLE, {})
    if unknown or not isinstance(host, dict):
        message = f"{str(path)!r}: {(unknown or [TABLE])[0]!r} is unknown: use a table [{TABLE}]"
        raise BadConfiguration(message, path=str(path), key=(unknown or [TABLE])[0])
    return host


def _bad(error: ValidationError, origins: Mapping[str, str]) -> BadConfiguration:
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else "?"
    if first["type"] == "extra_forbidden":
        what = f"is unknown; known are {', '.join(sorted(Settings.model_fields))}"
    else:
        what = f"is {first['input']!r}: {first['msg']}"
    origin = origins.get(key, "?")
    return BadConfiguration(f"{key} (from {origin}) {what}", key=key, origin=origin)


def _default(name: str, environ: Mapping[str, str], uid: int, temporary: Path) -> tuple[Path, str]:
    if name == "runtime":
        return _runtime(environ, uid, temporary)
    if name == "data":
        return _xdg(environ, "XDG_DATA_HOME", ".local/share")
    return _xdg(environ, "XDG_CONFIG_HOME", ".config")


def _xdg(environ: Mapping[str, str], variable: str, below: str) -> tuple[Path, str]:
    if environ.get(variable):
        return Path(environ[variable]) / "paddock", variable
    if not environ.get("HOME"):
        message = "neither PADDOCK_HOME nor HOME is set: say where Paddock may keep its files"
        raise BadConfiguration(message, key="PADDOCK_HOME")
    return Path(environ["HOME"]) / below / "paddock", "default"


def _runtime(environ: Mapping[str, str], uid: int, temporary: Path) -> tuple[Path, str]:
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "paddock", "XDG_RUNTIME_DIR"
    return temporary / f"paddock-{uid}", "default"
