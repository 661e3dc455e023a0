"""The tool ``bash``: a shell command in a process tree of its own that ends with the call."""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, BinaryIO

from pydantic import Field

from paddock.session_worker.toolbox.arguments import Arguments, read, schema
from paddock.session_worker.toolbox.child import Command, Ended, child_environment, keep
from paddock.session_worker.toolbox.contract import (
    BadCall,
    Limits,
    Outcome,
    Plan,
    Progress,
    Room,
    ToolOutcome,
    ToolSpec,
)

TIMED_OUT_EXIT_CODE = 124
LONGEST_ARGUMENT_BYTES = 100_000  # the kernel takes 128 KiB in one argument
NO_OUTPUT = "(no output)"

DESCRIPTION = """\
Run a shell command with `bash -c` in the workspace and return its output, stdout and stderr in one.
Its standard input is empty. Each call starts anew: no variable and no `cd` lasts to the next one.
When the command ends, processes it left in the background are ended too."""


class BashArguments(Arguments):
    """Arguments of ``bash``."""

    command: Annotated[str, Field(min_length=1, description="The command.")]
    description: Annotated[str | None, Field(description="What it does, in a few words.")] = None
    timeout_seconds: Annotated[float | None, Field(gt=0, description="Ended after this.")] = None
    timeout: Annotated[float | None, Field(gt=0, description="The same in milliseconds.")] = None


class Bash:
    """Runs shell commands."""

    def __init__(self, limits: Limits) -> None:
        """Take the limits of each call; ``timeout_seconds`` may go up to ``seconds_at_most``."""
        self._limits = limits
        self.spec = ToolSpec(
            name="bash",
            description=DESCRIPTION,
            parameters=schema(BashArguments),
            effects="write",
            approval="ask",
            timeout_seconds=limits.seconds,
            output_limit_bytes=limits.output_bytes,
            exclusive=True,
        )

    def prepare(self, arguments: Mapping[str, object], room: Room) -> Plan:
        """Return the call made ready; its intent is the command and the folder."""
        if arguments.get("run_in_background"):
            raise BadCall(
                "bash: 'run_in_background' is not offered: what a call starts ends with it"
            )
        given = {key: value for key, value in arguments.items() if key != "run_in_background"}
        asked = read(BashArguments, self.spec.name, given)
        if "\0" in asked.command:
            raise BadCall("bash: argument 'command': a NUL character cannot reach a shell")
        return Plan(
            tool=self.spec.name,
            arguments=asked.model_dump(exclude_none=True),
            intent={"command": asked.command, "folder": str(room.workspace)},
            call=secrets.token_hex(8),
            work=(asked.command, self._seconds(asked)),
        )

    async def run(self, plan: Plan, room: Room, progress: Progress) -> ToolOutcome:
        """Run the command to its end; a child that outlives the shell is ended with it."""
        assert isinstance(plan.work, tuple)
        command, seconds = plan.work
        environment = child_environment(room, plan.call)
        try:
            with _shell(command, environment) as (arguments, descriptors):
                ended = await keep(
                    Command(
                        arguments=arguments,
                        folder=room.workspace,
                        environment=environment,
                        spool=room.scratch / f"{plan.call}.out",
                        seconds=seconds,
                        limits=self._limits,
                        pass_fds=descriptors,
                        room=room,
                    ),
                    progress,
                )
        except (OSError, ValueError) as error:  # what is no variable or text for a process, too
            return not_started(error)
        return outcome(ended, seconds)

    def happened(self, intent: Mapping[str, object], room: Room) -> bool | None:  # noqa: ARG002
        """Return None: nobody knows how far a command came."""
        return None

    def _seconds(self, asked: BashArguments) -> float:
        seconds = asked.timeout_seconds
        if seconds is None:
            seconds = asked.timeout / 1000 if asked.timeout else self._limits.seconds
        return min(seconds, self._limits.seconds_at_most)


def not_started(error: Exception) -> ToolOutcome:
    """Return the outcome of a call whose process could not be started."""
    said = f"could not be started: {error}"
    return ToolOutcome("error", said, error_kind="not_started", error=said)


def outcome(ended: Ended, seconds: float) -> ToolOutcome:
    """Return what a command's end means for the call; the head of the text says what went wrong."""
    match ended.verdict.split(":"):
        case ["exited"] if ended.exit_code == 0:
            return _outcome(ended, "ok", 0, None, None)
        case ["exited"]:
            return _failed(ended)
        case ["timed_out"]:
            said = f"Timed out after {seconds:g} s, exit code {TIMED_OUT_EXIT_CODE}"
            return _outcome(ended, "timed_out", TIMED_OUT_EXIT_CODE, "timeout", said)
        case ["limit", name]:
            said = f"Ended: over its limit of {name}"
            return _outcome(ended, "limit_exceeded", ended.exit_code, name, said)
        case ["refused"]:
            said = f"Not run: this session's tools need a sandbox ({ended.refusal})"
            return _outcome(ended, "error", None, "no_sandbox", said)
        case _:
            said = "Lost: the process that watched over the command was killed"
            return _outcome(ended, "error", None, "lost", said)


def _failed(ended: Ended) -> ToolOutcome:
    code = ended.exit_code
    if code is None or code >= 0:
        return _outcome(ended, "error", code, "exit_code", f"Exit code {code}")
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    shell_code = 128 - code
    said = f"Killed by {name}, exit code {shell_code}"
    return _outcome(ended, "error", shell_code, "signal", said)


def _outcome(
    ended: Ended, status: Outcome, exit_code: int | None, kind: str | None, said: str | None
) -> ToolOutcome:
    if ended.left:
        said = f"{said or 'Ended'}; {ended.left} processes do not die (waiting in the kernel)"
    text = "\n".join(part for part in (said, ended.text) if part)
    return ToolOutcome(
        status=status,
        text=text or NO_OUTPUT,
        exit_code=exit_code,
        error_kind=kind,
        error=said if status != "ok" else None,
        output_bytes=ended.total,
        spool=ended.spool,
    )


@contextmanager
def _shell(
    command: str, environment: Mapping[str, str]
) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Give the arguments that run the command, and what the shell must have open for it.

    A long one is a script in memory: one in the scratch folder is closed to the command itself.
    """
    bash = shutil.which("bash", path=environment.get("PATH", os.defpath))
    shell = bash or "/bin/sh"
    text = command.encode()
    if len(text) <= LONGEST_ARGUMENT_BYTES:
        yield [shell, "-c", command], ()
        return
    with _memory() as script:
        script.write(text)
        script.flush()
        script.seek(0)
        yield [shell, f"/dev/fd/{script.fileno()}"], (script.fileno(),)


def _memory() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("command"), "w+b")
    return tempfile.TemporaryFile()
