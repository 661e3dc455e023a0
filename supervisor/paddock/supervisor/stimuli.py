"""What can befall the life of a session's worker, and what it can want done: values alone.

Every stimulus carries ``at``, seconds of a clock that only goes forward. Those that speak of one
process carry the number of its start, so that what comes late about another is known as such.
"""

from dataclasses import dataclass
from enum import StrEnum

from paddock.session_worker.protocol import Command, Fault, Settled
from paddock.session_worker.protocol import Stage as WorkerStage
from paddock.store.errors import PaddockError
from paddock.store.ids import CommandId, OperationId
from paddock.supervisor.commands import Ticket, Unsettled


class Stage(StrEnum):
    """Where the life of a session's worker stands; the diagram is in ``machine``."""

    COLD = "cold"
    SEEKING = "seeking"
    STARTING = "starting"
    LIVE = "live"
    NEEDS_CREDENTIALS = "needs_credentials"
    SUSPENDING = "suspending"
    BURYING = "burying"
    BACKING_OFF = "backing_off"
    STUCK = "stuck"
    FAILED = "failed"
    DELETED = "deleted"


# --- stimuli ---


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody wants the session live. ``has_room``: a room was reserved for it already."""

    at: float
    why: str
    ticket: Ticket | None = None
    reset: bool = False
    has_room: bool = False


@dataclass(frozen=True, slots=True)
class Commanded:
    """A client gives the session a command; with ``why`` it is woken for it."""

    at: float
    command: Command
    ticket: Ticket | None = None


@dataclass(frozen=True, slots=True)
class RoomGiven:
    """There is a room for it."""

    at: float


@dataclass(frozen=True, slots=True)
class RoomRefused:
    """There is none, and why."""

    at: float
    error: PaddockError


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process of a start is there."""

    at: float
    start: int
    pid: int


@dataclass(frozen=True, slots=True)
class NotSpawned:
    """There is no process for a start: the host could not fork."""

    at: float
    start: int
    error: PaddockError


@dataclass(frozen=True, slots=True)
class FoundAlive:
    """A worker of an earlier supervisor holds the session; it is given time to greet."""

    at: float
    pid: int
    patience_seconds: float


@dataclass(frozen=True, slots=True)
class FoundOpen:
    """The file's last worker is dead and has no certificate, or left something undone."""

    at: float


@dataclass(frozen=True, slots=True)
class GreetedInAnotherVersion:
    """The worker of a start greets by a protocol that this supervisor does not speak."""

    at: float
    start: int


@dataclass(frozen=True, slots=True)
class Greeted:
    """The worker of the present start said Hello and was found to be who it says."""

    at: float
    generation: int
    pid: int
    head: int
    stage: WorkerStage
    operation_id: OperationId | None = None
    unanswered: tuple[CommandId, ...] = ()


@dataclass(frozen=True, slots=True)
class Beaten:
    """The worker's loop beats."""

    at: float
    stage: WorkerStage
    head: int
    operation_id: OperationId | None = None
    rss_bytes: int = 0
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the worker of a start and all its tools use of the memory was summed up."""

    at: float
    start: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Grew:
    """Events are durable up to ``head``."""

    at: float
    head: int


@dataclass(frozen=True, slots=True)
class Touched:
    """Somebody uses the session without asking it anything."""

    at: float


@dataclass(frozen=True, slots=True)
class WasAccepted:
    """A command is durable."""

    at: float
    command_id: CommandId
    sequence: int
    digest: str = ""
    """Of its words; empty where the worker did not say."""


@dataclass(frozen=True, slots=True)
class WasSettled:
    """A command's answer is durable."""

    at: float
    answer: Settled


@dataclass(frozen=True, slots=True)
class WasNotAccepted:
    """The worker could not take a command in."""

    at: float
    command_id: CommandId
    code: str
    reason: str
    digest: str = ""
    """Of its words; empty where the worker did not say."""


@dataclass(frozen=True, slots=True)
class LeaveAsked:
    """The session is to be suspended; with ``force`` even if it is at work."""

    at: float
    reason: str
    deadline_seconds: float
    force: bool = True
    ticket: Ticket | None = None
    is_final: bool = False
    """The host ends: nothing is started any more, whatever waits."""
    is_own: bool = False
    """Nobody asked: the worker leaves of its own accord."""


@dataclass(frozen=True, slots=True)
class DeleteAsked:
    """The session is to be deleted."""

    at: float
    command: Command
    deadline_seconds: float
    ticket: Ticket | None = None


@dataclass(frozen=True, slots=True)
class WasBusy:
    """The worker has work and stays."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class SaidBye:
    """The worker closed its file and ends."""

    at: float
    reason: str
    head: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process of a start is proven dead."""

    at: float
    start: int


@dataclass(frozen=True, slots=True)
class Buried:
    """The dead worker's tools are gone and its certificate is durable.

    ``restart_seconds`` is None where it is not to be started again by itself, ``failed`` says why
    it must not be.
    """

    at: float
    start: int
    head: int
    ending: str
    reason: str
    restart_seconds: float | None = None
    failed: str | None = None
    error_kind: str | None = None
    deleted_by: CommandId | None = None
    """By which command it was deleted, if it was."""
    answers: tuple[Settled, ...] = ()
    """What the log says of the commands that were on their way."""


@dataclass(frozen=True, slots=True)
class NotBuried:
    """No certificate could be written: ``pid`` holds the lock still, or the file is damaged."""

    at: float
    start: int
    error: PaddockError
    pid: int | None = None
    is_final: bool = False
    """Trying again is no use (damage)."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The deadline of the present stage passed."""

    at: float


@dataclass(frozen=True, slots=True)
class CredentialsPut:
    """A client gave the session its secrets."""

    at: float


type Stimulus = (
    Wanted
    | Commanded
    | RoomGiven
    | RoomRefused
    | Spawned
    | NotSpawned
    | FoundAlive
    | FoundOpen
    | Greeted
    | GreetedInAnotherVersion
    | Beaten
    | Weighed
    | Grew
    | Touched
    | WasAccepted
    | WasSettled
    | WasNotAccepted
    | LeaveAsked
    | DeleteAsked
    | WasBusy
    | SaidBye
    | Exited
    | Buried
    | NotBuried
    | TimerFired
    | CredentialsPut
)


# --- effects ---


@dataclass(frozen=True, slots=True)
class SeekRoom:
    """Ask the fleet for a room."""


@dataclass(frozen=True, slots=True)
class TakeRoom:
    """Count the session as living, above the limit if need be: it lives already."""


@dataclass(frozen=True, slots=True)
class GiveBackRoom:
    """The room is not needed any more."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker."""

    start: int
    reason: str
    reset: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the worker a command."""

    command: Command


@dataclass(frozen=True, slots=True)
class AskToLeave:
    """Ask the worker to come to rest and leave."""

    reason: str
    deadline_seconds: float
    force: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process of the present start. ``wants_stacks``: have it write them first."""

    start: int
    reason: str
    wants_stacks: bool = False


@dataclass(frozen=True, slots=True)
class Bury:
    """Kill the tools of a dead worker, take the lock, write what is missing in its file.

    ``cause`` is what the supervisor knows of the death beyond its status; ``is_asked``: it was to
    leave. ``delete`` is a deletion to be carried out by the way.
    """

    start: int
    pid: int | None
    generation: int | None
    cause: str | None
    is_asked: bool
    last_stage: str | None
    peak_rss_bytes: int | None
    in_delivery: tuple[CommandId, ...]
    delete: Command | None
    is_found: bool = False
    """Nobody of ours saw it die: it is started again only if there is work."""
    leave_reason: str | None = None
    """Why it was asked to leave, where it was."""
    unsettled: tuple[Unsettled, ...] = ()
    """Commands whose answers in the log are to be told: the word of their worker may be lost."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a request."""

    ticket: Ticket
    result: dict[str, object]


@dataclass(frozen=True, slots=True)
class ReplyError:
    """Answer a request: it was not done."""

    ticket: Ticket
    error: PaddockError


@dataclass(frozen=True, slots=True)
class TellSettled:
    """Tell who asked for a command how it was answered."""

    tickets: tuple[Ticket, ...]
    answer: Settled


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the subscribers something that is no event of the session."""

    what: str
    detail: dict[str, object]


@dataclass(frozen=True, slots=True)
class SendCredentials:
    """Give the worker the secrets that are here."""


@dataclass(frozen=True, slots=True)
class Stayed:
    """A session that was to make room stays."""


type Effect = (
    SeekRoom
    | TakeRoom
    | GiveBackRoom
    | Spawn
    | Deliver
    | AskToLeave
    | Kill
    | Bury
    | Reply
    | ReplyError
    | TellSettled
    | Notify
    | SendCredentials
    | Stayed
)
