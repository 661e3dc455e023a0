"""The supervisor process: ``python -P -m paddock.supervisor.serve``.

In this order: the host's lock, then the sockets (a second bind on an ipc path succeeds and steals
it), then ``host.json``, so that workers of an earlier supervisor find this one; then what is found
undone is finished. It leaves by ``os._exit``: multiprocess's exit hooks join or kill workers.
"""

import argparse
import asyncio
import faulthandler
import logging
import os
import resource
import signal
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TextIO, cast

import structlog

from paddock.session_worker import __version__
from paddock.session_worker.toolbox import cgroups
from paddock.store.errors import (
    PaddockError,
    SessionNotFound,
    StoreError,
)
from paddock.store.ids import SessionId
from paddock.store.saying import Words
from paddock.store.session_file import erasures_begun_in, sessions_in, start_ticks_of
from paddock.store.session_file.lock import boot_id, pid_namespace
from paddock.supervisor import births
from paddock.supervisor.beats import Beats
from paddock.supervisor.cli.exit_codes import HOST, exit_code_of
from paddock.supervisor.clients import Clients
from paddock.supervisor.config import Configuration, Settings
from paddock.supervisor.confinement import confine, end_what_was_left
from paddock.supervisor.easing import Easing
from paddock.supervisor.home import (
    HostFile,
    Secret,
    last_epoch,
    prepare,
    read_configuration,
    take_lock,
    write_host_file,
)
from paddock.supervisor.loop import SHUTDOWN, Host
from paddock.supervisor.mount import mount_of
from paddock.supervisor.processes import become_subreaper
from paddock.supervisor.record import Setting, now_us
from paddock.supervisor.registry import Entry, Epoch, Former, Registry
from paddock.supervisor.rounds import go_round
from paddock.supervisor.stimuli import LeaveAsked, Stage, Wanted
from paddock.supervisor.traces import Traces, touch
from paddock.supervisor.watch import DUMP_SIGNAL

log = structlog.get_logger("paddock.supervisor")

WORKER = "paddock.session_worker.main:run_worker"
SWEEP_SECONDS = 1.0
FORGET_SECONDS = 600.0
"""A session at rest costs nothing: its record is made from its file again when it is asked for."""
LOOKS_AT_ONCE = 64
DESCRIPTORS = 65_536
EXIT_RESTART = 4
"""It ended by a fault of its own; a watcher starts it again."""


@dataclass(frozen=True, slots=True)
class _End:
    reason: str
    keeps_workers: bool
    deadline_seconds: float


class Service:
    """One term of a host, from its lock to its last word."""

    def __init__(
        self, configuration: Configuration, registry: Registry, epoch: Epoch, worker: str
    ) -> None:
        self._configuration = configuration
        self._settings = configuration.settings
        self._registry = registry
        self._epoch = epoch
        folders = configuration.folders
        secret = Secret.of(folders.data)
        setting = Setting(
            configuration.settings,
            folders.data,
            folders.runtime,
            epoch.number,
            worker,
            __version__,
            confine(configuration, secret),
        )
        self._host = Host(setting, registry, secret, _store_command())
        self._clients = Clients(self._host, self._go)
        self._easing = Easing(self._host)
        self._has_told_all = True
        """Whether every session that was found with something open got its entry."""
        self._end: asyncio.Future[_End] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve until somebody ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._go, "signal", False, 20.0)  # noqa: FBT003
        self._host.open()
        await self._host.on_disk(self._host.naming.free)
        if not self._epoch.is_told_all:
            self._host.naming.lose()
        self._clients.open()
        self._announce()
        finishing = self._host.spawn_task(self._finish_what_is_found())
        sweeping = self._host.spawn_task(self._sweep())
        end = await self._end
        log.info("leaving", reason=end.reason, keeps_workers=end.keeps_workers)
        self._host.is_leaving = True
        for task in (sweeping, finishing):
            task.cancel()
        if not end.keeps_workers:
            await self._suspend_all(end.deadline_seconds)
        await self._clients.say_down()
        folders = self._configuration.folders
        (folders.runtime / "host.json").unlink(missing_ok=True)
        self._clients.close()
        await self._host.close()
        try:
            self._registry.end_epoch(end.reason, now_us())
        except StoreError as error:  # no room for it: the next host takes it for a death of ours
            log.warning("end_not_written", error=error.message)
        self._registry.close()
        for name in ("workers.sock", "clients.sock"):
            (folders.runtime / name).unlink(missing_ok=True)
        if self._host.setting.confinement.group is not None:
            cgroups.remove(self._host.setting.confinement.group)

    def _go(self, reason: str, keeps_workers: bool, deadline_seconds: float) -> None:  # noqa: FBT001
        if not self._end.done():
            self._end.set_result(_End(reason, keeps_workers, deadline_seconds))

    def _announce(self) -> None:
        """Say where we are: workers without a supervisor look for this."""
        host, setting = self._host, self._host.setting
        write_host_file(
            setting.runtime,
            HostFile(
                pid=os.getpid(),
                start_ticks=start_ticks_of(os.getpid()) or 0,
                epoch=setting.epoch,
                workers_address=host.workers.door.address,
                clients_address=self._clients.door.address,
                store_address=host.store.address,
                paddock_version=setting.paddock_version,
                data=str(setting.data),
            ),
        )

    def _announce_anew(self) -> None:
        """Somebody took the runtime folder away; its doors stand there again by themselves."""
        with suppress(OSError):  # its folder may not be there yet: this is tried again
            self._announce()
            log.warning("announced_anew", runtime=str(self._host.setting.runtime))

    # --- finishing what is found ---

    async def _finish_what_is_found(self) -> None:
        """Take in the sessions that may have something open, and erase what is to be erased."""
        host = self._host
        entries = {each.session_id: each for each in await host.in_registry(self._registry.entries)}
        candidates = list(entries)
        if not self._epoch.is_told_all:
            # After the loss of the whole host (or of this file) entries and names are no proof.
            candidates = await host.on_disk(lambda: sessions_in(host.setting.data))
        for start in range(0, len(candidates), LOOKS_AT_ONCE):
            await asyncio.gather(
                *(
                    self._take_in(each, entries[each].start_id or None if each in entries else None)
                    for each in candidates[start : start + LOOKS_AT_ONCE]
                )
            )
        if self._epoch.is_first and candidates:
            self._tell_made_anew()
        to_erase = await host.in_registry(self._registry.to_erase)
        if not self._epoch.is_told_all:
            begun = await host.on_disk(lambda: erasures_begun_in(host.setting.data))
            to_erase += [each for each in begun if each not in to_erase]
        for session_id in to_erase:
            try:
                await host.attendant.erase(session_id)
            except PaddockError as error:  # the others are erased all the same
                log.warning("not_erased", session_id=session_id, error=error.message)
        await self._end_tools_left()
        if self._epoch.is_told_all:
            await host.naming.restore(host.naming.unclear())
        elif await host.naming.restore(candidates) and self._has_told_all:
            with suppress(StoreError):  # it only makes the next host look at all of them again
                await host.in_registry(self._registry.looked_at_all)

    async def _end_tools_left(self) -> None:
        """End what runs in control groups of generations whose worker is gone."""
        host, group = self._host, self._host.setting.confinement.group
        if group is None:
            return

        def has_worker(session_id: SessionId) -> bool:
            record = host.records.get(session_id)
            return record is not None and record.life.has_process

        data = host.setting.data
        left = await host.on_disk(lambda: end_what_was_left(group, data, has_worker=has_worker))
        if left:
            host.note("tools_left", "tools", {"of": left})

    async def _take_in(self, session_id: SessionId, start_id: str | None) -> None:
        host = self._host
        try:
            look = await host.on_disk(lambda: births.look(host.setting.data, session_id))
        except SessionNotFound as error:
            if await host.in_registry(lambda: self._registry.tombstone(session_id)):
                await self._strike_out(session_id)
            else:  # its entry stays, for `store verify`: something had begun
                log.warning("gone", session_id=session_id, error=error.message)
            return
        except PaddockError as error:
            log.warning("unreadable", session_id=session_id, error=error.message)
            return
        record = host.records.get(session_id)  # of a worker that has greeted meanwhile
        if record is None:
            record = host.take_in(session_id, look, start_id)
            if record.life.stage is Stage.COLD:
                await self._strike_out(session_id)
        if start_id is None and record.life.stage not in {Stage.COLD, Stage.FAILED}:
            await self._enter_found(session_id, record.start_id or "")

    async def _enter_found(self, session_id: SessionId, start_id: str) -> None:
        """Leave an entry of what was found open for the next host, should this one be killed."""
        found = Entry(session_id, start_id, boot_id(), pid_namespace())
        try:
            await self._host.in_registry(lambda: self._registry.enter_found(found, now_us()))
        except StoreError:  # no room: then the next host looks at all of them, too
            self._has_told_all = False

    async def _strike_out(self, session_id: SessionId) -> None:
        with suppress(StoreError):  # a stale entry only makes the next supervisor look once more
            await self._host.in_registry(lambda: self._registry.strike_out(session_id))

    def _tell_made_anew(self) -> None:
        if self._registry.notice is None:
            self._registry.notice = "made anew from the sessions: it was not there, or empty"
        why: dict[str, object] = {"why": self._registry.notice}
        self._host.note("made_anew", "host.sqlite", why)

    # --- resting ---

    async def _sweep(self) -> None:
        """Suspend the idle; leave, where that is wanted, when nobody needs a host."""
        parts = {
            "sign of life": self._show_life,
            "idle sessions": self._suspend_idle,
            "memory": self._easing.look,
            "older workers": self._replace_older_workers,
            "records": lambda: self._host.forget_resting(FORGET_SECONDS),
            "unused host": self._leave_unused,
        }
        await go_round(parts, SWEEP_SECONDS)

    def _show_life(self) -> None:
        if not touch(self._host.setting.runtime):
            self._announce_anew()

    def _suspend_idle(self) -> None:
        for record in self._clients.asks.idle(self._settings.idle_after_seconds):
            self._clients.asks.ask_to_rest(record)

    def _leave_unused(self) -> None:
        after = self._settings.leave_after_seconds
        if after is not None and self._is_unused(after):
            self._go("unused", False, self._settings.suspend_deadline_seconds)  # noqa: FBT003

    def _replace_older_workers(self) -> None:
        """Have workers of another version leave when they are at rest: the next one is of ours.

        Not those whose secrets only they have: the next worker would rest for want of them.
        """
        host, mine = self._host, self._host.setting.paddock_version
        for record in list(host.records.values()):
            is_older = record.paddock_version not in {None, mine}
            has_secrets = not record.needs_secrets or bool(record.credentials)
            if is_older and has_secrets and record.life.is_at_rest:
                seconds = self._settings.suspend_deadline_seconds
                host.stimulate(record, LeaveAsked(host.now(), "upgrade", seconds, force=False))
                if record.feed.subscribers:  # whoever is connected keeps it live (L12)
                    host.stimulate(record, Wanted(host.now(), "upgrade"))

    def _is_unused(self, seconds: float) -> bool:
        now = self._host.now()
        if self._clients.count or now - self._clients.last_seen_at < seconds:
            return False
        return all(
            record.life.is_at_rest or record.life.stage in {Stage.COLD, Stage.FAILED, Stage.DELETED}
            for record in self._host.records.values()
        )

    async def _suspend_all(self, deadline_seconds: float) -> None:
        leaving = []
        for record in list(self._host.records.values()):
            if record.life.stage in {Stage.COLD, Stage.FAILED, Stage.DELETED}:
                continue
            ticket, gone = self._clients.asks.ticket()
            leaving.append(gone)
            record.is_cut_off = not record.life.is_at_rest
            asked = LeaveAsked(
                self._host.now(), SHUTDOWN, deadline_seconds, ticket=ticket, is_final=True
            )
            self._host.stimulate(record, asked)
        if leaving:
            _, late = await asyncio.wait(leaving, timeout=deadline_seconds + 2.0)
            for future in leaving:
                if future.done() and not future.cancelled():
                    future.exception()
            if late:
                log.warning("still_there", sessions=len(late))


def _store_command() -> list[str] | None:
    """Return how the store is started where that is not the ordinary way; [] for none at all."""
    given = os.environ.get("PADDOCK_STORE_COMMAND")
    return None if given is None else given.split()


def main(arguments: list[str] | None = None) -> int:
    """Run a supervisor; return its exit code."""
    flags = _parser().parse_args(arguments)
    given = {name: value for name, value in vars(flags).items() if value is not None}
    former, beats = given.pop("former", None), given.pop("beats", None)
    _log_to_stderr()
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)  # asked for when it hangs
    try:
        configuration = read_configuration(given)
        prepare(configuration.folders)
        lock = take_lock(configuration.folders.data)
        registry = Registry.open(configuration.folders.data / "host.sqlite")
        above = last_epoch(configuration.folders.runtime)
        mount = mount_of(configuration.folders.data)
        traces = Traces.here(configuration.folders.data, configuration.folders.runtime)
        epoch = registry.begin_epoch(
            *(os.getpid(), boot_id(), now_us(), former), traces=traces, mount=mount, above=above
        )
    except PaddockError as error:
        # To whoever started it, which knows the error by its code.
        print(f"paddock: {error.message} ({error.code})", file=sys.stderr)  # noqa: T201
        code = exit_code_of(error.code)
        return HOST if code == EXIT_RESTART else code
    # The next one tells our last words from those of others by this line (``traces``).
    log.info("started", subject="supervisor", pid=os.getpid(), epoch=epoch.number)
    become_subreaper()
    _allow_descriptors()
    asyncio.run(_serve(configuration, registry, epoch, flags.worker, beats))
    lock.close()
    return 0


async def _serve(
    configuration: Configuration,
    registry: Registry,
    epoch: Epoch,
    worker: str,
    beats: Beats | None,
) -> None:
    with beats.told() if beats is not None else nullcontext():
        await Service(configuration, registry, epoch, worker).run()


def _allow_descriptors() -> None:
    """Take as many descriptors as the system gives: two a live session, and those being read."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock.supervisor.serve", description=__doc__)
    for name in ("home", "data", "runtime", "config"):
        parser.add_argument(f"--{name}")
    for name in Settings.model_fields:
        parser.add_argument("--" + name.replace("_", "-"))
    parser.add_argument(
        "--former", type=_former, metavar="PID:STATUS:AT:HUNG", help="how the last one ended"
    )
    parser.add_argument(
        "--beats", type=Beats.read, metavar="FD:SECONDS", help="where its watcher wants a byte"
    )
    parser.add_argument("--worker", default=WORKER, help="module:function that runs a worker")
    return parser


def _former(text: str) -> Former:
    # A watcher that was started before an upgrade says nothing of a hang.
    pid, status, at_us, *hung = map(int, text.split(":"))
    return Former(pid, status, at_us, hung=any(hung))


def _log_to_stderr() -> None:
    sys.stderr = cast("TextIO", Words(2))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    CODE = EXIT_RESTART
    try:
        CODE = main()
    except SystemExit as error:
        CODE = int(error.code or 0)
    except BaseException:
        log.exception("fault")
    sys.stderr.flush()
    os._exit(CODE)
