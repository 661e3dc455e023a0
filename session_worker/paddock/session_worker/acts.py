"""Acts: what an engine wants done outward, carried out by the loop after the commit."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from paddock.session_worker.protocol import FromWorker
from paddock.session_worker.stimuli import Stimulus
from paddock.session_worker.toolbox.contract import Plan
from paddock.session_worker.turn import Effect
from paddock.store.ids import ToolCallId


@dataclass(frozen=True, slots=True)
class RunCall:
    """Run a call whose intent is durable."""

    tool_call_id: ToolCallId
    plan: Plan


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the supervisor."""

    word: FromWorker


@dataclass(frozen=True, slots=True)
class Continue:
    """Take this stimulus next: what it needs is durable now."""

    stimulus: Stimulus


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel the effects whose name begins so (all of them for an empty prefix)."""

    prefix: str = ""


@dataclass(frozen=True, slots=True)
class StopAgent:
    """Cancel the function agent."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Say ``DeadlinePassed`` with this number after that time."""

    seconds: float
    number: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Use these secrets from now on."""

    values: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a waiting function agent."""

    caller: Future[object]
    value: object


type Act = Effect | RunCall | Say | Continue | Stop | StopAgent | Alarm | Renew | Reply
