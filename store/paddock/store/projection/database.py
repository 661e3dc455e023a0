"""The DuckDB file: opened locked down, checked, and moved aside when it cannot be trusted.

It holds nothing that the logs do not, so there is only one cure for whatever is wrong with it:
another name for the old file, and a new one filled from the logs (P15).
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from paddock.store.errors import StoreError
from paddock.store.projection import schema

FILE_NAME = "projection.duckdb"


@dataclass(frozen=True, slots=True)
class Settings:
    """How much of the machine DuckDB may take; global to the process, so fixed when it opens."""

    memory_limit_mb: int = 1024
    temporary_limit_mb: int = 4096
    threads: int = 2
    # A checkpoint stalls the writer for 100-260 ms (DESIGN §5), so it comes seldom, and at rest.
    checkpoint_threshold_mb: int = 512

    def as_config(self, path: Path) -> Mapping[str, str]:
        """Return DuckDB's options for a file."""
        return {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "enable_external_file_cache": "false",
            "memory_limit": f"{self.memory_limit_mb}MB",
            "threads": str(self.threads),
            "async_threads": "1",
            "temp_directory": f"{path}.tmp",
            "max_temp_directory_size": f"{self.temporary_limit_mb}MB",
            "checkpoint_threshold": f"{self.checkpoint_threshold_mb}MB",
        }


class Untrusted(StoreError):
    """The DuckDB file cannot be used as it is: corrupt, of another version, not ours."""

    code = "projection_untrusted"


class Database:
    """An open DuckDB file of this version, its configuration locked."""

    def __init__(self, path: Path, settings: Settings | None = None) -> None:
        """Open the file, or make it where there is none.

        Raises:
            Untrusted: It is corrupt, or of another version. :func:`move_aside` and open anew.
            StoreError: Another process has it open, or the disk fails.
        """
        self.path = path
        self.settings = settings or Settings()
        is_new = not path.exists()
        if is_new:
            # A log without its database would be replayed into the new one.
            wal_of(path).unlink(missing_ok=True)
        try:
            self._root = duckdb.connect(str(path), config=dict(self.settings.as_config(path)))
        except (duckdb.Error, RuntimeError, UnicodeDecodeError, ValueError) as error:
            raise _cannot_open(path, error) from error
        try:
            self._prepare(is_new=is_new)
        except BaseException:
            self._root.close()
            raise

    def _prepare(self, *, is_new: bool) -> None:
        try:
            self._root.execute("SET GLOBAL TimeZone = 'UTC'")
            # Where a compacted copy is made; it is there for as long as that takes.
            self._root.execute(f"SET allowed_directories = [{_literal(compacting(self.path))}]")
            # Only now, since it forbids to name directories. From here on nothing but the file
            # itself, and what is in that folder, can be reached.
            self._root.execute("SET enable_external_access = false")
            # A query must never see a Python variable of ours as a table.
            self._root.execute("SET python_enable_replacements = false")
            if is_new:
                self._root.execute("BEGIN")
                self._root.execute(schema.ddl())
                self._root.execute("COMMIT")
                self.path.chmod(0o600)
            else:
                _check_version(self.path, self._root)
            self._root.execute("SET lock_configuration = true")
        except duckdb.Error as error:
            raise _cannot_open(self.path, error) from error

    def compacted(self) -> Path:
        """Write all rows into a new file, and return its path; nothing is written here meanwhile.

        DuckDB leaves what was deleted in free blocks and in row groups that are full of the living.

        Raises:
            duckdb.Error: The disk fails or is full.
        """
        folder = compacting(self.path)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        new = folder / self.path.name
        Database(new, self.settings).close()
        connection = self.cursor()
        try:
            connection.execute(f"ATTACH {_literal(new)} AS compacted")
            try:
                connection.begin()
                for table in schema.ALL_TABLES:
                    connection.execute(
                        f"INSERT INTO compacted.internal.{table} FROM internal.{table}"
                    )
                connection.commit()
                connection.execute("CHECKPOINT compacted")
            finally:
                connection.execute("DETACH compacted")
        finally:
            connection.close()
        return new

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection of its own, for one thread at a time; the caller closes it."""
        return self._root.cursor()

    def size_bytes(self) -> int:
        """Return how much the file and its log take on disk."""
        total = 0
        for path in (self.path, wal_of(self.path)):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def least_bytes(self) -> int:
        """Return how long the file must be to hold the blocks that it says it has."""
        cursor = self.cursor()
        try:
            blocks = cursor.execute(
                "SELECT max(total_blocks * block_size) FROM pragma_database_size()"
            )
            (needed,) = blocks.fetchone() or (0,)
        finally:
            cursor.close()
        return int(needed or 0)

    def close(self) -> None:
        """Close it; all cursors must be closed before. What is committed stays in its log."""
        with suppress(duckdb.Error):  # a database that failed fatally can only be let go of
            self._root.close()


def sessions_shown(path: Path) -> set[str]:
    """Return the sessions that a DuckDB file shows, read while no store has it open.

    Nothing where it cannot be read, or is of another version: it will be made anew.
    """
    if not path.exists():
        return set()
    query = (
        "SELECT session_id FROM internal.state UNION SELECT session_id FROM internal.damaged "
        "EXCEPT SELECT ?"
    )
    config = Settings().as_config(path)
    try:
        with duckdb.connect(str(path), read_only=True, config=dict(config)) as connection:
            return {row[0] for row in connection.execute(query, [schema.HOST]).fetchall()}
    except (duckdb.Error, RuntimeError, UnicodeDecodeError, ValueError):
        return set()


def compacting(path: Path) -> Path:
    """Return the folder in which a compacted copy of a DuckDB file is made."""
    return path.with_name(path.name + ".new")


def owes_bytes(path: Path) -> bool:
    """Return whether what was erased is left in a DuckDB file: in free blocks, or in its log."""
    return _mark_of(path).exists()


def note_erasure(path: Path) -> None:
    """Note on the disk that rows are erased for good: :func:`take_place` makes good of it.

    Raises:
        StoreError: The disk fails.
    """
    mark = _mark_of(path)
    if mark.exists():
        return
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        folder = os.open(mark.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(f"{str(mark)!r} cannot be made: {error}", path=str(mark)) from error


def take_place(path: Path, new: Path) -> None:
    """Put a new file where the old one was; nothing of the old one stays, nor of one set aside."""
    _remove(path, _aside(path))
    new.rename(path)
    shutil.rmtree(compacting(path), ignore_errors=True)
    _mark_of(path).unlink(missing_ok=True)


def _remove(*paths: Path) -> None:
    for path in paths:
        wal_of(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".broken")


def _mark_of(path: Path) -> Path:
    """Return the path of the file that says of another that it owes bytes of erased rows."""
    return path.with_name(path.name + ".erased")


def wal_of(path: Path) -> Path:
    """Return the path of a DuckDB file's write-ahead log."""
    return path.with_name(path.name + ".wal")


def move_aside(path: Path) -> None:
    """Give the file and its log another name, taking the place of the one before.

    What still has bytes of erased rows is removed instead, whatever is wrong with it.
    """
    aside = _aside(path)
    mark = _mark_of(path)
    if mark.exists():
        _remove(path, aside)
        mark.unlink()
        return
    for source, target in ((path, aside), (wal_of(path), wal_of(aside))):
        target.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            source.rename(target)


def is_damage(error: BaseException) -> bool:
    """Return whether an error means that the file itself cannot be trusted.

    DuckDB's "internal error" may be a bug that some query wakes, so it alone tells nothing.
    """
    if isinstance(error, duckdb.FatalException):
        return True
    text = str(error).lower()
    if isinstance(error, duckdb.IOException | duckdb.SerializationException):
        return not any(word in text for word in ("no space", "disk quota", "read-only file"))
    return "corrupt" in text or "checksum" in text


def _check_version(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    found = connection.execute(
        "SELECT value FROM internal.meta WHERE key = 'schema_version'"
    ).fetchone()
    version = None if found is None else found[0]
    if version != str(schema.SCHEMA_VERSION):
        message = f"{str(path)!r} has version {version}, not {schema.SCHEMA_VERSION}"
        raise Untrusted(message, path=str(path), version=version)


def _cannot_open(path: Path, error: BaseException) -> StoreError:
    text = str(error)
    if "lock" in text.lower() and isinstance(error, duckdb.IOException):
        message = f"{str(path)!r} is open in another process; close it there ({_first(text)})"
        return StoreError(message, path=str(path))
    if isinstance(error, duckdb.IOException) and (
        "permission denied" in text.lower() or "no space" in text.lower()
    ):
        return StoreError(f"{str(path)!r} cannot be opened: {_first(text)}", path=str(path))
    return Untrusted(f"{str(path)!r} cannot be used: {_first(text)}", path=str(path))


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _first(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"


__all__ = [
    "FILE_NAME",
    "Database",
    "Settings",
    "Untrusted",
    "is_damage",
    "move_aside",
    "note_erasure",
    "owes_bytes",
    "sessions_shown",
    "take_place",
    "wal_of",
]
