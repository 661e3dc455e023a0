"""The start of a worker: own the session's file, close what a death left open, greet, live.

Called by the zygote in a fresh fork, with orders in msgpack. Exit codes: 0 the session rests or is
deleted; the others stand in ``exits``, so that a certificate can name them.
"""

import asyncio
import ctypes
import faulthandler
import gc
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO, cast

import msgpack
import zmq

from paddock.session_worker import __version__
from paddock.session_worker.drivers.driver import BuiltinDriver, Driver
from paddock.session_worker.drivers.function import (
    FunctionDriver,
    LoadedAgent,
    declared_tool,
    load_agent,
)
from paddock.session_worker.ends import begins_with, may_begin
from paddock.session_worker.engine import Engine, workspace_news
from paddock.session_worker.errors import AgentNotFound, WorkspaceMissing
from paddock.session_worker.journal import Journal
from paddock.session_worker.ledger import open_calls
from paddock.session_worker.link import HostAddress, Link
from paddock.session_worker.loop import SessionLoop, mint, now_us
from paddock.session_worker.models.opening import named
from paddock.session_worker.outputs import Outputs
from paddock.session_worker.protocol import StartOrders
from paddock.session_worker.stimuli import Stimulus, Unwanted
from paddock.session_worker.toolbox import marks
from paddock.session_worker.tools import Confines, Limits, Room, Tool, Warm, builtin_tools
from paddock.session_worker.words import CleanWords
from paddock.session_worker.workspace import workspace_seen
from paddock.session_worker.world import World, empty_spool, toolkit_of
from paddock.store.errors import AlreadyOwned, Damaged, PaddockError, StoreError
from paddock.store.events import Event, SessionConfig, SessionCreated, WorkerStarted
from paddock.store.events import Limits as SessionLimits
from paddock.store.ids import CommandId, SessionId
from paddock.store.session import Session
from paddock.store.session_file import SessionFile, folder_of, this_process
from paddock.store.session_file.faults import translated

# In the zygote, once: the schemas of the tools are drawn before the fork. In each worker it took
# 12 ms of the 25 from its fork to its greeting, and a megabyte of its own (benchmarks/README.md).
builtin_tools()

SAID_CHARACTERS = 1000
"""Of one error; the line is to be whole in a certificate, which keeps the end of what was said."""


def run_worker(packed_orders: bytes) -> None:
    """Run a session's worker to its end and leave the process; never returns."""
    orders = StartOrders.model_validate(msgpack.unpackb(packed_orders))
    code = 70
    # What an agent starts by itself carries it too, and ends with the session as its tools do.
    marks.set_mark(*marks.mark_of(f"{orders.session_id}.0", None))
    try:
        _redirect_output(orders)
        code = _run(orders)
    except AlreadyOwned as error:
        code = _say(error, 73)
    except Damaged as error:
        code = _say(error, 65)
    except (AgentNotFound, WorkspaceMissing) as error:
        if error.__cause__ is not None:  # what the module of an agent raised
            traceback.print_exception(error.__cause__)
        code = _say(error, 64)
    except StoreError as error:
        code = _say(error, 74)
    except BaseException:  # noqa: BLE001 - the last place where the story can be told
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # multiprocess's exit hooks would join processes that are not ours (DESIGN §2).
        os._exit(code)


def rehearse(scratch: Path) -> None:
    """Live through the short life of a session of nobody's, in a folder that is then gone.

    In a fresh fork every page that is written to is copied first, and Python writes to all that it
    looks at: of the 20 ms from a fork to its greeting that was two thirds (benchmarks/README.md).
    A fork that is kept in hand has its pages already when its orders come.
    """
    session_id = SessionId(mint())
    folder = folder_of(scratch, session_id)
    config = SessionConfig(workspace=str(scratch))
    created = SessionCreated(config=config, digest="", command_id=CommandId(session_id))
    address = f"ipc://@paddock-rehearsal-{os.getpid()}"
    orders = StartOrders(
        session_id=session_id,
        data=str(scratch),
        runtime=str(scratch),
        address=address,
        epoch=1,
        start_id="rehearsal",
        token=b"",
        asked_at_us=now_us(),
        supervisor_pid=os.getpid(),
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    # Without room on the disk it starts as it is, only slower.
    with suppress(OSError, StoreError), context, context.socket(zmq.ROUTER) as nobody:
        nobody.bind(address)
        SessionFile.make(folder, session_id, [created], generation=0, at_us=now_us())
        _words_of(folder, orders.start_id).touch()
        _run(orders, Unwanted("rehearsed", "nobody asked for it"))
    shutil.rmtree(scratch, ignore_errors=True)
    gc.collect()
    _give_back_memory()


def _give_back_memory() -> None:
    """Return freed memory to the system, where the C library can: 0.6 MB after a rehearsal."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _say(error: PaddockError, code: int) -> int:
    """Say as last words, in the one line that the supervisor reads of them, why it cannot begin."""
    words = " ".join(error.message.split())
    if len(words) > SAID_CHARACTERS:  # whatever an agent's module raised stands in it
        words = f"{words[:SAID_CHARACTERS]}…"
    print(f"{error.code}: {words}", file=sys.stderr)  # noqa: T201
    return code


def _redirect_output(orders: StartOrders) -> None:
    """Let last words, stacks and what an agent prints go to the session's folder.

    What else is written to the descriptor of stdout, unseen and so not redacted, goes nowhere.
    """
    folder = folder_of(Path(orders.data), orders.session_id)
    path = _words_of(folder, orders.start_id)
    with translated(path):
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(out, 2)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(out)
    os.close(nowhere)
    words = cast("TextIO", CleanWords(2, orders.credentials.values()))
    sys.stdout = sys.stderr = words
    faulthandler.enable(file=2)
    # The supervisor's question to a loop that hangs: where are you?
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True, chain=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _words_of(folder: Path, start: str) -> Path:
    """Where a worker's stderr goes: under its start until it has a generation."""
    return folder / f"stderr.{start}"


def _run(orders: StartOrders, *first: Stimulus) -> int:
    folder = folder_of(Path(orders.data), orders.session_id)
    file = SessionFile.own(folder, orders.session_id, wait_seconds=orders.owner_wait_seconds)
    journal = Journal(file)
    session = journal.restore()
    if not may_begin(session):
        file.close(clean=True)
        print(f"nothing to do: {session.life.status}, {session.life.worker}", file=sys.stderr)  # noqa: T201
        return 75
    if _is_of_former_host(orders):
        file.close(clean=True)
        print("nothing to do: the host that started it was followed by another", file=sys.stderr)  # noqa: T201
        return 75
    config = session.life.config
    assert config is not None, "the supervisor writes session_created before it starts a worker"
    workspace = Path(config.workspace)
    if not workspace.is_dir():
        message = f"workspace {config.workspace!r} is not there; restore it, then resume"
        raise WorkspaceMissing(message, workspace=config.workspace)
    agent = None if config.agent == "builtin" else load_agent(config.agent, config.python_path)
    if open_calls(session):
        file.discard_unnamed_blobs()  # of calls whose worker died before it could tell of them
    generation = file.last_generation + 1
    _words_of(folder, orders.start_id).rename(_words_of(folder, str(generation)))
    owner = f"{orders.session_id}.{generation}"
    with empty_spool(file.place.spool) as spool:
        room = Room(
            workspace=workspace,
            environment=dict(config.environment),
            owner=owner,
            scratch=spool,
            jail=config.jail,
            confines=_confines(orders.confines, owner),
        )
        reason = asyncio.run(_live(orders, journal, session, generation, room, agent, first))
    return 0 if reason else 70


def _is_of_former_host(orders: StartOrders) -> bool:
    """Whether another host follows the one that ordered this start, and did not count on it.

    Asked under the session's lock: a host that announces itself later finds that held, and waits
    for who has it.
    """
    host = HostAddress.read(Path(orders.runtime))
    return host is not None and host.epoch > orders.epoch


def _confines(of_host: Confines, owner: str) -> Confines:
    group = None if of_host.group is None else f"{of_host.group}/{owner}"
    return replace(of_host, group=group)


async def _live(
    orders: StartOrders,
    journal: Journal,
    session: Session,
    generation: int,
    room: Room,
    agent: LoadedAgent | None,
    first: Sequence[Stimulus],
) -> str:
    """Make the first commit, then live in the loop."""
    _die_of_broken_tasks()
    config = session.life.config
    assert config is not None, "checked by the caller"
    warm = Warm()
    tools = _tools(config, agent, warm, Outputs(journal.file))

    def world_of(loop: SessionLoop) -> World:
        credentials = dict(orders.credentials)
        return World(journal, tools, room, credentials, loop.arrive, loop.preview, warm)

    function = FunctionDriver(agent) if agent is not None else None
    environment = {**room.environment, **orders.credentials}
    driver: Driver = function or BuiltinDriver(
        lambda name: named(name or orders.default_model, environment)
    )
    secrets = tuple(orders.credentials.values())
    engine = Engine(session, generation, driver, toolkit_of(tools), secrets)
    loop = SessionLoop(orders, journal, engine, world_of, function)
    news = workspace_news(session, workspace_seen(room.workspace))
    await loop.begin([*_first_events(orders, session, generation, agent), *news])
    for stimulus in first:
        loop.arrive(stimulus)
    host = HostAddress(orders.address, orders.epoch, orders.supervisor_pid)
    return await loop.run(Link(Path(orders.runtime), host, loop.hello, loop.heard))


def _first_events(
    orders: StartOrders, session: Session, generation: int, agent: LoadedAgent | None
) -> list[Event]:
    """Return what the first commit of a generation begins with."""
    config = session.life.config
    me = this_process(generation)
    started = WorkerStarted(
        pid=me.pid,
        start_ticks=me.start_ticks,
        boot_id=me.boot_id,
        agent=config.agent if config else "builtin",
        agent_version=agent.spec.version if agent else None,
        paddock_version=__version__,
        memory_limit_bytes=orders.memory_limit_bytes,
        ready_ms=(now_us() - orders.asked_at_us) / 1000,
    )
    return begins_with(session, started, reason=orders.resume_reason, reset=orders.reset)


def _tools(
    config: SessionConfig, agent: LoadedAgent | None, warm: Warm, outputs: Outputs
) -> dict[str, Tool]:
    """Return the tools of the session by name: the built-in ones, and those of its agent."""
    bounds = _bounds(config.limits)
    tools = dict(builtin_tools(bounds, outputs))
    if agent is not None:
        for declared in agent.tools:
            tools[declared.name] = declared_tool(declared, config.python_path, bounds, warm)
    return tools


def _bounds(limits: SessionLimits) -> Limits:
    """Return how much one call may use, by the session's limits."""
    bounds = Limits(memory_bytes=half_of_memory())
    if limits.tool_seconds is not None:
        most = max(limits.tool_seconds, bounds.seconds_at_most)
        bounds = replace(bounds, seconds=limits.tool_seconds, seconds_at_most=most)
    if limits.output_bytes is not None:
        bounds = replace(bounds, output_bytes=limits.output_bytes)
    if limits.memory_mb is not None:
        bounds = replace(bounds, memory_bytes=limits.memory_mb * 1024 * 1024)
    return bounds


def half_of_memory() -> int:
    """Return half of the machine's memory.

    A tool that takes more is ended before the kernel has to choose whom to kill.
    """
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _die_of_broken_tasks() -> None:
    """Let a fault of ours in a background task end the worker, with its story on stderr."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        print(f"bug: {context.get('message')}", file=sys.stderr)  # noqa: T201 - last words
        if isinstance(error, BaseException):
            traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(70)

    asyncio.get_running_loop().set_exception_handler(handle)
