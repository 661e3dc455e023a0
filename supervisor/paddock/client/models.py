"""What a client can tell of a model or agent before it asks a host for a session with it."""

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from paddock.session_worker.errors import AgentNotFound

SCRIPT = "script:"


def absolute_model(model: str | None) -> str | None:
    """Return a model's name with the path of a script made absolute: the host stands elsewhere."""
    if model is None or not model.startswith(SCRIPT):
        return model
    return f"{SCRIPT}{Path(model.removeprefix(SCRIPT)).expanduser().resolve()}"


def check_model(model: str, environment: Mapping[str, str]) -> None:
    """Say at once what a session would only find out at its first request.

    Raises:
        UnknownModel: No model goes by that name; or a script is missing, or is none.
        NeedsCredentials: Its key is not in the environment.
    """
    if model.startswith(SCRIPT):
        from paddock.session_worker.models.script import open_script

        open_script(model.removeprefix(SCRIPT))
        return
    from paddock.session_worker.models.catalog import key_of, resolve

    key_of(resolve(model, environment), environment)


def check_agent(agent: str, python_path: Sequence[str]) -> None:
    """Say at once that an agent's module is not there; nothing of it is imported here.

    Raises:
        AgentNotFound: There is no such package or module.
    """
    if agent == "builtin":
        return
    package = agent.partition(":")[0].partition(".")[0]
    if not package or PathFinder.find_spec(package, [*python_path, *sys.path]) is None:
        message = (
            f"agent {agent!r}: there is no module {package!r}; name MODULE:FUNCTION of a module "
            "that can be imported from here, or `builtin`"
        )
        raise AgentNotFound(message, agent=agent)
