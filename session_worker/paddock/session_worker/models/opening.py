"""The model that goes by a name: what it takes to ask it is imported when it is opened."""

from collections.abc import Mapping

from paddock.session_worker.errors import UnknownModel
from paddock.session_worker.model import Model, Named
from paddock.session_worker.models import catalog

SCRIPT_PREFIX = "script:"


def named(name: str | None, environment: Mapping[str, str]) -> Named:
    """Return who a model's name stands for, as :func:`open_model` will find it; nothing is read."""
    if name is None:
        return Named()
    if name.startswith(SCRIPT_PREFIX):
        return Named("script", name.removeprefix(SCRIPT_PREFIX))
    try:
        place = catalog.resolve(name, environment)
    except UnknownModel:
        return Named(model=name)
    return Named(place.provider.name, place.model, catalog.context_limit(place))


def open_model(name: str, environment: Mapping[str, str]) -> Model:
    """Return the model of that name: ``script:FILE``, ``PROVIDER:MODEL[@BASE_URL]`` or an alias.

    Nothing is sent yet. A script is read and checked; a provider's library is loaded in a thread.

    Raises:
        UnknownModel: There is no such provider, alias or script, or the script is no script.
        NeedsCredentials: The provider's key is not in ``environment``.
    """
    # Imported here: a session with a script never loads what providers need.
    if name.startswith(SCRIPT_PREFIX):
        from paddock.session_worker.models.script import open_script

        return open_script(name.removeprefix(SCRIPT_PREFIX))
    place = catalog.resolve(name, environment)
    key = catalog.key_of(place, environment)
    from paddock.session_worker.models.provider import ProviderModel

    return ProviderModel(place, key)
