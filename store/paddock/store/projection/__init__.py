"""Logs to DuckDB: the fold of rows into views, the file, and the projector that keeps them up."""

from paddock.store.projection.database import (
    FILE_NAME,
    Database,
    Settings,
    Untrusted,
    is_damage,
    move_aside,
    owes_bytes,
    sessions_shown,
    take_place,
)
from paddock.store.projection.folded import HOST
from paddock.store.projection.host_log import known_sessions, tombstones
from paddock.store.projection.progress import Damage, Progress
from paddock.store.projection.projector import SMALL_BATCH_EVENTS, Projector

__all__ = [
    "FILE_NAME",
    "HOST",
    "SMALL_BATCH_EVENTS",
    "Damage",
    "Database",
    "Progress",
    "Projector",
    "Settings",
    "Untrusted",
    "is_damage",
    "known_sessions",
    "move_aside",
    "owes_bytes",
    "sessions_shown",
    "take_place",
    "tombstones",
]
