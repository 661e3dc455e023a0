"""Which sessions there are, and what tells of one whose file is gone: never taken for none."""

import os
from pathlib import Path

from paddock.store.errors import Damaged
from paddock.store.ids import SessionId, is_uuid7
from paddock.store.session_file.faults import translated
from paddock.store.session_file.lock import witness_of
from paddock.store.session_file.place import Place


def sessions_in(data: Path) -> list[SessionId]:
    """Return the ids of all sessions that have a folder under ``data``, in order.

    Whatever is in the folder; only what a creation that died leaves there is no session.
    """
    found: list[SessionId] = []
    for shelf in data.glob("sessions/[0-9a-f][0-9a-f]"):
        try:
            with os.scandir(shelf) as folders:
                names = [folder.name for folder in folders if folder.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            continue
        found += [
            SessionId(name)
            for name in names
            if name.endswith(shelf.name) and is_uuid7(name) and _is_session(Place(shelf / name))
        ]
    return sorted(found)


def loss_of(place: Place) -> Damaged | None:
    """Return what to say of a session that had events, and has no database any more.

    None: it has one, or there never was one; nothing but a session with events has a witness above
    none, or a write-ahead log.
    """
    with translated(place.lock):
        witness = witness_of(place)
        had_events = (witness is not None and witness.sequence > 0) or place.has_wal()
        # Looked for last: it may have been made meanwhile, and comes before its witness.
        if not had_events or os.path.lexists(place.database):
            return None
    message = f"{str(place.database)!r} is gone, though it had events; restore it from a backup"
    return Damaged(message, path=str(place.database), sequence=1)


def folder_lost(place: Place) -> Damaged:
    """Return what to say of a session that had events, and of which no file is there."""
    message = f"{str(place.folder)!r} has no file of a session that had events; "
    message += "restore it from a backup"
    return Damaged(message, path=str(place.folder), sequence=1)


def _is_session(place: Place) -> bool:
    try:
        os.lstat(place.database)
    except FileNotFoundError:
        try:
            return loss_of(place) is not None
        except OSError:
            return True
    except OSError:
        pass  # what cannot be looked at may be anything, and is told when it is read
    return True
