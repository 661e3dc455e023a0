"""In which quotes each character of a shell command stands; pure.

Enough of the shell's grammar to put a path into a recorded command so that it stays one word:
quotes, escapes, comments, here-documents, and commands within commands.
"""

import re
from typing import Final, Literal

type Quoting = Literal["none", "single", "double", "here", "here-quoted"]
"""``here`` is the body of a here-document in which ``$`` has its meaning."""

SPECIAL: Final = re.compile(r"[^\w@%+=:,./-]")
"""What means something to a shell that is not quoted."""

_HERE: Final = re.compile(r"<<(-?)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([\w.-]+))")
_ESCAPED: Final = {
    "none": SPECIAL,
    "double": re.compile(r"[$`\"\\]"),
    "here": re.compile(r"[$`\\]"),
}


def quoted(text: str, quoting: Quoting) -> str:
    """Return the text as it is written where characters have that quoting."""
    match quoting:
        case "single":
            return text.replace("'", "'\\''")
        case "here-quoted":
            return text
        case _:
            return _ESCAPED[quoting].sub(r"\\\g<0>", text)


def quoting_of(command: str) -> list[Quoting]:
    """Return the quoting of each character; quotes and escapes count as what they stand in."""
    return _Reading(command).read()


class _Reading:
    """One walk through a command."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._told: list[Quoting] = []
        self._frames: list[Quoting | Literal["paren"]] = ["none"]
        """What is open: quotes, and commands within ``$(...)``."""
        self._bodies: list[tuple[str, bool, bool]] = []
        """Here-documents that begin at the next line: their end, tabs before it, quoted."""

    def read(self) -> list[Quoting]:
        """Walk."""
        command = self._command
        while len(self._told) < len(command):
            at = len(self._told)
            state = self._frames[-1]
            if state == "single":
                self._tell("single")
                if command[at] == "'":
                    self._frames.pop()
            elif command[at] == "\\":
                self._tell("double" if state == "double" else "none", 2)
            elif state == "double":
                self._read_double(at)
            else:
                self._read_plain(at)
        return self._told

    def _tell(self, quoting: Quoting, count: int = 1) -> None:
        count = min(count, len(self._command) - len(self._told))
        self._told += [quoting] * count

    def _read_double(self, at: int) -> None:
        if self._command.startswith("$(", at):
            self._tell("double", 2)
            self._frames.append("paren")
            return
        self._tell("double")
        if self._command[at] == '"':
            self._frames.pop()

    def _read_plain(self, at: int) -> None:
        command, letter = self._command, self._command[at]
        if letter == "\n" and self._bodies:
            self._tell("none")
            self._read_bodies()
        elif letter == "#" and (at == 0 or command[at - 1] in " \t\n;&|("):
            end = command.find("\n", at)
            self._tell("none", (len(command) if end < 0 else end) - at)
        elif (here := _HERE.match(command, at)) and not command.startswith("<<<", at):
            dash, single, double, bare = here.groups()
            end_word = single or double or bare
            is_quoted = bare is None or "\\" in here[0]
            self._bodies.append((end_word, bool(dash), is_quoted))
            self._tell("none", len(here[0]))
        else:
            self._tell("none")
            self._open_or_close(at, letter)

    def _open_or_close(self, at: int, letter: str) -> None:
        match letter:
            case "'":
                self._frames.append("single")
            case '"':
                self._frames.append("double")
            case "(":
                self._frames.append("paren")
            case ")" if len(self._frames) > 1 and self._frames[-1] == "paren":
                self._frames.pop()
            case "<" if self._command.startswith("<<<", at):
                self._tell("none", 2)
            case _:
                pass

    def _read_bodies(self) -> None:
        for end_word, has_tabs, is_quoted in self._bodies:
            while len(self._told) < len(self._command):
                at = len(self._told)
                end = self._command.find("\n", at)
                stop = len(self._command) if end < 0 else end + 1
                line = self._command[at:stop].rstrip("\n")
                self._tell("here-quoted" if is_quoted else "here", stop - at)
                if (line.lstrip("\t") if has_tabs else line) == end_word:
                    break
        self._bodies = []
