"""The tools ``grep``, ``glob`` and ``ls``: questions to the search script (``search.py``)."""

import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from paddock.session_worker.toolbox import search
from paddock.session_worker.toolbox.arguments import Arguments, read, schema
from paddock.session_worker.toolbox.bash import not_started, outcome
from paddock.session_worker.toolbox.child import FOLDER, Command, child_environment, keep, python
from paddock.session_worker.toolbox.contract import (
    Limits,
    Plan,
    Progress,
    Room,
    ToolOutcome,
    ToolSpec,
)
from paddock.session_worker.toolbox.read_file import failure
from paddock.session_worker.workspace import BadPath, resolve

ROOT: Final = FOLDER.parents[2]
LINES = 1000
FILES = 200
ENTRIES = 1000
AT_MOST = 100_000

Folder = Annotated[
    str | None, Field(min_length=1, description="Where to look; the workspace when not given.")
]
WithIgnored = Annotated[bool, Field(description="Also what .gitignore leaves out.")]


class GrepArguments(Arguments):
    """Arguments of ``grep``."""

    pattern: Annotated[str, Field(min_length=1, description="A regular expression.")]
    path: Folder = None
    glob: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("glob", "include"),
            description="Only files like this, e.g. *.py or src/**/*.{ts,tsx} or !*_test.go.",
        ),
    ] = None
    type: Annotated[str | None, Field(description="Only files of a language: py, ts, go…")] = None
    output_mode: Annotated[
        Literal["files_with_matches", "content", "count"], Field(description="What to show.")
    ] = "files_with_matches"
    before: Annotated[int, Field(ge=0, validation_alias=AliasChoices("before", "-B"))] = 0
    after: Annotated[int, Field(ge=0, validation_alias=AliasChoices("after", "-A"))] = 0
    context: Annotated[int | None, Field(ge=0, validation_alias=AliasChoices("context", "-C"))] = (
        None
    )
    line_numbers: Annotated[bool, Field(validation_alias=AliasChoices("line_numbers", "-n"))] = True
    ignore_case: Annotated[bool, Field(validation_alias=AliasChoices("ignore_case", "-i"))] = False
    multiline: Annotated[bool, Field(description="Let a match span lines.")] = False
    head_limit: Annotated[int, Field(ge=0, description="Lines or files; 0 for all.")] = LINES
    skip: Annotated[
        int, Field(ge=0, validation_alias=AliasChoices("skip", "offset"), description="As many.")
    ] = 0
    include_ignored: WithIgnored = False

    @model_validator(mode="after")
    def _can_match(self) -> Self:
        if "\0" in self.pattern:
            raise ValueError("a NUL character is in no text")
        return self


class GlobArguments(Arguments):
    """Arguments of ``glob``."""

    pattern: Annotated[str, Field(min_length=1, description="e.g. **/*.py or src/*.{ts,tsx}.")]
    path: Folder = None
    limit: Annotated[int, Field(ge=1, le=AT_MOST, description="How many files.")] = FILES
    include_ignored: WithIgnored = False


class LsArguments(Arguments):
    """Arguments of ``ls``."""

    path: Folder = None
    depth: Annotated[int, Field(ge=1, le=50, description="How many levels to show.")] = 1
    query: Annotated[str, Field(description="Only names that contain this.")] = ""
    hidden: Annotated[bool, Field(description="Also names that begin with a dot.")] = True
    ignore: Annotated[tuple[str, ...], Field(description="Globs of what to leave out.")] = ()
    limit: Annotated[int, Field(ge=1, le=AT_MOST, description="How many entries.")] = ENTRIES
    include_ignored: WithIgnored = True


type _Asked = GrepArguments | GlobArguments | LsArguments


class _Search:
    """What the three tools share."""

    arguments: type[_Asked]
    name: str
    description: str

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.spec = ToolSpec(
            name=self.name,
            description=self.description,
            parameters=schema(self.arguments),
            effects="none",
            approval="allow",
            timeout_seconds=limits.seconds,
            output_limit_bytes=limits.output_bytes,
            exclusive=False,
        )

    def prepare(self, arguments: Mapping[str, object], room: Room) -> Plan:
        """Return the call made ready; a path that leads out of a jail is foregone."""
        asked = read(self.arguments, self.spec.name, arguments)
        given = asked.model_dump(exclude_defaults=True)
        call = secrets.token_hex(8)
        try:
            root, question = self._question(asked, room)
        except BadPath as error:
            return Plan(self.name, given, None, call, foregone=failure(error.code, str(error)))
        workspace = str(resolve(".", room.workspace))
        full = {**question, "tool": self.name, "root": root, "workspace": workspace}
        return Plan(self.name, given, None, call, work=json.dumps(full).encode())

    async def run(self, plan: Plan, room: Room, progress: Progress) -> ToolOutcome:
        """Have the script answer, in a process that ends when its time is over."""
        if plan.foregone is not None:
            return plan.foregone
        assert isinstance(plan.work, bytes)
        try:
            with tempfile.TemporaryFile(dir=room.scratch) as question:
                question.write(plan.work)
                question.seek(0)
                command = [*python(search.__name__, ROOT), str(question.fileno())]
                ended = await keep(
                    Command(
                        arguments=command,
                        folder=Path("/"),
                        environment=child_environment(room, plan.call),
                        spool=room.scratch / f"{plan.call}.out",
                        seconds=self._limits.seconds,
                        limits=self._limits,
                        pass_fds=(question.fileno(),),
                        room=room,
                    ),
                    progress,
                )
        except OSError as error:
            return not_started(error)
        if ended.verdict == "exited" and ended.exit_code == 1:
            return failure("bad_question", ended.text.rstrip("\n"))
        return outcome(ended, self._limits.seconds)

    def happened(self, intent: Mapping[str, object], room: Room) -> bool | None:  # noqa: ARG002
        """Return None: looking leaves nothing to look for."""
        return None

    def _question(self, asked: _Asked, room: Room) -> tuple[str, dict[str, object]]:
        home = room.environment.get("HOME")
        closed = room.confines.closed
        path = resolve(asked.path or ".", room.workspace, jail=room.jail, home=home, closed=closed)
        return str(path), asked.model_dump(exclude={"path"})


class Grep(_Search):
    """Searches the contents of files."""

    arguments = GrepArguments
    name = "grep"
    description = """\
Search files for a regular expression, line by line, the newest file first. Shows the files that
match, or with output_mode content the lines, or with count how many. What .gitignore leaves out and
binary files are not searched. A pattern that is no regular expression is searched for as it is."""

    def _question(self, asked: _Asked, room: Room) -> tuple[str, dict[str, object]]:
        assert isinstance(asked, GrepArguments)
        root, question = super()._question(asked, room)
        if asked.context is not None:
            question |= {"before": asked.before or asked.context}
            question |= {"after": asked.after or asked.context}
        question["head_limit"] = asked.head_limit or AT_MOST
        return root, question


class Glob(_Search):
    """Finds files by their path."""

    arguments = GlobArguments
    name = "glob"
    description = """\
Find files whose path matches a pattern, the newest first. * stays within a folder, ** spans
folders, {a,b} are alternatives. What .gitignore leaves out is found only with include_ignored."""

    def _question(self, asked: _Asked, room: Room) -> tuple[str, dict[str, object]]:
        assert isinstance(asked, GlobArguments)
        if not asked.pattern.startswith("/"):
            return super()._question(asked, room)
        # A pattern from the root: its folders without a sign are where to look.
        parts = asked.pattern.split("/")
        plain = next((at for at, part in enumerate(parts) if set(part) & set("*?[{\\")), -1)
        folder = "/".join(parts[:plain]) or "/"
        inner = asked.model_copy(update={"path": folder, "pattern": "/".join(parts[plain:])})
        return super()._question(inner, room)


class Ls(_Search):
    """Shows what is in a folder."""

    arguments = LsArguments
    name = "ls"
    description = """\
List a folder: folders first, each with a slash at its end, files with their size. depth shows the
folders below too, query only names that contain it."""
