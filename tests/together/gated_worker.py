"""The ordinary worker, but one call stays under way for ever: whoever kills it then cannot miss.

Beside its workspace stands which: ``<workspace>.gate`` with ``N before`` or ``N after``. The N-th
call of the worker, its intent durable, does nothing, or has its effect and never its result. When
it is so far, ``<workspace>.held`` tells the worker's pid and the call's id.
"""

import json
import os
from typing import Any

from paddock.session_worker import main
from paddock.session_worker.stimuli import CallEnded, Stimulus
from paddock.session_worker.toolbox.contract import Plan
from paddock.session_worker.world import World
from paddock.store.ids import ToolCallId

GATE_SUFFIX = ".gate"
HELD_SUFFIX = ".held"


class GatedWorld(World):
    """Carries out effects, and keeps one of them to itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner_arrive = self._arrive
        self._arrive = self._arrive_unless_held
        self._calls = 0
        self._held: ToolCallId | None = None
        self._gate = self.room.workspace.with_name(self.room.workspace.name + GATE_SUFFIX)

    def run_call(self, call_id: ToolCallId, plan: Plan) -> None:
        """Run a call, unless it is to be under way before it does anything."""
        self._calls += 1
        when = self._when()
        if when is not None:
            self._held = call_id
        if when == "before":
            self._tell()
        else:
            super().run_call(call_id, plan)

    def _when(self) -> str | None:
        """Return when the present call is to be held, or None."""
        if not self._gate.exists():
            return None
        number, when = self._gate.read_text().split()
        return when if int(number) == self._calls else None

    def _arrive_unless_held(self, stimulus: Stimulus) -> None:
        if isinstance(stimulus, CallEnded) and stimulus.tool_call_id == self._held:
            self._tell()
        else:
            self._inner_arrive(stimulus)

    def _tell(self) -> None:
        written = self._gate.with_suffix(".new")
        written.write_text(json.dumps({"pid": os.getpid(), "call": self._held}))
        written.rename(self._gate.with_suffix(HELD_SUFFIX))


def run_worker(packed_orders: bytes) -> None:
    """Run a session's worker; never returns."""
    main.World = GatedWorld  # type: ignore[attr-defined]  # what it makes its world of
    main.run_worker(packed_orders)
