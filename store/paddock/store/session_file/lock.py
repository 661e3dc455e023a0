"""Who owns a session's file: an exclusive flock on ``owner.lock``, with words and a witness in it.

The file has three records of fixed place and width, each with a checksum, so that a reader sees a
whole one or knows that it does not: the *witness*, the last event that its owner knows to be
durable; the *seal*, what the database was when it was last closed; and the *holder*, who the owner
is (flock does not tell). Nothing here is synced: it outlives its process, and after a loss of power
an older witness or seal only means that more is checked.

The lock belongs to the open file description. It is therefore opened once, close-on-exec, never
mapped (a mapping in a child would hold it), and never unlocked but by closing: an unlock by a
forked child would free its parent's lock. Nobody else's descriptor can disturb it, in the owner's
process too, since each ``open`` is a description of its own.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from zlib import crc32

from paddock.store.errors import AlreadyOwned, StoreError
from paddock.store.session_file.chain import GENESIS
from paddock.store.session_file.faults import translated
from paddock.store.session_file.place import FILE_MODE, Place, place_of

WITNESS_AT = 0
WITNESS_BYTES = 96
SEAL_AT = WITNESS_AT + WITNESS_BYTES
SEAL_BYTES = 96
HOLDER_AT = SEAL_AT + SEAL_BYTES
HOLDER_BYTES = 320

THREADS_FIELD, START_FIELD = 17, 19
"""Of /proc/PID/stat, counted from the state (proc(5))."""
POLL_SECONDS = 0.002
# A probe (is_owned) holds a shared lock for some 3 µs. Who finds the lock taken by probes alone
# tries again for at most this long before it calls it owned.
PROBE_PATIENCE_SECONDS = 0.5
# A record is read in mid-write a few times in a row at most; a torn one that stays is damage.
READ_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Witness:
    """The last event of a log that its owner saw durable; sequence 0 is "none yet"."""

    sequence: int
    hash: bytes


NOTHING = Witness(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, in the words that it left there. A pid alone names nobody: it is reused."""

    pid: int
    start_ticks: int
    boot_id: str
    generation: int
    pid_namespace: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether that very process runs still, seen from this boot and pid namespace."""
        return (
            self.boot_id == boot_id()
            and self.pid_namespace == pid_namespace()
            and start_ticks_of(self.pid) == self.start_ticks
        )


def this_process(generation: int = 0) -> Holder:
    """Return the present process as a holder of locks."""
    pid = os.getpid()
    return Holder(pid, _my_start_ticks(pid), boot_id(), generation, pid_namespace())


@cache
def _my_start_ticks(pid: int) -> int:
    """Return when this process started; by its pid, since a fork has another start."""
    return start_ticks_of(pid) or 0


def start_ticks_of(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if there is none.

    A zombie counts as none: it holds no lock any more, unless threads of it are still on their way
    out. Where there is no /proc, 0 while it runs.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _is_there(pid)
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before it may hold anything
    return None if is_over(fields) else int(fields[START_FIELD])


def is_over(fields: Sequence[bytes]) -> bool:
    """Whether a process is dead, by the fields of its /proc/PID/stat from the state on.

    One whose main thread has ended looks like a zombie, and goes on as long as another one does.
    """
    return fields[0] in {b"Z", b"X"} and int(fields[THREADS_FIELD]) <= 1


def _is_there(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # somebody else's, but there
    return 0


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot, or "" where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except FileNotFoundError:
        return ""


def pid_namespace() -> int:
    """Return the inode of this process's pid namespace, or 0 where there is none."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except FileNotFoundError:
        return 0


def holder_of(folder: Path | Place) -> Holder | None:
    """Return who says he holds the session in ``folder``, or None. Takes no lock.

    The words of a killed owner stay: :func:`is_owned` tells whether the lock is held.
    """
    try:
        descriptor = os.open(place_of(folder).lock, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)


def witness_of(folder: Path | Place) -> Witness | None:
    """Return the witness in the lock file of ``folder``, or None if there is no whole one."""
    try:
        descriptor = os.open(place_of(folder).lock, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return read_witness(descriptor)
    finally:
        os.close(descriptor)


def is_owned(folder: Path | Place) -> bool:
    """Return whether some process holds the session in ``folder`` now.

    Tries for a shared lock on a description of its own, which cannot disturb an owner; a would-be
    owner who meets this probe tries again.
    """
    try:
        descriptor = os.open(place_of(folder).lock, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class OwnerLock:
    """A held lock. Only its close gives it back."""

    place: Place
    descriptor: int
    inherited: Witness | None
    """The witness that was found, or None if there was none that is whole."""
    inherited_seal: str | None
    """The seal that was found, or None if the last owner did not close the file."""
    _generation: int = field(default=-1, init=False)

    @classmethod
    def take(cls, place: Place, *, wait_seconds: float = 0.0) -> "OwnerLock":
        """Take the lock of ``place``, whose folder exists, and say so in it.

        Raises:
            AlreadyOwned: Somebody else holds it still after ``wait_seconds``.
            StoreError: The lock file cannot be opened or written.
        """
        with translated(place.lock):
            descriptor = _take(place, wait_seconds)
        lock = cls(place, descriptor, read_witness(descriptor), read_seal(descriptor))
        try:
            if lock.inherited is None and not place.has_database():
                # Nobody is shown what is made from here on before it is testified. A file that is
                # there lost its witness with the power: it has what its readers see in it.
                lock.testify(NOTHING)
            lock.seal("none")
            lock.say(0)
        except BaseException:
            lock.close()
            raise
        return lock

    def testify(self, witness: Witness) -> None:
        """Write the witness in place."""
        body = f"witness {witness.sequence:020d} {witness.hash.hex():32}"
        self._write(body, WITNESS_AT, WITNESS_BYTES)

    def seal(self, seal: str) -> None:
        """Write what the database is now, one word; "none" while it is open."""
        self._write(f"seal {seal}", SEAL_AT, SEAL_BYTES)

    def say(self, generation: int) -> None:
        """Write who holds the lock, if that is not what it says already."""
        if generation == self._generation:
            return
        me = this_process(generation)
        # Written out: in a fresh fork each module that is used costs copies of its pages, and json
        # with dataclasses cost a millisecond of a worker's start.
        self._write(
            f'holder {{"pid":{me.pid},"start_ticks":{me.start_ticks},"boot_id":"{me.boot_id}",'
            f'"generation":{generation},"pid_namespace":{me.pid_namespace}}}',
            HOLDER_AT,
            HOLDER_BYTES,
        )
        self._generation = generation

    def close(self) -> None:
        """Give the lock back, and take the words out first. Closing twice does nothing."""
        if self.descriptor < 0:
            return
        with suppress(StoreError):  # words of a holder who is gone are expected by every reader
            self._write("holder none", HOLDER_AT, HOLDER_BYTES)
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor and nothing else: for a forked child, which owns nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write(self, body: str, at: int, width: int) -> None:
        checksum = f" {crc32(body.encode()):08x}"
        record = (body + checksum).ljust(width - 1).encode() + b"\n"
        with translated(self.place.lock):
            if os.pwrite(self.descriptor, record, at) != width:
                raise OSError(errno.ENOSPC, "a part was written")


def read_witness(descriptor: int) -> Witness | None:
    """Return the witness in an open lock file, or None if there is no whole one."""
    fields = _read(descriptor, WITNESS_AT, WITNESS_BYTES)
    if fields is None:
        return None
    _, sequence, digest = fields.split(" ")
    return Witness(int(sequence), bytes.fromhex(digest))


def read_seal(descriptor: int) -> str | None:
    """Return the seal in an open lock file, or None if there is none."""
    body = _read(descriptor, SEAL_AT, SEAL_BYTES)
    seal = "none" if body is None else body.removeprefix("seal ")
    return None if seal == "none" else seal


def _read_holder(descriptor: int) -> Holder | None:
    body = _read(descriptor, HOLDER_AT, HOLDER_BYTES)
    if body is None or not body.startswith("holder {"):
        return None
    return Holder(**json.loads(body.removeprefix("holder ")))


def _read(descriptor: int, at: int, width: int) -> str | None:
    """Return the body of a record whose checksum fits, or None."""
    for _ in range(READ_ATTEMPTS):
        record = os.pread(descriptor, width, at)
        if len(record) < width or not any(record):
            return None
        body, _, checksum = record.rstrip().rpartition(b" ")
        if f"{crc32(body):08x}".encode() == checksum:
            return body.decode()
    return None


def _take(place: Place, wait_seconds: float) -> int:
    deadline = time.monotonic() + wait_seconds
    patience = time.monotonic() + max(PROBE_PATIENCE_SECONDS, wait_seconds)
    while True:
        descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            if _is_at(descriptor, place.lock):
                return descriptor
            os.close(descriptor)  # erased and made anew between our open and our lock
            continue
        now = time.monotonic()
        if now >= (deadline if is_owned(place) else patience):
            raise _already_owned(place)
        time.sleep(POLL_SECONDS)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _already_owned(place: Place) -> AlreadyOwned:
    holder = holder_of(place)
    who = "a process that has not said who it is" if holder is None else f"process {holder.pid}"
    message = f"{str(place.folder)!r} is owned by {who}; suspend the session or stop that process"
    facts = {} if holder is None else asdict(holder)
    return AlreadyOwned(message, path=str(place.lock), **facts)
