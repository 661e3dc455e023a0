"""Claude Code's tools in terms of ours; pure.

Names and arguments are those of its transcripts from 1.0 to 2.1. Paths in a recorded call point
into the folder it was recorded in; here they are turned to where the session is now.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Final

from paddock.session_worker.toolbox.shell_quoting import SPECIAL, Quoting, quoted, quoting_of

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
_NOTEBOOK: Final = "updated_file"  # which a recording adds to what was asked, where it is known
_EDIT_ARGUMENTS: Final = ("old_string", "new_string", "replace_all")
_DRIVE: Final = re.compile(r"([A-Za-z]):[\\/]+")
_HOME: Final = re.compile(r"(?:/Users/[^/]+|/home/[^/]+|/root)(?=/|$)")
_PATHS: Final = ("file_path", "path")
_SEARCHES: Final = ("Grep", "Glob", "LS")
_CHANGES: Final = ("write_file", "edit_file", "multi_edit_file")
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - where recorded agents wrote


def map_claude_code_call(
    name: str,
    arguments: Mapping[str, object],
    recorded_cwd: str,
    cwd: str,
    asked_in: str | None = None,
) -> tuple[str, dict[str, object]] | None:
    """Return the call in our terms, or None where the tool is not one of ours.

    Nor is a change of a file elsewhere: what its agent planned and configured at its home, say,
    may be somebody's today. Its recorded result will do. Folders for temporary files are nobody's.

    Paths, shell commands and the patterns of Glob that begin with ``recorded_cwd`` begin with
    ``cwd`` instead; contents of files and searched texts stay as they were recorded. A call that
    was made elsewhere in that folder, since its shell had gone there, is made there again.
    """
    if name == "NotebookEdit" and isinstance(arguments.get(_NOTEBOOK), str):
        path, content = arguments.get("notebook_path"), arguments[_NOTEBOOK]
        name, arguments = "Write", {"file_path": path, "content": content}
    ours = CLAUDE_CODE_TOOLS.get(name)
    if ours is None:
        return None
    if name == "Edit" and arguments.get("old_string") == "":  # its way to make a new file
        ours, name = CLAUDE_CODE_TOOLS["Write"], "Write"
        arguments = {**arguments, "content": arguments.get("new_string")}
    if name == "MultiEdit" and (content := _new_content(arguments.get("edits"))) is not None:
        ours, name = CLAUDE_CODE_TOOLS["Write"], "Write"
        arguments = {**arguments, "content": content}
    turn = _turn_whole(recorded_cwd, cwd)
    turn_command = turn_paths(recorded_cwd, cwd, in_shell=True)
    mapped: dict[str, object] = {}
    for theirs, our_name in _ARGUMENTS[name].items():
        value = arguments.get(theirs)
        if value is None or _is_none_to_it(name, theirs, value):
            continue
        if theirs == "command" and isinstance(value, str):
            value = turn_command(value)
        elif theirs in _PATHS or (name, theirs) == ("Glob", "pattern"):
            value = turn(value) if isinstance(value, str) else value
        mapped[our_name] = _edits(value) if theirs == "edits" else value
    if ours in _CHANGES and _is_elsewhere(mapped.get("path"), cwd):
        return None
    below = _below(asked_in, recorded_cwd)
    return ours, _moved(name, mapped, below) if below else mapped


def _is_elsewhere(path: object, cwd: str) -> bool:
    if not isinstance(path, str) or not path.startswith(("/", "~")):
        return False
    folders = (PurePosixPath(normpath(folder)) for folder in (cwd, *_TEMPORARY))
    return not any(PurePosixPath(normpath(path)).is_relative_to(folder) for folder in folders)


def _is_none_to_it(name: str, argument: str, value: object) -> bool:
    """Return whether Claude Code takes a value for none: no timeout, no path, no glob, no type."""
    if argument == "timeout":
        return value == 0
    return value == "" and name in _SEARCHES and argument != "pattern"


def _turn_whole(recorded_cwd: str, cwd: str) -> Turn:
    """Return a function that turns what is a path from its first letter to its last."""
    turn = turn_paths(_posix(recorded_cwd), cwd, is_whole=True)
    if not _DRIVE.match(recorded_cwd):
        return lambda path: turn(normpath(path) if "/../" in path else path)
    return lambda path: turn(_posix(path))


def _posix(path: str) -> str:
    """Return a path of Windows as its shell calls it (``C:/a``: ``/c/a``), any other as it is."""
    drive = _DRIVE.match(path)
    if drive is None:
        return path
    return f"/{drive[1].lower()}/{path[drive.end() :]}".replace("\\", "/")


def _below(asked_in: str | None, recorded_cwd: str) -> str:
    """Return where below the recorded folder a call was made; "" for the folder itself."""
    if asked_in is None:
        return ""
    there, root = (
        PurePosixPath(_posix(path).removeprefix("/private") or "/")
        for path in (asked_in, recorded_cwd)
    )
    if not there.is_relative_to(root) or ".." in there.parts:
        return ""  # it had left the folder: nothing of ours is there
    below = str(there.relative_to(root))
    return "" if below == "." else below


def _moved(name: str, arguments: dict[str, object], below: str) -> dict[str, object]:
    """Return the arguments of a call that is made in a folder below the workspace.

    A command goes there in its own first line, so that who is asked for it sees where it runs; it
    stays where it is if that folder was never made.
    """
    command, path = arguments.get("command"), arguments.get("path")
    if name == "Bash" and isinstance(command, str):
        there = f"cd {shlex.quote(f'./{below}')} 2>/dev/null || true; "
        return {**arguments, "command": there + command}
    is_rooted = str(arguments.get("pattern", "")).startswith("/")
    if name in _SEARCHES and path is None and not is_rooted:
        return {**arguments, "path": below}
    if isinstance(path, str) and not path.startswith(("/", "~")):
        return {**arguments, "path": f"{below}/{path}"}
    return arguments


def turn_paths(
    recorded_cwd: str, cwd: str, *, in_shell: bool = False, is_whole: bool = False
) -> Turn:
    """Return a function that puts ``cwd`` wherever a text names ``recorded_cwd`` as a path.

    As a path means: whole (``/tmp/a`` is no part of ``/tmp/ab`` or ``/x/tmp/a``), with what follows
    it. macOS calls the same folder ``/private/tmp/a`` too, and on Windows ``C:/tmp/a`` is written
    with backslashes as well, or ``/c/tmp/a``. In a shell command it is quoted as the place needs at
    which it stands, so that it stays one word. A folder in a user's home may begin with ``~``.
    A text that ``is_whole`` is a path and nothing else: ``/tmp/a b`` is another folder there.
    """
    if _DRIVE.match(recorded_cwd):
        return _turn_windows(recorded_cwd, cwd, in_shell=in_shell)
    recorded = recorded_cwd.removeprefix("/private").rstrip("/")
    if not recorded.startswith("/"):
        return lambda text: text
    path = rf"(?:/private)?{_written(recorded)}"
    home = _HOME.match(recorded)
    if home is not None:
        # By itself a tilde is a path only as a word: it stands in =~ and in HEAD~ too.
        tilde = "~" if home.end() < len(recorded) else r"(?:~(?=/)|(?<!\S)~(?=[\s;&|)]|$))"
        path = rf"(?:{path}|(?:{tilde}|\$HOME|\$\{{HOME\}}){_written(recorded[home.end() :])})"
    end = "(?=/|$)" if is_whole else r"(?![\w-]|\.\w)"
    pattern = re.compile(
        r"(?:(?<![\w.~/-])|(?<=\s-[A-Za-z])|(?<=://))"  # -I/tmp/a and file:///tmp/a are meant
        rf"{path}{end}"
    )
    target = cwd.rstrip("/") or "/"
    if not in_shell or (home is None and not SPECIAL.search(target)):
        return lambda text: pattern.sub(lambda _: target, text)

    def turn(command: str) -> str:
        quoting = quoting_of(command)

        def turned(found: re.Match[str]) -> str:
            place = quoting[found.start()]
            return quoted(target, place) if _is_path(found[0], place) else found[0]

        return pattern.sub(turned, command)

    return turn


def _is_path(text: str, quoting: Quoting) -> bool:
    """Return whether a shell takes a text for a path: of a home's names not all in all quotes."""
    if text.startswith("~"):
        return quoting == "none"
    return not text.startswith("$") or quoting not in ("single", "here-quoted")


def _written(path: str) -> str:
    """Return a pattern of a path, each letter escaped for a shell or not."""
    return "".join(
        rf"\\?{re.escape(letter)}" if SPECIAL.match(letter) else re.escape(letter)
        for letter in path
    )


def _turn_windows(recorded_cwd: str, cwd: str, *, in_shell: bool) -> Turn:
    """Do what `turn_paths` does for a folder of Windows; what follows it has slashes then, too."""
    drive, *names = filter(None, _posix(recorded_cwd).split("/"))
    pattern = re.compile(
        rf"(?<![\w.~/-])(?:(?i:{drive}):|/(?i:{drive}))"
        + "".join(rf"[\\/]{{1,2}}{re.escape(name)}" for name in names)
        + r"(?![\w-]|\.\w)(?P<rest>(?:[\\/]{1,2}[\w.@+-]+)*[\\/]?)"
    )
    target = cwd.rstrip("/") or "/"

    def turn(text: str) -> str:
        quoting = quoting_of(text) if in_shell else []

        def turned(found: re.Match[str]) -> str:
            place = quoted(target, quoting[found.start()]) if in_shell else target
            return place + re.sub(r"[\\/]{1,2}", "/", found["rest"])

        return pattern.sub(turned, text)

    return turn


def _new_content(edits: object) -> str | None:
    """Return what a MultiEdit makes of no file: its first edit replaces nothing (None: it does)."""
    if not isinstance(edits, list) or not all(isinstance(edit, Mapping) for edit in edits):
        return None
    content: str | None = None
    for edit in edits:
        old, new = edit.get("old_string"), edit.get("new_string")
        if not isinstance(old, str) or not isinstance(new, str):
            return None
        if content is None:
            if old:
                return None
            content = new
        elif not old or old not in content:
            return None
        else:
            content = content.replace(old, new, -1 if edit.get("replace_all") is True else 1)
    return content


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
