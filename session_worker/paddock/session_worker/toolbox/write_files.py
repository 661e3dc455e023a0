"""The tools ``write_file``, ``edit_file``, ``multi_edit_file``: a file replaced whole, by rename.

What will be written is computed before the call starts, so that its intent holds the file's hashes
before and after: whatever dies in between, the file itself then says whether it was done.
"""

import contextlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from paddock.session_worker.toolbox import disk
from paddock.session_worker.toolbox.arguments import Arguments, FilePath, read, schema
from paddock.session_worker.toolbox.contract import (
    BadCall,
    FileChange,
    Limits,
    Plan,
    Progress,
    Room,
    ToolOutcome,
    ToolSpec,
)
from paddock.session_worker.toolbox.edits import Edit, EditFault, Which, apply, count_lines
from paddock.session_worker.toolbox.output import decode, shorten
from paddock.session_worker.toolbox.read_file import failure
from paddock.session_worker.toolbox.threads import in_thread, to_its_end
from paddock.session_worker.workspace import BadPath, resolve, shown

SNIPPET_LINES = 4
SNIPPET_CHARACTERS = 200


class WriteArguments(Arguments):
    """Arguments of ``write_file``."""

    path: FilePath
    content: Annotated[str, Field(description="All the file shall hold.")]


class OneEdit(Arguments):
    """One replacement in a file."""

    old_string: Annotated[str, Field(description="The text to replace, exactly as it stands.")]
    new_string: Annotated[str, Field(description="What stands there instead.")]
    replace_all: Annotated[bool, Field(description="Replace it wherever it occurs.")] = False
    occurrence: Annotated[Which, Field(description="Which one, when it occurs several times.")] = (
        "unique"
    )
    index: Annotated[int | None, Field(description="For occurrence nth, from 1.")] = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.replace_all and self.occurrence not in ("unique", "all"):
            raise ValueError(
                f"replace_all and occurrence {self.occurrence!r} contradict each other"
            )
        if self.index is not None and self.occurrence != "nth":
            raise ValueError("index is only for occurrence 'nth'")
        return self

    def as_edit(self) -> Edit:
        """Return it in the terms of the pure part."""
        which: Which = "all" if self.replace_all else self.occurrence
        return Edit(self.old_string, self.new_string, which, self.index)


class EditArguments(OneEdit):
    """Arguments of ``edit_file``."""

    path: FilePath


class MultiEditArguments(Arguments):
    """Arguments of ``multi_edit_file``."""

    path: FilePath
    edits: Annotated[
        list[OneEdit], Field(min_length=1, description="Made in order; all of them or none.")
    ]


type _Asked = WriteArguments | EditArguments | MultiEditArguments


@dataclass(frozen=True, slots=True)
class _Writing:
    """What a call will write."""

    asked_path: str
    path: Path
    data: bytes
    before: str | None
    temporary: Path
    change: FileChange
    text: str


class _Writer(ABC):
    """What the three tools share: they differ in how the new content comes about."""

    arguments: type[_Asked]
    name: str
    description: str

    def __init__(self, limits: Limits) -> None:
        self.spec = ToolSpec(
            name=self.name,
            description=self.description,
            parameters=schema(self.arguments),
            effects="write",
            approval="ask",
            timeout_seconds=limits.seconds,
            output_limit_bytes=limits.output_bytes,
            exclusive=True,
        )

    @abstractmethod
    def _after(self, asked: _Asked, before: bytes | None, name: str) -> tuple[bytes, str]:
        """Return the new content and what to tell the model of it; raises EditFault."""

    def prepare(self, arguments: Mapping[str, object], room: Room) -> Plan:
        """Read the file and return what would be written; faults of the file are foregone."""
        asked = read(self.arguments, self.spec.name, arguments)
        given = asked.model_dump(exclude_defaults=True)
        call = secrets.token_hex(8)
        try:
            writing = self._writing(asked, room, call)
        except BadPath as error:
            return self._foregone(given, call, error.code, str(error))
        except (disk.FileFault, EditFault) as error:
            return self._foregone(given, call, error.kind, str(error))
        except UnicodeEncodeError as error:
            raise BadCall(f"{self.name}: a lone surrogate cannot be written as UTF-8") from error
        intent = {
            "path": str(writing.path),
            "before_sha256": writing.before,
            "after_sha256": writing.change.after_sha256,
            "size": len(writing.data),
            "temporary": writing.temporary.name,
            "change": {
                "path": writing.change.path,
                "change": writing.change.change,
                "lines_added": writing.change.lines_added,
                "lines_removed": writing.change.lines_removed,
            },
        }
        return Plan(self.name, given, intent, call, work=writing)

    async def run(self, plan: Plan, room: Room, progress: Progress) -> ToolOutcome:  # noqa: ARG002
        """Write it, durably; a cancellation waits for the write, which is then done or not."""
        if plan.foregone is not None:
            return plan.foregone
        assert isinstance(plan.work, _Writing)
        writing = plan.work
        try:
            await to_its_end(in_thread(lambda: _write(writing, room)))
        except BadPath as error:
            return failure(error.code, str(error))
        except disk.FileFault as error:
            return failure(error.kind, str(error))
        text = shorten(writing.text, self.spec.output_limit_bytes)
        return ToolOutcome(
            "ok", text, output_bytes=len(text.encode()), file_changes=(writing.change,)
        )

    def happened(self, intent: Mapping[str, object], room: Room) -> bool | None:  # noqa: ARG002
        """Tell by the file's hash; what a dead writer left of its temporary file is removed."""
        path = Path(str(intent["path"]))
        with contextlib.suppress(OSError):  # not there, or its folder is none any more
            path.with_name(str(intent["temporary"])).unlink()
        try:
            found = disk.hash_of(path)
        except disk.FileFault:
            return None
        if found == intent["after_sha256"]:
            return True
        return False if found == intent["before_sha256"] else None

    def _writing(self, asked: _Asked, room: Room, call: str) -> _Writing:
        asked_path = asked.path
        path = _resolve(asked_path, room)
        before = disk.read_whole(path)
        name = shown(path, room.workspace)
        after, text = self._after(asked, before, name)
        added, removed = count_lines(before or b"", after)
        change = FileChange(
            path=name,
            change="created" if before is None else "modified",
            lines_added=added,
            lines_removed=removed,
            before_sha256=None if before is None else disk.sha256(before),
            after_sha256=disk.sha256(after),
        )
        return _Writing(
            asked_path=asked_path,
            path=path,
            data=after,
            before=change.before_sha256,
            temporary=path.with_name(f".paddock-{call}.tmp"),
            change=change,
            text=text,
        )

    def _foregone(self, given: Mapping[str, object], call: str, kind: str, said: str) -> Plan:
        return Plan(self.name, given, None, call, foregone=failure(kind, said))


class WriteFile(_Writer):
    """Writes a file whole."""

    arguments = WriteArguments
    name = "write_file"
    description = """\
Write a file whole: made anew, its folders too, or everything that stood in it replaced."""

    def _after(self, asked: _Asked, before: bytes | None, name: str) -> tuple[bytes, str]:
        assert isinstance(asked, WriteArguments)
        after = asked.content.encode()
        done = "Created" if before is None else "Wrote"
        return after, f"{done} {name}: {len(after.splitlines())} lines, {len(after)} bytes"


class _Editor(_Writer):
    """What the two editing tools share."""

    def _edited(self, before: bytes | None, edits: list[OneEdit], name: str) -> tuple[bytes, str]:
        if before is None:
            raise EditFault("not_found", f"{name} does not exist: write_file makes a new file")
        done = apply(before, [edit.as_edit() for edit in edits])
        if done.content == before:
            raise EditFault("no_change", "the edits cancel each other out")
        count = f"{done.replacements} replacement{'' if done.replacements == 1 else 's'}"
        return done.content, f"Edited {name}: {count}\n{_snippet(done.content, done.first_at)}"


class EditFile(_Editor):
    """Replaces one text in a file."""

    arguments = EditArguments
    name = "edit_file"
    description = """\
Replace a text in a file by another. old_string stands there exactly so, line breaks and indentation
included, and only once, unless replace_all or occurrence says which one is meant."""

    def _after(self, asked: _Asked, before: bytes | None, name: str) -> tuple[bytes, str]:
        assert isinstance(asked, EditArguments)
        return self._edited(before, [asked], name)


class MultiEditFile(_Editor):
    """Replaces several texts in a file, all or none."""

    arguments = MultiEditArguments
    name = "multi_edit_file"
    description = """\
Make several replacements in one file, each on the result of the one before; all of them or none."""

    def _after(self, asked: _Asked, before: bytes | None, name: str) -> tuple[bytes, str]:
        assert isinstance(asked, MultiEditArguments)
        return self._edited(before, asked.edits, name)


def _resolve(path: str, room: Room) -> Path:
    home = room.environment.get("HOME")
    closed = room.confines.closed
    return resolve(path, room.workspace, jail=room.jail, home=home, closed=closed)


def _write(writing: _Writing, room: Room) -> None:
    if _resolve(writing.asked_path, room) != writing.path:
        said = f"{writing.asked_path} leads elsewhere by now: read it again"
        raise disk.FileFault("changed_meanwhile", said)
    disk.replace(writing.path, writing.data, writing.before, writing.temporary)


def _snippet(content: bytes, place: int) -> str:
    """Return the numbered lines around a place, so that the model sees what it made."""
    number = content.count(b"\n", 0, place) + 1
    first = max(number - SNIPPET_LINES, 1)
    start = place
    for _ in range(number - first + 1):
        start = content.rfind(b"\n", 0, max(start, 0))
    lines = content[start + 1 :].split(b"\n", 2 * SNIPPET_LINES + 1)[: 2 * SNIPPET_LINES + 1]
    if lines and not lines[-1]:
        lines.pop()
    return "\n".join(
        f"{first + index:6d}\t{decode(line)[:SNIPPET_CHARACTERS]}"
        for index, line in enumerate(lines)
    )
