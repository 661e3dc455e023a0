"""The ordinary worker and the ordinary zygote, their points told to ``faults``.

Loaded by the zygote before anything is forked; what is wrapped here is wrapped in every worker.
"""

import os
import threading
from typing import Any

from paddock.session_worker import main
from paddock.session_worker.loop import SessionLoop
from paddock.session_worker.protocol import Hello
from paddock.session_worker.stimuli import CallEnded, Stimulus
from paddock.session_worker.toolbox.contract import Plan
from paddock.session_worker.toolbox.processes import owned_processes
from paddock.session_worker.world import World
from paddock.store.ids import ToolCallId
from paddock.store.session_file import SessionFile
from paddock.supervisor import zygote
from tests.crash.faults import Here, is_zygote, reach, write_point
from tests.crash.faulty_files import wrap_session_file

rehearse = main.rehearse  # what a fork in hand lives through before it is a worker: no points


class FaultyWorld(World):
    """Tells where each call is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner_arrive = self._arrive
        self._arrive = self._arrive_at_point
        self._who = self.room.owner.rpartition(".")[0]

    def run_call(self, call_id: ToolCallId, plan: Plan) -> None:
        """Run a call: its intent is durable, and nothing of it was done."""
        if is_told_of(plan):
            reach("call intended", self._who)
            threading.Thread(target=self._watch, daemon=True).start()
        super().run_call(call_id, plan)

    def _watch(self) -> None:
        """Say when the call has a process; it waits for the gate until then."""
        while not owned_processes(self.room.owner):
            pass
        reach("call running", self._who)

    def _arrive_at_point(self, stimulus: Stimulus) -> None:
        if isinstance(stimulus, CallEnded):
            reach("call ended", self._who)
        self._inner_arrive(stimulus)

    def ask_model(self, *args: Any, **kwargs: Any) -> None:
        """Ask: that it is asked is durable."""
        reach("model asked", self._who)
        super().ask_model(*args, **kwargs)


def is_told_of(plan: Plan) -> bool:
    """Whether a call has effects: those are the ones of which faults are ordered."""
    return plan.tool in {"bash", "record"}


class FaultyLoop(SessionLoop):
    """Tells when it greets."""

    def hello(self) -> Hello:
        """Return the greeting, which is sent at once."""
        word = super().hello()
        reach("greeting", word.session_id)
        return word


def run_worker(packed_orders: bytes) -> None:
    """Run a session's worker; never returns."""
    Here.role = "worker"
    main.World = FaultyWorld  # type: ignore[attr-defined]  # what it makes its world of
    main.SessionLoop = FaultyLoop  # type: ignore[attr-defined]
    wrap_session_file()
    _wrap_life_of_file()
    main.run_worker(packed_orders)


def _wrap_life_of_file() -> None:
    """Tell when the file is taken over and given up, and when a snapshot is kept."""
    own, close, save = SessionFile.own, SessionFile.close, SessionFile.save_snapshot

    def owned(folder: Any, session_id: Any, **words: Any) -> SessionFile:
        reach("starting", session_id)
        file = own(folder, session_id, **words)
        reach("file owned", session_id)
        return file

    def closed(self: SessionFile, *, clean: bool) -> None:
        if clean:
            reach("file folded:before", self.session_id)
        close(self, clean=clean)
        if clean:
            reach("file folded:after", self.session_id)

    def saved(self: SessionFile, *args: Any) -> None:
        with write_point("snapshot", self.session_id):
            save(self, *args)

    SessionFile.own = staticmethod(owned)  # type: ignore[method-assign]
    SessionFile.close = closed  # type: ignore[method-assign]
    SessionFile.save_snapshot = saved  # type: ignore[assignment,method-assign]


# --- the zygote -----------------------------------------------------------------------------------


def _wrap_zygote() -> None:
    Here.role = "zygote"
    reach("importing")
    tell, fork = zygote._report, os.fork

    def reported(descriptor: int, report: dict[str, object]) -> bool:
        reach("ready:before")
        is_heard = tell(descriptor, report)
        reach("ready:after")
        return is_heard

    def forked() -> int:
        reach("fork:before")
        pid = fork()
        reach("fork:in the child" if pid == 0 else "fork:after")
        return pid

    zygote._report = reported
    os.fork = forked


if is_zygote():
    _wrap_zygote()
