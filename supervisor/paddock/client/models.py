"""What a client can tell of a model before it asks a host for a session with it."""

from collections.abc import Mapping
from pathlib import Path

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
