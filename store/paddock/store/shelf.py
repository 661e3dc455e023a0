"""Entries of a snapshot that stay as they were stored until somebody asks for one of them.

A session of 10,000 events has 2,500 messages and calls in its snapshot; to make all of them took
most of the time in which it woke, and the next turn looks at few (benchmarks/README.md).
"""

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, cast

from pydantic import TypeAdapter


class Shelf[K, V](dict[K, V]):
    """A dict whose values may be JSON still; whoever asks for one gets it made, once.

    What is looked at and changed is the made value, as in any dict.
    """

    __slots__ = ("_kind",)

    def __init__(self, kind: TypeAdapter[V], stored: Mapping[K, bytes]) -> None:
        super().__init__(stored)  # type: ignore[arg-type]  # made when asked for
        self._kind = kind

    def __getitem__(self, key: K) -> V:
        """Return a value, made now if it was not yet."""
        kept: V | bytes = super().__getitem__(key)
        if not isinstance(kept, bytes):
            return kept
        value = self._kind.validate_json(kept)
        self[key] = value
        return value

    def __iter__(self) -> Iterator[K]:
        """Yield the keys; without a method of its own ``dict(shelf)`` would copy what is stored."""
        return super().__iter__()

    def get(self, key: K, default: Any = None) -> Any:
        """Return a value, or the default."""
        return self[key] if key in self else default  # noqa: SIM401 - this is that get

    def pop(self, key: K, *default: Any) -> Any:
        """Take a value out."""
        return super().pop(key, *default) if key not in self else self._taken(key)

    def values(self) -> ValuesView[V]:  # type: ignore[override]  # a view of a dict all the same
        """Return all values, made."""
        return dict(self).values()

    def items(self) -> ItemsView[K, V]:  # type: ignore[override]
        """Return all entries, made."""
        return dict(self).items()

    def __eq__(self, other: object) -> bool:
        """Whether all entries are the same, made."""
        return dict(self) == (dict(other) if isinstance(other, Shelf) else other)

    __hash__ = None  # as dict's

    def __repr__(self) -> str:
        """Show what a dict would."""
        return repr(dict(self))

    def _taken(self, key: K) -> V:
        value = self[key]
        del self[key]
        return value

    def __reduce__(self) -> Any:
        """Be copied and pickled as a plain dict."""
        return dict, (dict(self),)


def packed[K, V](kind: TypeAdapter[V], entries: dict[K, V]) -> dict[K, bytes]:
    """Return entries as JSON; what was not made since it was loaded is taken as it is."""
    kept = cast("ItemsView[K, V | bytes]", dict.items(entries))
    return {
        key: value if isinstance(value, bytes) else kind.dump_json(value) for key, value in kept
    }
