"""The file of a session: owned by one process, read by all, the only truth about the session."""

from paddock.store.session_file.blobs import BLOB_LIMIT_BYTES, Blob, parts_of
from paddock.store.session_file.erase import erase
from paddock.store.session_file.lock import (
    Holder,
    OwnerLock,
    Witness,
    boot_id,
    holder_of,
    is_owned,
    pid_namespace,
    start_ticks_of,
    this_process,
    witness_of,
)
from paddock.store.session_file.log import events_of
from paddock.store.session_file.owner import EVENT_LIMIT_BYTES, SessionFile, fold
from paddock.store.session_file.place import Place, folder_of, host_place, sessions_in
from paddock.store.session_file.reader import SessionReader
from paddock.store.session_file.snapshots import Snapshot
from paddock.store.session_file.verify import Problem, Report, verify

__all__ = [
    "BLOB_LIMIT_BYTES",
    "EVENT_LIMIT_BYTES",
    "Blob",
    "Holder",
    "OwnerLock",
    "Place",
    "Problem",
    "Report",
    "SessionFile",
    "SessionReader",
    "Snapshot",
    "Witness",
    "boot_id",
    "erase",
    "events_of",
    "fold",
    "folder_of",
    "holder_of",
    "host_place",
    "is_owned",
    "parts_of",
    "pid_namespace",
    "sessions_in",
    "start_ticks_of",
    "this_process",
    "verify",
    "witness_of",
]
