"""The ordinary store process, its points told to ``faults``."""

from typing import Any

from paddock.store.process import __main__ as store
from paddock.store.process.keeper import Keeper
from paddock.store.projection.projector import Projector
from paddock.store.projection.writing import Writer
from paddock.supervisor.store_process import Origins
from tests.crash.faults import Here, reach, wrap_before, write_point


def wrap() -> None:
    """Tell every point of this process."""
    init, opened = Writer.__init__, Keeper.open
    commit, erase, stamp = Writer.commit, Writer.erase, Writer.stamp

    def made(self: Writer, connection: Any) -> None:
        init(self, connection)
        self.connection = _Watched(connection)  # type: ignore[assignment]

    def committed(self: Writer, *args: Any) -> None:
        with write_point("rows"):
            commit(self, *args)

    def erased(self: Writer, *args: Any) -> None:
        with write_point("erasure"):
            erase(self, *args)

    def stamped(self: Writer, *args: Any) -> None:
        with write_point("stamps"):
            stamp(self, *args)

    def opens(self: Keeper) -> None:
        reach("locked")
        opened(self)
        reach("open")

    Writer.__init__ = made  # type: ignore[method-assign]
    Writer.commit = committed  # type: ignore[assignment,method-assign]
    Writer.erase = erased  # type: ignore[assignment,method-assign]
    Writer.stamp = stamped  # type: ignore[assignment,method-assign]
    Keeper.open = opens  # type: ignore[method-assign]
    wrap_before(Keeper, "asking", "question")
    wrap_before(Projector, "scan", "scan")
    wrap_before(Projector, "checkpoint", "checkpoint")


class _Watched:
    """The writing connection: reaches a point between the last row and the commit."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None:
        """Commit."""
        reach("rows:in")
        self._connection.commit()


if __name__ == "__main__":
    Here.role = "store"
    wrap()
    store.leave(store.main(origins=Origins))
