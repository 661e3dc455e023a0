"""The ordinary worker, but in one call of one generation it dies by kill -9, just where it is told.

Beside its workspace stands what is fatal: ``<workspace>.fatal`` with ``{"call": N, "at": WHERE}``;
it is turned to ``<workspace>.struck``, with the call's id, before it is obeyed. WHERE is ``before``
the tool does anything (its intent is durable), ``during`` its run (a process of the tool is there),
or ``after`` it (its effect is there, its result is not durable). From outside no kill could be
aimed so well: a file tool takes a millisecond.
"""

import json
import os
import signal
import threading
from typing import Any, NoReturn

from paddock.session_worker import main
from paddock.session_worker.stimuli import CallEnded, Stimulus
from paddock.session_worker.toolbox.contract import Plan
from paddock.session_worker.toolbox.processes import owned_processes
from paddock.session_worker.world import World
from paddock.store.ids import ToolCallId

FATAL_SUFFIX = ".fatal"
STRUCK_SUFFIX = ".struck"


class FatalWorld(World):
    """Carries out effects until the fatal call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner_arrive = self._arrive
        self._arrive = self._arrive_unless_dead
        self._calls = 0
        self._fatal_call: ToolCallId | None = None
        self._orders = self.room.workspace.with_name(self.room.workspace.name + FATAL_SUFFIX)

    def run_call(self, call_id: ToolCallId, plan: Plan) -> None:
        """Run a call, if it is not the fatal one."""
        self._calls += 1
        if self._orders.exists():
            orders = json.loads(self._orders.read_text())
            if orders["call"] == self._calls:
                self._fatal_call = call_id
                if orders["at"] == "before":
                    self._die()
                if orders["at"] == "during":
                    threading.Thread(target=self._die_in_its_run, daemon=True).start()
        super().run_call(call_id, plan)

    def _arrive_unless_dead(self, stimulus: Stimulus) -> None:
        if isinstance(stimulus, CallEnded) and stimulus.tool_call_id == self._fatal_call:
            self._die()
        self._inner_arrive(stimulus)

    def _die_in_its_run(self) -> NoReturn:
        while not owned_processes(self.room.owner):
            pass
        self._die()

    def _die(self) -> NoReturn:
        self._orders.with_suffix(STRUCK_SUFFIX).write_text(str(self._fatal_call))
        self._orders.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a process outlived its kill -9")


def run_worker(packed_orders: bytes) -> None:
    """Run a session's worker; never returns."""
    main.World = FatalWorld  # type: ignore[attr-defined]  # what it makes its world of
    main.run_worker(packed_orders)
