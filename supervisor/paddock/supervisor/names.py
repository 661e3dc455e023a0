"""Which session goes by which name: the host's own file has it at hand, the sessions' decide.

A name is reserved first, then its session made or renamed, and what it is not called any more is
given back. A host that dies in between leaves a name too many; the loss of power may leave some too
few. Both are mended from the sessions' files.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import structlog

from paddock.store.errors import (
    AlreadyExists,
    Damaged,
    NeedsFold,
    PaddockError,
    SessionNotFound,
    StoreError,
)
from paddock.store.ids import CommandId, SessionId
from paddock.store.session_file import Place, folder_of, is_owned, loss_of
from paddock.store.session_file.place import place_of
from paddock.supervisor import births
from paddock.supervisor.births import Names
from paddock.supervisor.record import Record
from paddock.supervisor.stimuli import TellSettled

if TYPE_CHECKING:
    from paddock.supervisor.loop import Host

log = structlog.get_logger("paddock.supervisor")

PAUSE_SECONDS = 1.0
FOLD_SECONDS = 60.0
"""For the burials of sessions that were found undone; their names are read after that."""


class Naming:
    """The names of one host's sessions."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._found: dict[SessionId, list[str]] = {}
        """What was reserved when this host began."""
        self._known = asyncio.Event()
        self._known.set()

    def free(self) -> None:
        """Take names back that a host which died had reserved for what then never came to be.

        Before anybody can ask. What cannot be freed for want of room is freed by the next host.
        """
        host, found = self._host, self._found
        with suppress(StoreError):
            for name, session_id in host.registry.reserved():
                found.setdefault(session_id, []).append(name)
        for session_id, reserved in found.items():
            names = Names()
            folder = folder_of(host.setting.data, session_id)
            if _is_made(place_of(folder)):
                if len(reserved) == 1 or is_owned(folder):  # a worker may be renaming it yet
                    continue
                try:
                    names = births.names_of(host.setting.data, session_id)
                except PaddockError as error:  # its worker died: what it did is not read yet
                    log.info("names_kept", session_id=session_id, error=error.message)
                    continue
            for name in reserved:
                if name != names.present:
                    with suppress(StoreError):
                        host.registry.release(name, session_id)

    def unclear(self) -> list[SessionId]:
        """Return the sessions with several names: a worker may be renaming them yet."""
        return [session_id for session_id, names in self._found.items() if len(names) > 1]

    def lose(self) -> None:
        """Have everybody who asks for a name wait for :meth:`restore`."""
        self._known.clear()

    async def known(self) -> None:
        """Wait until the names are those that the sessions' files tell."""
        await self._known.wait()

    async def restore(self, session_ids: Iterable[SessionId]) -> bool:
        """Have the names that the sessions' files tell, the host's own having lost some, or all.

        Return whether that is done; what the next host has to try again is not.
        """
        host, left, is_done = self._host, list(session_ids), True
        until: float | None = None
        try:
            while left:
                came = [(each, await self._restored(each)) for each in left]
                is_done = is_done and all(how != "failed" for _, how in came)
                unfolded = [each for each, how in came if how == "unfolded"]
                late = [each for each, how in came if how in {"unfolded", "taken"}]
                until = host.now() + FOLD_SECONDS if until is None else until
                if late and (host.now() > until or (len(late) == len(left) and not unfolded)):
                    log.warning("names_not_restored", sessions=late)
                    return is_done and not unfolded
                left = late
                if unfolded:
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._known.set()
        return is_done

    async def _restored(
        self, session_id: SessionId
    ) -> Literal["done", "unfolded", "taken", "failed"]:
        """Reserve a session's names, and no other; tell what came of it.

        A file that is not folded is so by its burial, soon; a name that is taken may be given back
        by another session.
        """
        try:
            await self._follow(session_id, self._found.get(session_id, ()))
        except NeedsFold:
            return "unfolded"
        except AlreadyExists:
            return "taken"
        except (Damaged, SessionNotFound) as error:  # it has no name that anybody could tell
            log.warning("name_not_restored", session_id=session_id, error=error.message)
        except PaddockError as error:
            log.warning("name_not_restored", session_id=session_id, error=error.message)
            return "failed"
        return "done"

    async def _follow(self, session_id: SessionId, reserved: Iterable[str]) -> str | None:
        """Do as the session's file says with what was reserved for it; return its name."""
        host, registry = self._host, self._host.registry
        names = await host.on_disk(lambda: births.names_of(host.setting.data, session_id))
        record = host.records.get(session_id)
        asked = record.renaming[1] if record is not None and record.renaming is not None else None

        def work() -> None:
            for name in reserved:
                if name not in names and name != asked:
                    registry.release(name, session_id)
            for name in names:
                registry.reserve(name, session_id)

        await host.in_registry(work)
        return names.present

    def settle(self, record: Record, told: TellSettled) -> None:
        """Give back the name that a session does not have, or not any more."""
        has_changed = told.answer.kind == "session_configured"
        name = self._renamed(record, told.answer.command_id)
        if name is None:
            if has_changed:
                is_ours = bool(told.tickets)
                self._host.spawn_task(self._follow_later(record, is_ours=is_ours))
            return
        if has_changed:
            record.name = name
        registry = self._host.registry
        self._give_back(registry.release_others if has_changed else registry.release, record, name)

    def look(self, record: Record) -> None:
        """Give back the name that a session was to have by a command that was refused."""
        if record.renaming is None or record.life.queue.knows(record.renaming[0]):
            return
        name = self._renamed(record, record.renaming[0])
        if name is not None:
            self._give_back(self._host.registry.release, record, name)

    def _renamed(self, record: Record, command_id: CommandId) -> str | None:
        """Return the name that a command of ours gives, which is over with that."""
        if record.renaming is None or record.renaming[0] != command_id:
            return None
        name, record.renaming = record.renaming[1], None
        return name

    def _give_back(
        self, give_back: Callable[[str, SessionId], None], record: Record, name: str
    ) -> None:
        def work() -> None:
            with suppress(StoreError):  # a name too many is reserved: `rm` gives all of them back
                give_back(name, record.session_id)

        self._host.tell_registry(work)

    async def _follow_later(self, record: Record, *, is_ours: bool) -> None:
        """Follow a change that was not asked of this host, or not of it first."""
        registry, session_id = self._host.registry, record.session_id
        try:
            reserved = await self._host.in_registry(
                lambda: [name for name, whose in registry.reserved() if whose == session_id]
            )
            if len(reserved) > 1 or not is_ours:
                record.name = await self._follow(session_id, reserved)
        except PaddockError as error:
            log.warning("name_not_restored", session_id=session_id, error=error.message)


def _is_made(place: Place) -> bool:
    """Whether the file of a session was made, whatever has become of it."""
    try:
        return os.path.lexists(place.database) or loss_of(place) is not None
    except StoreError:
        return True
