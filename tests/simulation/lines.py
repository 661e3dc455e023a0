"""Lines between a worker and its supervisor: in order, slow at times, and lost from one word on.

A line that is cut loses what is on the way in both directions; both ends notice, and the worker
makes a new one and greets anew. What the next beat and the file tell as well is left out when the
socket is full.
"""

from typing import TYPE_CHECKING

from paddock.session_worker.protocol import Durable, FromWorker, ToWorker
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.worker import Worker


class Line:
    """One connection."""

    def __init__(self, world: World, worker: "Worker", host: "Host", *, is_full: bool) -> None:
        self.world = world
        self.worker = worker
        self.host = host
        self.is_cut = False
        self._is_full = is_full
        self._cuts = 0
        self._up_due = self._down_due = 0.0

    def up(self, word: FromWorker) -> None:
        """Send a word to the supervisor."""
        world = self.world
        is_left_out = self._is_full and isinstance(word, Durable) and world.chance() < 0.5
        if self.is_cut or is_left_out:
            return
        delay = 0.0001 + 0.01 * world.chance() ** 3
        self._up_due = max(self._up_due, world.now + delay)
        world.after(self._up_due - world.now, world.nobody, self._arrive_up, word, self._cuts)

    def down(self, word: ToWorker) -> None:
        """Send a word to the worker."""
        world = self.world
        if self.is_cut:
            return
        delay = 0.0001 + 0.01 * world.chance() ** 3
        self._down_due = max(self._down_due, world.now + delay)
        process = self.worker.process
        world.after(self._down_due - world.now, process, self._arrive_down, word, self._cuts)

    def _arrive_up(self, word: FromWorker, cuts: int) -> None:
        if cuts == self._cuts:
            self.host.arrives(self, word)

    def _arrive_down(self, word: ToWorker, cuts: int) -> None:
        if cuts == self._cuts:
            self.worker.heard(self, word)

    def cut(self) -> None:
        """Lose what is on the way."""
        if self.is_cut:
            return
        self._cuts += 1
        if self.world.is_mutated("line_reconnects_silently"):
            return
        self.is_cut = True
        self.world.soon(self.worker.process, self.worker.line_lost, self)
        self.world.soon(self.host.process, self.host.line_lost, self)
