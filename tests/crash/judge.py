"""What must hold in every log, whatever was killed: P2-P6, P13, P14, read off the events alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddock.store.events import Stored
from paddock.store.ids import SessionId
from paddock.store.session_file import SessionReader, events_of, folder_of, verify

ENDS = frozenset(
    {
        "operation_completed",
        "operation_failed",
        "operation_cancelled",
        "operation_interrupted",
    }
)
NEVER_DECIDED = frozenset({"cancelled", "interrupted", "error"})
"""Results that a call may get before anybody decided about it: its operation ended first."""


def read_log(data: Path, session_id: SessionId) -> list[Stored]:
    """Return every event of a session, from its file."""
    with SessionReader(folder_of(data, session_id), session_id) as reader:
        head, _ = reader.head()
        rows = reader.rows(0, max(head, 1))
    return list(events_of(session_id, rows))


def head_of(data: Path, session_id: SessionId) -> int:
    """Return the sequence of the last event in a session's file."""
    with SessionReader(folder_of(data, session_id), session_id) as reader:
        return reader.head()[0]


def faults_of(log: Sequence[Stored], *, is_live: bool) -> list[str]:
    """Return all that a log breaks of the promises, in words; ``is_live``: its worker lives."""
    return [
        *sequence_faults(log),
        *generation_faults(log, is_live=is_live),
        *command_faults(log),
        *operation_faults(log),
        *call_faults(log),
    ]


def file_faults(data: Path, session_id: SessionId) -> list[str]:
    """Return what ``store verify`` finds in a session's file."""
    report = verify(folder_of(data, session_id), session_id)
    return [f"verify: at {problem.sequence}: {problem.what}" for problem in report.problems]


def sequence_faults(log: Sequence[Stored]) -> list[str]:
    """Sequences run from 1 without a gap, generations never fall, the first event creates (P2)."""
    faults = []
    if [stored.sequence for stored in log] != list(range(1, len(log) + 1)):
        faults.append(f"sequences have a gap: {[stored.sequence for stored in log]}")
    generations = [stored.generation for stored in log]
    if generations != sorted(generations):
        faults.append(f"generations fall: {generations}")
    if not log or log[0].event.kind != "session_created":
        faults.append("the first event is not session_created")
    return faults


def generation_faults(log: Sequence[Stored], *, is_live: bool) -> list[str]:
    """Owners follow each other: started, certified, started … and all but the live one are (P3)."""
    faults: list[str] = []
    owner: int | None = None
    last = 0
    for stored in log:
        event = stored.event
        match event.kind:
            case "worker_started":
                if owner is not None:
                    faults.append(
                        f"at {stored.sequence}: generation {stored.generation} started while "
                        f"{owner} has no certificate"
                    )
                if stored.generation <= last:
                    faults.append(f"generation {stored.generation} started after {last}")
                owner = last = stored.generation
            case "worker_exited":
                of = event.worker_generation
                if owner is None and event.last_stage == "starting":
                    last = of  # it died before its first commit
                elif owner != of:
                    faults.append(f"at {stored.sequence}: {of} was certified, {owner} owned")
                owner = None
            case _:
                written_after_death = owner is None and event.kind in {
                    *ENDS,
                    "tool_call_started",
                    "tool_call_finished",
                    "tool_call_requested",
                    "assistant_message_added",
                    "model_call_started",
                }
                if written_after_death:
                    faults.append(f"at {stored.sequence}: {event.kind} without an owner")
    if is_live and owner is None:
        faults.append("it is live and its generation has no worker_started")
    if not is_live and owner is not None:
        faults.append(f"generation {owner} has no certificate")
    return faults


def command_faults(log: Sequence[Stored]) -> list[str]:
    """Each accepted command has exactly one answer, and after its acceptance (P14)."""
    accepted: dict[str, int] = {}
    answered: dict[str, list[str]] = defaultdict(list)
    faults: list[str] = []
    for stored in log:
        event = stored.event
        if event.command_id is None or event.kind == "session_created":
            continue
        if event.kind == "command_accepted":
            if event.command_id in accepted:
                faults.append(f"command {event.command_id} was accepted twice")
            accepted[event.command_id] = stored.sequence
        else:
            answered[event.command_id].append(event.kind)
            if event.command_id not in accepted:
                faults.append(f"{event.kind} answers {event.command_id}, which was not accepted")
    for command_id, sequence in accepted.items():
        if len(answered[command_id]) != 1:
            faults.append(f"command {command_id} (at {sequence}): {answered[command_id]}")
    return faults


def operation_faults(log: Sequence[Stored]) -> list[str]:
    """Each operation has one start and one end, and everything of it stands between (P4)."""
    starts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    faults: list[str] = []
    for stored in log:
        event = stored.event
        operation_id = event.operation_id
        if operation_id is None or event.kind in {"worker_exited", "session_annotated"}:
            continue
        if event.kind == "operation_started":
            starts[operation_id] += 1
        elif event.kind != "input_dequeued" and not starts[operation_id]:
            faults.append(f"at {stored.sequence}: {event.kind} before its operation's start")
        if ends[operation_id]:
            faults.append(f"at {stored.sequence}: {event.kind} after its operation's end")
        if event.kind in ENDS:
            ends[operation_id] += 1
    for each in starts | ends:
        found = f"{starts[each]} starts, {ends[each]} ends"
        if (starts[each], ends[each]) != (1, 1):
            faults += [f"operation {each}: {found}"]
    return faults


def call_faults(log: Sequence[Stored]) -> list[str]:
    """Each call: one request, one decision, at most one start, one result, in that order (P5)."""
    steps: dict[str, list[str]] = defaultdict(list)
    results: dict[str, str] = {}
    observed: set[str] = set()
    for stored in log:
        event = stored.event
        match event.kind:
            case "tool_call_requested":
                steps[event.tool_call_id].append("request")
                if event.custody == "observed":
                    observed.add(event.tool_call_id)
            case "approval_decided":
                steps[event.tool_call_id].append(event.decision)
            case "tool_call_started":
                steps[event.tool_call_id].append("start")
            case "tool_call_finished":
                steps[event.tool_call_id].append("result")
                results[event.tool_call_id] = event.status
            case _:
                pass
    return [
        f"call {call_id} ({results.get(call_id)}): {' '.join(found)}"
        for call_id, found in steps.items()
        if not _is_whole(found, results.get(call_id), is_observed=call_id in observed)
    ]


def _is_whole(found: list[str], status: str | None, *, is_observed: bool) -> bool:
    if found == ["request", "allowed", "start", "result"]:
        return status != "denied"
    if found == ["request", "denied", "result"]:
        return status == "denied"
    if found == ["request", "allowed", "result"]:
        return status in NEVER_DECIDED
    return found == ["request", "result"] and (is_observed or status in NEVER_DECIDED)


def shown_faults(shown: Iterable[Stored], log: Sequence[Stored]) -> list[str]:
    """Return what a client was shown that is not in the log, or is otherwise, or came twice."""
    faults: list[str] = []
    before: int | None = None
    for stored in shown:
        if before is not None and stored.sequence != before + 1:
            faults.append(f"event {stored.sequence} was shown after {before}")
        before = stored.sequence
        if stored.sequence > len(log):
            faults.append(f"event {stored.sequence} was shown and is not stored")
        elif log[stored.sequence - 1] != stored:
            faults.append(f"event {stored.sequence} is stored otherwise than it was shown")
    return faults
