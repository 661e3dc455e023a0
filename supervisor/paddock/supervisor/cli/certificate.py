"""A death as a person reads it: what died, of what, doing what, its last words, what was done.

Pure. ``deaths`` fills it in from SQL, ``show`` from the session's own file, and ``attach`` says the
one line of it when it happens.
"""

import re
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from paddock.session_worker.exits import EXITS
from paddock.store.events import Stored, WorkerExited
from paddock.supervisor.cli.printing import call_line, clean, one_line, size

type What = Literal["worker", "supervisor", "store", "zygote"]

SHOWN_LINES = 8
"""Of last words, the end; of a stack, the innermost calls."""
SHOWN_CALLS = 3
SHOWN_PROMPT = 80

CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
"""Signals that a process earns by itself; others are sent to it."""
CAUSES = {
    "hang": "hung: its loop did not beat in time",
    "stopped": "was stopped (SIGSTOP) and did not beat in time",
    "out_of_memory": "out of memory",
    "start_timeout": "did not come up in time after its start",
    "suspend_timeout": "did not come to rest in time when it was asked to",
    "host_lost": "lost with the whole machine (power, reboot)",
    "configuration": "cannot run as it is configured",
    "deleted": "ended, since its session was deleted",
    "unknown": "died; nobody can tell of what (its starter was gone)",
}
"""By the reason of a certificate; signals and exit codes have words of their own."""
STACKS_MARK = "most recent call first"
FRAME = re.compile(r'\s+File "([^"]+)", line (\d+) in (.+)')
"""As faulthandler writes one."""


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A tool call that was open; ``is_running`` says whether it was at work or waited."""

    tool_call_id: str
    tool: str
    arguments: dict[str, Any]
    is_running: bool


@dataclass(frozen=True, slots=True)
class Death:
    """What is known of one; what is not is None."""

    at: datetime
    """Where nobody saw it: when it was last seen alive."""
    what: What
    found_at: datetime | None = None
    """When it was found dead, where nobody saw it die."""
    pid: int | None = None
    session_id: str | None = None
    name: str | None = None
    generation: int | None = None
    agent: str | None = None
    paddock_version: str | None = None
    reason: str = "unknown"
    signal: int | None = None
    exit_code: int | None = None
    detail: str | None = None
    """More of the reason, in words."""
    last_stage: str | None = None
    operation_id: str | None = None
    operation: str | None = None
    prompt: str | None = None
    calls: tuple[OpenCall, ...] = ()
    in_delivery_command_id: str | None = None
    peak_rss_bytes: int | None = None
    memory_limit_bytes: int | None = None
    last_words: str | None = None
    stacks: str | None = None
    tools_killed: int = 0
    action: Literal["restarted", "left_down", "none"] = "none"
    restarted_after_ms: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it: every field, and the cause in words."""
        return {**asdict(self), "cause": cause(self)}


def of_certificate(
    stored: Stored, event: WorkerExited, arguments: Mapping[str, dict[str, Any]]
) -> Death:
    """Return the death that an event certifies; ``arguments`` by call, as far as they are known."""
    running = {struck.tool_call_id: struck.tool for struck in event.struck_calls}
    calls = [
        OpenCall(one, running.get(one, "a tool"), arguments.get(one, {}), one in running)
        for one in event.open_tool_call_ids
    ]
    return Death(
        at=moment(stored.occurred_at),
        what="worker",
        pid=event.pid,
        session_id=stored.session_id,
        generation=event.worker_generation,
        reason=event.reason,
        signal=event.signal,
        exit_code=event.exit_code,
        last_stage=event.last_stage,
        operation_id=event.operation_id,
        operation="turn" if event.operation_id is not None else None,
        calls=tuple(calls),
        in_delivery_command_id=event.in_delivery_command_id,
        peak_rss_bytes=event.peak_rss_bytes,
        memory_limit_bytes=event.memory_limit_bytes,
        last_words=event.last_words,
        stacks=event.stacks,
        tools_killed=event.tools_killed,
        action=event.action,
    )


def cause(death: Death) -> str:
    """Return of what it died, in words: ``killed by SIGKILL``."""
    if death.detail:
        return death.detail
    match death.reason:
        case "signal" if death.signal is not None:
            verb = "crashed with" if death.signal in CRASHES else "killed by"
            return f"{verb} {signal_name(death.signal)}"
        case "exit_code" if death.exit_code is not None:
            known = EXITS.get(death.exit_code) if death.what == "worker" else None
            return f"left with exit code {death.exit_code}" + (f" ({known})" if known else "")
        case "out_of_memory":
            return CAUSES["out_of_memory"] + _memory(death, " ({})")
        case reason:
            return CAUSES.get(reason, reason)


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9, and a number for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def doing(death: Death) -> str | None:
    """Return what it was at, on one line; None where it was at nothing."""
    running = [call_line(call.tool, call.arguments) for call in death.calls if call.is_running]
    waiting = [call for call in death.calls if not call.is_running]
    parts = running[:SHOWN_CALLS]
    if len(running) > SHOWN_CALLS:
        parts.append(f"{len(running) - SHOWN_CALLS} calls more")
    if not running and death.last_stage == "starting":
        return "starting"
    if not running and death.operation is not None and not waiting:
        parts.append(_turn_of(death.agent) if death.operation == "turn" else f"a {death.operation}")
    if waiting:
        number = len(waiting)
        parts.append(f"{number} {'call' if number == 1 else 'calls'} not begun")
    if death.in_delivery_command_id is not None:
        parts.append("taking a command in")
    if not parts:
        return {"resting": "nothing: it was at rest", "waiting": "waiting for a decision"}.get(
            death.last_stage or ""
        )
    return ", ".join(parts)


def _turn_of(agent: str | None) -> str:
    """Return what an agent is at in a turn while no call runs; None where nobody knows which."""
    match agent:
        case None:
            return "its turn"
        case "builtin":
            return "asking its model"
        case _:
            return f"running {agent}"


def done(death: Death) -> str:
    """Return what was done about it."""
    parts = []
    if death.tools_killed:
        number = death.tools_killed
        parts.append(f"{number} {'process' if number == 1 else 'processes'} of its tools killed")
    match death.action:
        case "restarted" if death.restarted_after_ms is not None:
            at_most = "" if death.found_at is None else "at most "
            parts.append(f"started again, there after {at_most}{_span(death.restarted_after_ms)}")
        case "restarted":
            parts.append("is started again")
        case "left_down":
            parts.append("left down: `paddock resume --reset` frees it")
        case _:
            parts.append("not started again: nothing was undone")
    return "; ".join(parts)


def in_one_line(death: Death) -> str:
    """Return it in one line, as who is attached reads it the moment it happens."""
    at = doing(death)
    while_ = f" while at {at}" if at and death.last_stage == "working" else ""
    return f"the session's process died: {cause(death)}{while_}; {done(death)}"


def lines(death: Death, *, is_full: bool = False) -> list[str]:
    """Return it as a head and its facts below, the facts that there are."""
    stands = one_line(f"{_who(death)}: {cause(death)}", 1000)
    told = [f"{death.at.astimezone():%Y-%m-%d %H:%M:%S}  {stands}"]
    if death.found_at is not None:
        told.append(
            _fact("when", f"between then and {death.found_at.astimezone():%Y-%m-%d %H:%M:%S}")
        )
    if (at := doing(death)) is not None:
        told.append(_fact("doing", at))
    if death.prompt:
        told.append(_fact("asked", f'"{one_line(death.prompt, SHOWN_PROMPT)}"'))
    if death.reason != "out_of_memory" and (memory := _memory(death)):
        told.append(_fact("memory", memory))
    told += _words(death.stacks or death.last_words or "", is_full=is_full)
    told.append(_fact("then", done(death)))
    return told


def _who(death: Death) -> str:
    if death.what != "worker":
        return f"the {death.what}" + (f" (pid {death.pid})" if death.pid else "")
    session = death.name or death.session_id or "?"
    known = f"pid {death.pid}, " if death.pid else ""
    return f"{session} ({known}generation {death.generation})"


def _memory(death: Death, form: str = "{}") -> str:
    if death.peak_rss_bytes is None:
        return ""
    limit = f" of {size(death.memory_limit_bytes)}" if death.memory_limit_bytes else ""
    return form.format(f"peak {size(death.peak_rss_bytes)}{limit}")


def _span(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.0f} s"  # noqa: PLR2004 - ten seconds


def _fact(name: str, text: str) -> str:
    return f"    {name:<8}{one_line(text, 1000)}"


def _words(text: str, *, is_full: bool) -> list[str]:
    """Return last words, and of the stacks in them the one of the thread that was at work."""
    said = [line.rstrip() for line in clean(text).strip().splitlines()]
    if is_full:
        return _block("said", said)
    began = next((n for n, line in enumerate(said) if STACKS_MARK in line), len(said))
    said, stacks = said[:began], said[began:]
    said = "\n".join(said).strip().splitlines()
    left_out = max(0, len(said) - SHOWN_LINES)
    more = [f"… {left_out} lines before; --full shows them"] if left_out else []
    return _block("said", more + said[left_out:]) + _block("stack", _frames(stacks))


def _frames(stacks: list[str]) -> list[str]:
    """Return the innermost calls of the current thread (the loop's, where it hangs), shortened."""
    current = [n for n, line in enumerate(stacks) if line.startswith("Current thread")]
    frames = []
    for line in stacks[current[0] + 1 if current else 1 :]:
        found = FRAME.match(line)
        if found is None:
            break
        path, number, name = found.groups()
        frames.append(f"{'/'.join(path.split('/')[-2:])}:{number} in {name}")
    left_out = max(0, len(frames) - SHOWN_LINES)
    return frames[:SHOWN_LINES] + ([f"… {left_out} more; --full shows them"] if left_out else [])


def _block(name: str, said: list[str]) -> list[str]:
    """Return lines under one name."""
    return [f"    {name if place == 0 else '':<8}{line}" for place, line in enumerate(said)]


def moment(at_us: int) -> datetime:
    """Return the time of microseconds."""
    return datetime.fromtimestamp(at_us / 1e6, UTC)
