"""Tools that are Python functions, each call in a process of its own."""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from paddock.session_worker.sizes import flaw_in
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
from paddock.session_worker.toolbox.output import safe, shorten
from paddock.session_worker.toolbox.threads import in_thread
from paddock.session_worker.toolbox.warm import Warm

CHILD: Final = str(FOLDER / "python_child.py")
LARGEST_RESULT_BYTES: Final = 16 * MIB


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
                    "limit": LARGEST_RESULT_BYTES,
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
                result.seek(0)
                answer = await in_thread(lambda: _answer(result))
        except OSError as error:
            return not_started(error)
        if ended.verdict != "exited" or ended.exit_code != 0 or answer is None:
            return _broken(ended, self._limits.seconds)
        if answer["status"] != "ok":
            return _failed(answer, ended)
        spool = room.scratch / f"{plan.call}.result"
        return await in_thread(lambda: self._succeeded(answer["value"], ended, spool))

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


def _answer(result: BinaryIO) -> dict[str, Any] | None:
    """Return what the child answered; None when it did not come to that."""
    if os.fstat(result.fileno()).st_size > LARGEST_RESULT_BYTES + MIB:
        return {"status": "bad_result", "message": "something else was written in its place"}
    try:
        found = json.loads(result.read())
    except ValueError:
        return None
    except RecursionError:
        return {"status": "bad_result", "message": "the result is nested too deeply"}
    if not isinstance(found, dict) or "status" not in found:
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
    said = safe(str(answer["message"]))
    text = "\n".join(part for part in (safe(answer.get("trace") or said), ended.text) if part)
    return ToolOutcome(
        "error",
        text,
        exit_code=answer.get("code"),
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
