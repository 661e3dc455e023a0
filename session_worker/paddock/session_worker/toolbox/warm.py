"""The worker's side of the template (``template.py``): Python functions that start warm.

One template a worker, started with the first call, by exec. Whatever is wrong with it, a call can
always be started cold instead, under the same limits; nothing here can fail a call.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from paddock.session_worker.toolbox import processes
from paddock.session_worker.toolbox.child import FOLDER, Command
from paddock.session_worker.toolbox.contract import Limits
from paddock.session_worker.toolbox.descriptors import in_memory
from paddock.session_worker.toolbox.keeping import Forked
from paddock.session_worker.toolbox.marks import mark_of
from paddock.session_worker.toolbox.threads import in_thread, to_its_end

TEMPLATE: Final = str(FOLDER / "template.py")
GO: Final = b"g"
IDLE_SECONDS = 60.0
"""Then a template leaves: a session at rest costs nothing, and its next call is as a first."""
START_SECONDS = 30.0
"""For loading a session's modules; who takes longer is loaded by each call, within its limits."""
FORK_SECONDS = 5.0
"""For a fork of a few milliseconds: a template that was stopped is not waited for."""
LOOK_SECONDS = 0.25
END_SECONDS = 5.0
TRIES = 2
"""A template that just left, or has old code, is followed by one other."""
FAILURES = 3
"""Templates that never came up; then this worker's calls start cold."""
WORD_BYTES = 4096


class Warm:
    """The template of a worker, and how calls are started from it."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._functions: list[str] = []
        self._path: list[str] = []
        self._template: _Template | None = None
        self._failures = 0
        self._turn = asyncio.Lock()

    def add(self, function: str, path: Sequence[str]) -> None:
        """Let the next template load a function (``module:qualname``), found in ``path``."""
        self._functions.append(function)
        self._path += [folder for folder in path if folder not in self._path]

    @property
    def pid(self) -> int | None:
        """The template's process, while there is one."""
        return None if self._template is None else self._template.pid

    async def start(self, command: Command, words: Sequence[str]) -> Forked | None:
        """Start a call's keeper, given its ``words``, from the template.

        ``command`` passes on the descriptors of request and result. None: start it cold.
        """
        if not _can_be_warm() or not command.folder.is_dir():
            return None
        async with self._turn:
            for _ in range(TRIES):
                template = self._template or await self._begin(command)
                if template is None:
                    return None
                forked = await template.fork(command, words)
                if forked is not None:
                    return forked
                await self._end()
        return None

    async def close(self) -> None:
        """End the template; calls that it started do not notice."""
        async with self._turn:
            await self._end()

    async def _begin(self, command: Command) -> "_Template | None":
        if self._failures == FAILURES:
            return None
        template = _Template(command)
        try:
            orders = {
                "path": [*self._path, *sys.path],
                "functions": self._functions,
                "idle_seconds": self._idle_seconds,
                "mark": template.mark,
                "group": command.room.confines.group or "",
            }
            is_ready = await template.is_ready(json.dumps(orders).encode(), command)
        except BaseException:
            await to_its_end(template.end())
            raise
        if is_ready:
            self._template, self._failures = template, 0
            return template
        self._failures += 1
        await to_its_end(template.end())
        return None

    async def _end(self) -> None:
        template, self._template = self._template, None
        if template is not None:
            await to_its_end(template.end())


class _Template:
    """A template's process."""

    def __init__(self, command: Command) -> None:
        self._loop = asyncio.get_running_loop()
        self._call = secrets.token_hex(8)  # as long as a call's own: a fork writes that over it
        environment = {
            **command.environment,
            processes.CALL_VARIABLE: self._call,
            processes.KEEPER_VARIABLE: "1",
        }
        self._owner = environment[processes.OWNER_VARIABLE]
        self.mark = mark_of(self._owner, self._call)
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.setblocking(False)  # noqa: FBT003 - it takes no keyword
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", TEMPLATE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=command.folder,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def is_ready(self, orders: bytes, command: Command) -> bool:
        """Give it its orders; tell whether it has loaded what they name and may fork.

        What a module does while it loads is bound here: a call that loads it again, cold, tells
        what came of it.
        """
        try:
            self._door.send(orders)
        except OSError:  # it left, or the orders are too long
            return False
        deadline = time.monotonic() + min(START_SECONDS, command.seconds)
        while time.monotonic() < deadline:
            word, _ = await self._hear(LOOK_SECONDS)
            if word is not None:
                return bool(json.loads(word or b"{}").get("threads") == 1)
            if not await in_thread(lambda: self._is_within(command.limits)):
                return False
        return False

    def _is_within(self, limits: Limits) -> bool:
        found = processes.owned_processes(self._owner, self._call)
        memory = sum(_resident_bytes(one.pid) for one in found)
        return len(found) <= limits.processes and memory <= (limits.memory_bytes or memory)

    async def fork(self, command: Command, words: Sequence[str]) -> Forked | None:
        """Fork a call's keeper and let it go; None if the template is of no use any more."""
        request, result = command.pass_fds
        orders = {
            "words": [word for word in words if not word.startswith("pass=")] + ["pass="],
            "environment": dict(command.environment),
            "folder": str(command.folder),
        }
        with in_memory(json.dumps(orders).encode()) as asked:
            leash, our_leash = os.pipe()
            our_frames, frames = os.pipe()
            given = [leash, frames, asked.fileno(), request, result]
            process = -1
            try:
                socket.send_fds(self._door, [GO], given)
                _, process = await self._hear(FORK_SECONDS)
            except OSError:
                pass  # it is gone
            finally:
                os.close(leash)
                os.close(frames)
                if process < 0:  # nothing was started, or it finds its leash broken
                    os.close(our_leash)
                    os.close(our_frames)
            if process < 0:
                return None
            forked = Forked(process, our_leash, our_frames)
            forked.go(GO)
            return forked

    async def _hear(self, seconds: float) -> tuple[bytes | None, int]:
        """Return what it says next, b"" at its end, and a pidfd; (None, -1) after so long."""
        ready = asyncio.Event()
        self._loop.add_reader(self._door, ready.set)
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
            flags = socket.MSG_CMSG_CLOEXEC
            word, descriptors, _, _ = socket.recv_fds(self._door, WORD_BYTES, 1, flags)
        except TimeoutError:
            return None, -1
        except OSError:  # it was killed with orders unread
            return b"", -1
        finally:
            self._loop.remove_reader(self._door)
        return word, descriptors[0] if descriptors else -1

    async def end(self) -> None:
        """Kill it, with whatever its modules started while they were loaded."""
        self._door.close()
        self._process.kill()
        owner, call = self._owner, self._call
        await in_thread(lambda: processes.kill_owned(owner, call, END_SECONDS))
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel holds it
            await in_thread(lambda: self._process.wait(END_SECONDS))


def _can_be_warm() -> bool:
    return sys.platform == "linux" and hasattr(signal, "pidfd_send_signal")


def _resident_bytes(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
