"""The errors that come over the wire, as the classes they were raised from."""

from collections.abc import Iterator, Mapping

import paddock.session_worker.errors
import paddock.supervisor.errors
from paddock.store.errors import PaddockError, Refused

_LOADED = (paddock.session_worker.errors, paddock.supervisor.errors)
"""Modules that are here so that their classes are known by code."""


def error_of(
    code: str | None, message: str, facts: Mapping[str, object] | None = None
) -> PaddockError:
    """Return the error of a code; one that this version does not know is a ``Refused``.

    Its code, as it came, stands in the facts of the latter.
    """
    facts = dict(facts or {})
    for known in _all(PaddockError):
        if known.code == code:
            error = known.__new__(known)
            PaddockError.__init__(error, message, **facts)
            return error
    return Refused(message, **{**facts, "code": code})


def _all(base: type[PaddockError]) -> Iterator[type[PaddockError]]:
    yield base
    for sub in base.__subclasses__():
        yield from _all(sub)
