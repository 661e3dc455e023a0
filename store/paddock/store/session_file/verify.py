"""Checking a session's file whole: its structure, events, blobs and witness."""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from paddock.store.errors import Damaged, NewerFormat, SessionNotFound, StoreError
from paddock.store.events import (
    Event,
    ImagePart,
    Row,
    ToolCallFinished,
    UserMessageAdded,
    stored_of,
)
from paddock.store.ids import SessionId
from paddock.store.session_file import blobs, database, log
from paddock.store.session_file.faults import translated
from paddock.store.session_file.finding import loss_of
from paddock.store.session_file.lock import Witness, witness_of
from paddock.store.session_file.place import Place, place_of

_PAGE = 1000
_PROBLEM_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written; ``sequence`` is the first event in doubt, if any."""

    sequence: int | None
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. ``events`` is how many follow each other without a fault, from the first."""

    path: Path
    events: int
    head: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(folder: Path | Place, session_id: SessionId) -> Report:
    """Check all that the file of a session holds, and report everything that is wrong with it.

    Reads it as it stands, also while its owner writes; changes nothing. An owner that died in a
    commit leaves no problem: what it did not acknowledge is neither expected nor missed.

    Raises:
        SessionNotFound: There is no file, and nothing says that there was one.
    """
    place = place_of(folder)
    witness = witness_of(place)
    if not os.path.lexists(place.database):
        loss = loss_of(place)
        if loss is None:
            message = f"there is no session {session_id!r}; `paddock ls` shows them"
            raise SessionNotFound(message, session_id=session_id)
        return Report(place.database, 0, 0, (Problem(1, loss.message),))
    try:
        connection = database.connect_to_read(place)
    except StoreError as error:
        return Report(place.database, 0, 0, (Problem(1, error.message),))
    try:
        check = Check(place, connection, session_id, witness)
        if witness is None and place.lock.exists():
            what = f"{str(place.lock)!r} has no whole witness: events may be missing at the end"
            check.problems.append(Problem(None, what))
        return check.run()
    finally:
        connection.close()


class Check:
    """One run over one file."""

    def __init__(
        self,
        place: Place,
        connection: sqlite3.Connection,
        session_id: SessionId,
        witness: Witness | None,
    ) -> None:
        self.place = place
        self.connection = connection
        self.session_id = session_id
        self.witness = witness
        self.problems: list[Problem] = []
        self.named_blobs: dict[str, int] = {}

    def run(self) -> Report:
        """Check everything, as far as it can be read."""
        head = intact = 0
        try:
            database.check_form(self.place, self.connection, self.session_id)
            head = log.head_of(self.place, self.connection).sequence
            intact = self.check_events(head)
            self.check_witness()
            self.check_blobs()
            self.check_structure()
        except (StoreError, sqlite3.Error) as error:
            self.problems.append(_problem_of(error))
        return Report(self.place.database, intact, head, tuple(self.problems))

    def check_events(self, head: int) -> int:
        """Check the chain up to ``head``; return how many events are whole, from the first."""
        after = log.NO_EVENT
        while after.sequence < head:
            try:
                rows = self.page(after, head, _PAGE)
            except Damaged as error:
                at = error.facts["sequence"]
                assert isinstance(at, int)
                self.problems.append(Problem(at, error.message))
                rows = self.page(after, at - 1, at - 1 - after.sequence)
                self.look_into(rows)
                return at - 1
            self.look_into(rows)
            after = Witness(rows[-1].sequence, rows[-1].hash)
        return head

    def page(self, after: Witness, last: int, limit: int) -> list[Row]:
        """Return the next events. Raises ``Damaged`` at the first that is not what was written."""
        return log.read(self.place, self.connection, self.session_id, after, last=last, limit=limit)

    def look_into(self, rows: list[Row]) -> None:
        """Check that events can be understood, and note the blobs that they name."""
        for row in rows:
            if len(self.problems) >= _PROBLEM_LIMIT:
                return
            try:
                event = stored_of(self.session_id, row).event
            except (NewerFormat, ValueError) as error:
                what = f"event {row.sequence} ({row.kind!r}) cannot be understood: {error}"
                self.problems.append(Problem(row.sequence, what))
                continue
            for digest in _blobs_of(event):
                self.named_blobs.setdefault(digest, row.sequence)

    def check_witness(self) -> None:
        """Check that the last event that was acknowledged is there, and the same."""
        if self.witness is None:
            return
        # The head is read again: an owner may have gone on since the witness was read.
        head = log.head_of(self.place, self.connection)
        try:
            log.check_witness(self.place, self.connection, self.witness, head)
        except Damaged as error:
            self.problems.append(_problem_of(error))

    def check_blobs(self) -> None:
        """Check every blob against its digest, and that those which events name are there."""
        with translated(self.place.database):
            found = self.connection.execute("SELECT digest FROM blobs WHERE digest NOT NULL")
            digests = [digest for (digest,) in found]
        for digest in digests:
            try:
                for _ in blobs.read(self.place, self.connection, digest):
                    pass
            except StoreError as error:
                problem = Problem(self.named_blobs.get(digest), error.message)
                self.problems.append(problem)
        for digest in self.named_blobs.keys() - set(digests):
            sequence = self.named_blobs[digest]
            self.problems.append(Problem(sequence, f"blob {digest} of event {sequence} is missing"))

    def check_structure(self) -> None:
        """Check the database's own structure: what no row shows, an index or the free pages."""
        with translated(self.place.database):
            query = f"PRAGMA integrity_check({_PROBLEM_LIMIT})"
            lines = [line for (line,) in self.connection.execute(query)]
        for line in lines:
            if line != "ok":
                what = f"{str(self.place.database)!r} is damaged: {line}"
                self.problems.append(Problem(None, what))


def _blobs_of(event: Event) -> list[str]:
    """Return the digests of the blobs that an event names."""
    if isinstance(event, ToolCallFinished):
        return [] if event.output_blob is None else [event.output_blob]
    if isinstance(event, UserMessageAdded):
        return [part.blob for part in event.parts if isinstance(part, ImagePart)]
    return []


def _problem_of(error: StoreError | sqlite3.Error) -> Problem:
    if not isinstance(error, StoreError):
        return Problem(None, str(error))
    sequence = error.facts.get("sequence")
    return Problem(sequence if isinstance(sequence, int) else None, error.message)
