"""Keep one command: start it, bound it, gather its output and leave nothing of it behind.

The main of a process of its own with the arguments ``KEY=VALUE... -- COMMAND...``; standard library
only and few imports, since it starts with every call. It stands between a session's worker and
whatever the command does: floods, fork bombs, daemons and memory hogs meet this process.

    worker ── stdin: the leash ──► keeper ── fork, new session ──► command and all it starts
           ◄─ stdout: frames ────         ◄── one pipe for its stdout and stderr ──

The keeper is a child subreaper: whatever the command starts, in whichever session or group, with
whatever environment, becomes the keeper's child when its parent ends. So "no child left" is a fact
the kernel tells (ECHILD), not the result of a search. When the leash breaks (the worker closed it,
or died) everything is asked to end and then killed; on SIGTERM it is killed at once.

Frames on stdout are one letter, four bytes of length, the bytes: ``o`` a piece of output, ``d`` how
many bytes of output were passed over to keep up, at the end ``h`` the head of the output, ``t`` its
tail, and ``r`` the report, ``KEY=VALUE`` lines.
"""

import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False  # as in typing, which takes 10 ms to load
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    type Command = list[str] | Callable[[], None]
if TYPE_CHECKING or __package__:
    from paddock.session_worker.toolbox import sandbox
else:
    import sandbox  # beside this file, which is all that this process can import from

TICK_SECONDS = 0.05  # how late a limit is noticed; 20 looks a second cost 0.1 % of a processor
DRAIN_SECONDS = 0.25  # for what outlives the shell for a moment: `> >(tee log)`, a last line
REAP_SECONDS = 5.0  # SIGKILL cannot be refused, only delayed by a system call that does not return
FRAME_BYTES = 4000  # with its header below PIPE_BUF, so that a frame is written whole or not at all
LIVE_BYTES_PER_TICK = 64 * 1024
READ_BYTES = 256 * 1024
# Read and spooled as fast as it comes, a flood takes two processors and the disk from all sessions.
LARGE_BYTES_PER_SECOND = 256 * 1024 * 1024
# With 10 a command gets a tenth of a processor that a session wants as well, and all of one that
# nobody wants: a command of a quiet session beside three greedy tools took 25 ms in place of 42.
NICENESS = 10
PR_SET_CHILD_SUBREAPER = 36
PAGE_BYTES = resource.getpagesize()
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
THREADS_FIELD = 17  # number 20 of proc(5), counted from the state
REFUSED_TO_START = 126
NOT_FOUND = 127


class Options:
    """What the worker asked for; each one a ``KEY=VALUE`` argument, 0 meaning no limit."""

    def __init__(self, words: list[str]) -> None:
        given = dict(word.split("=", 1) for word in words)
        self.wall_seconds = float(given["wall"])
        self.grace_seconds = float(given["grace"])
        self.cpu_seconds = int(given["cpu"])
        self.processes = int(given["processes"])
        self.memory_bytes = int(given["memory"])
        self.keep_bytes = int(given["keep"])
        self.spool_bytes = int(given["spool_limit"])
        self.spool_path = given["spool"]
        self.pass_fds = [int(number) for number in given["pass"].split(",") if number]
        self.group = given["group"]
        self.sandbox = given["sandbox"]
        self.closed = [given[key] for key in given if key.startswith("closed.")]
        self.unwritable = [given["unwritable"]] if given["unwritable"] else []
        self.without = given["without"].split(",")
        self.workspace = given["workspace"]
        self.mark = tuple(int(number) for number in given["mark"].split(":"))


class Output:
    """What the command wrote: its head and tail in memory, the whole in a file once it is large."""

    def __init__(self, options: Options) -> None:
        self.total = 0
        self.spool_error = ""
        self.is_large = False
        self._keep = options.keep_bytes
        self._path = options.spool_path
        self._spool = -1
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        """Take what was read; a full disk costs the middle of the output, not the call."""
        self.total += len(data)
        if self.total <= self._keep:
            self._head += data
            return
        if not self.is_large:
            data = self._become_large(data)
        self._tail += data
        if len(self._tail) > 4 * self._keep + READ_BYTES:
            del self._tail[: -self._keep]
        self._write(data)

    def _become_large(self, data: bytes) -> bytes:
        """Open the spool; return the output so far, which is all still to be written there."""
        self.is_large = True
        whole = bytes(self._head) + data
        self._head = bytearray(whole[: self._keep // 2])
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._spool = os.open(self._path, flags, 0o600)
        except OSError as error:
            self.spool_error = str(error)
        return whole

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._spool >= 0:
            try:
                view = view[os.write(self._spool, view) :]
            except OSError as error:
                self.spool_error = str(error)
                os.close(self._spool)
                self._spool = -1

    def parts(self) -> tuple[bytes, bytes]:
        """Return head and tail; the tail is empty when the head is all there is."""
        if not self.is_large:
            return bytes(self._head), b""
        return bytes(self._head), bytes(self._tail[-(self._keep - self._keep // 2) :])


class Live:
    """Frames to the worker while the command runs; what does not fit is passed over."""

    def __init__(self) -> None:
        self._skipped = 0
        self._budget = LIVE_BYTES_PER_TICK

    def tick(self) -> None:
        """Allow the next tick's worth of bytes."""
        self._budget = LIVE_BYTES_PER_TICK

    def show(self, data: bytes) -> None:
        """Send what fits and count what does not."""
        for start in range(0, len(data), FRAME_BYTES):
            piece = data[start : start + FRAME_BYTES]
            if self._budget < len(piece) or not self._send(piece):
                self._skipped += len(data) - start
                return
            self._budget -= len(piece)

    def _send(self, piece: bytes) -> bool:
        if self._skipped and not _try_frame(b"d", str(self._skipped).encode()):
            return False
        self._skipped = 0
        return _try_frame(b"o", piece)


class Keeper:
    """One command from its start to the last of its processes."""

    def __init__(self, options: Options, command: "Command") -> None:
        self._options = options
        self._output = Output(options)
        self._live = Live()
        self._started = time.monotonic()
        self._verdict = ""  # why it was ended, when it did not end by itself
        self._is_ending = False
        self._is_hurried = False
        self._exit_status: int | None = None
        self._next_watch = 0.0
        self._gives_way = False
        self._peak_processes = 0
        self._peak_memory = 0
        self._cpu_seconds = 0.0
        self._wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._hurry())
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        self._pipe, write_end = os.pipe()
        self._walls, walls_end = os.pipe()
        os.set_blocking(self._walls, False)
        private = [self._wake, wake_write, self._pipe, write_end, self._walls, walls_end]
        self._command_pid = _start(command, options, write_end, private)
        os.close(write_end)
        os.close(walls_end)
        os.set_blocking(self._pipe, False)
        self._poll = select.poll()
        for descriptor in (0, self._wake, self._pipe):
            self._poll.register(descriptor, select.POLLIN)

    def keep(self) -> None:
        """Await the end, end what is left, report."""
        while not self._has_exited() and not self._verdict:
            self._look(TICK_SECONDS)
        self._linger()
        self._is_ending = True
        if self._verdict in ("timed_out", "cancelled"):
            self._terminate()
        left = self._kill()
        while self._pipe >= 0 and _is_readable(self._pipe):
            self._read()
        self._report(left)

    def _has_exited(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._command_pid, flags) is not None

    def _look(self, seconds: float) -> None:
        ready = {descriptor for descriptor, _ in self._poll.poll(seconds * 1000)}
        if 0 in ready:
            self._end("cancelled")
            self._poll.unregister(0)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._pipe in ready:
            self._read()
        self._watch()

    def _end(self, verdict: str) -> None:
        """Have the command ended; the first reason counts, and none after it ended by itself."""
        if not self._is_ending:
            self._verdict = self._verdict or verdict

    def _hurry(self) -> None:
        """End the command without asking it first."""
        self._is_hurried = True
        self._end("killed")

    def _read(self) -> None:
        """Take what the pipe holds, at most one read; close it at its end."""
        try:
            data = os.read(self._pipe, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._output.add(data)
            self._live.show(data)
            if self._output.is_large:
                time.sleep(len(data) / LARGE_BYTES_PER_SECOND)
            return
        self._poll.unregister(self._pipe)
        os.close(self._pipe)
        self._pipe = -1

    def _watch(self) -> None:
        """Compare what the tree uses with its limits."""
        now = time.monotonic()
        if self._output.total > self._options.spool_bytes:
            self._end("limit:output")
        if now - self._started > self._options.wall_seconds:
            self._end("timed_out")
        if now < self._next_watch:
            return
        self._next_watch = now + TICK_SECONDS
        self._live.tick()
        if self._output.is_large and not self._gives_way:
            self._gives_way = _have_group_give_way()
        self._reap_adopted()
        count, memory, cpu = _usage(_descendants())
        cpu += sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        self._peak_processes = max(self._peak_processes, count)
        self._peak_memory = max(self._peak_memory, memory)
        self._cpu_seconds = max(self._cpu_seconds, cpu)
        for name, used, limit in (
            ("processes", count, self._options.processes),
            ("memory", memory, self._options.memory_bytes),
            ("cpu", cpu, self._options.cpu_seconds),
        ):
            if limit and used > limit:
                self._end(f"limit:{name}")

    def _reap_adopted(self) -> None:
        """Reap orphans that ended, but not the command: its pid must name its group to the end."""
        for pid in _children(os.getpid()):
            if pid != self._command_pid:
                _reap(pid)

    def _linger(self) -> None:
        """Read on for a moment, until nobody holds the pipe: the limits still count."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._pipe >= 0 and not self._verdict and time.monotonic() < deadline:
            self._look(DRAIN_SECONDS / 10)

    def _terminate(self) -> None:
        """Ask everything to end, and wait a moment for what tidies up after itself."""
        for pid in _descendants():
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._options.grace_seconds
        while time.monotonic() < deadline and not self._is_hurried:
            self._look(0.01)
            if self._has_exited() and len(_descendants()) <= 1:
                return

    def _kill(self) -> int:
        """End every descendant; return how many the kernel holds beyond the deadline."""
        deadline = time.monotonic() + REAP_SECONDS
        while True:
            _end_group(self._options.group)
            if self._exit_status is None:  # not reaped yet, so the group's number is still its own
                _kill_group(self._command_pid)
            for pid in _descendants():
                _signal(pid, signal.SIGKILL)
            try:
                self._reap_all()
            except ChildProcessError:
                return 0
            if time.monotonic() > deadline:
                return len(_descendants())
            self._look(0.002)

    def _reap_all(self) -> None:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid == self._command_pid:
                self._exit_status = status

    def _refusal(self) -> str:
        """Return why the command was not run, if it was not, as the one who was to run it said."""
        try:
            return os.read(self._walls, READ_BYTES).decode("utf-8", "replace")
        except BlockingIOError:  # the kernel holds a process that holds the pipe
            return ""

    def _report(self, left: int) -> None:
        os.set_blocking(1, True)
        head, tail = self._output.parts()
        for letter, data in ((b"h", head), (b"t", tail)):
            if data:
                _frame(letter, data)
        status = self._exit_status
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        refusal = self._refusal()
        facts = {
            "verdict": self._verdict or ("refused" if refusal else "exited"),
            "refusal": refusal.replace("\n", " "),
            "exit": "" if status is None else str(os.waitstatus_to_exitcode(status)),
            "total": str(self._output.total),
            "spool_error": self._output.spool_error.replace("\n", " "),
            "left": str(left),
            "processes": str(self._peak_processes),
            "memory": str(max(self._peak_memory, usage.ru_maxrss * 1024)),
            "cpu": f"{max(self._cpu_seconds, usage.ru_utime + usage.ru_stime):.3f}",
        }
        _frame(b"r", "\n".join(f"{key}={value}" for key, value in facts.items()).encode())


def _start(command: "Command", options: Options, output: int, private: list[int]) -> int:
    """Fork the command into a session of its own, and exec what is no function; return its pid.

    A fork is safe here as it is not in the worker: this process has one thread and nothing open
    but ``private``, which an exec closes by itself.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.environ.pop("PADDOCK_KEEPER", None)  # who bears it is left to tidy up when others go
        _prepare_child(options, output)
        _confine(options, private[-1])
        if callable(command):
            signal.set_wakeup_fd(-1)
            for descriptor in private:
                os.close(descriptor)
            command()
        else:
            _become(command)
    except BaseException:  # noqa: BLE001 - a fault of ours is told where the call's output is
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(REFUSED_TO_START)


def _become(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else REFUSED_TO_START)


def _prepare_child(options: Options, output: int) -> None:
    enter_group(options.group)
    _give_way()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for descriptor in options.pass_fds:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no keyword
    for number in (signal.SIGPIPE, signal.SIGXFSZ, *_CHANGED):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _lower(resource.RLIMIT_CORE, 0)
    if options.cpu_seconds:
        _lower(resource.RLIMIT_CPU, options.cpu_seconds + 1)
    try:  # under memory pressure the kernel takes a tool before it takes the session
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(score, b"800")
    except OSError:
        return


def _give_way() -> None:
    """Let the host's own processes go first, so that no tool keeps another session waiting."""
    if os.getpriority(os.PRIO_PROCESS, 0) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    _have_group_give_way()


def _have_group_give_way() -> bool:
    """Have the login session that setsid began give way; return whether that is all there is.

    The kernel may share out processors by login session first (sched(7), autogroup), each of which
    has a niceness of its own. The keeper takes no other: in one queue with hundreds of a command's
    processes, as nice as they are, it would notice a limit seconds late.
    """
    try:
        group = os.open("/proc/self/autogroup", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        os.write(group, b"%d" % NICENESS)
    except BlockingIOError:  # without privileges it takes one such a tenth of a second
        return False
    except OSError:
        return True
    finally:
        os.close(group)
    return True


_CHANGED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)


def _confine(options: Options, walls: int) -> None:
    """Go behind the walls of the sandbox; without any, go on only if none was required."""
    if options.sandbox == "off":
        return
    here = os.getcwd()  # noqa: PTH109 - pathlib is slow to import
    try:
        sandbox.enter(
            options.closed,
            options.workspace,
            unwritable=options.unwritable,
            without=options.without,
        )
    except sandbox.NoSandbox as none:
        if options.sandbox == "require" or isinstance(none, sandbox.Broken):
            os.write(walls, str(none).encode())
            os._exit(REFUSED_TO_START)
        return
    os.chdir(here)  # a workspace in a closed folder is mounted anew


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY or hard > value:
        resource.setrlimit(which, (value, value))


def _descendants() -> list[int]:
    """Return the pids below this process, parents before their children; zombies count."""
    found = []
    todo = [os.getpid()]
    while todo:
        children = _children(todo.pop())
        found += children
        todo += children
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - pathlib is slow to import
            text = _slurp(f"/proc/{pid}/task/{thread}/children")
            children += [int(word) for word in text.split()]
    except OSError:
        pass  # it ended while we looked: its children are ours now and are seen next time
    return children


def _usage(pids: list[int]) -> tuple[int, int, float]:
    """Return how many of the processes live, their resident bytes and their processor seconds."""
    count = memory = ticks = 0
    for pid in pids:
        try:
            fields = _slurp(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] not in (b"Z", b"X"):
            count += 1
            memory += int(fields[21]) * PAGE_BYTES
        elif fields and int(fields[THREADS_FIELD]) > 1:  # it goes on without its main thread
            count += 1
            memory += _resident_bytes_of_threads(pid)
        ticks += sum(int(field) for field in fields[11:15])
    return count, memory, ticks / TICKS_PER_SECOND


def _resident_bytes_of_threads(pid: int) -> int:
    """Return what a process without its main thread uses: any other thread tells."""
    most = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - pathlib is slow to import
            most = max(most, int(_slurp(f"/proc/{pid}/task/{thread}/statm").split()[1]))
    except (OSError, IndexError):
        pass  # it ended while we looked
    return most * PAGE_BYTES


def _slurp(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = more = os.read(descriptor, 65536)
        while len(more) > PAGE_BYTES // 2:  # the kernel gives these files page by page
            more = os.read(descriptor, 65536)
            data += more
        return data
    finally:
        os.close(descriptor)


def _signal(pid: int, number: int) -> None:
    """Signal a process that descends from this one, and no other that has its number by now."""
    if not hasattr(os, "pidfd_open"):
        _signal_by_number(pid, number)
        return
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # Descent is read after the pidfd is open: as long as that has not fired, the number is its.
        if _descends(pid) and not _is_readable(process):
            signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


def _signal_by_number(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _descends(pid: int) -> bool:
    me = os.getpid()
    while pid > 1:
        try:
            pid = int(_slurp(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            return False
        if pid == me:
            return True
    return False


def enter_group(group: str) -> None:
    """Go into a control group, where there is one; without, the other marks must do."""
    _tell_group(group, "cgroup.procs", b"0")


def _end_group(group: str) -> None:
    """Kill all of the call's control group at once: a fork bomb cannot outrun it."""
    _tell_group(group, "cgroup.kill", b"1")


def _tell_group(group: str, file: str, word: bytes) -> None:
    if not group:
        return
    try:
        descriptor = os.open(f"{group}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, word)
    except OSError:
        return
    finally:
        os.close(descriptor)


def set_mark(mark: tuple[int, ...]) -> None:
    """Mark this process and all it starts where no environment tells (``marks.py``)."""
    if len(mark) == 2 and hasattr(resource, "RLIMIT_RTTIME"):  # noqa: PLR2004 - soft and hard
        try:
            resource.setrlimit(resource.RLIMIT_RTTIME, (mark[0], mark[1]))
        except (OSError, ValueError):
            return  # it is lower already: a host within a host


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _try_frame(letter: bytes, data: bytes) -> bool:
    try:
        os.write(1, letter + len(data).to_bytes(4, "big") + data)
    except (BlockingIOError, BrokenPipeError):
        return False
    return True


def _frame(letter: bytes, data: bytes) -> None:
    view = memoryview(letter + len(data).to_bytes(4, "big") + data)
    while view:
        view = view[os.write(1, view) :]


def _become_subreaper() -> None:
    """Have orphans below this process given to it instead of to init. Linux only."""
    if sys.platform != "linux":
        return
    import ctypes  # a tenth of this script's start, and only Linux has the call

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(words: list[str], command: "Command") -> "NoReturn":
    """Keep a command; leave the process when all of it is gone."""
    _become_subreaper()
    os.set_blocking(1, False)
    options = Options(words)
    set_mark(options.mark)
    enter_group(options.group.rpartition("/")[0])  # beside the command, ended with its session
    try:
        Keeper(options, command).keep()
    except BrokenPipeError:  # the worker died before the report: everything is gone already
        os._exit(1)
    os._exit(0)  # tidying up an interpreter takes longer than a short command


def main() -> None:
    """Keep the command of this process's arguments."""
    split = sys.argv.index("--")
    run(sys.argv[1:split], sys.argv[split + 1 :])
