"""What a repository's ignore files leave out; standard library only, for the search script.

The rules of gitignore(5): of ``.gitignore`` and ``.ignore`` in each folder from the repository's
root down and ``.git/info/exclude``, the last rule that matches decides; what is below an ignored
folder cannot be called back. Not read: the user's global excludes.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from paddock.session_worker.toolbox.globs import translate

FILES = (".gitignore", ".ignore")
LARGEST_FILE_BYTES = 1024 * 1024


class Rule(NamedTuple):
    """One line of an ignore file, for paths relative to that file's folder."""

    expression: re.Pattern[str]
    ignores: bool
    folders_only: bool


class Rules(NamedTuple):
    """The rules that hold in a folder: its own and, before them, those above."""

    folder: str
    own: tuple[Rule, ...]
    any_of_them: re.Pattern[str]
    above: "Rules | None"

    def ignore(self, path: str, *, is_folder: bool) -> bool:
        """Tell whether a path (absolute, in this folder or below) is left out."""
        level: Rules | None = self
        while level is not None:
            relative = path[len(level.folder) :].lstrip("/")
            decided = level.own if level.any_of_them.match(relative) else ()
            for rule in reversed(decided):
                if (is_folder or not rule.folders_only) and rule.expression.match(relative):
                    return rule.ignores
            level = level.above
        return False

    def below(self, folder: str) -> "Rules":
        """Return the rules that hold in a folder right below: these and its own files'."""
        own = [rule for name in FILES for rule in _read(Path(folder, name))]
        return _rules(folder, own, self) if own else self


def _rules(folder: str, own: list[Rule], above: Rules | None) -> Rules:
    """Return rules with one expression that tells whether any matches: mostly none does."""
    together = "|".join(f"(?:{rule.expression.pattern})" for rule in own) or r"(?!)"
    return Rules(folder, tuple(own), re.compile(together, re.DOTALL), above)


def rules_at(folder: str) -> Rules:
    """Return the rules that hold in a folder, from its repository's root down."""
    path = Path(folder)
    chain = [path]
    for parent in (path, *path.parents):
        if (parent / ".git").exists():
            above = [here for here in (path, *path.parents) if here.is_relative_to(parent)]
            chain = above[::-1]
            break
    top = str(chain[0])
    rules = _rules(top, _read(chain[0] / ".git" / "info" / "exclude"), None)
    for here in chain:
        rules = rules.below(str(here))
    return rules


def parse(lines: Iterable[str]) -> list[Rule]:
    """Return the rules of an ignore file's lines; those that cannot be read are passed over."""
    rules = []
    for line in lines:
        rule = _rule(line)
        if rule is not None:
            rules.append(rule)
    return rules


def _rule(line: str) -> Rule | None:
    text = line.rstrip("\r\n")
    text = re.sub(r"(?<!\\)\s+$", "", text)
    if not text or text.startswith("#"):
        return None
    ignores = not text.startswith("!")
    text = text if ignores else text[1:]
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    if not text:
        return None
    is_anchored = "/" in text
    text = text.lstrip("/")
    try:
        expression = re.compile(
            f"(?:{translate(text if is_anchored else f'**/{text}')})\\Z", re.DOTALL
        )
    except re.error:
        return None
    return Rule(expression, ignores, folders_only)


def _read(path: Path) -> list[Rule]:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE_BYTES:
            return []
        return parse(path.read_text("utf-8", "replace").splitlines())
    except OSError:
        return []
