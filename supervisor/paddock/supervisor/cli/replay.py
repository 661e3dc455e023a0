"""``paddock replay``: a recorded Claude Code session, its tool calls really executed again."""

import errno
import json
import os
import select
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from paddock.store.errors import Refused
from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import Mode, is_terminal, result_of, with_host
from paddock.supervisor.cli.printing import hint, one_line, print_json
from paddock.supervisor.cli.sessions import AsJson

if TYPE_CHECKING:
    from paddock.client import Host, Outcome
    from paddock.store.importers.transcript import Transcript

SCRIPT = "replay.json"
"""Of a replayed session: what answers it, kept in its folder, and erased with it."""


ASKED_AGAIN = 500
"""Answers that a prompt may have beside the recorded ones: for calls that a death interrupted."""
PROBLEMS = 20
"""Of a transcript, that are told; a damaged one has thousands."""
PIPE_WAIT_SECONDS = 30.0
"""Until something comes through a pipe that was named: ``<(ssh … cat …)`` may ask for a word."""


class FileMissing(Refused):
    """The file that was named cannot be read."""

    code = "file_missing"


class NeedsYolo(Refused):
    """Recorded commands would run with nobody there to be asked."""

    code = "needs_yolo"


def replay(
    file: Annotated[Path, typer.Argument(help="A transcript of Claude Code (JSONL).")],
    *,
    cwd: Annotated[
        Path | None, typer.Option(help="The workspace. Default: a new temporary folder.")
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="normal asks before each effect; yolo allows all.")
    ] = Mode.NORMAL,
    name: Annotated[str | None, typer.Option(help="A name for the session.")] = None,
    as_json: AsJson = False,
) -> int:
    """Run a recorded Claude Code session again: its answers are the model, its tool calls run.

    Each prompt of the recording is an operation. Recorded paths are turned to the workspace, which
    is never the recorded folder unless you name it. Calls of tools that Paddock does not have, and
    calls that were refused when it was recorded, give their recorded result and run nothing; so do
    changes of files for which something stood in the way. What sub-agents did is not done again.

    Recorded commands are executed. So in a terminal you are asked for each that changes something,
    and unattended it takes --mode yolo.

    Examples:
      paddock replay session.jsonl
      paddock replay session.jsonl --cwd /tmp/copy --mode yolo --json
    """
    attended = is_terminal() and not as_json
    if mode is Mode.NORMAL and not attended:
        message = (
            "a replay executes recorded commands and nobody is here to be asked; "
            "say --mode yolo, or run it in a terminal"
        )
        raise NeedsYolo(message)
    transcript = _read(file)
    from paddock.client.host import workspace_at

    folder = workspace_at(cwd or _new_folder())
    is_used = cwd is not None

    async def work(host: "Host") -> int:
        nonlocal is_used
        prompts, turns = script_of(transcript, folder)
        hint(f"{len(prompts)} prompts, workspace {folder}")
        from paddock.store.events import Limits
        from paddock.store.session_file import folder_of

        session = await host.new(
            name,
            cwd=folder,
            mode=mode.value,
            unattended=not attended,
            labels={"replay_of": transcript.session_id or file.name},
            limits=Limits(model_calls=len(transcript.turns) + len(prompts) + ASKED_AGAIN),
        )
        is_used = True
        script = folder_of(host.data, session.session_id) / SCRIPT
        _keep(turns, script)
        await session.set_model(f"script:{script}")
        from paddock.supervisor.cli.run import Watching

        outcomes: list[Outcome] = []
        for number, prompt in enumerate(prompts, 1):
            if not as_json:
                hint(one_line(f"[{number}/{len(prompts)}] {prompt}", 120))
            watching = Watching(session, attended=attended, is_quiet=as_json)
            outcome = await watching.run(prompt)
            if outcome is None:
                hint(f"left running; see `paddock attach {session.name or session.session_id}`")
                return exit_codes.KEYBOARD
            outcomes.append(outcome)
            if outcome.status != "completed":
                break
        if len(outcomes) < len(prompts):
            hint(f"it ends there: {len(prompts) - len(outcomes)} prompts were not said")
        if as_json:
            print_json(_sum(outcomes))
        else:
            hint(f"{outcomes[-1].status}; see `paddock show {session.name or session.session_id}`")
        return exit_codes.OUTCOMES[outcomes[-1].status]

    try:
        return with_host(work)
    except Refused:
        if not is_used:
            with suppress(OSError):
                folder.rmdir()
        raise


def _new_folder() -> str:
    from paddock.store.session_file.faults import translated

    with translated(Path(tempfile.gettempdir())):
        return tempfile.mkdtemp(prefix="paddock-replay-")


def _read(file: Path) -> "Transcript":
    from paddock.store.importers.claude_code import read_transcript
    from paddock.store.importers.transcript import NotATranscript

    try:
        with _opened(file) as lines:
            transcript = read_transcript(lines)
    except OSError as error:
        message = f"{str(file)!r} cannot be read: {error.strerror or error}; name a transcript"
        raise FileMissing(message, path=str(file)) from error
    except NotATranscript as error:
        raise NotATranscript(f"{str(file)!r}: {error.message}", path=str(file)) from error
    if not transcript.prompts:
        raise NotATranscript(f"{str(file)!r} holds no prompt, so there is nothing to replay")
    for problem in transcript.problems[:PROBLEMS]:
        where = f"line {problem.line}: " if problem.line is not None else ""
        hint(one_line(f"{file.name}: {where}{problem.what}", 200))
    more = len(transcript.problems) - PROBLEMS
    if more > 0:
        hint(f"{one_line(file.name, 100)}: and {more} more of the kind")
    return transcript


def _opened(file: Path) -> BinaryIO:
    """Open a file for reading; a pipe to which nobody writes is no file for long.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            pipe = select.poll()
            pipe.register(descriptor, select.POLLIN)
            if not pipe.poll(PIPE_WAIT_SECONDS * 1000):
                message = f"it is a pipe, and nobody wrote to it for {PIPE_WAIT_SECONDS:g} s"
                raise TimeoutError(errno.ETIMEDOUT, message)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def script_of(transcript: "Transcript", cwd: Path) -> tuple[list[str], object]:
    """Return what to say, and the turns of the script that answers it.

    Keys of known forms are taken out, but for those in the arguments of calls: what is really
    executed needs them, and they are gone with the session's folder.
    """
    from paddock.session_worker.redact import redact_json
    from paddock.session_worker.toolbox.claude_code import map_claude_code_call
    from paddock.store.importers.transcript import MapCall, to_script

    prompts, turns = to_script(
        transcript,
        recorded_cwd=transcript.cwd or str(cwd),
        cwd=str(cwd),
        # What it maps was JSON, so what it gives is.
        map_call=cast("MapCall", map_claude_code_call),
    )
    return prompts, redact_json(turns, untouched=("arguments",))


def _keep(turns: object, file: Path) -> None:
    text = json.dumps(turns, ensure_ascii=False).encode("utf-8", "surrogatepass")
    from paddock.store.session_file.faults import translated

    with translated(file):
        descriptor, draft = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "wb") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(draft).replace(file)


def _sum(outcomes: "list[Outcome]") -> dict[str, Any]:
    """Return the last operation's result, with the usage and the time of all of them."""
    told = result_of(outcomes[-1])
    words = [outcome.final_message for outcome in outcomes if outcome.final_message]
    told["final_message"] = words[-1] if words else None
    told["duration_ms"] = round(sum(outcome.duration_ms for outcome in outcomes), 3)
    told["operations"] = len(outcomes)
    for outcome in outcomes[:-1]:
        for key, value in outcome.usage:
            if value is not None:
                told["usage"][key] = (told["usage"][key] or 0) + value
    costs = [outcome.cost_usd for outcome in outcomes]
    told["usage"]["cost_usd"] = None if None in costs else sum(cost or 0.0 for cost in costs)
    return told
