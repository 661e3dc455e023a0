"""The store over logs that are there: how fast it catches up. Run in a process of its own."""

import time
from pathlib import Path

from paddock.store.projection import Database, Projector


def catch_up(data: Path) -> tuple[int, float]:
    """Project all logs under ``data`` into a new database; return the events and the seconds."""
    path = data / "catch-up.duckdb"
    began = time.perf_counter()
    database = Database(path)
    projector = Projector(database, data)
    projector.scan()
    events = projector.catch_up()
    took = time.perf_counter() - began
    projector.close()
    database.close()
    return events, took
