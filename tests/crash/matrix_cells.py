"""The cells of the matrix: which process, at which point of a session's life, by which fault.

The points are not chosen: they are all that the processes reach in the life of ``matrix_life``. A
test takes down what is reached and compares it with this list. Events that are committed together
are one point, named by one of them.
"""

from collections.abc import Iterator, Sequence
from itertools import batched
from typing import Final, get_args

from tests.crash.faults import FAULTS, ROLES, Role
from tests.crash.matrix_life import Agent, Cell, Trigger

AGENTS: Final[tuple[Agent, ...]] = get_args(Agent.__value__)
SHORT_EVERY: Final = 6
"""The short form strikes at every so many points of a process; at all where there are few."""
SIDE_BY_SIDE: Final = 12
"""Cells of workers and tools that share a host, at once; of other processes, one after another."""


def _commit(kind: str) -> tuple[str, ...]:
    return (f"{kind}:before", f"{kind}:in", f"{kind}:after")


def _write(name: str) -> tuple[str, ...]:
    return (f"{name}:before", f"{name}:after")


TOGETHER: Final = {
    "user_message_added": "operation_started",
    "model_call_started": "operation_started",
    "model_call_finished": "operation_completed",
    "assistant_message_added": "operation_completed",
    "state_saved": "operation_completed",
    "worker_exited": "session_suspended",
}
"""Events that share a commit with another, by which it is named."""

_FIRST = ("starting", "file owned", *_commit("worker_started"), "greeting")
_ACCEPTED = (*_commit("command_accepted"), *_commit("operation_started"))
_CALL = (
    *_commit("approval_requested"),
    *_commit("approval_decided"),
    *_commit("tool_call_started"),
    *("call intended", "call running", "call ended"),
    *_commit("tool_call_finished"),
)
_LAST = (
    *_commit("operation_completed"),
    *_commit("session_annotated"),
    *_commit("session_suspended"),
    *_write("snapshot"),
    *_write("file folded"),
    *_commit("session_resumed"),
    *_commit("session_deleted"),
)
_MODEL = ("model asked", *_commit("session_titled"), *_commit("tool_call_requested"))
_STEPS = (
    *_commit("step_started"),
    *_commit("step_finished"),
    *_commit("tool_call_requested"),
)

WORKER: Final[dict[Agent, tuple[str, ...]]] = {
    "built-in": (*_FIRST, *_ACCEPTED, *_MODEL, *_CALL, *_LAST),
    "function": (*_FIRST, *_ACCEPTED, *_STEPS, *_CALL, *_LAST),
}
HOST: Final[dict[Role, dict[Trigger, tuple[str, ...]]]] = {
    "supervisor": {
        "life": (
            *_write("host file, reserve"),
            *_write("session_created"),
            *_write("host file, enter"),
            *("fork asked", "forked", "Hello heard", "Reply to a client", "Deliver to be said"),
            *("Accepted heard", "Settled heard", "TellSettled to a client", "Durable heard"),
            *("Suspend to be said", "Bye heard"),
            *_write("host file, strike_out"),
            *_write("host file, bury"),
        ),
        "worker death": ("tools killed", "dead worker's file owned", *_commit("worker_exited")),
        "host start": (
            "host locked",
            *_write("host file, begin_epoch"),
            "sockets open",
            *_write("announcement"),
        ),
        "host end": _write("host file, end_epoch"),
        "erasure": (*_write("erasure"), *_write("host file, erased")),
    },
    "store": {
        "store start": ("locked", "scan", "open"),
        "life": (*_commit("rows"), "question"),
        "checkpoint": ("checkpoint",),
        "store end": _write("stamps"),
        "erasure": _write("erasure"),
    },
    "zygote": {
        "zygote start": ("importing", *_write("ready")),
        "life": ("fork:before", "fork:in the child", "fork:after"),
    },
}
TOOL: Final[dict[Trigger, tuple[str, ...]]] = {
    "life": ("begun", "effect done"),
    "signal": ("keeper, call running",),
}


def why_not(cell: Cell) -> str | None:
    """Return why there is no such cell, None where there is."""
    if cell.role == "zygote" and cell.fault == "disk full":
        return "the zygote writes no file"
    if cell.trigger == "signal":
        match cell.fault:
            case "hang":
                return "the keeper is one loop over `select`: a hang of it is what SIGSTOP makes"
            case "out of memory":
                return "the keeper holds a bounded head and tail; what befalls it is a SIGKILL"
            case "disk full":
                return "the keeper writes only the spool, and goes without it"
            case _:
                return None
    return None


def all_cells(agent: Agent, role: Role) -> Iterator[Cell]:
    """Yield every cell of a process in the life of a session of one kind, applicable or not.

    What the host's own processes do is the same for both kinds, nearly: their cells are dealt to
    them in turn, so that each point and each fault meets both.
    """
    number = 0
    for trigger, points in _points(agent, role):
        for point in points:
            for place, fault in enumerate(FAULTS):
                if not is_alone(role) or (number + place) % 2 == AGENTS.index(agent):
                    yield Cell(role, point, fault, agent, trigger)
            number += 1


def _points(agent: Agent, role: Role) -> Iterator[tuple[Trigger, Sequence[str]]]:
    match role:
        case "worker":
            yield "life", WORKER[agent]
        case "tool":
            yield from TOOL.items()
        case _:
            yield from HOST[role].items()


def cells(agent: Agent, role: Role) -> list[Cell]:
    """Return the cells that apply."""
    return [cell for cell in all_cells(agent, role) if why_not(cell) is None]


def short(agent: Agent, role: Role) -> list[Cell]:
    """Return the cells of the short form: few, and yet each fault strikes each process.

    The rule: of the points of a process, in order, every ``SHORT_EVERY``-th (every second, or all,
    where there are few); for the function agent those half way between; the faults are dealt in
    turn, beginning with another one for each process.
    """
    points = points_of(agent, role)
    every = min(SHORT_EVERY, max(1, len(points) // len(FAULTS)))
    begin = 0 if agent == "built-in" or is_alone(role) else every // 2
    chosen = points[begin::every]
    first = begin + ROLES.index(role)
    dealt = {point: FAULTS[(place + first) % len(FAULTS)] for place, point in enumerate(chosen)}
    return [cell for cell in cells(agent, role) if dealt.get(cell.point) == cell.fault]


def in_groups(cells: Sequence[Cell]) -> list[tuple[Cell, ...]]:
    """Return cells in groups that share a host."""
    return list(batched(cells, SIDE_BY_SIDE))


def all_groups(*, is_short: bool, words: str = "") -> list[tuple[Cell, ...]]:
    """Return the groups of all processes and agents, of the cells in whose name the words are."""
    found: list[tuple[Cell, ...]] = []
    for role in ROLES:
        for agent in AGENTS:
            chosen = short(agent, role) if is_short else cells(agent, role)
            found += in_groups([cell for cell in chosen if words in str(cell)])
    return found


def is_alone(role: Role) -> bool:
    """Whether a process serves all sessions, so that one cell at a time is played."""
    return role in {"supervisor", "store", "zygote"}


# --- the list and what is really reached ----------------------------------------------------------


def faultless(agent: Agent) -> Cell:
    """Return a cell in which nothing happens: its tool has orders for a point that it has not."""
    return Cell("tool", "nowhere", "SIGKILL", agent)


def points_of(agent: Agent, role: Role) -> list[str]:
    """Return the points of a process."""
    return [point for _, points in _points(agent, role) for point in points]


def named(reached: str) -> str:
    """Return the name in the list for a point that was reached."""
    role, _, point = reached.partition(".")
    kind, _, when = point.partition(":")
    if role == "worker" and kind in TOGETHER:
        return f"{role}.{TOGETHER[kind]}:{when}"
    return reached
