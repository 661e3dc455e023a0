"""Claude Code's tools in terms of ours; pure.

Names and arguments are those of its transcripts from 1.0 to 2.1. Paths in a recorded call point
into the folder it was recorded in; here they are turned to where the session is now.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

type Turn = Callable[[str], str]

CLAUDE_CODE_TOOLS: Final[Mapping[str, str]] = {
    "Bash": "bash",
    "Read": "read_file",
    "Write": "write_file",
    "Edit": "edit_file",
    "MultiEdit": "multi_edit_file",
    "Grep": "grep",
    "Glob": "glob",
    "LS": "ls",
}

# Their argument → ours. What is not named here has no meaning for us (a description for a prompt, a
# sandbox switch) and is left out. `run_in_background` too: the command then runs to its end.
_ARGUMENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "Bash": {"command": "command", "description": "description", "timeout": "timeout"},
    "Read": {"file_path": "path", "offset": "offset", "limit": "limit"},
    "Write": {"file_path": "path", "content": "content"},
    "Edit": {
        "file_path": "path",
        "old_string": "old_string",
        "new_string": "new_string",
        "replace_all": "replace_all",
    },
    "MultiEdit": {"file_path": "path", "edits": "edits"},
    "Grep": {
        "pattern": "pattern",
        "path": "path",
        "glob": "glob",
        "type": "type",
        "output_mode": "output_mode",
        "-A": "after",
        "-B": "before",
        "-C": "context",
        "context": "context",
        "-n": "line_numbers",
        "-i": "ignore_case",
        "multiline": "multiline",
        "head_limit": "head_limit",
        "offset": "skip",
    },
    "Glob": {"pattern": "pattern", "path": "path"},
    "LS": {"path": "path", "ignore": "ignore"},
}
_EDIT_ARGUMENTS: Final = ("old_string", "new_string", "replace_all")
_PATHS: Final = ("file_path", "path")


def map_claude_code_call(
    name: str, arguments: Mapping[str, object], recorded_cwd: str, cwd: str
) -> tuple[str, dict[str, object]] | None:
    """Return the call in our terms, or None where the tool is not one of ours.

    Paths, shell commands and the patterns of Glob that begin with ``recorded_cwd`` begin with
    ``cwd`` instead; contents of files and searched texts stay as they were recorded.
    """
    ours = CLAUDE_CODE_TOOLS.get(name)
    if ours is None:
        return None
    if name == "Edit" and arguments.get("old_string") == "":  # its way to make a new file
        ours, name = CLAUDE_CODE_TOOLS["Write"], "Write"
        arguments = {**arguments, "content": arguments.get("new_string")}
    turn = turn_paths(recorded_cwd, cwd)
    mapped: dict[str, object] = {}
    for theirs, our_name in _ARGUMENTS[name].items():
        value = arguments.get(theirs)
        if value is None:
            continue
        if theirs in _PATHS or theirs == "command" or (name, theirs) == ("Glob", "pattern"):
            value = turn(value) if isinstance(value, str) else value
        mapped[our_name] = _edits(value) if theirs == "edits" else value
    return ours, mapped


def turn_paths(recorded_cwd: str, cwd: str) -> Turn:
    """Return a function that puts ``cwd`` wherever a text names ``recorded_cwd`` as a path.

    As a path means: whole (``/tmp/a`` is no part of ``/tmp/ab`` or ``/x/tmp/a``), with what follows
    it. macOS calls the same folder ``/private/tmp/a`` too. A space may be escaped for the shell and
    is escaped again then.
    """
    recorded = recorded_cwd.removeprefix("/private").rstrip("/")
    if not recorded.startswith("/"):
        return lambda text: text
    path = re.escape(recorded).replace(r"\ ", r"\\? ")
    pattern = re.compile(
        r"(?:(?<![\w.~/-])|(?<=\s-[A-Za-z])|(?<=://))"  # -I/tmp/a and file:///tmp/a are meant
        rf"(?:/private)?{path}(?![\w-]|\.\w)"
    )
    target = cwd.rstrip("/") or "/"

    def turned(found: re.Match[str]) -> str:
        return target.replace(" ", "\\ ") if "\\ " in found[0] else target

    return lambda text: pattern.sub(turned, text)


def _edits(value: object) -> object:
    """Return the edits with what we know of each; what is malformed the tool will name."""
    if not isinstance(value, list):
        return value
    return [
        {name: edit[name] for name in _EDIT_ARGUMENTS if name in edit}
        if isinstance(edit, Mapping)
        else edit
        for edit in value
    ]
