"""The file of a session: owned by one process, read by all, the only truth about the session."""

from paddock.store.session_file.lock import (
    Holder,
    Witness,
    holder_of,
    is_owned,
    start_ticks_of,
    this_process,
)
from paddock.store.session_file.log import events_of
from paddock.store.session_file.owner import EVENT_LIMIT_BYTES, SessionFile
from paddock.store.session_file.place import Place, folder_of, host_place, sessions_in
from paddock.store.session_file.reader import SessionReader

__all__ = [
    "EVENT_LIMIT_BYTES",
    "Holder",
    "Place",
    "SessionFile",
    "SessionReader",
    "Witness",
    "events_of",
    "folder_of",
    "holder_of",
    "host_place",
    "is_owned",
    "sessions_in",
    "start_ticks_of",
    "this_process",
]
