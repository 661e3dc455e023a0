"""A session, as a client holds it: words sent, events heard, decisions made."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue

from paddock.client.feed import Feed, Previewed
from paddock.client.models import absolute_model, check_name
from paddock.client.outcome import Outcome, Watch
from paddock.client.plainly import plainly, shown
from paddock.session_worker.errors import BadArgument, NeedsCredentials
from paddock.session_worker.protocol import (
    Annotate,
    Arguments,
    CheckOut,
    Configure,
    Decide,
    DequeueInput,
    EditMessage,
    Interrupt,
    RunShell,
    SendInput,
    SetMode,
    SetModel,
)
from paddock.store.errors import SessionNotFound, TimedOut
from paddock.store.events import ImagePart, Scope, Stored, TextPart, UserPart
from paddock.store.ids import ApprovalId, CommandId, MessageId, OperationId, SessionId
from paddock.supervisor.protocol import (
    CommandSettled,
    DeleteSession,
    PutCredentials,
    ResumeSession,
    SuspendSession,
    TouchSession,
)

if TYPE_CHECKING:
    # The fold is large, and most programs never ask for it.
    from paddock.client.host import Host
    from paddock.store.session import Session as SessionState

COMMAND_SECONDS = 60.0
"""A command may have to wake its session: above the start timeout of 30 s."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A piece of work that a command began, or will begin when it is its turn."""

    session: "Session"
    command_id: CommandId
    operation_id: OperationId | None
    """None while the words wait in the queue."""
    sequence: int
    """Of the event that answered the command."""

    @property
    def is_queued(self) -> bool:
        """Whether it waited for another operation when it was answered."""
        return self.operation_id is None

    async def wait(self, deadline_seconds: float | None = None) -> Outcome:
        """Return how the operation ended, whatever dies and comes back in between.

        Raises:
            TimedOut: The deadline passed; the operation goes on.
            NeedsCredentials: Its model's key is not there; it goes on when somebody brings it.
            HostGone: The host went away and none came back.
        """
        watch = Watch(self.command_id, self.operation_id)
        feed = self.session.follow(after=self.sequence - 1, deltas=False)
        try:
            async with asyncio.timeout(deadline_seconds):
                async with feed:
                    async for told in feed:
                        if isinstance(told, Stored) and (outcome := watch.take(told)):
                            return outcome
                        if watch.lacks is not None and feed.is_caught_up:
                            raise self.session.lacking(watch.lacks)
        except TimeoutError as error:
            message = f"the operation did not end within {deadline_seconds:g} s; it goes on"
            raise TimedOut(message, seconds=deadline_seconds) from error
        except SessionNotFound:  # deleted before anybody waited: the end of its operations, too
            pass
        return watch.gone(self.session.session_id, feed.position)

    async def interrupt(self) -> None:
        """End it: its open calls are cancelled. Returns when that is settled."""
        await self.session.interrupt(self.operation_id)


@plainly
class Session:
    """One session of a host, live or at rest; any command wakes it."""

    def __init__(self, host: "Host", session_id: SessionId, name: str | None = None) -> None:
        self.host = host
        self.session_id = session_id
        self.name = name

    def __repr__(self) -> str:
        return f"Session({self.name or self.session_id!r})"

    # --- words ---

    async def send(
        self,
        words: str | Sequence[UserPart],
        *,
        key: str | None = None,
        command_id: CommandId | None = None,
        deadline_seconds: float = COMMAND_SECONDS,
    ) -> Operation:
        """Give the agent words; return the operation that they began or wait for.

        The same ``key`` again gives the same operation again and sends nothing twice.

        Raises:
            AlreadyExists: The key (or id) is known with other words.
            BadArgument: They are no words.
            TooManyWaiting: 64 commands wait already.
        """
        arguments = SendInput(parts=_parts_of(words))
        return await self._begin(arguments, key, command_id, deadline_seconds)

    async def shell(
        self,
        command: str,
        *,
        key: str | None = None,
        command_id: CommandId | None = None,
        deadline_seconds: float = COMMAND_SECONDS,
    ) -> Operation:
        """Run a shell command of the user's own in the workspace, as an operation."""
        return await self._begin(RunShell(command=command), key, command_id, deadline_seconds)

    async def edit(self, message_id: MessageId, words: str, *, key: str | None = None) -> Operation:
        """Say a user message anew, on a branch of its own."""
        arguments = EditMessage(message_id=message_id, parts=(TextPart(text=words),))
        return await self._begin(arguments, key, None, COMMAND_SECONDS)

    async def check_out(self, message_id: MessageId) -> None:
        """Make the branch that ends in a message the active one."""
        await self.command(CheckOut(message_id=message_id))

    async def dequeue(self, input_id: CommandId) -> None:
        """Remove words that wait."""
        await self.command(DequeueInput(input_id=input_id))

    # --- decisions and changes ---

    async def approve(
        self,
        approval_id: ApprovalId,
        *,
        scope: Scope = "once",
        pattern: str | None = None,
        note: str | None = None,
        door: Literal["cli", "client"] = "client",
    ) -> None:
        """Let a call run: once, its tool always, or every shell command of a pattern always."""
        await self.decide(
            approval_id, "allowed", scope=scope, pattern=pattern, note=note, door=door
        )

    async def deny(
        self,
        approval_id: ApprovalId,
        *,
        note: str | None = None,
        door: Literal["cli", "client"] = "client",
    ) -> None:
        """Do not let a call run; the agent is told, with the note, and goes on."""
        await self.decide(approval_id, "denied", note=note, door=door)

    async def decide(
        self,
        approval_id: ApprovalId,
        decision: Literal["allowed", "denied"],
        *,
        scope: Scope = "once",
        pattern: str | None = None,
        note: str | None = None,
        door: Literal["cli", "client"] = "client",
    ) -> None:
        """Answer an approval.

        Raises:
            NothingToDecide: It is unknown, was decided before, or died with its operation.
        """
        await self.command(
            Decide(
                approval_id=approval_id,
                decision=decision,
                scope=scope,
                pattern=pattern,
                note=note,
                door=door,
            )
        )

    async def interrupt(self, operation_id: OperationId | None = None) -> CommandSettled:
        """End the operation at work (or the one named); return when it is settled.

        Raises:
            NothingToInterrupt: None (or another one) is at work.
        """
        return await self.command(Interrupt(operation_id=operation_id))

    async def set_model(self, model: str) -> None:
        """Ask another model from the next request on.

        Raises:
            UnknownModel: No model goes by that name; or a script is missing, or is none.
        """
        name = absolute_model(model)
        if isinstance(name, str):  # else its word says what it is
            check_name(name)
        await self.command(SetModel(model=name))

    async def set_mode(self, mode: Literal["normal", "plan", "yolo"]) -> None:
        """Change the mode of the session."""
        await self.command(SetMode(mode=mode))

    async def configure(
        self,
        *,
        name: str | None = None,
        title: str | None = None,
        labels: dict[str, str] | None = None,
        project: str | None = None,
        owner: str | None = None,
    ) -> None:
        """Change names and labels; what is None stays as it is."""
        await self.command(
            Configure(name=name, title=title, labels=labels, project=project, owner=owner)
        )
        self.name = name or self.name

    async def annotate(
        self, key: str, value: JsonValue = None, *, operation_id: OperationId | None = None
    ) -> None:
        """Put a remark into the session's history."""
        await self.command(Annotate(key=key, value=value, operation_id=operation_id))

    async def command(
        self,
        arguments: Arguments,
        *,
        key: str | None = None,
        command_id: CommandId | None = None,
        deadline_seconds: float = COMMAND_SECONDS,
    ) -> CommandSettled:
        """Have a command carried out exactly once; return its answer.

        Raises:
            PaddockError: It was rejected, with the reason's own class.
        """
        return await self.host.command(
            self.session_id,
            arguments,
            key=key,
            command_id=command_id,
            deadline_seconds=deadline_seconds,
        )

    # --- life ---

    async def suspend(self, deadline_seconds: float = 10.0, *, force: bool = True) -> bool:
        """Let the session rest without a process; return whether it was live.

        Raises:
            Busy: It is at work and ``force`` is False.
            OwnerStuck: The deadline passed and its process is still there.
        """
        ask = SuspendSession(
            session_id=self.session_id, deadline_seconds=deadline_seconds, force=force
        )
        reply = await self.host.ask(ask, deadline_seconds=deadline_seconds + 20)
        return bool(reply["was_live"])

    async def resume(self, *, reset: bool = False) -> int:
        """Wake the session; return its generation. ``reset`` frees one that failed."""
        ask = ResumeSession(
            session_id=self.session_id, reset=reset, credentials=self.host.credentials
        )
        generation = (await self.host.ask(ask))["generation"]
        assert isinstance(generation, int)
        return generation

    async def delete(
        self,
        *,
        erase: bool = False,
        deadline_seconds: float = 10.0,
        command_id: CommandId | None = None,
    ) -> None:
        """End the session for good; ``erase`` leaves no byte of it.

        Raises:
            SessionNotFound: There is none (any more).
        """
        ask = DeleteSession(
            session_id=self.session_id,
            command_id=command_id or self.host.new_command_id(),
            erase=erase,
            deadline_seconds=deadline_seconds,
        )
        await self.host.ask(ask, deadline_seconds=deadline_seconds + 20)

    async def touch(self) -> None:
        """Count as activity, so that the session is not idle."""
        await self.host.ask(TouchSession(session_id=self.session_id))

    async def put_credentials(self, credentials: dict[str, str]) -> None:
        """Give the session the secrets that it needs: ``{"env:NAME": value}``."""
        await self.host.ask(PutCredentials(session_id=self.session_id, credentials=credentials))

    # --- what it does and did ---

    def follow(
        self,
        *,
        after: int = 0,
        follow: bool = True,
        wake: bool = False,
        exclusive: bool = False,
        deltas: bool = True,
    ) -> Feed:
        """Return all that is told of the session above ``after``: events, previews, notices."""
        return Feed(
            self.host,
            self.session_id,
            after=after,
            follow=follow,
            wake=wake,
            exclusive=exclusive,
            deltas=deltas,
        )

    async def events(self, *, after: int = 0, follow: bool = True) -> AsyncIterator[Stored]:
        """Yield every event above ``after`` exactly once, in order; then, what follows (R8)."""
        async with self.follow(after=after, follow=follow, deltas=False) as feed:
            async for told in feed:
                if isinstance(told, Stored):
                    yield told

    async def previews(self) -> AsyncIterator[Previewed]:
        """Yield the pieces of messages and outputs in the making, from now on."""
        after = (await self.state()).sequence
        async with self.follow(after=after) as feed:
            async for told in feed:
                if isinstance(told, Previewed):
                    yield told

    async def state(self) -> "SessionState":
        """Return the session as its log tells it: the same for a live and a stored one.

        Raises:
            SessionNotFound: It has no file.
            Damaged: The file is not what was written.
        """
        from paddock.client.files import read_state

        return await asyncio.to_thread(read_state, self.host.data, self.session_id)

    def lacking(self, what: str) -> NeedsCredentials:
        """Return the error of an operation that waits for credentials."""
        name = self.name or self.session_id
        message = f"{what}; then `paddock resume {name}` brings it, and the operation goes on"
        return NeedsCredentials(message, session_id=self.session_id)

    async def row(self) -> dict[str, Any]:
        """Return the session's row of the view ``sessions``."""
        return await self.host.get_session(self.session_id)

    # --- inside ---

    async def _begin(
        self,
        arguments: Arguments,
        key: str | None,
        command_id: CommandId | None,
        deadline_seconds: float,
    ) -> Operation:
        settled = await self.command(
            arguments, key=key, command_id=command_id, deadline_seconds=deadline_seconds
        )
        operation_id = OperationId(settled.operation_id) if settled.operation_id else None
        return Operation(self, settled.command_id, operation_id, settled.sequence)


def _parts_of(words: object) -> tuple[UserPart, ...]:
    """Return words as the parts that they are sent in.

    Raises:
        BadArgument: They are neither text nor parts.
    """
    if isinstance(words, str):
        return (TextPart(text=words),)
    parts = tuple(words) if isinstance(words, list | tuple) else ()
    if not parts or not all(isinstance(part, TextPart | ImagePart) for part in parts):
        message = f"words are a text, or a list of TextPart and ImagePart; not {shown(words)}"
        raise BadArgument(message)
    return parts
