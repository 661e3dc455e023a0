"""What a tool promises and what it hands back: the types between tools and whoever calls them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

type Effects = Literal["none", "idempotent", "write"]
type Approval = Literal["allow", "ask"]
type Outcome = Literal["ok", "error", "cancelled", "timed_out", "limit_exceeded"]
type Change = Literal["created", "modified", "deleted"]
type Sandbox = Literal["auto", "require", "off"]
type Progress = Callable[[str], None]

MIB = 1024 * 1024


class BadCall(Exception):
    """The arguments of a call are malformed; the message names each fault. The model's fault."""

    code = "bad_call"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one tool call may use; every number bounds the whole process tree of the call.

    ``memory_bytes`` is the sum of resident memory and off when None: an address-space limit
    would stop runtimes that reserve far more than they use (Node, Go, Java).
    """

    seconds: float = 120.0
    seconds_at_most: float = 600.0
    cpu_seconds: int = 3600
    processes: int = 512
    memory_bytes: int | None = None
    output_bytes: int = 30_000
    spool_bytes: int = 1024 * MIB


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model and the ledger need to know of a tool.

    ``parameters`` is a JSON schema of type object. ``output_limit_bytes`` is how much of an output
    stays in the result's text, half of it head and half tail. An ``exclusive`` call conflicts with
    every other call of its session; others may run beside each other.
    """

    name: str
    description: str
    parameters: Mapping[str, object]
    effects: Effects
    approval: Approval
    timeout_seconds: float
    output_limit_bytes: int
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Confines:
    """What keeps a session's tools in.

    ``group`` is the control group of the generation's tools, made with the first of them; None
    where groups are not to be had. ``closed`` are folders (without links in their paths) that no
    tool may use unless its workspace lies in them. ``sandbox`` says whether the kernel is to keep
    child processes out of them: ``auto`` where it can, ``require`` or run none. ``without`` names
    walls of the sandbox that this machine does not give.
    """

    group: str | None = None
    sandbox: Sandbox = "off"
    closed: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """Where a call runs.

    ``environment`` is the complete environment of its child processes. ``owner`` is
    ``<session id>.<generation>`` and stands in each child as PADDOCK_OWNER. ``scratch`` is a folder
    of mode 0700 for spooled output. With ``jail`` the file tools refuse paths that lead out of the
    workspace; what a shell command touches is not jailed by it.
    """

    workspace: Path
    environment: Mapping[str, str] = field(repr=False)
    owner: str
    scratch: Path
    jail: bool = False
    confines: Confines = Confines()


@dataclass(frozen=True, slots=True)
class FileChange:
    """What a call did to one file; ``path`` is relative to the workspace where it lies inside."""

    path: str
    change: Change
    lines_added: int
    lines_removed: int
    before_sha256: str | None
    after_sha256: str | None


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """How a call ended and what is left of it.

    ``text`` is what the model sees: head and tail of the output with a mark where it was cut, no
    NUL and no lone surrogate in it. ``output_bytes`` counts the whole output. ``spool`` is a file
    with the whole output where that was larger than the tool's limit; the caller keeps it and
    unlinks it. ``value`` is what a Python tool returned, JSON-able, and ``printed`` head and tail
    of what it wrote to stdout and stderr meanwhile. A value over 16 MiB is an output only: the call
    is ok, its ``error_kind`` is ``value_too_large`` and its ``value`` None.
    """

    status: Outcome
    text: str
    exit_code: int | None = None
    error_kind: str | None = None
    error: str | None = None
    output_bytes: int = 0
    spool: Path | None = None
    file_changes: tuple[FileChange, ...] = ()
    value: object = None
    printed: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A call made ready: validated, nothing done yet.

    ``intent`` is JSON-able and to be recorded before the effect; None where there is no effect.
    ``call`` is a tag of its own that stands in each child as PADDOCK_CALL. ``foregone`` is set when
    the outcome is known already (the text to edit is not there, say): running the plan returns it
    and does nothing, so it needs neither approval nor intent. ``work`` belongs to the tool.
    """

    tool: str
    arguments: Mapping[str, object]
    intent: Mapping[str, object] | None
    call: str
    foregone: ToolOutcome | None = None
    work: object = field(default=None, repr=False)


class Tool(Protocol):
    """Something a model can ask for."""

    @property
    def spec(self) -> ToolSpec:
        """What a model and the ledger need to know of it."""

    def prepare(self, arguments: Mapping[str, object], room: Room) -> Plan:
        """Return the call made ready, having only read.

        It may read files, so a loop that must not wait calls it in a thread. A plan ages: make it
        right before the call runs, after those that conflict with it.

        Raises:
            BadCall: The arguments are malformed; each fault is named. The model's fault.
        """

    async def run(self, plan: Plan, room: Room, progress: Progress) -> ToolOutcome:
        """Do it and return how it ended; ``progress`` is told pieces of the output meanwhile.

        What goes wrong inside is an outcome, not an exception. When cancelled, everything the
        call started is gone before CancelledError leaves.
        """

    def happened(self, intent: Mapping[str, object], room: Room) -> bool | None:
        """Tell after a crash whether an intended effect took place; None when nobody can know."""
