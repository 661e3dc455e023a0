"""The file of a session: owned by one process, read by all, the only truth about the session."""

from paddock.store.session_file.blobs import BLOB_LIMIT_BYTES, Blob, parts_of
from paddock.store.session_file.erase import erase, erasures_begun_in
from paddock.store.session_file.finding import folder_lost, loss_of, sessions_in
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
from paddock.store.session_file.place import Place, folder_of, host_place
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
    "erasures_begun_in",
    "events_of",
    "fold",
    "folder_lost",
    "folder_of",
    "holder_of",
    "host_place",
    "is_owned",
    "loss_of",
    "parts_of",
    "pid_namespace",
    "sessions_in",
    "start_ticks_of",
    "this_process",
    "verify",
    "witness_of",
]
