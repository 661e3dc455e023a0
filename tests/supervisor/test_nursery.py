"""Where workers come from: one zygote after the other, whatever becomes of them."""

import os
import signal
import time
from pathlib import Path

import pytest

from paddock.supervisor import children
from paddock.supervisor.nursery import Nursery
from paddock.supervisor.processes import Process
from paddock.supervisor.serve import WORKER

SECONDS = 60.0


async def test_a_zygote_that_was_killed_as_it_became_ready_is_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host stood still from its birth to its death, and hears of both at once."""
    launch, launched = children._launch, []

    def stand_still(target: str, listener: int, alive: int, report: int) -> Process:
        zygote = launch(target, listener, alive, report)
        launched.append(zygote.pid)
        if len(launched) == 1:
            wait_ready(zygote.pid)
            zygote.send(signal.SIGKILL)
            assert zygote.wait_dead(SECONDS)
        return zygote

    monkeypatch.setattr(children, "_launch", stand_still)
    nursery = Nursery(home, WORKER, lambda *_: None)
    nursery.open()
    try:
        # A fork that was made and is not wanted any more: none was left to be asked for.
        assert await nursery.fork(b"", lambda: False) is None
        assert nursery.pid == launched[1]
    finally:
        last = nursery._zygote
        nursery.close()
        if last is not None:
            await last.wait_gone()


def wait_ready(pid: int) -> None:
    """Block until a zygote has said that it is ready: then it minds the deaths of its children."""
    until = time.monotonic() + SECONDS
    while not _handles(pid, signal.SIGCHLD):
        assert time.monotonic() < until, "it does not become ready"
        os.sched_yield()


def _handles(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
