"""What every benchmark needs: numbers put together, the machine in words, and how results print."""

import argparse
import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the readable table."""

    what: str
    value: str
    budget: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark found: one object for machines, lines for people, and what was measured."""

    numbers: Mapping[str, float]
    lines: Sequence[Line]
    how: str


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which ``percent`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks take; the first line of ``doc`` says what it is."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    parser.add_argument("--rounds", type=int, default=0, help="how often (0: enough for a median)")
    return parser


def show(name: str, result: Result, *, as_json: bool) -> None:
    """Print a result."""
    if as_json:
        print(json.dumps({key: _rounded(value) for key, value in result.numbers.items()}))
        return
    print(f"{name}: {result.how}\n")
    wide = max(len(line.what) for line in result.lines)
    for line in result.lines:
        budget = f"  (budget {line.budget})" if line.budget else ""
        note = f"  {line.note}" if line.note else ""
        print(f"  {line.what:{wide}}  {line.value:>12}{budget}{note}")
    print(f"\n{machine()}")


def progress(text: str) -> None:
    """Say what is being measured, on stderr, where a person looks on."""
    if sys.stderr.isatty():
        print(f"  … {text}", file=sys.stderr, flush=True)


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Give a new folder on a disk (``TMPDIR``, else /tmp), and remove it with all in it."""
    folder = Path(tempfile.mkdtemp(prefix=f"pb-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine() -> str:
    """Return what a reader needs to know of this machine to compare."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"machine: {os.cpu_count()} cores of {_processor()}, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}; files on {filesystem(tempfile.gettempdir())}\n"
        f"         Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; "
        f"load averages at the end {load}"
    )


def filesystem(path: str) -> str:
    """Return the kind of file system that a path is on, or "an unknown file system"."""
    best, kind = "", "an unknown file system"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    real = os.path.realpath(path)
    for line in mounts:
        _, point, found, *_ = line.split(" ")
        covers = real == point or real.startswith(point.rstrip("/") + "/")
        if covers and len(point) >= len(best):
            best, kind = point, found
    return kind


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _rounded(value: float) -> float:
    return int(value) if value == int(value) else round(value, 3)
