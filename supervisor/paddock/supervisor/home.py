"""The folders of a host on the disk: made private, short enough for sockets, held by one host.

``host.lock`` is taken before any socket is bound (a second bind on an ipc path succeeds and steals
it) and says who holds it (F13). ``host.json`` in the runtime folder tells workers and clients where
the host of the moment listens.
"""

import hashlib
import hmac
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from paddock.store.errors import AlreadyOwned, StoreError
from paddock.store.ids import SessionId
from paddock.store.session_file import host_place
from paddock.store.session_file.lock import OwnerLock
from paddock.supervisor import config
from paddock.supervisor.config import Configuration, Folders
from paddock.supervisor.errors import BadConfiguration, HostRunning, PathTooLong

SOCKET_PATH_LIMIT = 107
"""Bytes of ``sockaddr_un.sun_path`` less its end."""
LONGEST_SOCKET_NAME = "workers.sock"
SECRET_FILE = "host.secret"  # noqa: S105 - its name, not what is in it
SECRET_BYTES = 32
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs"}
)
"""Where a lock or an fsync does not mean what it says."""


@dataclass(frozen=True, slots=True)
class HostFile:
    """What ``host.json`` says of the host of the moment."""

    pid: int
    start_ticks: int
    epoch: int
    workers_address: str
    clients_address: str
    store_address: str
    paddock_version: str
    data: str


def last_epoch(runtime: Path) -> int:
    """Return the epoch of the last host that stood here, 0 if none left word of it.

    Workers of that host refuse a lower one: this matters when the host's own file was lost.
    """
    try:
        return int(json.loads((runtime / "host.json").read_text())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def read_configuration(
    flags: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> Configuration:
    """Return the configuration of this process: its flags, its environment, the user's file.

    Raises:
        BadConfiguration: Something in it is wrong, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    temporary = Path(tempfile.gettempdir())
    folders, origins = config.folders_of(environ, flags, uid=os.getuid(), temporary=temporary)
    try:
        toml = folders.config_file.read_text("utf-8")
    except FileNotFoundError:
        toml = None
    except (OSError, UnicodeDecodeError) as error:
        message = f"{str(folders.config_file)!r} cannot be read: {error}"
        raise BadConfiguration(message, path=str(folders.config_file)) from error
    return config.load(folders, origins, flags=flags, environ=environ, toml=toml)


def prepare(folders: Folders) -> None:
    """Make the folders, private, and refuse what a host cannot stand on.

    Raises:
        PathTooLong: The system has no sockets with so long a path.
        BadConfiguration: A folder belongs to somebody else, or is on a network file system.
        StoreError: A folder cannot be made.
    """
    check_length(folders.runtime)
    for folder in (folders.data, folders.runtime):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError as error:
            message = f"{str(folder)!r} cannot be made: {error.strerror}"
            raise StoreError(message, path=str(folder)) from error
        if found.st_uid != os.getuid():
            message = f"{str(folder)!r} belongs to another user (uid {found.st_uid})"
            raise BadConfiguration(message, path=str(folder))
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    # Kept out of a folder that is there, a tool cannot make one with settings for the next host.
    # Where it cannot be made, no tool can make it either. One that is there is the user's affair.
    with suppress(OSError):
        folders.config.mkdir(mode=0o700, parents=True)
    kind = file_system_of(folders.data)
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.ssh"):
        message = (
            f"{str(folders.data)!r} is on a network file system ({kind}), where locks and fsync "
            "do not hold what they promise: put PADDOCK_HOME on a local disk"
        )
        raise BadConfiguration(message, path=str(folders.data), file_system=kind)


def check_length(runtime: Path) -> None:
    """Raise PathTooLong unless sockets in ``runtime`` have paths that the system takes."""
    path = runtime / LONGEST_SOCKET_NAME
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        message = (
            f"the socket path {str(path)!r} has {length} bytes and the system allows "
            f"{SOCKET_PATH_LIMIT}: choose a shorter PADDOCK_HOME, or a short PADDOCK_RUNTIME"
        )
        raise PathTooLong(message, path=str(path), limit=SOCKET_PATH_LIMIT, length=length)


def file_system_of(folder: Path) -> str:
    """Return the type of the file system that ``folder`` stands on, "" where it is not known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields = line.split(" ")
        if fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1]
    return ""


def take_lock(data: Path) -> OwnerLock:
    """Take ``host.lock`` for the life of this process.

    Raises:
        HostRunning: Another host has it; names its pid (F13).
    """
    try:
        return OwnerLock.take(host_place(data))
    except AlreadyOwned as error:
        pid = error.facts.get("pid")
        message = (
            f"a host runs on {str(data)!r} already, as process {pid or 'unknown'}: "
            "use it, or end it with `paddock down`"
        )
        raise HostRunning(message, pid=pid, data=str(data)) from error


class Secret:
    """The host's secret, kept in the data folder: who has a token was started by this host."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, data: Path) -> "Secret":
        """Read it, or make it. Called under the host's lock."""
        path = data / SECRET_FILE
        if not path.exists() or path.stat().st_size != SECRET_BYTES:
            new = path.with_suffix(".new")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        return cls(path.read_bytes())

    def host_id(self, data: Path) -> str:
        """Return what names this host and no other, a copy of its folder included."""
        found = data.stat()
        words = f"{data.resolve()}\n{found.st_dev}\n{found.st_ino}"
        return hmac.digest(self._key, words.encode(), hashlib.sha256)[:8].hex()

    def token(self, session_id: SessionId, start_id: str) -> bytes:
        """Return the token of one start of a session."""
        return hmac.digest(self._key, f"{session_id}\n{start_id}".encode(), hashlib.sha256)

    def is_token(self, token: bytes, session_id: SessionId, start_id: str) -> bool:
        """Whether ``token`` is that of this start."""
        return hmac.compare_digest(token, self.token(session_id, start_id))


def write_host_file(runtime: Path, host: HostFile) -> None:
    """Say in ``host.json`` who the host is; readers see the old or the new, never half of one."""
    path = runtime / "host.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(host)), "utf-8")
    new.chmod(0o600)
    new.replace(path)


def read_host_file(runtime: Path) -> HostFile | None:
    """Return what ``host.json`` says, or None where there is none (or none of this form)."""
    try:
        return HostFile(**json.loads((runtime / "host.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
