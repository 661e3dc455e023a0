"""Search files: the work of ``grep``, ``glob`` and ``ls``, in a process of its own.

A regular expression can hold an interpreter for ever, so this one is such as may be killed.
Standard library only, and little of it (no dataclasses: they cost 11 ms), since it is loaded by
every call. It reads what to do as JSON from the descriptor of its first argument, prints the
answer, and leaves with 0, or with 1 when the answer is what is wrong with the question.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from paddock.session_worker.toolbox.globs import BadPattern, Matches, include_glob, path_glob
from paddock.session_worker.toolbox.ignore_rules import Rules, rules_at

NEVER_ENTERED = frozenset({".git", ".hg", ".svn", ".jj"})
ENTRIES_AT_MOST = 500_000
LARGEST_FILE_BYTES = 32 * 1024 * 1024
LOOK_FOR_NUL_BYTES = 8192
LINE_CHARACTERS = 500
# With one of these a line can match that does not where others follow it (or the reverse).
LOOKS_AROUND = re.compile(r"\(\?[=!<]|\\[AZ]|\(\?[a-zA-Z-]*s")
POSIX_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "word": r"\w",
    "xdigit": "0-9A-Fa-f",
}
TYPES = {
    "c": "*.{c,h}",
    "cpp": "*.{cpp,cc,cxx,hpp,hh,hxx,h,inl}",
    "css": "*.{css,scss,less}",
    "go": "*.go",
    "html": "*.{html,htm,xhtml}",
    "java": "*.java",
    "js": "*.{js,jsx,mjs,cjs,vue}",
    "json": "*.json",
    "kotlin": "*.{kt,kts}",
    "lua": "*.lua",
    "make": "{[Mm]akefile,GNUmakefile,*.mk,*.mak}",
    "md": "*.{md,markdown,mdx}",
    "php": "*.php",
    "py": "*.{py,pyi}",
    "ruby": "{*.rb,Gemfile,Rakefile,*.gemspec}",
    "rust": "*.rs",
    "sh": "*.{sh,bash,zsh}",
    "sql": "*.sql",
    "swift": "*.swift",
    "toml": "{*.toml,Cargo.lock}",
    "ts": "*.{ts,tsx,mts,cts}",
    "txt": "*.txt",
    "xml": "*.{xml,xsd,xsl}",
    "yaml": "*.{yaml,yml}",
}


class Question(Exception):
    """The question cannot be answered; the message says why. The asker's fault."""


class Found(NamedTuple):
    """A file, by its path below the folder asked about."""

    path: str
    relative: str
    modified: int


class Walk:
    """A walk through a folder: links are not followed, what cannot be read is counted."""

    def __init__(self, root: str, *, with_ignored: bool) -> None:
        self.root = root.rstrip("/") or "/"
        self._rules = None if with_ignored else rules_at(self.root)
        self.unreadable = 0
        self.entries = 0

    def files(self) -> Iterator[Found]:
        """Yield every regular file, folder by folder."""
        todo: list[tuple[str, Rules | None]] = [(self.root, self._rules)]
        while todo and self.entries < ENTRIES_AT_MOST:
            folder, rules = todo.pop()
            for entry in self.entries_of(folder, rules):
                if entry.is_dir(follow_symlinks=False):
                    todo.append((entry.path, rules.below(entry.path) if rules else None))
                elif entry.is_file(follow_symlinks=False):
                    yield Found(entry.path, self.relative(entry.path), _modified(entry))

    def entries_of(self, folder: str, rules: Rules | None) -> list[os.DirEntry[str]]:
        """Return what a folder shows."""
        try:
            with os.scandir(folder) as entries:
                listed = list(entries)
        except OSError:
            self.unreadable += 1
            return []
        self.entries += len(listed)
        return [entry for entry in listed if self._shows(entry, rules)]

    def rules(self) -> Rules | None:
        """Return the rules that hold at the root."""
        return self._rules

    def notes(self) -> list[str]:
        """Return what the reader must know of what was not seen."""
        notes = []
        if self.unreadable:
            notes.append(f"[{self.unreadable} folders could not be read]")
        if self.entries >= ENTRIES_AT_MOST:
            notes.append(f"[stopped after {ENTRIES_AT_MOST:,} entries: ask about a smaller folder]")
        return notes

    def _shows(self, entry: os.DirEntry[str], rules: Rules | None) -> bool:
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError:
            return False
        if is_folder and entry.name in NEVER_ENTERED:
            return False
        return rules is None or not rules.ignore(entry.path, is_folder=is_folder)

    def relative(self, path: str) -> str:
        """Return a path below the root as seen from it."""
        return path[len(self.root.rstrip("/")) + 1 :]


def grep(asked: Mapping[str, Any]) -> list[str]:
    """Return the lines of an answer: files with matches, matching lines, or counts."""
    expression, note = compile_pattern(asked)
    root = _existing(asked["root"])
    files, walk = _candidates(root, asked)
    show = {"content": _content, "count": _count}.get(asked["output_mode"], _name)
    whole = bool(asked["multiline"])
    lines: list[str] = []
    matching = 0
    skip, limit = asked["skip"], asked["head_limit"]
    for found in files:
        text = read_text(found.path)
        if text is None:
            continue
        shown = show(_shown(found.path, asked), text, expression, asked, whole=whole)
        matching += bool(shown)
        if shown and lines and lines[-1] != "--" and _has_context(asked):
            lines.append("--")
        lines += shown
        if len(lines) > skip + limit:
            break
    cut = len(lines) > skip + limit
    lines = lines[skip : skip + limit]
    if not lines:
        lines = ["No matches found"]
    elif asked["output_mode"] == "files_with_matches" and not cut:
        lines.insert(0, f"Found {matching} file{'' if matching == 1 else 's'}")
    if cut:
        lines.append(f"[cut at {limit:,}: there is more; skip or a narrower search shows it]")
    return [*note, *lines, *(walk.notes() if walk else [])]


def glob(asked: Mapping[str, Any]) -> list[str]:
    """Return the files whose path matches, the newest first."""
    root = _existing(asked["root"])
    if not Path(root).is_dir():
        raise Question(f"{root} is not a folder")
    matches = path_glob(asked["pattern"])
    walk = Walk(root, with_ignored=asked["include_ignored"])
    found = _newest_first([file for file in walk.files() if matches(file.relative)])
    limit = asked["limit"]
    lines = [_shown(file.path, asked) for file in found[:limit]] or ["No files found"]
    if len(found) > limit:
        lines.append(f"[the newest {limit:,} of {len(found):,} files]")
    return [*lines, *walk.notes()]


def ls(asked: Mapping[str, Any]) -> list[str]:
    """Return a folder's entries as an indented tree, folders first, then by name."""
    root = _existing(asked["root"])
    if not Path(root).is_dir():
        raise Question(f"{root} is not a folder: use read_file")
    walk = Walk(root, with_ignored=asked["include_ignored"])
    left_out = include_glob(" ".join(asked["ignore"])) if asked["ignore"] else None
    lines: list[str] = []
    _list(walk, root, walk.rules(), 0, asked, left_out, lines)
    if len(lines) > asked["limit"]:
        lines[asked["limit"] :] = [f"[cut at {asked['limit']:,} entries]"]
    empty = "[nothing here matches]" if asked["query"] else "[the folder is empty]"
    return [*(lines or [empty]), *walk.notes()]


def compile_pattern(asked: Mapping[str, Any]) -> tuple[re.Pattern[str], list[str]]:
    """Return the expression to search for, and a note where it had to be taken literally."""
    flags = re.IGNORECASE if asked["ignore_case"] else re.NOFLAG
    flags |= (re.MULTILINE | re.DOTALL) if asked["multiline"] else re.NOFLAG
    pattern = asked["pattern"]
    try:
        return re.compile(_as_python(pattern), flags), []
    except (re.error, RecursionError, OverflowError) as error:
        note = f"[{pattern!r} is no regular expression ({error}): searched for literally]"
        return re.compile(re.escape(pattern), flags), [note]


def read_text(path: str) -> str | None:
    """Return a file's text; None when it is binary, too large or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST_FILE_BYTES:
                return None
            data = file.read()
    except OSError:
        return None
    return None if b"\0" in data[:LOOK_FOR_NUL_BYTES] else data.decode("utf-8", "replace")


def _candidates(root: str, asked: Mapping[str, Any]) -> tuple[list[Found], Walk | None]:
    """Return the files to look into, the newest first; a file asked for by name is one."""
    facts = Path(root).stat()
    if stat.S_ISREG(facts.st_mode):
        return [Found(root, Path(root).name, facts.st_mtime_ns)], None
    if not stat.S_ISDIR(facts.st_mode):
        raise Question(f"{root} is neither a file nor a folder")
    walk = Walk(root, with_ignored=asked["include_ignored"])
    tests: list[Matches] = []
    if asked["glob"]:
        tests.append(include_glob(_below(asked["glob"], root)))
    if asked["type"]:
        if asked["type"] not in TYPES:
            raise Question(f"type {asked['type']!r} is not known; known are {', '.join(TYPES)}")
        tests.append(include_glob(TYPES[asked["type"]]))
    found = [file for file in walk.files() if all(test(file.relative) for test in tests)]
    return _newest_first(found), walk


def _below(pattern: str, root: str) -> str:
    """Return a pattern relative to the folder searched, where it was given from the root."""
    return pattern.removeprefix(root.rstrip("/") + "/")


def _matching_lines(
    text: str, expression: re.Pattern[str], *, whole: bool
) -> tuple[list[str], list[int]]:
    """Return the text's lines and which of them match, from 0."""
    if not whole and not _may_match(text, expression):
        return [], []
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not whole:
        lines = [line.removesuffix("\r") for line in lines]
        return lines, [at for at, line in enumerate(lines) if expression.search(line)]
    hit: set[int] = set()
    for found in expression.finditer(text):
        first = text.count("\n", 0, found.start())
        hit.update(range(first, first + found[0].rstrip("\n").count("\n") + 1))
    return lines, sorted(at for at in hit if at < len(lines))


def _may_match(text: str, expression: re.Pattern[str]) -> bool:
    """Tell cheaply that no line can match; most files hold none, and one look at all is faster."""
    if LOOKS_AROUND.search(expression.pattern):
        return True
    everywhere = re.compile(expression.pattern, expression.flags | re.MULTILINE)
    return everywhere.search(text) is not None or "\r\n" in text


def _name(
    path: str, text: str, expression: re.Pattern[str], asked: Mapping[str, Any], *, whole: bool
) -> list[str]:
    del asked
    return [path] if _matching_lines(text, expression, whole=whole)[1] else []


def _count(
    path: str, text: str, expression: re.Pattern[str], asked: Mapping[str, Any], *, whole: bool
) -> list[str]:
    del asked
    matching = _matching_lines(text, expression, whole=whole)[1]
    return [f"{path}:{len(matching)}"] if matching else []


def _content(
    path: str, text: str, expression: re.Pattern[str], asked: Mapping[str, Any], *, whole: bool
) -> list[str]:
    lines, matching = _matching_lines(text, expression, whole=whole)
    before, after = asked["before"], asked["after"]
    hit = set(matching)
    shown: list[str] = []
    last = -1
    for match in matching:
        for at in range(max(match - before, last + 1), min(match + after, len(lines) - 1) + 1):
            if last >= 0 and at > last + 1 and _has_context(asked):
                shown.append("--")
            sign = ":" if at in hit else "-"
            number = f"{at + 1}{sign}" if asked["line_numbers"] else ""
            shown.append(f"{path}{sign}{number}{_short(lines[at])}")
            last = at
    return shown


def _has_context(asked: Mapping[str, Any]) -> bool:
    return bool(asked["output_mode"] == "content" and (asked["before"] or asked["after"]))


def _short(line: str) -> str:
    if len(line) <= LINE_CHARACTERS:
        return line
    return f"{line[:LINE_CHARACTERS]} [... a line of {len(line):,} characters]"


def _list(
    walk: Walk,
    folder: str,
    rules: Rules | None,
    depth: int,
    asked: Mapping[str, Any],
    left_out: Matches | None,
    lines: list[str],
) -> None:
    entries = [
        entry
        for entry in walk.entries_of(folder, rules)
        if (asked["hidden"] or not entry.name.startswith("."))
        and not (left_out and left_out(walk.relative(entry.path)))
    ]
    entries.sort(key=lambda entry: (not entry.is_dir(follow_symlinks=False), entry.name))
    for entry in entries:
        if len(lines) > asked["limit"]:
            return
        is_folder = entry.is_dir(follow_symlinks=False)
        place = len(lines)
        if is_folder and depth + 1 < asked["depth"]:
            inner = rules.below(entry.path) if rules else None
            _list(walk, entry.path, inner, depth + 1, asked, left_out, lines)
        if asked["query"].lower() in entry.name.lower() or len(lines) > place:
            lines.insert(place, "  " * depth + _entry(entry))


def _entry(entry: os.DirEntry[str]) -> str:
    name = _visible(entry.name)
    try:
        if entry.is_symlink():
            return f"{name} -> {_visible(str(Path(entry.path).readlink()))}"
        if entry.is_dir(follow_symlinks=False):
            return f"{name}/"
        return f"{name}  {entry.stat(follow_symlinks=False).st_size:,} bytes"
    except OSError:
        return name


def _newest_first(files: list[Found]) -> list[Found]:
    return sorted(files, key=lambda file: (-file.modified, file.path))


def _modified(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def _shown(path: str, asked: Mapping[str, Any]) -> str:
    workspace = asked["workspace"].rstrip("/") + "/"
    return _visible(path.removeprefix(workspace))


def _visible(name: str) -> str:
    """Return a name on one line: what would move a cursor or end the line is spelled out."""
    return "".join(
        character
        if character.isprintable() or "\udc80" <= character <= "\udcff"
        else character.encode("unicode_escape").decode()
        for character in name
    )


def _existing(path: str) -> str:
    try:
        Path(path).stat()
    except OSError as error:
        raise Question(f"{path} cannot be searched: {error.strerror}") from error
    return path


def _as_python(pattern: str) -> str:
    """Return a pattern of ripgrep's dialect in Python's, as far as the two differ in daily use."""
    for name, members in POSIX_CLASSES.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    pattern = re.sub(r"(?<!\\)((?:\\\\)*)\\z", r"\1\\Z", pattern)
    return re.sub(r"\(\?<(?![=!])", "(?P<", pattern)


def main() -> None:
    """Answer the question that stands in the descriptor of the first argument."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        asked = json.load(file)
    try:
        lines = {"grep": grep, "glob": glob, "ls": ls}[asked["tool"]](asked)
        code = 0
    except (Question, BadPattern) as error:
        lines, code = [str(error)], 1
    sys.stdout.buffer.write("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.flush()
    sys.exit(code)
