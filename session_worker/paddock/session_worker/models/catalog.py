"""Which models there are: providers and their keys, aliases, and what a name stands for.

Any model of a known provider can be asked for by ``PROVIDER:MODEL``; the table of models holds only
those with an alias. Prices and context limits come from ``genai-prices`` and are not kept here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from paddock.session_worker.errors import NeedsCredentials, UnknownModel
from paddock.store.errors import Bug, Refused

type Wire = Literal["anthropic", "openai", "openai-responses", "openrouter"]
"""Which form of request a provider understands."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Somebody on the network who serves models; ``prices`` is its name at ``genai-prices``."""

    name: str
    wire: Wire
    key_variable: str
    base_url: str
    base_url_variable: str | None = None
    default_model: str | None = None
    prices: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A model with short names of its own."""

    provider: str
    model: str
    aliases: tuple[str, ...] = ()
    display_name: str | None = None
    """What people call it; no name to ask for it by (V6)."""
    context_limit: int | None = None
    """Tokens, known before the provider's library is loaded; which then tells the others'."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is found: all that is needed to reach it but the key itself."""

    provider: Provider
    model: str
    base_url: str

    @property
    def name(self) -> str:
        """The name that it can be asked for by again."""
        where = "" if self.is_home else f"@{self.base_url}"
        return f"{self.provider.name}:{self.model}{where}"

    @property
    def is_home(self) -> bool:
        """Whether it is the provider itself that is asked, and not a gateway or another server."""
        return self.base_url.rstrip("/") == self.provider.base_url.rstrip("/")

    @property
    def host(self) -> str:
        """The server that is asked, without what else its address holds."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is a server on this machine, for which nobody is paid."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


class NoModel(Refused):
    """No model was named and none can be chosen: there is no key, or there are several."""

    code = "no_model"


OPENAI = "https://api.openai.com/v1"

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            "anthropic",
            "anthropic",
            "ANTHROPIC_API_KEY",
            "https://api.anthropic.com",
            base_url_variable="ANTHROPIC_BASE_URL",
            default_model="claude-sonnet-5-5",
            prices="anthropic",
        ),
        Provider(
            "openai",
            "openai-responses",
            "OPENAI_API_KEY",
            OPENAI,
            base_url_variable="OPENAI_BASE_URL",
            default_model="gpt-6.1-terra",
            prices="openai",
        ),
        # The same, with the form of request named: a server that is not OpenAI's own is otherwise
        # asked in the older one, which all of them understand.
        Provider(
            "openai-responses",
            "openai-responses",
            "OPENAI_API_KEY",
            OPENAI,
            base_url_variable="OPENAI_BASE_URL",
            prices="openai",
        ),
        Provider(
            "openai-chat",
            "openai",
            "OPENAI_API_KEY",
            OPENAI,
            base_url_variable="OPENAI_BASE_URL",
            prices="openai",
        ),
        Provider(
            "google",
            "openai",
            "GEMINI_API_KEY",
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            default_model="gemini-flash-latest",
            prices="google",
        ),
        Provider(
            "openrouter",
            "openrouter",
            "OPENROUTER_API_KEY",
            "https://openrouter.ai/api/v1",
            prices="openrouter",
        ),
        Provider("groq", "openai", "GROQ_API_KEY", "https://api.groq.com/openai/v1", prices="groq"),
        Provider(
            "deepseek",
            "openai",
            "DEEPSEEK_API_KEY",
            "https://api.deepseek.com",
            default_model="deepseek-chat",
            prices="deepseek",
        ),
        Provider(
            "mistral",
            "openai",
            "MISTRAL_API_KEY",
            "https://api.mistral.ai/v1",
            default_model="mistral-large-latest",
            prices="mistral",
        ),
    )
}

MODELS: tuple[Entry, ...] = (
    Entry("anthropic", "claude-opus-5-5", ("opus",), "Claude Opus 5.5", 1_000_000),
    Entry("anthropic", "claude-sonnet-5-5", ("sonnet",), "Claude Sonnet 5.5", 1_000_000),
    Entry("anthropic", "claude-haiku-5-5", ("haiku",), "Claude Haiku 5.5", 1_000_000),
    Entry("openai", "gpt-6.1-terra", ("gpt",), "GPT-6.1 Terra", 1_050_000),
    Entry("google", "gemini-flash-latest", ("gemini",), "Gemini Flash"),
)

KEYLESS = "none-needed"
"""What is sent as a key to a server of one's own that asks for none."""

_KEY = re.compile(r"[!-~]+")
"""What can stand in a header; of others the libraries say "Connection error", again and again."""

_FAMILIES = {"claude-": "anthropic", "gpt-": "openai", "o3": "openai", "o4-": "openai"}
"""How a model's own name tells who serves it."""


def merge(*catalogs: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the catalogs as one; a later entry of the same model takes the place of an earlier.

    Raises:
        Bug: Two models share an alias or a display name, or an alias is also a model's own name.
    """
    merged: dict[tuple[str, str], Entry] = {}
    for catalog in catalogs:
        merged.update({(entry.provider, entry.model): entry for entry in catalog})
    entries = tuple(merged.values())
    for names, what in (
        ([name for entry in entries for name in (*entry.aliases, entry.model)], "name"),
        ([entry.display_name for entry in entries if entry.display_name], "display name"),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"the {what} {twice[0]!r} stands for two models; give one of them another"
            raise Bug(message, name=twice[0])
    return entries


def resolve(name: str, environment: Mapping[str, str], models: tuple[Entry, ...] = MODELS) -> Place:
    """Return where the model of that name is found.

    A name is an alias, a model's own name where that tells its provider, ``PROVIDER:MODEL`` or
    ``PROVIDER/MODEL``, each with ``@BASE_URL`` behind it if it is served elsewhere.

    Raises:
        UnknownModel: No provider or alias of that name, or an address that can be none; the message
            names what is possible.
    """
    asked, _, base_url = name.partition("@http")
    base_url = f"http{base_url}" if base_url else ""
    provider, model = _split(asked, models)
    if provider not in PROVIDERS or not model:
        raise UnknownModel(_what_is_possible(name), model=name)
    found = PROVIDERS[provider]
    from_environment = environment.get(found.base_url_variable or "")
    if from_environment and not base_url:
        _check_address(from_environment, f"{found.base_url_variable} in the environment")
    elif base_url:
        _check_address(base_url, f"model {name!r}")
    place = Place(found, model, base_url or from_environment or found.base_url)
    if found.name == "openai" and not place.is_home:
        return replace(place, provider=PROVIDERS["openai-chat"])
    return place


def _check_address(base_url: str, where: str) -> None:
    try:
        parts = urlsplit(base_url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number or too large, half an IPv6 address
        is_one = False
    if not is_one or not base_url.isprintable() or " " in base_url:
        message = f"{where}: {base_url!r} is no address; write http://HOST[:PORT]/v1, or https://"
        raise UnknownModel(message, base_url=base_url)


def _split(asked: str, models: tuple[Entry, ...]) -> tuple[str, str]:
    """Return the provider's and the model's name, empty where unknown."""
    for entry in models:
        if asked in (*entry.aliases, entry.model):
            return entry.provider, entry.model
    for separator in (":", "/"):
        provider, found, model = asked.partition(separator)
        if found and provider in PROVIDERS:
            return provider, model
    for start, provider in _FAMILIES.items():
        if asked.startswith(start):
            return provider, asked
    return "", ""


def _what_is_possible(name: str) -> str:
    aliases = ", ".join(alias for entry in MODELS for alias in entry.aliases)
    return (
        f"model {name!r} is unknown; use script:FILE, PROVIDER:MODEL with one of the providers "
        f"{', '.join(PROVIDERS)}, openai:MODEL@http://HOST/v1 for a server of your own, or one of "
        f"the aliases {aliases}"
    )


def key_of(place: Place, environment: Mapping[str, str]) -> str:
    """Return the key for a place; a server of one's own may do without.

    Raises:
        NeedsCredentials: The variable is not set, or to what can be no key; the message names it.
    """
    variable = place.provider.key_variable
    key = environment.get(variable, "")
    if key and not _KEY.fullmatch(key):
        message = (
            f"the value of {variable} can be no key: it holds a blank, a line end or a character "
            "that is not ASCII; set it anew"
        )
        raise NeedsCredentials(message, variable=variable, model=place.name)
    if key:
        return key
    if not place.is_home:
        return KEYLESS
    message = f"model {place.name!r} needs a key: set {variable} in the environment"
    raise NeedsCredentials(message, variable=variable, model=place.name)


def default_model(environment: Mapping[str, str]) -> str:
    """Return the model of the one provider whose key is there.

    Raises:
        NoModel: There is no key, or there are several.
        NeedsCredentials, UnknownModel: Its key can be none, or the address that is set for it.
    """
    possible = [provider for provider in PROVIDERS.values() if provider.default_model]
    with_key = [provider for provider in possible if environment.get(provider.key_variable)]
    variables = ", ".join(provider.key_variable for provider in possible)
    if not with_key:
        message = f"no model was named and there is no key: name one (--model), or set {variables}"
        raise NoModel(message, variables=variables)
    names = [f"{provider.name}:{provider.default_model}" for provider in with_key]
    if len(names) > 1:
        message = f"no model was named and there are several keys: name one of {', '.join(names)}"
        raise NoModel(message, models=names)
    key_of(resolve(names[0], environment), environment)  # before a session is made for nothing
    return names[0]


def context_limit(place: Place, models: tuple[Entry, ...] = MODELS) -> int | None:
    """Return the context limit of a model of the table; None is "not in the table"."""
    for entry in models:
        if entry.model == place.model:
            return entry.context_limit
    return None
