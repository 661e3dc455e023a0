"""How much memory sessions use, and whether the machine runs short of it, as ``/proc`` tells.

A session's memory is that of its worker and of all that descends from it: its keepers are
subreapers, so what a tool forks twice is among them still. Reading blocks for some milliseconds (a
look at each process of the machine), so it is done in a thread.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paddock.store.ids import SessionId

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")
MEGABYTE = 1024 * 1024
RESERVE_MB = 512
RESERVE_SHARE = 0.05
"""Of the machine's memory; the smaller one of the two is kept free for what works."""
STALLED_PERCENT = 10.0
"""Of the last ten seconds in which nothing at all could go on for want of memory."""
STALLED_RESERVES = 4
"""Stalls count only below so many reserves: above, they are of somebody's own limit."""
READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Weight:
    """What a session's processes use; shared pages are counted once where it matters."""

    bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """How the machine stands: what can be had without swapping, and how much it stalls."""

    available_bytes: int
    total_bytes: int
    stalled_percent: float = 0.0

    def is_felt(self, reserve_mb: int | None = None) -> bool:
        """Whether sessions at rest should make room; a reserve of 0 switches that off."""
        if reserve_mb == 0:
            return False
        reserve = RESERVE_MB * MEGABYTE if reserve_mb is None else reserve_mb * MEGABYTE
        if reserve_mb is None:
            reserve = min(reserve, int(self.total_bytes * RESERVE_SHARE))
        if self.available_bytes < reserve:
            return True
        is_short = self.available_bytes < reserve * STALLED_RESERVES
        return is_short and self.stalled_percent >= STALLED_PERCENT


def weigh(
    workers: Mapping[SessionId, int], limits: Mapping[SessionId, int], proc: Path = PROC
) -> dict[SessionId, Weight]:
    """Return what each session uses, by the pid of its worker.

    Resident pages are summed, which counts shared ones in each process. Where that sum is above the
    session's limit, proportional shares are asked for instead: they cost more, and are true.
    """
    resident, children = _processes(proc)
    found = {}
    for session_id, worker in workers.items():
        family = _family(worker, children)
        total = sum(resident.get(pid, 0) for pid in family)
        if total > limits.get(session_id, total):
            total = sum(_proportional(pid, proc) or resident.get(pid, 0) for pid in family)
        found[session_id] = Weight(total, len(family))
    return found


def pressure(proc: Path = PROC) -> Pressure | None:
    """Return how the machine stands; None where it does not tell."""
    try:
        lines = (proc / "meminfo").read_text("ascii").splitlines()
        told = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        available, total = told["MemAvailable"], told["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return Pressure(available, total, _stalled(proc))


def _stalled(proc: Path) -> float:
    try:
        for line in (proc / "pressure" / "memory").read_text("ascii").splitlines():
            if line.startswith("full "):
                return float(line.split()[1].removeprefix("avg10="))
    except (OSError, ValueError, IndexError):
        return 0.0  # a kernel without pressure information: what is available must do
    return 0.0


def _processes(proc: Path) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Return the resident bytes of every process, and its children."""
    resident: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    if not proc.is_dir():  # another system: its sessions are judged by what their workers tell
        return resident, children
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        stat = _read(f"{entry.path}/stat")
        fields = stat[stat.rfind(b")") + 2 :].split()  # from the state on, number 3 of proc(5)
        if len(fields) < 22:  # noqa: PLR2004 - it is gone
            continue
        pid = int(entry.name)
        resident[pid] = int(fields[21]) * PAGE_BYTES
        children.setdefault(int(fields[1]), []).append(pid)
    return resident, children


def _family(worker: int, children: Mapping[int, list[int]]) -> list[int]:
    family = [worker]
    for pid in family:  # grows as it goes
        family += children.get(pid, ())
    return family


def _proportional(pid: int, proc: Path) -> int | None:
    for line in _read(f"{proc}/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, READ_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
