"""A real host for a test, its processes at hand to be killed."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from paddock.client import Host, connect, sync
from paddock.client.places import Places, announced, places_of
from paddock.client.starting import LOG, command_line, environment
from paddock.session_worker.toolbox import cgroups
from paddock.store.errors import PaddockError
from paddock.store.ids import SessionId
from paddock.store.session_file import folder_of, holder_of, start_ticks_of
from paddock.supervisor.children import sweep
from paddock.supervisor.confinement import host_groups
from paddock.testing.scripts import Turn, write_script
from paddock.testing.waiting import wait_until

START_SECONDS = 30.0
END_SECONDS = 20.0


class HostForTests:
    """A host in a home of its own. It is started when it is first needed, or by :meth:`start`.

    ``settings`` go to it as ``PADDOCK_*`` variables: ``HostForTests(home, max_live_sessions=1)``;
    ``arguments`` stand on its command line (``"--worker", "module:function"``).
    """

    def __init__(self, home: Path, *arguments: str, **settings: object) -> None:
        self.home = home
        self.arguments = arguments
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._scripts = itertools.count(1)

    # --- its life ---

    @property
    def places(self) -> Places:
        """Its folders."""
        return places_of(self.home)

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.places.data

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "the host was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there, even if it is stopped or hangs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> int:
        """Start it, if it does not run, and return its pid."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.data / LOG).open("ab") as output:
            self._process = subprocess.Popen(
                [*self.command(), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={**environment(self.places), **_variables(self.settings)},
                start_new_session=True,
            )
        wait_until(self._is_announced, START_SECONDS, what="the host's announcement")
        return self._process.pid

    def command(self) -> list[str]:
        """Return the command that starts it, without its arguments."""
        return command_line(None)

    def _is_announced(self) -> bool:
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"the host ended with {status}: {self.output()}"
        found = announced(self.places)
        return found is not None and found.pid == self._process.pid

    def output(self) -> str:
        """Return what it wrote to stdout and stderr."""
        return (self.data / LOG).read_text("utf-8", "replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill the host and wait until it is gone; its workers live on."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(END_SECONDS)

    def end(self) -> None:
        """End the host and all that it started, by asking and then by force."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._ask_down()
        finally:
            self._end_by_force()

    def _ask_down(self) -> None:
        async def down() -> None:
            host = await connect(self.home, start=False, name="test")
            async with host:
                await host.down(force=True, deadline_seconds=5)

        assert self._process is not None
        try:
            asyncio.run(down())
            self._process.wait(END_SECONDS)
        except (PaddockError, subprocess.TimeoutExpired):
            return  # by force, then

    def kill_all(self) -> None:
        """Kill the host and all that it started, as the loss of a machine does."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait(END_SECONDS)
        wait_until(lambda: not self._processes(), END_SECONDS, what="the end of all processes")

    def _end_by_force(self) -> None:
        """End what is left: a host that was killed could end nothing."""
        self.kill_all()
        for socket in self.places.runtime.glob("*.sock"):
            socket.unlink()
        sweep(self.places.runtime)  # of a zygote that was killed on its way out
        for group in host_groups(self.data):
            cgroups.end(group)

    def _processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _is_of(process, self.data)]

    # --- its sessions ---

    def script(self, *turns: Turn) -> str:
        """Write turns to a file of the home and return the model that says them."""
        folder = self.home / "scripts"
        folder.mkdir(parents=True, exist_ok=True)
        return write_script(folder / f"{next(self._scripts)}.json", turns)

    def client(self) -> sync.Host:
        """Return a client for plain code; close it, or use it in a ``with`` block."""
        self.start()
        return sync.connect(self.home, start=False, name="test")

    async def connect(self) -> Host:
        """Return a client for async code; close it, or use it in an ``async with`` block."""
        await asyncio.to_thread(self.start)
        return await connect(self.home, start=False, name="test")

    def worker_pid(self, session_id: SessionId) -> int | None:
        """Return the pid of the live worker of a session, as its lock file names it."""
        holder = holder_of(folder_of(self.data, session_id))
        if holder is None or not holder.is_alive:
            return None
        # While it buries a worker, the host itself holds the session.
        is_host = self._process is not None and holder.pid == self._process.pid
        return None if is_host else holder.pid

    def kill_worker(self, session_id: SessionId, number: int = signal.SIGKILL) -> int:
        """Kill the worker of a session, wait until it is gone, and return its pid."""
        pid = wait_until(lambda: self.worker_pid(session_id), what=f"a live worker of {session_id}")
        assert pid is not None
        os.kill(pid, number)
        if number == signal.SIGKILL:
            wait_until(lambda: not _is_live(pid), what=f"the end of worker {pid}")
        return pid


def _variables(settings: Mapping[str, object]) -> dict[str, str]:
    return {
        f"PADDOCK_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
    }


def _is_live(pid: int) -> bool:
    return start_ticks_of(pid) is not None


def _is_of(process: psutil.Process, data: Path) -> bool:
    """Whether a host of this home, or something that such a host started, runs in a process."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get("PADDOCK_DATA") == str(data)
    except psutil.Error:
        return False
