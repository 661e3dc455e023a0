"""Run a command under a keeper of its own and await its end.

The keeper (``keeper.py``) bounds the command and ends whatever it leaves; here its frames are read,
the call's cancellation is passed on, and a keeper that stalls or is killed is dealt with.
"""

import asyncio
import codecs
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paddock.session_worker.toolbox import cgroups, marks, processes
from paddock.session_worker.toolbox.contract import Limits, Progress, Room
from paddock.session_worker.toolbox.keeping import Keeping, Started
from paddock.session_worker.toolbox.output import join, safe
from paddock.session_worker.toolbox.threads import in_thread, to_its_end

FOLDER: Final = Path(__file__).resolve().parent
GRACE_SECONDS = 0.5  # between SIGTERM and SIGKILL: git removes its lock files in it
OVERDUE_SECONDS = 2.0  # how late a keeper may notice its own deadline on a busy machine
STALL_SECONDS = 8.0  # the keeper's time to end a tree (it gives the kernel 5), then it is killed
FORCE_SECONDS = 5.0
READ_BYTES = 256 * 1024
HEADER_BYTES = 5


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: ``arguments`` in ``folder`` with nothing but ``environment``.

    What keeps it in is the room's.
    """

    arguments: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    spool: Path
    seconds: float
    limits: Limits
    room: Room
    pass_fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it wrote.

    ``verdict`` is ``exited`` (by itself), ``timed_out``, ``limit:output``, ``limit:processes``,
    ``limit:memory``, ``limit:cpu``, ``lost`` (its keeper was killed) or ``refused`` (there is no
    sandbox, and one is required; ``refusal`` says why). ``exit_code`` is negative for a signal and
    None when unknown. ``left`` counts processes that the kernel would not let die.
    """

    verdict: str
    exit_code: int | None
    text: str
    total: int
    spool: Path | None
    left: int = 0
    processes: int = 0
    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    refusal: str = ""


type Start = Callable[[Command, Sequence[str]], Awaitable[Keeping | None]]


def python(module: str, folder: Path) -> list[str]:
    """Return what starts the ``main`` of a module in ``folder`` that needs nothing but the library.

    As a module and not as a script, so that its compiled form is kept: 10 to 20 ms a start.
    Isolated and without ``site`` it sees no package and no setting of the user.
    """
    start = f"import sys; sys.path.append({str(folder)!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", start]


def child_environment(room: Room, call: str) -> dict[str, str]:
    """Return the environment of a call's children: the room's, marked, without the host's home."""
    environment = {
        name: value for name, value in room.environment.items() if name != "PADDOCK_HOME"
    }
    environment[processes.OWNER_VARIABLE] = room.owner
    environment[processes.CALL_VARIABLE] = call
    return environment


async def keep(command: Command, progress: Progress, start: Start | None = None) -> Ended:
    """Run a command to its end, which is also the end of everything it started.

    ``start`` may start its keeper, given its words; without, or when that returns None, it is
    started here. On cancellation the tree is ended first (SIGTERM, half a second, SIGKILL; at most
    about fifteen seconds if the kernel holds a process) and CancelledError raised then.

    Raises:
        OSError: The keeper could not be started.
    """
    group = _make_group(command)
    try:
        words = _options(command, group)
        keeper = await start(command, words) if start is not None else None
        kept = _Kept(command, progress, keeper or _start_cold(command, words), group)
        await _wait_ended(kept, command.seconds)
        return kept.ended()
    finally:
        if group is not None:
            cgroups.remove(group)


async def _wait_ended(kept: "_Kept", seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS + OVERDUE_SECONDS):
            await kept.wait_gone()
    except TimeoutError:
        kept.is_overdue = True
        await to_its_end(kept.end())
    except asyncio.CancelledError:
        await to_its_end(kept.end())
        raise
    else:
        if not kept.has_reported:
            await to_its_end(kept.end_by_force())
    finally:
        kept.forget()


def _start_cold(command: Command, words: Sequence[str]) -> Keeping:
    return Started(
        [*python("keeper", FOLDER), *words, "--", *command.arguments],
        command.folder,
        {**command.environment, processes.KEEPER_VARIABLE: "1"},
        command.pass_fds,
    )


class _Kept:
    """A running keeper, seen from the worker."""

    def __init__(
        self, command: Command, progress: Progress, keeper: Keeping, group: Path | None
    ) -> None:
        self.is_overdue = False  # the keeper did not notice its own deadline
        self._command = command
        self._group = group
        self._progress = progress
        self._frames = bytearray()
        self._head = self._tail = b""
        self._seen = ""  # all there is to show, should the keeper never report
        self._report: dict[str, str] = {}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._keeper = keeper
        self._pipe = keeper.frames
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pipe, self._read)

    @property
    def has_reported(self) -> bool:
        return bool(self._report)

    def forget(self) -> None:
        """Give up every handle on the keeper."""
        self._close()
        self._keeper.forget()

    async def wait_gone(self) -> None:
        """Wait until the keeper has left and is reaped; its pipe tells."""
        await self._gone.wait()
        await in_thread(self._keeper.wait)
        self._let_go()

    async def end(self) -> None:
        """Have the keeper end everything, by force if it does not within its time."""
        self._let_go()
        self._keeper.send(signal.SIGCONT)  # what it keeps may have stopped it
        try:
            async with asyncio.timeout(GRACE_SECONDS + STALL_SECONDS):
                await self.wait_gone()
        except TimeoutError:
            await self.end_by_force()
        if not self.has_reported:
            await self.end_by_force()

    async def end_by_force(self) -> None:
        """Kill every process of the call's group and mark, the keeper too, and reap that."""
        self._let_go()
        if self._group is not None:
            group = self._group
            await in_thread(lambda: cgroups.end(group, FORCE_SECONDS))
        environment = self._command.environment
        owner, call = (
            environment[name] for name in (processes.OWNER_VARIABLE, processes.CALL_VARIABLE)
        )
        await in_thread(lambda: processes.kill_owned(owner, call, FORCE_SECONDS))
        self._keeper.send(signal.SIGKILL)
        await in_thread(lambda: self._keeper.wait(FORCE_SECONDS))  # or the kernel holds it
        self._close()

    def ended(self) -> Ended:
        report = self._report
        if not report:
            self._command.spool.unlink(missing_ok=True)
            verdict = "timed_out" if self.is_overdue else "lost"
            return Ended(verdict, None, self._seen, len(self._seen.encode()), None)
        total = int(report["total"])
        return Ended(
            verdict="timed_out" if self.is_overdue else report["verdict"],
            exit_code=int(report["exit"]) if report.get("exit") else None,
            text=join(self._head, self._tail, total) + self._note(),
            total=total,
            spool=self._command.spool if self._command.spool.exists() else None,
            left=int(report.get("left", "0")),
            processes=int(report.get("processes", "0")),
            memory_bytes=int(report.get("memory", "0")),
            cpu_seconds=float(report.get("cpu", "0")),
            refusal=report.get("refusal", ""),
        )

    def _note(self) -> str:
        """Say so where the whole output could not be kept; a part is not kept as the whole."""
        error = self._report.get("spool_error")
        if not error:
            return ""
        self._command.spool.unlink(missing_ok=True)
        return f"\n[the whole output could not be kept: {error}]"

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close()
            return
        self._frames += data
        live = "".join(self._take(letter, body) for letter, body in self._whole_frames())
        if live:
            self._seen = (self._seen + live)[-self._command.limits.output_bytes :]
            self._progress(live)

    def _whole_frames(self) -> Iterator[tuple[str, bytes]]:
        while len(self._frames) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(self._frames[1:HEADER_BYTES], "big")
            if len(self._frames) < end:
                return
            letter, body = chr(self._frames[0]), bytes(self._frames[HEADER_BYTES:end])
            del self._frames[:end]
            yield letter, body

    def _take(self, letter: str, body: bytes) -> str:
        """Take a frame; return what of it is to be shown at once."""
        match letter:
            case "o":
                return safe(self._decoder.decode(body))
            case "d":
                return f"\n[... {int(body):,} bytes not shown live ...]\n"
            case "h":
                self._head = body
            case "t":
                self._tail = body
            case "r":
                lines = body.decode("utf-8", "replace").splitlines()
                self._report = dict(line.split("=", 1) for line in lines)
            case _:
                pass  # a keeper never sends another
        return ""

    def _let_go(self) -> None:
        """Break the leash: the keeper ends what it keeps and leaves."""
        self._keeper.let_go()

    def _close(self) -> None:
        if not self._gone.is_set():
            self._loop.remove_reader(self._pipe)
            self._keeper.close()
        self._gone.set()


def _make_group(command: Command) -> Path | None:
    """Make the call's control group; None where there are none, and where it cannot be made."""
    if command.room.confines.group is None:
        return None
    group = Path(command.room.confines.group) / command.environment[processes.CALL_VARIABLE]
    return group if cgroups.make(group) else None


def _options(command: Command, group: Path | None) -> list[str]:
    limits = command.limits
    environment = command.environment
    confines = command.room.confines
    soft, hard = marks.mark_of(
        environment[processes.OWNER_VARIABLE], environment[processes.CALL_VARIABLE]
    )
    options = {
        "wall": command.seconds,
        "grace": GRACE_SECONDS,
        "cpu": limits.cpu_seconds,
        "processes": limits.processes,
        "memory": limits.memory_bytes or 0,
        "keep": limits.output_bytes,
        "spool": command.spool,
        "spool_limit": limits.spool_bytes,
        "pass": ",".join(map(str, command.pass_fds)),
        "group": group or "",
        "mark": f"{soft}:{hard}",
        "sandbox": confines.sandbox,
        "workspace": os.path.realpath(command.room.workspace),
        "unwritable": (group and cgroups.mount_of(group)) or "",
        "without": ",".join(confines.without),
        **{f"closed.{number}": folder for number, folder in enumerate(confines.closed)},
    }
    return [f"{key}={value}" for key, value in options.items()]
