"""Tools that are Python functions, each call in a process of its own."""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from paddock.session_worker.sizes import DIGITS, LARGEST_VALUE_BYTES, VALUE_TOO_LARGE, flaw_in
from paddock.session_worker.toolbox import json_schema
from paddock.session_worker.toolbox.bash import NO_OUTPUT, not_started, outcome
from paddock.session_worker.toolbox.child import FOLDER, Command, Ended, child_environment, keep
from paddock.session_worker.toolbox.contract import (
    MIB,
    BadCall,
    Limits,
    Plan,
    Progress,
    Room,
    ToolOutcome,
    ToolSpec,
)
from paddock.session_worker.toolbox.descriptors import in_memory
from paddock.session_worker.toolbox.output import join, safe, shorten
from paddock.session_worker.toolbox.threads import in_thread
from paddock.session_worker.toolbox.warm import Warm

CHILD: Final = str(FOLDER / "python_child.py")
HEADER_BYTES: Final = 100
"""At most so long is the line before a large value."""


class PythonFunction:
    """Calls ``module:qualname`` in a child process."""

    def __init__(
        self,
        reference: str,
        spec: ToolSpec,
        python_path: tuple[str, ...],
        limits: Limits,
        warm: Warm | None = None,
    ) -> None:
        """Take the function by name: it is looked up in the child, never here.

        With ``warm`` the child is forked from its template, where the function is loaded already.
        """
        if warm is not None:
            warm.add(reference, python_path)
        self._warm = warm
        self.spec = spec
        self._reference = reference
        self._python_path = python_path
        self._limits = replace(
            limits, seconds=spec.timeout_seconds, output_bytes=spec.output_limit_bytes
        )

    def prepare(self, arguments: Mapping[str, object], room: Room) -> Plan:  # noqa: ARG002
        """Return the call made ready; with effects its intent is the function and arguments."""
        faults = json_schema.faults(arguments, self.spec.parameters)
        if faults:
            raise BadCall(f"{self.spec.name}: {'; '.join(faults)}")
        try:
            request = json.dumps(
                {
                    "function": self._reference,
                    "arguments": dict(arguments),
                    "path": [*self._python_path, *sys.path],
                    "limit": LARGEST_VALUE_BYTES,
                    "most": self._limits.spool_bytes,
                }
            )
        except (TypeError, ValueError) as error:
            raise BadCall(f"{self.spec.name}: the arguments are no JSON: {error}") from error
        intent = {"function": self._reference, "arguments": dict(arguments)}
        return Plan(
            tool=self.spec.name,
            arguments=dict(arguments),
            intent=None if self.spec.effects == "none" else intent,
            call=secrets.token_hex(8),
            work=request.encode(),
        )

    async def run(self, plan: Plan, room: Room, progress: Progress) -> ToolOutcome:
        """Call the function; what it prints is told meanwhile and kept apart from its result."""
        assert isinstance(plan.work, bytes)
        try:
            with in_memory(plan.work) as request, in_memory() as result:
                command = self._command(plan, room, request, result)
                start = None if self._warm is None else self._warm.start
                ended = await keep(command, progress, start)
                answer = await in_thread(lambda: self._answer(result))
                if answer is not None and answer["status"] == "large":
                    kept = room.scratch / f"{plan.call}.result"
                    return await in_thread(lambda: self._kept(result, answer, ended, kept))
        except OSError as error:
            return not_started(error)
        if ended.verdict != "exited" or ended.exit_code != 0 or answer is None:
            return _broken(ended, self._limits.seconds)
        if answer["status"] != "ok":
            return _failed(answer, ended)
        spool = room.scratch / f"{plan.call}.result"
        return await in_thread(lambda: self._succeeded(answer.get("value"), ended, spool))

    def happened(self, intent: Mapping[str, object], room: Room) -> bool | None:  # noqa: ARG002
        """Return None: only the function's author could know."""
        return None

    def _command(self, plan: Plan, room: Room, request: BinaryIO, result: BinaryIO) -> Command:
        descriptors = (request.fileno(), result.fileno())
        return Command(
            arguments=[sys.executable, "-P", CHILD, *map(str, descriptors)],
            folder=room.workspace,
            environment=child_environment(room, plan.call),
            spool=room.scratch / f"{plan.call}.out",
            seconds=self._limits.seconds,
            limits=self._limits,
            pass_fds=descriptors,
            room=room,
        )

    def _answer(self, result: BinaryIO) -> dict[str, Any] | None:
        result.seek(0)
        large = _large(result)
        if large is not None and large["bytes"] <= self._limits.spool_bytes:
            return large
        return _read(result)

    def _kept(
        self, result: BinaryIO, answer: Mapping[str, Any], ended: Ended, spool: Path
    ) -> ToolOutcome:
        """Return the outcome of a call whose value is too large for the worker to hold."""
        if ended.verdict != "exited" or ended.exit_code != 0:
            return _broken(ended, self._limits.seconds)
        begin, size = answer["begin"], answer["bytes"]
        half = min(self.spec.output_limit_bytes, size) // 2
        head = _bytes_at(result, begin, half)
        tail = _bytes_at(result, begin + size - half, half)
        if ended.spool is not None:
            ended.spool.unlink(missing_ok=True)
        result.seek(begin)
        spool.touch(mode=0o600)
        try:
            with spool.open("wb") as file:
                shutil.copyfileobj(result, file, MIB)
            kept: Path | None = spool
        except OSError:  # the disk is full: what was done was done, head and tail must do
            spool.unlink(missing_ok=True)
            kept = None
        return ToolOutcome(
            "ok",
            join(head, tail, size),
            exit_code=0,
            error_kind=VALUE_TOO_LARGE,
            output_bytes=size,
            spool=kept,
            printed=ended.text,
        )

    def _succeeded(self, value: object, ended: Ended, spool: Path) -> ToolOutcome:
        value = _storable(value)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = NO_OUTPUT if value is None or text == "" else text
        data = text.encode()
        kept = ended.spool
        if len(data) > self.spec.output_limit_bytes:
            if kept is not None:
                kept.unlink(missing_ok=True)
            spool.touch(mode=0o600)
            spool.write_bytes(data)
            kept = spool
        return ToolOutcome(
            "ok",
            shorten(text, self.spec.output_limit_bytes),
            exit_code=0,
            output_bytes=len(data),
            spool=kept,
            value=value,
            printed=ended.text,
        )


def _large(result: BinaryIO) -> dict[str, Any] | None:
    """Return the line before a large value, with where that begins; None if there is no such."""
    line = result.readline(HEADER_BYTES)
    try:
        found = json.loads(line)
        is_large = found["status"] == "large"
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    size = os.fstat(result.fileno()).st_size
    if not is_large or found.get("bytes") != size - len(line):
        return None
    return {**found, "begin": len(line)}


def _bytes_at(result: BinaryIO, begin: int, count: int) -> bytes:
    result.seek(begin)
    return result.read(count)


def _read(result: BinaryIO) -> dict[str, Any] | None:
    """Return what the child answered; None when it did not come to that."""
    if os.fstat(result.fileno()).st_size > LARGEST_VALUE_BYTES + MIB:
        return {"status": "bad_result", "message": "something else was written in its place"}
    result.seek(0)
    try:
        found = json.loads(result.read())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    except ValueError:  # it is JSON, but this Python reads no such number
        message = f"the result holds a whole number of more than {DIGITS:,} digits"
        return {"status": "bad_result", "message": message}
    except RecursionError:
        return {"status": "bad_result", "message": "the result is nested too deeply"}
    if not isinstance(found, dict) or found.get("status") in (None, "large"):
        return None
    flaw = flaw_in(found.get("value"))
    return found if flaw is None else {"status": "bad_result", "message": f"the result {flaw}"}


def _broken(ended: Ended, seconds: float) -> ToolOutcome:
    """Return the outcome of a call whose process ended before its function did."""
    done = outcome(ended, seconds)
    if ended.verdict != "exited" or done.error_kind == "signal":
        return replace(done, printed=ended.text)
    said = f"the process left with {ended.exit_code} in the middle of the call"
    text = f"{said}\n{ended.text}".rstrip("\n")
    return replace(
        done, status="error", text=text, error_kind="exit", error=said, printed=ended.text
    )


def _failed(answer: Mapping[str, Any], ended: Ended) -> ToolOutcome:
    said = safe(str(answer.get("message")))
    text = "\n".join(part for part in (safe(str(answer.get("trace") or said)), ended.text) if part)
    code = answer.get("code")
    return ToolOutcome(
        "error",
        text,
        exit_code=code if isinstance(code, int) else None,
        error_kind=str(answer["status"]),
        error=said,
        output_bytes=ended.total,
        spool=ended.spool,
        printed=ended.text,
    )


def _storable(value: object) -> object:
    """Return a JSON value whose texts can be stored and sent."""
    match value:
        case str():
            return safe(value)
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {safe(str(name)): _storable(item) for name, item in value.items()}
        case _:
            return value
