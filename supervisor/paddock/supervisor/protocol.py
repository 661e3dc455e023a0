"""The words at the host's door: what clients ask, and what they are told.

A client speaks ``Ask`` and hears, for each, one ``Answer`` or one ``Failed`` with the same
``request_id``. Some asks go on: a command is answered when it is accepted (durable) and followed by
``Settled``, or by ``Failed`` where its session cannot go on for the time being; a subscription is
answered and followed by ``Events``, ``Preview`` and ``Notice`` until it is ended. The verbs of
``Ask`` and what they take stand in ``VERBS``.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from paddock.session_worker.protocol import Command
from paddock.session_worker.wire import Vocabulary, Word
from paddock.store.events import SessionConfig
from paddock.store.ids import CommandId, SessionId


class FromClient(Word):
    """What a client says."""


class Greet(FromClient):
    """The first word of every connection; answered by ``Host``."""

    tag = "greet"
    paddock_version: str
    name: str = "client"


class Ask(FromClient):
    """One request. ``arguments`` are those of the verb's model in ``VERBS``."""

    tag = "ask"
    request_id: int
    verb: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class Leave(FromClient):
    """The client goes; its subscriptions end."""

    tag = "leave"


class Alive(FromClient):
    """The client is still there; a client silent for 15 s counts as having left (L11)."""

    tag = "alive"


# --- verbs ---


class Verb(BaseModel):
    """What a verb takes; an unknown argument is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: ClassVar[str]


class CreateSession(Verb):
    """Answer when its worker is ready: ``{session_id, name, existed}``; its id is the command's."""

    verb = "create_session"
    session_id: SessionId
    config: SessionConfig
    credentials: dict[str, str] = Field(default_factory=dict)
    """Values of the references in the configuration; kept in memory alone."""


class SendCommand(Verb):
    """Hand a session a command, waking it if need be.

    Answer: ``{command_id, sequence}`` when it is accepted, then a ``Settled``.
    """

    verb = "command"
    session_id: SessionId
    command: Command
    credentials: dict[str, str] = Field(default_factory=dict)


class SuspendSession(Verb):
    """Answer when the worker is gone: ``{was_live}``; or OwnerStuck at the deadline.

    With ``force`` False a session at work stays (``Busy``).
    """

    verb = "suspend_session"
    session_id: SessionId
    deadline_seconds: float = 10.0
    force: bool = True


class ResumeSession(Verb):
    """Answer when the worker is ready: ``{was_live, generation}``. ``reset`` frees a failed one."""

    verb = "resume_session"
    session_id: SessionId
    reset: bool = False
    credentials: dict[str, str] = Field(default_factory=dict)


class DeleteSession(Verb):
    """Answer when the worker is gone and the deletion durable: ``{deleted: true}``."""

    verb = "delete_session"
    session_id: SessionId
    command_id: CommandId
    erase: bool = False
    deadline_seconds: float = 10.0


class TouchSession(Verb):
    """Count as activity, so that the session is not idle."""

    verb = "touch_session"
    session_id: SessionId


class Subscribe(Verb):
    """Events numbered above ``after``, then what follows. Answer: ``{subscription_id, head}``."""

    verb = "subscribe"
    session_id: SessionId
    after: Annotated[int, Field(ge=0)] = 0
    wake: bool = False
    exclusive: bool = False
    deltas: bool = True


class Unsubscribe(Verb):
    """End a subscription."""

    verb = "unsubscribe"
    subscription_id: int


class Consumed(Verb):
    """The subscriber has taken in all up to ``sequence``; more is sent only within a window."""

    verb = "consumed"
    subscription_id: int
    sequence: int


class SuspendIdle(Verb):
    """Suspend every session idle for longer; answer ``{count}``."""

    verb = "suspend_idle_sessions"
    max_idle_seconds: Annotated[float, Field(ge=0)]


class Lives(Verb):
    """What lives now: ``{workers: [{session_id, name, pid, generation, stage, …}]}`` (``ps``)."""

    verb = "lives"


class Resolve(Verb):
    """The id of a session by name, id, or a unique part of an id: ``{session_id}``."""

    verb = "resolve"
    text: str


class Status(Verb):
    """What the host is and how it fares."""

    verb = "status"


class Sync(Verb):
    """Heads of sessions, so that SQL can wait for them: ``{heads: {session_id: sequence}}``.

    0 is the head of one that was erased, and may still be seen in SQL.
    """

    verb = "heads"


class Down(Verb):
    """End the host: sessions are suspended, workers leave. Open operations need ``force``.

    ``keep_workers``: the workers stay and the next supervisor adopts them (``restart``).
    """

    verb = "down"
    force: bool = False
    keep_workers: bool = False
    deadline_seconds: float = 20.0


class PutCredentials(Verb):
    """Give a session the secrets that it needs."""

    verb = "put_credentials"
    session_id: SessionId
    credentials: dict[str, str]


VERBS: dict[str, type[Verb]] = {
    verb.verb: verb
    for verb in (
        CreateSession,
        SendCommand,
        SuspendSession,
        ResumeSession,
        DeleteSession,
        TouchSession,
        Subscribe,
        Unsubscribe,
        Consumed,
        SuspendIdle,
        Lives,
        Resolve,
        Status,
        Sync,
        Down,
        PutCredentials,
    )
}


# --- to clients ---


class ToClient(Word):
    """What a client is told."""


class Host(ToClient):
    """Who answers here."""

    tag = "host"
    paddock_version: str
    pid: int
    epoch: int
    store_address: str
    data: str


class Answer(ToClient):
    """The request was done."""

    tag = "answer"
    request_id: int
    result: dict[str, JsonValue]


class Failed(ToClient):
    """The request was not done, by whose fault and why (``code`` as in the error classes).

    Of a command it may come after its ``Answer``: it was accepted, and has no answer for the time
    being; asked for again by the same id it is told what became of it.
    """

    tag = "failed"
    request_id: int
    code: str
    message: str
    facts: dict[str, JsonValue] = Field(default_factory=dict)


class CommandSettled(ToClient):
    """The answer to an accepted command is durable at ``sequence``: an event of ``kind``."""

    tag = "settled"
    command_id: CommandId
    session_id: SessionId
    sequence: int
    kind: str
    operation_id: str | None = None
    code: str | None = None
    reason: str | None = None


class Events(ToClient):
    """Events of a subscription; ``rows`` as in the worker's ``Durable``."""

    tag = "events"
    subscription_id: int
    first: int
    count: int
    rows: bytes


class Preview(ToClient):
    """A delta of a subscription."""

    tag = "preview"
    subscription_id: int
    message_id: str
    channel: Literal["text", "thinking", "output", "reset"]
    offset: int
    text: str


class Notice(ToClient):
    """Something about the subscribed session that is no event of it, or the subscription's end."""

    tag = "notice"
    subscription_id: int
    what: Literal["live", "suspended", "died", "deleted", "failed", "damaged", "memory", "ended"]
    detail: dict[str, JsonValue] = Field(default_factory=dict)


FROM_CLIENT: Vocabulary[FromClient] = Vocabulary((Greet, Ask, Leave, Alive))
TO_CLIENT: Vocabulary[ToClient] = Vocabulary(
    (Host, Answer, Failed, CommandSettled, Events, Preview, Notice)
)
