"""What keeps the tools of this host in: its control group and its sandbox, and what was left.

Both are found out at the start by trying them, and told by ``status``.
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paddock.session_worker.toolbox import cgroups, sandbox
from paddock.session_worker.toolbox.child import FOLDER, python
from paddock.session_worker.toolbox.contract import Confines, Sandbox
from paddock.store.errors import SessionNotFound
from paddock.store.ids import SessionId
from paddock.store.session_file import folder_of, is_owned
from paddock.supervisor.config import Configuration, Folders
from paddock.supervisor.home import SECRET_FILE, Secret

TRIAL_SECONDS = 20.0
"""A trial takes 20 ms; a machine that has just begun may take longer."""


@dataclass(frozen=True, slots=True)
class Walls:
    """What a trial of the sandbox found: its walls by name, or why there are none."""

    names: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def is_veiled(self) -> bool:
        """Whether closed folders can be hidden, so that nothing else is in a tool's way."""
        return sandbox.VEIL in self.names

    def told(self, mode: Sandbox) -> str:
        """Say in a line what tools are kept in by."""
        match mode, bool(self.names):
            case "off", _:
                return "off"
            case _, True:
                return " + ".join(self.names)
            case "require", _:
                return f"none ({self.trouble}): no tool is run in a process"
            case _:
                return f"none ({self.trouble}): tools can read the host's folders"


class Trial:
    """A trial of the sandbox under way, in a process of its own, since nothing can be undone."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="paddock-", ignore_cleanup_errors=True)
        self._walls: Walls | None = None
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*python("sandbox", FOLDER), os.path.realpath(self._folder.name)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def walls(self) -> Walls:
        """Return what it found; the first call may wait for it."""
        with self._lock:
            if self._walls is None:
                self._walls = self._wait()
                self._folder.cleanup()
            return self._walls

    def _wait(self) -> Walls:
        try:
            said, _ = self._process.communicate(timeout=TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return Walls(trouble="the trial did not end")
        verdict, *lines = said.decode("utf-8", "replace").splitlines() or ["no"]
        if verdict == "ok":
            return Walls(tuple(lines))
        return Walls(trouble=" ".join(lines) or "the trial broke")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What keeps a host's tools in; nothing by default."""

    group: Path | None = None
    """The control group of this host's tools; None where groups are not to be had, or off."""
    mode: Sandbox = "off"
    closed: tuple[str, ...] = ()
    trial: Trial | None = None

    @property
    def walls(self) -> Walls:
        """What the sandbox is made of."""
        return Walls() if self.trial is None else self.trial.walls()

    def confines(self) -> Confines:
        """Return what a worker has to know of it."""
        group = None if self.group is None else str(self.group)
        without = () if self.walls.is_veiled else (sandbox.VEIL,)
        return Confines(group, self.mode, self.closed, without)

    def told(self) -> dict[str, str | None]:
        """Return it as ``status`` tells it."""
        group = None if self.group is None else str(self.group)
        return {"cgroup": group, "sandbox": self.walls.told(self.mode)}


def confine(configuration: Configuration, secret: Secret) -> Confinement:
    """Find out what keeps tools in on this machine; the sandbox is tried out meanwhile."""
    settings, folders = configuration.settings, configuration.folders
    group = None
    if settings.cgroups == "auto":
        group = cgroups.open_host(secret.host_id(folders.data), folders.data)
    return Confinement(
        group,
        settings.sandbox,
        closed_of(folders),
        None if settings.sandbox == "off" else Trial(),
    )


def closed_of(folders: Folders) -> tuple[str, ...]:
    """Return the folders that no tool may use, without links; a home of our own is one, whole.

    Its parts are named as well: a workspace may be the home itself, or lie above it.
    """
    closed = [folders.data, folders.runtime, folders.config]
    if folders.home is not None:
        closed.insert(0, folders.home)
    return tuple(os.path.realpath(folder) for folder in closed)


def host_groups(data: Path) -> list[Path]:
    """Return the control groups that a host of this data folder left; it may run still."""
    if not (data / SECRET_FILE).exists():
        return []
    name = cgroups.name_of(Secret.of(data).host_id(data))
    return [base / name for base in cgroups.bases() if (base / name).is_dir()]


def end_what_was_left(
    group: Path, data: Path, *, has_worker: Callable[[SessionId], bool]
) -> list[str]:
    """End the tools of generations that have no worker any more; return whose there were.

    Blocks, so it runs in a thread, once at the start: what a worker begins later is not in the list
    that it works through, and who owns its session's file is a worker, known by now or not.
    """
    ended = []
    for session, folder in list(cgroups.generations(group)):
        session_id = SessionId(session)
        if has_worker(session_id) or _is_owned(data, session_id):
            continue
        if cgroups.end(folder):
            ended.append(folder.name)
    return ended


def _is_owned(data: Path, session_id: SessionId) -> bool:
    try:
        return is_owned(folder_of(data, session_id))
    except SessionNotFound:
        return False
