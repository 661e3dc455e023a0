"""What a session is given of the environment of the client that makes it (DESIGN §8).

Only an allow-list goes in, so that a secret in a shell's environment does not end up in a log; and
secrets go as references (``env:NAME``), with their values beside them, kept in memory alone.
"""

from collections.abc import Iterable, Mapping

from paddock.store.errors import Refused

ALLOWED = (
    "PATH",
    "HOME",
    "LANG",
    "LANGUAGE",
    "TERM",
    "SHELL",
    "USER",
    "LOGNAME",
    "TZ",
    "VIRTUAL_ENV",
)
ALLOWED_PREFIXES = ("LC_",)

SECRETS = (
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "OPENROUTER_API_KEY",
    "MISTRAL_API_KEY",
    "GROQ_API_KEY",
    "DEEPSEEK_API_KEY",
)
"""Keys of model providers, given to a session (by reference) when they are there."""

SETTINGS = ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL")
"""Where a provider is reached; no secrets, but a session needs them to reach its model."""


class NoSuchVariable(Refused):
    """A variable that was named is not set."""

    code = "no_such_variable"


def collect(environment: Mapping[str, str], names: Iterable[str] = ()) -> dict[str, str]:
    """Return what of ``environment`` a session's tools are given; ``names`` go in besides.

    Raises:
        NoSuchVariable: One of ``names`` is not set.
    """
    chosen = {
        name: value
        for name, value in environment.items()
        if name in ALLOWED or name in SETTINGS or name.startswith(ALLOWED_PREFIXES)
    }
    for name in names:
        if name not in environment:
            message = f"the variable {name!r} is not set here; set it, or leave out --env {name}"
            raise NoSuchVariable(message, name=name)
        chosen[name] = environment[name]
    return chosen


def credentials(environment: Mapping[str, str], names: Iterable[str] = SECRETS) -> dict[str, str]:
    """Return the secrets that are set, by reference: ``{"env:NAME": value}``."""
    return {f"env:{name}": environment[name] for name in names if environment.get(name)}
