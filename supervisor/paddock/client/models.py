"""What a client can tell of a model or agent before it asks a host for a session with it."""

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from paddock.client.plainly import shown
from paddock.session_worker.errors import AgentNotFound, BadArgument

SCRIPT = "script:"


def absolute_model[M: str | None](model: M) -> M | str:
    """Return a model's name with the path of a script made absolute: the host stands elsewhere."""
    if not isinstance(model, str) or not model.startswith(SCRIPT):
        return model
    return f"{SCRIPT}{Path(model.removeprefix(SCRIPT)).expanduser().resolve()}"


def check_name(model: str) -> None:
    """Say at once that no model goes by a name, be its key there or not.

    Raises:
        UnknownModel: There is none; or a script is missing, or is none.
    """
    if model.startswith(SCRIPT):
        from paddock.session_worker.models.script import open_script

        open_script(model.removeprefix(SCRIPT))
        return
    from paddock.session_worker.models.catalog import resolve

    resolve(model, {})


def check_model(model: str, environment: Mapping[str, str]) -> None:
    """Say at once what a session would only find out at its first request.

    Raises:
        UnknownModel: No model goes by that name; or a script is missing, or is none.
        NeedsCredentials: Its key is not in the environment.
    """
    check_name(model)
    if model.startswith(SCRIPT):
        return
    from paddock.session_worker.models.catalog import key_of, resolve

    key_of(resolve(model, environment), environment)


def folders_of(python_path: object) -> tuple[str, ...]:
    """Return the folders of a python_path as text.

    Raises:
        BadArgument: It is no list of folders.
    """
    if not isinstance(python_path, list | tuple):
        raise BadArgument(f"python_path is a list of folders; not {shown(python_path)}")
    return tuple(str(folder) for folder in python_path)


def check_agent(agent: object, python_path: Sequence[str]) -> None:
    """Say at once that an agent's module is not there; nothing of it is imported here.

    Raises:
        AgentNotFound: There is no such package or module.
        BadArgument: An agent cannot be named so.
    """
    if agent == "builtin":
        return
    if not isinstance(agent, str):
        message = f"an agent is named by a text, 'MODULE:FUNCTION'; not by {shown(agent)}"
        raise BadArgument(message)
    package = agent.partition(":")[0].partition(".")[0]
    if not package or PathFinder.find_spec(package, [*python_path, *sys.path]) is None:
        message = (
            f"agent {agent!r}: there is no module {package!r}; name MODULE:FUNCTION of a module "
            "that can be imported from here, or `builtin`"
        )
        raise AgentNotFound(message, agent=agent)
