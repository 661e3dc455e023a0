"""How payloads of older versions become today's: a pure function a kind, applied on reading.

A field that is only added, with a default, needs nothing here. Each entry below has a golden file
of the old form under ``tests/store/golden``.
"""

from collections.abc import Callable, Mapping

type Payload = dict[str, object]

UPCASTS: Mapping[str, Callable[[Payload], Payload]] = {}
"""By kind; empty in format version 1, the first."""


def upcast(kind: str, payload: Payload) -> Payload:
    """Return the payload in today's form."""
    change = UPCASTS.get(kind)
    return payload if change is None else change(payload)
