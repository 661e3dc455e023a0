"""What is printed, and how: objects as JSON, rows as tables, and no text that drives a terminal."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

# Escape sequences as ECMA-48 forms them (CSI, OSC and other strings, two-byte ones), whole; then
# every control character that is left but newline and tab; then those that turn text around.
_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_UNFINISHED = re.compile(
    r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]{0,1000}|[ -/]*)|\x9b[0-?]*[ -/]*)$"
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return text of a model or tool as it may be shown: nothing in it moves a cursor (F15)."""
    text = text.replace("\r\n", "\n")
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", _SEQUENCES.sub("", text)))


def split_unfinished(text: str) -> tuple[str, str]:
    """Return what of a stream can be cleaned now, and an escape sequence that is not all there."""
    found = _UNFINISHED.search(text)
    return (text, "") if found is None else (text[: found.start()], text[found.start() :])


def one_line(text: str, width: int = 100) -> str:
    """Return the text cleaned, on one line, and cut to a width."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def visible(text: str) -> str:
    """Return text that somebody is to decide about: what drives a terminal is spelled out.

    A shell reads past an escape sequence that :func:`clean` takes away, and runs what was in it.
    """
    text = _CONTROLS.sub(_spelled, text.replace("\r\n", "\n"))
    return _SURROGATES.sub("\ufffd", text)


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


ARGUMENT_SHOWN_FIRST = ("command", "path", "file_path", "pattern", "url")


def call_line(tool: str, arguments: Mapping[str, Any], width: int = 100) -> str:
    """Return a tool call on one line: its name and the argument that says most.

    The end of a line, which ends a command as well, is shown as ``⏎``.
    """
    for name in ARGUMENT_SHOWN_FIRST:
        value = arguments.get(name)
        if isinstance(value, str) and value:
            said = visible(value).strip().replace("\n", " ⏎ ")
            return one_line(f"{tool} {said}", width)
    rest = ", ".join(f"{visible(name)}={value!r}" for name, value in arguments.items())
    return one_line(f"{tool} {rest}".rstrip(), width)


def say(text: str = "") -> None:
    """Print a line for the reader of stdout."""
    print(text, flush=True)


def hint(text: str) -> None:
    """Print a line for a person, on stderr: never a part of what a script reads."""
    print(text, file=sys.stderr, flush=True)


def print_lines(lines: Sequence[str]) -> None:
    """Print a head and the facts below it: the head bold, and no line wider than a terminal."""
    if not sys.stdout.isatty():
        say("\n".join(lines))
        return
    width = shutil.get_terminal_size().columns
    is_plain = bool(os.environ.get("NO_COLOR"))
    for place, line in enumerate(lines):
        shown = line if len(line) <= width else line[: width - 1] + "…"
        say(shown if place or is_plain else f"\x1b[1m{shown}\x1b[0m")


def print_json(value: Any) -> None:
    """Print a value as JSON: one line for a pipe, indented for a terminal."""
    print(json_of(value, indent=2 if sys.stdout.isatty() else None), flush=True)


def json_of(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON; times as ISO 8601 in UTC, bytes as hex, what is unknown as text."""
    is_ascii = "utf" not in (sys.stdout.encoding or "utf-8").lower()
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent, default=_plain, allow_nan=True)
    return _SURROGATES.sub("\ufffd", text)


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            return moment.isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Decimal():
            return float(value)
        case bytes():
            return value.hex()
        case Mapping():
            return dict(value)
        case set() | frozenset() | tuple():
            return list(value)
        case _ if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        case _:
            return str(value)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    empty: str = "nothing",
    right: Iterable[str] = (),
) -> None:
    """Print rows as a table as wide as the terminal; what does not fit is cut."""
    texts = [[cell(value) for value in row] for row in rows]
    if not texts:
        hint(empty)
        return
    from paddock.supervisor.cli.tables import lines_of

    # Nobody's screen: nothing is cut.
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print_lines(lines_of(columns, texts, right=set(right), room=room))


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            # Six digits, so that money has its cents; of a large number all before the point.
            is_large = 1e5 <= abs(value) < 1e15  # noqa: PLR2004 - beyond, digits tell nothing
            return f"{value:,.1f}" if is_large else f"{value:,.6g}"
        case datetime():
            moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
            return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case Mapping() | list() | tuple():
            return one_line(visible(json_of(value)))
        case _:
            return one_line(str(value), 200)


def ago(moment: datetime | None, now: datetime) -> str:
    """Return how long ago a moment was: ``12s``, ``5m``, ``3h``, ``2d``."""
    if moment is None:
        return "-"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return duration(max(0.0, (now - moment).total_seconds()))


def moment_of(text: str | None) -> datetime | None:
    """Return the time that JSON's text stands for."""
    return datetime.fromisoformat(text) if text else None


def duration(seconds: float) -> str:
    """Return a span of time in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def size(count: float | None) -> str:
    """Return a number of bytes in a unit that reads well."""
    if count is None:
        return "-"
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004 - units of a thousand
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def silence_stdout() -> None:
    """Send what is still to be printed nowhere: whoever read it is gone (``| head``)."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
