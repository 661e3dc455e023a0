"""Sessions' files as the supervisor itself writes and reads them: a birth, a look, a replay.

Everything here blocks on the disk and runs in the host's pool of threads, one call a session at a
time for what writes.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import msgpack

from paddock.session_worker.errors import WorkspaceMissing
from paddock.session_worker.ledger import digest_of
from paddock.session_worker.redact import redact_json
from paddock.store.errors import AlreadyExists, Damaged, DiskFull, NeedsFold, SessionNotFound
from paddock.store.events import (
    CommandAccepted,
    CommandQuarantined,
    CommandRejected,
    Row,
    SessionConfig,
    SessionConfigured,
    SessionCreated,
    SessionDeleted,
    decode,
    stored_of,
)
from paddock.store.ids import CommandId, SessionId
from paddock.store.session_file import (
    Holder,
    SessionFile,
    SessionReader,
    folder_of,
    holder_of,
    is_owned,
)

TAIL_EVENTS = 6
BEGINNING_SECONDS = 5.0
"""To begin, a worker opens its file and imports its agent; who takes longer is one all the same."""
PAUSE_SECONDS = 0.005
FILES_OF_A_START = 4
"""Its stderr, the folder of its outputs, and the two beside its log."""
WIRE_BYTES = 4 * 1024 * 1024
"""Of events in one message, unless one alone is larger."""

NAMING = frozenset(
    {
        "session_created",
        "session_configured",
        "session_deleted",
        "command_accepted",
        "command_rejected",
        "command_quarantined",
    }
)

type Found = Literal["cold", "open", "alive", "failed", "deleted"]


@dataclass(frozen=True, slots=True)
class Look:
    """What the end of a session's file says: at rest, undone, owned by somebody alive, or over."""

    found: Found
    head: int
    reason: str = ""
    pid: int | None = None
    start_ticks: int = 0
    config: SessionConfig | None = None
    """What it was created with, where that could be read by the way."""


def look_for_room(data: Path, session_id: SessionId) -> None:
    """Look whether a worker could make its files beside the log, however much room there is.

    It would die for want of them, and the next one, until the session is left down; and where there
    is room for bytes but not for files, each death would stand in the log, as the session's own.

    Raises:
        DiskFull: The file system takes no more files.
    """
    folder = folder_of(data, session_id)
    try:
        found = os.statvfs(folder)
    except OSError:
        return  # a folder that is lost is told by who opens the file
    if found.f_files and found.f_favail < FILES_OF_A_START:  # some do not count them: 0 of 0
        message = f"no more files can be made in {str(folder)!r} (out of inodes); make room"
        raise DiskFull(message, path=str(folder))


def create(
    data: Path,
    session_id: SessionId,
    config: SessionConfig,
    *,
    at_us: int,
    secrets: Sequence[str] = (),
) -> bool:
    """Make the session's file with its first event; return False if the same one was there.

    Its prompt, environment, title and labels are stored without ``secrets`` and known forms of
    keys; the digest that tells whether it is the same is of what was sent.

    Raises:
        WorkspaceMissing: The workspace's folder does not exist.
        AlreadyExists: The id is known with another payload.
        StoreError: The file cannot be made; nothing of it counts.
    """
    if not Path(config.workspace).is_dir():
        message = (
            f"the workspace {config.workspace!r} does not exist: make it, or name another folder"
        )
        raise WorkspaceMissing(message, workspace=config.workspace)
    digest = digest_of(config.model_dump(mode="json"))
    stored = _without_secrets(config, secrets)
    created = SessionCreated(config=stored, digest=digest, command_id=CommandId(session_id))
    try:
        SessionFile.make(
            folder_of(data, session_id), session_id, [created], generation=0, at_us=at_us
        )
    except AlreadyExists:
        assert_same(data, session_id, digest)
        return False
    return True


def _without_secrets(config: SessionConfig, secrets: Sequence[str]) -> SessionConfig:
    told = config.model_dump(include=set(_TOLD))
    return config.model_copy(update=cast("dict[str, object]", redact_json(told, secrets)))


_TOLD = ("title", "system_prompt", "environment", "labels")
"""What a client says in words of its own. Names, paths and references are used as they are."""


def config_of(data: Path, session_id: SessionId) -> tuple[SessionConfig, str]:
    """Return what a session was created with, and the digest of that.

    Raises:
        SessionNotFound, StoreError: There is none, or it cannot be read.
    """
    with SessionReader(folder_of(data, session_id), session_id) as reader:
        created = _created(reader.rows(0, 1), session_id)
    return created.config, created.digest


@dataclass(frozen=True, slots=True)
class Names:
    """The name that a session goes by, and those that it was told to go by next."""

    present: str | None = None
    coming: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[str]:
        if self.present is not None:
            yield self.present
        yield from self.coming - {self.present}


def names_of(data: Path, session_id: SessionId) -> Names:
    """Return the names of a session, read off its whole log.

    Raises:
        SessionNotFound, StoreError: There is none, or it cannot be read.
    """
    present: str | None = None
    coming: dict[CommandId, str] = {}
    with SessionReader(folder_of(data, session_id), session_id) as reader:
        if not reader.head()[0]:
            raise _never_created(session_id)
        for row in reader.matching(kinds=NAMING):
            match stored_of(session_id, row).event:
                case SessionCreated(config=config):
                    present = config.name
                case CommandAccepted(command_id=command_id, verb="configure", arguments=asked):
                    if isinstance(name := asked.get("name"), str):
                        coming[command_id] = name
                case (
                    CommandRejected(command_id=command_id)
                    | CommandQuarantined(command_id=command_id)
                ):
                    coming.pop(command_id, None)
                case SessionConfigured(command_id=by, name=renamed):
                    if by is not None:
                        coming.pop(by, None)
                    present = renamed or present
                case SessionDeleted():
                    return Names()
                case _:
                    pass
    return Names(present, frozenset(coming.values()))


def _created(rows: Sequence[Row], session_id: SessionId) -> SessionCreated:
    first = decode(rows[0].kind, rows[0].payload) if rows else None
    if not isinstance(first, SessionCreated):
        message = f"session {session_id!r} does not begin with its creation"
        raise Damaged(message, session_id=session_id, sequence=1)
    return first


def assert_same(data: Path, session_id: SessionId, digest: str) -> None:
    """Raise AlreadyExists unless the session was created with the payload of that digest."""
    try:
        _, known = config_of(data, session_id)
    except NeedsFold:  # it was created and lives, or died: its first event is as good as any
        with SessionFile.own(folder_of(data, session_id), session_id) as file:
            rows = file.rows(0, 1)
        known = getattr(decode(rows[0].kind, rows[0].payload), "digest", "")
    if known != digest:
        message = f"session {session_id!r} exists with another configuration: make a new id"
        raise AlreadyExists(message, session_id=session_id)


def look(data: Path, session_id: SessionId) -> Look:
    """Return how the session's file ends.

    Raises:
        SessionNotFound: There is none.
        Damaged, NewerFormat, StoreError: It cannot be read.
    """
    folder = folder_of(data, session_id)
    holder = _worker_of(folder)
    if holder is not None:
        return Look("alive", 0, pid=holder.pid, start_ticks=holder.start_ticks)
    try:
        with SessionReader(folder, session_id) as reader:
            head, _ = reader.head()
            rows = reader.rows(max(0, head - TAIL_EVENTS))
            config = _created(reader.rows(0, 1), session_id).config if rows else None
    except NeedsFold:
        return Look("open", 0)
    if not rows:
        raise _never_created(session_id)
    found, reason = found_in(rows)
    return Look(found, head, reason, config=config)


def _never_created(session_id: SessionId) -> SessionNotFound:
    message = f"session {session_id!r} was never created to the end; `paddock ls` shows others"
    return SessionNotFound(message, session_id=session_id)


def _worker_of(folder: Path) -> Holder | None:
    """Return the worker that owns a session; None if there is none.

    Others own it for a moment: the store that folds it, this process at a birth or a burial. They
    have no generation, as a worker has none before its first commit, and are waited for. This
    process is never taken for a worker, which might be killed as one.
    """
    deadline = time.monotonic() + BEGINNING_SECONDS
    while is_owned(folder):
        holder = holder_of(folder)
        is_another = holder is not None and holder.is_alive and holder.pid != os.getpid()
        if holder is not None and is_another and holder.generation > 0:
            return holder
        if time.monotonic() > deadline:
            return holder if is_another else None
        time.sleep(PAUSE_SECONDS)
    return None


def found_in(rows: Sequence[Row]) -> tuple[Found, str]:
    """Return how a session stands by the last events in its file, and why."""
    for row in reversed(rows):
        match row.kind:
            case "session_deleted":
                return "deleted", ""
            case "session_failed":
                event = decode(row.kind, row.payload)
                return "failed", getattr(event, "reason", "")
            case "session_suspended":
                return "cold", getattr(decode(row.kind, row.payload), "reason", "")
            case "session_created":
                return "cold", ""
            case "worker_exited" | "session_resumed":
                continue
            case _:
                return "open", ""
    return "open", ""


def read(data: Path, session_id: SessionId, after: int, limit: int) -> tuple[int, bytes]:
    """Return how many events above ``after`` there are (at most ``limit``), packed for the wire.

    Raises:
        NeedsFold, Damaged, SessionNotFound, StoreError: As the reader of the file does.
    """
    with SessionReader(folder_of(data, session_id), session_id) as reader:
        rows = reader.rows(after, limit)
    return pack(rows)


def pack(rows: Sequence[Row]) -> tuple[int, bytes]:
    """Return rows as they travel, cut to what one message may hold, and how many they are."""
    chosen: list[Row] = []
    size = 0
    for row in rows:
        size += len(row.payload) + 200
        if chosen and size > WIRE_BYTES:
            break
        chosen.append(row)
    plain = [list(row[:9]) for row in chosen]  # all but the hash
    packed: bytes = msgpack.packb(plain, unicode_errors="surrogatepass")
    return len(chosen), packed


def last_words(folder: Path, name: str, limit_bytes: int) -> str:
    """Return the end of what a worker wrote to its stderr, as text."""
    try:
        with (folder / f"stderr.{name}").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit_bytes))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
