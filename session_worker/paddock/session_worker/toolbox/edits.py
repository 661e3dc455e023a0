"""Replace text in a file's bytes; pure.

Edits work on bytes, not on text: UTF-8 cannot match in the middle of a character, a byte order mark
and every line ending stay as they are, and a file that is not UTF-8 is damaged nowhere else.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

type Which = Literal["unique", "first", "all", "nth"]

PREVIEWS = 3
PREVIEW_CHARACTERS = 120
DIFF_LINES = 400  # above, changed lines are counted without pairing them: difflib is quadratic


class EditFault(Exception):
    """An edit cannot be made; ``kind`` names why, the message what to do. The asker's fault."""

    code = "edit_fault"

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement: ``old`` by ``new`` at the places named; ``index`` from 1, for ``nth``."""

    old: str
    new: str
    which: Which = "unique"
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Edited:
    """The bytes after all edits, how many places changed, and where the first one is."""

    content: bytes
    replacements: int
    first_at: int


def apply(content: bytes, edits: Sequence[Edit]) -> Edited:
    """Return the content with each edit made on the result of the one before.

    Raises:
        EditFault: One of them cannot be made; with several it is named by its number, from 1.
    """
    replacements, first_at = 0, len(content)
    for number, edit in enumerate(edits, 1):
        try:
            done = _replace(content, edit)
        except EditFault as fault:
            if len(edits) == 1:
                raise
            raise EditFault(fault.kind, f"edit {number} of {len(edits)}: {fault}") from fault
        content = done.content
        replacements += done.replacements
        first_at = min(first_at, done.first_at)
    return Edited(content, replacements, first_at)


def count_lines(before: bytes, after: bytes) -> tuple[int, int]:
    """Return how many lines were added and how many removed."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    old, new = old[start : len(old) - end], new[start : len(new) - end]
    if len(old) > DIFF_LINES or len(new) > DIFF_LINES:
        return len(new), len(old)
    same = difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_matching_blocks()
    kept = sum(block.size for block in same)
    return len(new) - kept, len(old) - kept


def _replace(content: bytes, edit: Edit) -> Edited:
    if not edit.old:
        raise EditFault("empty_old_string", "old_string is empty: write_file makes a whole file")
    if edit.old == edit.new:
        raise EditFault("no_change", "old_string and new_string are the same")
    old, new = edit.old.encode(), edit.new.encode()
    places = _places(content, old)
    if b"\r\n" in content and b"\r\n" not in old:
        # Models write \n; a file with \r\n is meant all the same, and keeps its line endings.
        if not places:
            old, new = _with_carriage_returns(old), _with_carriage_returns(new)
            places = _places(content, old)
        elif content.count(b"\n") == content.count(b"\r\n"):
            new = _with_carriage_returns(new)
    chosen = _choose(content, edit, places)
    pieces, position = [], 0
    for place in chosen:
        pieces += [content[position:place], new]
        position = place + len(old)
    return Edited(b"".join([*pieces, content[position:]]), len(chosen), chosen[0])


def _with_carriage_returns(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _places(content: bytes, old: bytes) -> list[int]:
    places = []
    at = content.find(old)
    while at >= 0:
        places.append(at)
        at = content.find(old, at + len(old))
    return places


def _choose(content: bytes, edit: Edit, places: list[int]) -> list[int]:
    if not places:
        raise EditFault("not_found", f"old_string is not in the file: {_preview(edit.old)}")
    match edit.which:
        case "all":
            return places
        case "first":
            return places[:1]
        case "nth":
            return [_nth(edit, places)]
        case "unique":
            if len(places) == 1:
                return places
            raise EditFault("not_unique", _not_unique(content, places))


def _nth(edit: Edit, places: list[int]) -> int:
    if edit.index is None:
        raise EditFault("index_missing", "occurrence 'nth' needs an index, counted from 1")
    if not 1 <= edit.index <= len(places):
        raise EditFault(
            "index_out_of_range",
            f"index {edit.index} is out of range: old_string occurs {len(places)} times",
        )
    return places[edit.index - 1]


def _not_unique(content: bytes, places: list[int]) -> str:
    previews = []
    for place in places[:PREVIEWS]:
        start = content.rfind(b"\n", 0, place) + 1
        end = content.find(b"\n", place)
        line = content[start : end if end >= 0 else len(content)].decode("utf-8", "replace")
        previews.append(f"  line {content.count(b'\n', 0, place) + 1}: {_preview(line)}")
    more = f"\n  and {len(places) - PREVIEWS} more" if len(places) > PREVIEWS else ""
    return (
        f"old_string occurs {len(places)} times; give more of its surroundings, or say which "
        "(replace_all, or occurrence first, all or nth):\n" + "\n".join(previews) + more
    )


def _preview(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else text
    return repr(line if len(line) <= PREVIEW_CHARACTERS else line[:PREVIEW_CHARACTERS] + "…")
