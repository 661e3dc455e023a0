"""A host, as a client sees it: requests that outlive a connection, and the sessions it keeps.

Every request here may be asked twice: commands carry ids, the others change nothing the second
time. So a request whose host goes away is asked again of the next one, until its deadline (P14).
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import JsonValue

from paddock.client import environment as surroundings
from paddock.client.connection import Connection, Reply
from paddock.client.failures import error_of
from paddock.client.keys import command_id_of, new_id
from paddock.client.link import Link
from paddock.client.models import absolute_model, check_agent, check_name, folders_of
from paddock.client.places import Places, places_of
from paddock.client.plainly import plainly, shown
from paddock.client.rows import Rows
from paddock.client.session import Session
from paddock.client.starting import wait_gone
from paddock.session_worker.errors import BadArgument, WorkspaceMissing
from paddock.session_worker.protocol import Arguments, Command
from paddock.store.errors import AlreadyExists, SessionNotFound, TimedOut
from paddock.store.events import Approvals, Limits, SessionConfig
from paddock.store.ids import CommandId, SessionId, is_uuid7
from paddock.store.session_file import start_ticks_of
from paddock.supervisor.errors import HostGone, NotGreeted
from paddock.supervisor.protocol import (
    CommandSettled,
    CreateSession,
    Down,
    Lives,
    Resolve,
    SendCommand,
    Status,
    SuspendIdle,
    Sync,
    Verb,
)

if TYPE_CHECKING:
    from paddock.client.store import Running
    from paddock.store.door import StoreClient
    from paddock.store.protocol import SessionFilter

ASK_SECONDS = 60.0
"""Creating or waking a session may take its start timeout of 30 s, behind others."""
REACH_SECONDS = 30.0
DOWN_SECONDS = 20.0
"""Beyond the deadline that was given for sessions: for the store and the host itself."""

type Mode = Literal["normal", "plan", "yolo"]


def connect(
    home: str | Path | None = None,
    *,
    start: bool = True,
    name: str = "client",
    deadline_seconds: float = REACH_SECONDS,
) -> "Connecting":
    """Return the host of a home (``PADDOCK_HOME``, or the user's own folders).

    To be awaited, or entered: ``async with connect() as host``. Where none runs, one is started,
    detached, unless ``start`` is False; it leaves when it was idle for ten minutes.

    Raises:
        NoHost: None runs and ``start`` is False.
        HostGone: It could not be reached; says what it said last.
    """
    return Connecting(_connect(home, start=start, name=name, deadline_seconds=deadline_seconds))


async def _connect(
    home: str | Path | None, *, start: bool, name: str, deadline_seconds: float
) -> "Host":
    host = Host(places_of(home), start=start, name=name)
    try:
        await host.reach(deadline_seconds)
    except BaseException:
        await host.close()
        raise
    return host


class Connecting(Coroutine[Any, Any, "Host"]):
    """A host that is to be reached: awaited it is the host, entered it is let go of at the end."""

    def __init__(self, work: Coroutine[Any, Any, "Host"]) -> None:
        self._work = work
        self._host: Host | None = None

    def __await__(self) -> Generator[Any, Any, "Host"]:
        return self._work.__await__()

    async def __aenter__(self) -> "Host":
        self._host = await self._work
        return self._host

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._host is not None, "who leaves has entered"
        await self._host.close()

    def __getattr__(self, name: str) -> Any:
        message = f"{name!r} is of a host, and this one is not reached yet: `await connect()`"
        raise AttributeError(message)

    # A task, too, can be made of it.

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine does."""
        return self._work.send(value)

    def throw(self, *raised: Any) -> Any:
        """Raise where it waits, as a coroutine does."""
        return self._work.throw(*raised)

    def close(self) -> None:
        """Give up, as a coroutine does."""
        self._work.close()


@plainly
class Host:
    """The host of one home; also an async context manager that lets go of it."""

    def __init__(self, places: Places, *, start: bool = True, name: str = "client") -> None:
        self.places = places
        self.credentials: dict[str, str] = surroundings.credentials(os.environ)
        """What this client can give to sessions that need it: ``{"env:NAME": value}``."""
        self._by = f"uid:{os.getuid()}"
        self._link = Link(places, start=start, name=name)
        self._store: StoreClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def reach(self, deadline_seconds: float = REACH_SECONDS) -> None:
        """Connect, if that is not done yet."""
        await self._link.connection(deadline_seconds)

    async def close(self) -> None:
        """Let go of the host, which goes on; may be called more than once."""
        if self._store is not None:
            await self._store.close()
            self._store = None
        await self._link.close()

    @property
    def data(self) -> Path:
        """The host's data folder."""
        return self.places.data

    # --- sessions ---

    async def create_session(
        self,
        config: SessionConfig,
        *,
        credentials: Mapping[str, str] | None = None,
        session_id: SessionId | None = None,
        deadline_seconds: float = ASK_SECONDS,
    ) -> Session:
        """Create a session and return it when its worker is ready.

        Its id is the id of this command: the same id with the same configuration gives the same
        session again.

        Raises:
            AlreadyExists: The name is taken, or the id is known with another configuration.
            CapacityExceeded: There is no room; nothing was created.
            AgentNotFound, WorkspaceMissing: Its worker found no such thing; it is left, failed.
            BadArgument: No session can be as it is configured; nothing was created.
            CreationFailed: Its worker did not come up for another reason; it is left, failed.
            TimedOut: Nor within the deadline; it may yet, or be left, failed.
        """
        ask = CreateSession(
            session_id=session_id or SessionId(new_id()),
            config=config,
            credentials=dict(self.credentials if credentials is None else credentials),
        )
        try:
            reply = await self.ask(ask, deadline_seconds=deadline_seconds)
        except TimedOut as error:
            message = (
                f"session {ask.session_id!r} did not come up within {deadline_seconds:g} s; "
                f"`paddock show {ask.session_id}` tells what it is at"
            )
            raise TimedOut(message, seconds=deadline_seconds, session_id=ask.session_id) from error
        return Session(self, SessionId(str(reply["session_id"])), config.name)

    async def new(  # noqa: PLR0913 - each is a field of the configuration by its own name
        self,
        name: str | None = None,
        *,
        agent: str = "builtin",
        model: str | None = None,
        cwd: str | Path | None = None,
        mode: Mode = "normal",
        unattended: bool = False,
        environment: Mapping[str, str] | None = None,
        credentials: Mapping[str, str] | None = None,
        approvals: Approvals | None = None,
        limits: Limits | None = None,
        labels: Mapping[str, str] | None = None,
        session_id: SessionId | None = None,
        **more: Any,
    ) -> Session:
        """Create a session in a folder (the current one); ``more`` are fields of SessionConfig.

        Raises:
            WorkspaceMissing: The folder does not exist.
            AgentNotFound: Nor does the agent's module; or the agent is not in it, or it raises.
            UnknownModel: No model goes by that name; or a script is missing, or is none.
            BadArgument: A value is of the wrong kind; the text names it.
            TypeError: One of ``more`` is no such field.
            PaddockError: As :meth:`create_session`.
        """
        unknown = more.keys() - SessionConfig.model_fields
        if unknown:
            message = f"a session's configuration has no {', '.join(sorted(unknown))}"
            raise TypeError(message)
        more["python_path"] = folders_of(more.get("python_path", ()))
        check_agent(agent, more["python_path"])
        model = absolute_model(model)
        if isinstance(model, str):
            check_name(model)
        secrets = dict(self.credentials if credentials is None else credentials)
        config = SessionConfig(
            name=name,
            agent=agent,
            model=model,
            workspace=str(workspace_at(cwd)),
            mode=mode,
            unattended=unattended,
            environment=dict(
                surroundings.collect(os.environ) if environment is None else environment
            ),
            credentials=tuple(secrets),
            approvals=approvals or Approvals(),
            limits=limits or Limits(),
            labels=dict(labels or {}),
            **more,
        )
        return await self.create_session(config, credentials=secrets, session_id=session_id)

    async def ensure(self, name: str, **config: Any) -> Session:
        """Return the session of a name (or whole id), created (as :meth:`new` does) if it is not.

        A part of another's id, as :meth:`session` takes it, is no name of that one.
        """
        with contextlib.suppress(SessionNotFound):
            found = await self.session(name)
            if is_uuid7(name) or name.lower() not in found.session_id:
                return found
        try:
            return await self.new(name, **config)
        except AlreadyExists:  # somebody was quicker
            return await self.session(name)

    async def session(self, text: str) -> Session:
        """Return the session of a name, an id, or a part of an id that only it has.

        Raises:
            SessionNotFound: There is none, or several.
        """
        reply = await self.ask(Resolve(text=text))
        name = None if is_uuid7(text) else text
        return Session(self, SessionId(str(reply["session_id"])), name)

    async def list_sessions(
        self, chosen: "SessionFilter | None" = None, **named: Any
    ) -> list[dict[str, Any]]:
        """Return the rows of ``sessions`` that a filter chooses.

        ``named`` are fields of it, and count above those of ``chosen``.
        """
        from paddock.store.protocol import SessionFilter

        store = await self.store()
        if chosen is not None:
            named = {**chosen.model_dump(exclude_unset=True), **named}
        return await store.list_sessions(SessionFilter(**named))

    async def get_session(self, session_id: SessionId) -> dict[str, Any]:
        """Return a session's row of the view ``sessions``.

        Raises:
            SessionNotFound: There is none.
        """
        return await (await self.store()).session(session_id)

    async def suspend_idle_sessions(self, max_idle_seconds: float) -> int:
        """Suspend every session at rest for longer and without a subscriber; return how many."""
        reply = await self.ask(SuspendIdle(max_idle_seconds=max_idle_seconds))
        count = reply["count"]
        assert isinstance(count, int)
        return count

    async def decide(
        self, approval_id: str, decision: Literal["allowed", "denied"], **how: Any
    ) -> Session:
        """Answer an approval by its id (or a unique part of it), in whichever session it is open.

        Raises:
            NothingToDecide: No open approval has that id.
        """
        from paddock.client.approvals import find_approval

        found = await find_approval(self, approval_id)
        await found.session.decide(found.approval_id, decision, **how)
        return found.session

    # --- the host itself ---

    async def lives(self) -> list[dict[str, Any]]:
        """Return what lives now, one row a worker."""
        workers = (await self.ask(Lives()))["workers"]
        assert isinstance(workers, list)
        return [worker for worker in workers if isinstance(worker, dict)]

    async def status(self) -> dict[str, Any]:
        """Return what the host is and how it fares."""
        return await self.ask(Status())

    async def heads(self) -> dict[SessionId, int]:
        """Return the last sequence of each session that the host knows to have moved.

        It is 0 for one that was erased and may still be seen in SQL.
        """
        heads = (await self.ask(Sync()))["heads"]
        assert isinstance(heads, dict)
        return {SessionId(key): value for key, value in heads.items() if isinstance(value, int)}

    async def down(
        self, *, force: bool = False, keep_workers: bool = False, deadline_seconds: float = 20.0
    ) -> None:
        """End the host; return when its process is gone.

        Raises:
            Busy: There are open operations and ``force`` is False; the facts name the sessions.
            OwnerStuck: It is still there at the deadline.
        """
        ask = Down(force=force, keep_workers=keep_workers, deadline_seconds=deadline_seconds)
        until = _Until(REACH_SECONDS)
        while True:
            connection = await self._link.connection(REACH_SECONDS)
            assert connection.host is not None
            pid = connection.host.pid
            ticks = start_ticks_of(pid)
            try:
                await connection.ask(ask, deadline_seconds=deadline_seconds + DOWN_SECONDS)
                connection.leave()  # the host stays until this was heard, or half a second
            except NotGreeted:
                if until.is_over():
                    raise
                await _ended(connection, until)
            except HostGone:
                break  # it had no time for an answer
            else:
                break
        await wait_gone(pid, ticks, DOWN_SECONDS)

    async def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        deadline_seconds: float = ASK_SECONDS,
    ) -> Rows:
        """Return what one SELECT (or EXPLAIN) over all sessions gives.

        It sees all that was durable when it was asked.

        Raises:
            SqlRefused: It is not one SELECT, or it failed; the text is the database's own.
        """
        store = await self.store()
        return await store.sql(query, params or (), deadline_seconds=deadline_seconds)

    async def store(self) -> "Running":
        """Return the host's store, to be asked more than ``sql``."""
        from paddock.client.store import Running
        from paddock.store.door import StoreClient

        connection = await self._link.connection(REACH_SECONDS)
        assert connection.host is not None
        address = connection.host.store_address
        if self._store is None or self._store.address != address:
            if self._store is not None:
                await self._store.close()
            self._store = StoreClient(address)
        return Running(self._store, self.heads)

    # --- requests ---

    def new_command_id(self) -> CommandId:
        """Return a fresh id for a command."""
        return CommandId(new_id())

    async def ask(
        self,
        verb: Verb,
        *,
        deadline_seconds: float = ASK_SECONDS,
        on_answer: Callable[[Connection, Reply], None] | None = None,
    ) -> Reply:
        """Return the answer to a request, asked again of the next host if this one goes away.

        Raises:
            PaddockError: As the host told it.
            HostGone: It went away and none came back in time.
            TimedOut: The deadline passed.
        """
        until = _Until(deadline_seconds)
        while True:
            connection = await self._link.connection(min(REACH_SECONDS, until.left()))
            answered = None if on_answer is None else partial(on_answer, connection)
            try:
                return await connection.ask(verb, deadline_seconds=until.left(), on_answer=answered)
            except HostGone:
                if until.is_over():
                    raise
                await _ended(connection, until)

    async def command(
        self,
        session_id: SessionId,
        arguments: Arguments,
        *,
        key: str | None = None,
        command_id: CommandId | None = None,
        deadline_seconds: float = ASK_SECONDS,
    ) -> CommandSettled:
        """Have a session carry out a command exactly once; return its answer.

        Raises:
            PaddockError: It was rejected, with the reason's own class.
            TimedOut: No answer within the deadline; it may still take effect, once.
        """
        if command_id is None:
            command_id = await self._id_for(session_id, key)
        command = Command(
            command_id=command_id,
            verb=arguments.verb,
            arguments=_plain(arguments),
            by=self._by,
        )
        ask = SendCommand(session_id=session_id, command=command, credentials=self.credentials)
        try:
            settled = await self._settle(ask, _Until(deadline_seconds))
        except AlreadyExists as error:
            if key is None:
                raise
            message = f"the key {key!r} was given with something else before; take another key"
            raise AlreadyExists(message, **error.facts) from error
        if settled.kind in ("command_rejected", "command_quarantined"):
            code = settled.code or (
                "quarantined" if settled.kind == "command_quarantined" else "refused"
            )
            reason = settled.reason or f"the session refused {arguments.verb!r}"
            raise error_of(code, reason, {"session_id": session_id, "command_id": command_id})
        return settled

    # --- inside ---

    async def _id_for(self, session_id: SessionId, key: str | None) -> CommandId:
        if key is None:
            return self.new_command_id()
        if not isinstance(key, str):
            raise BadArgument(f"a key is a text; not {shown(key)}")
        from paddock.store.session_file import folder_of

        folder = folder_of(self.data, session_id)
        return await asyncio.to_thread(command_id_of, folder, key)

    async def _settle(self, ask: SendCommand, until: "_Until") -> CommandSettled:
        command_id = ask.command.command_id
        while True:
            connection = await self._link.connection(min(REACH_SECONDS, until.left()))
            settled = connection.settled(command_id)
            try:
                await connection.ask(ask, deadline_seconds=until.left(), settled=settled)
                async with asyncio.timeout(until.left()):
                    return await settled
            except HostGone:
                if until.is_over():
                    raise
                await _ended(connection, until)
            except TimeoutError as error:
                message = (
                    f"{ask.command.verb!r} was accepted but not answered within "
                    f"{until.seconds:g} s; ask again with the id {command_id!r}"
                )
                raise TimedOut(message, seconds=until.seconds, command_id=command_id) from error
            finally:
                connection.forget(command_id, settled)


async def _ended(connection: Connection, until: "_Until") -> None:
    """Wait for the end of a host that takes nothing more, which it may have told before it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(until.left()):
            await connection.wait_ended()


class _Until:
    """A deadline that is shared by several waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    def left(self) -> float:
        return max(0.05, self._at - asyncio.get_running_loop().time())

    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._at


def _plain(arguments: Arguments) -> dict[str, JsonValue]:
    return arguments.model_dump(mode="json", exclude_none=True)


def workspace_at(cwd: str | Path | None) -> Path:
    """Return a workspace as an absolute path.

    Raises:
        WorkspaceMissing: It is no folder.
    """
    try:
        folder = Path(cwd if cwd is not None else Path.cwd()).expanduser()
    except FileNotFoundError as error:
        message = "the current folder is not there any more; go to another, or name one (--cwd)"
        raise WorkspaceMissing(message) from error
    if not folder.is_dir():
        message = f"the workspace {str(folder)!r} is no folder; create it, or name another (--cwd)"
        raise WorkspaceMissing(message, path=str(folder))
    return folder.resolve()
