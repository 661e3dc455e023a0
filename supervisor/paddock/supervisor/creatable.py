"""What a session can be made with, looked at before anything is made."""

from paddock.session_worker.errors import BadArgument
from paddock.store.events import Limits, SessionConfig
from paddock.store.text import whole_value


def creatable(config: SessionConfig) -> SessionConfig:
    """Return a configuration that a log can hold: what was no text in it is mended.

    Raises:
        BadArgument: No worker could live, or no tool could start, with it. Whoever asked for it.
    """
    if config.name is not None:
        nameable(config.name)
    flaw = _flaw_of(config.environment) or _flaw_in(config.limits)
    if flaw is not None:
        raise BadArgument(flaw)
    return SessionConfig.model_validate(whole_value(config.model_dump()))


def nameable(name: str) -> str:
    """Return a session's name.

    Raises:
        BadArgument: It names nothing.
    """
    if not name:
        message = "a session's name needs at least one character"
        raise BadArgument(message)
    return name


def _flaw_of(environment: dict[str, str]) -> str | None:
    """Return why no process could be started with these variables."""
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name:
            return f"{name!r} can be no variable's name; take it out of the environment"
        if "\0" in value:
            return f"the variable {name!r} holds a NUL character, which no process can be given"
    return None


def _flaw_in(limits: Limits) -> str | None:
    for name, value in limits:
        if value is not None and not value > 0:
            return f"the limit {name!r} must be above 0, not {value!r}; leave it out for the host's"
    return None
