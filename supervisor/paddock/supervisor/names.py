"""Which session goes by which name: the host's own file has it at hand, the sessions' decide.

A name is reserved first, then its session made or renamed, and what it is not called any more is
given back. A host that dies in between leaves a name too many; the loss of power may leave some too
few. Both are mended from the sessions' files.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from paddock.store.errors import AlreadyExists, NeedsFold, PaddockError, StoreError
from paddock.store.ids import SessionId
from paddock.store.session_file import folder_of, is_owned
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
            if place_of(folder).database.exists():
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

    async def restore(self, session_ids: Iterable[SessionId]) -> None:
        """Have the names that the sessions' files tell, the host's own having lost some, or all."""
        host, left = self._host, list(session_ids)
        until = host.now() + FOLD_SECONDS
        while left:
            late = [each for each in left if not await self._restored(each)]
            if late and host.now() > until:
                log.warning("names_not_restored", sessions=late)
                return
            left = late
            if left:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _restored(self, session_id: SessionId) -> bool:
        """Reserve a session's names, and no other; return False if that has to wait.

        For its file, which its burial folds, or for another session to give the name back.
        """
        try:
            await self._follow(session_id, self._found.get(session_id, ()))
        except (NeedsFold, AlreadyExists):
            return False
        except PaddockError as error:
            log.warning("name_not_restored", session_id=session_id, error=error.message)
        return True

    async def _follow(self, session_id: SessionId, reserved: Iterable[str]) -> None:
        """Do as the session's file says with what was reserved for it."""
        host, registry = self._host, self._host.registry
        names = await host.on_disk(lambda: births.names_of(host.setting.data, session_id))

        def work() -> None:
            for name in reserved:
                if name not in names:
                    registry.release(name, session_id)
            for name in names:
                registry.reserve(name, session_id)

        await host.in_registry(work)

    def settle(self, record: Record, told: TellSettled) -> None:
        """Give back the name that a session does not have, or not any more."""
        registry, session_id = self._host.registry, record.session_id
        is_ours = record.renaming is not None and record.renaming[0] == told.answer.command_id
        has_changed = told.answer.kind == "session_configured"
        if record.renaming is None or not is_ours:
            if has_changed and not told.tickets:  # an earlier host had handed it over
                self._host.spawn_task(self._follow_later(session_id))
            return
        name = record.renaming[1]
        record.renaming = None
        if has_changed:
            record.name = name
        give_back = registry.release_others if has_changed else registry.release

        def work() -> None:
            with suppress(StoreError):  # a name too many is reserved: `rm` gives all of them back
                give_back(name, session_id)

        self._host.tell_registry(work)

    async def _follow_later(self, session_id: SessionId) -> None:
        registry = self._host.registry
        try:
            reserved = await self._host.in_registry(
                lambda: [name for name, whose in registry.reserved() if whose == session_id]
            )
            await self._follow(session_id, reserved)
        except PaddockError as error:
            log.warning("name_not_restored", session_id=session_id, error=error.message)
