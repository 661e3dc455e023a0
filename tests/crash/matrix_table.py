"""Write what came of the matrix as a table: ``python -m tests.crash.matrix_table RESULTS FILE``."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.crash.faults import FAULTS, ROLES
from tests.crash.matrix_cells import AGENTS, all_cells, is_alone, why_not
from tests.crash.matrix_life import Cell

HEAD = """\
# The matrix of crashes

Written by `tests/crash/matrix_table.py` from what came of the cells that were played (`./dev chaos
--matrix` plays all of them, for an hour and more); do not edit. Each cell is a session's whole
life (born, sent words that ask for an approval and have an effect, annotated, suspended, woken by
more words, deleted) in which one process suffers one fault at one exact point: not by luck, but
because the process itself does it there (`tests/crash/faults.py`), with everything else as users
have it. The client does what clients do: what it got no answer to it asks again, with the same id.

**held**: afterwards both operations had completed, and, read off the session's file and off SQL:

* sequences without a gap, one owner at a time, each generation with its certificate, and the one
  that died with the right reason (P2, P3, P13);
* each accepted command answered once and none lost, each operation with one start and one end
  (P4, P14);
* each call with one request, one decision, at most one start and one result; what its tool really
  did is what the log says, and a function agent's effect is never started twice (P5, P6);
* the client was shown exactly what the file holds, and SQL counts exactly that (P1, P15);
* the session is deleted at the end, and where that was asked for no byte of it is there.

What a process suffers:

* **SIGKILL, SIGSEGV**: it sends itself the signal; to the keeper of a call the test does.
* **SIGSTOP**: the same. A worker is found by its beats, a zygote by its silence when it is asked to
  fork; a supervisor or a store that stands still is ended by the test, where its watcher takes
  a minute, or half of one.
* **hang**: it waits for ever and holds the interpreter's lock, so that no thread of it goes on;
  found as above.
* **out of memory**: where the loop of a worker runs on (in all its commits), it grows past the
  session's limit; else, and in all other processes, an allocation is refused; a tool grows past its
  limit.
* **disk full**: the kernel refuses every write of the process to a file, for a second or until one
  has failed (EFBIG, where a full disk says ENOSPC; disks that are really full are the matter of
  `tests/store/test_damage_disk.py`).

`KIND:before`, `:in` and `:after` are the points of the commit that holds an event of that kind:
before it begins, when its rows are in and it is not committed, and when it is durable and nobody
was told.
"""
TITLES = {
    "life": "in the session's life",
    "worker death": "while a worker that was killed in a call is buried",
    "host start": "while a host starts, a session being in a call",
    "host end": "while the host ends",
    "zygote start": "while it starts, a session being in a call",
    "store start": "while it starts",
    "store end": "while it is told to end",
    "checkpoint": "when it is told to fold its log",
    "erasure": "while a session is erased",
    "signal": "by a signal from outside",
}
HELD = "held"

type Results = Mapping[Cell, list[str]]


def read(folder: Path) -> Results:
    """Return what came of each cell that was played."""
    found: dict[Cell, list[str]] = {}
    for file in folder.glob("*.jsonl"):
        for line in file.read_text().splitlines():
            told = json.loads(line)
            faults = told.pop("faults")
            found[Cell(**told)] = faults
    return found


def table(results: Results) -> str:
    """Return the whole document."""
    lines = [HEAD, *_counts(results)]
    reasons: list[str] = []
    for role in ROLES:
        for agents in [AGENTS] if is_alone(role) else [(agent,) for agent in AGENTS]:
            cells = [cell for agent in agents for cell in all_cells(agent, role)]
            who = f"{agents[0]} agent" if len(agents) == 1 else "either agent (b, f)"
            for trigger in dict.fromkeys(cell.trigger for cell in cells):
                lines += ["", f"## {role}, {who}, {TITLES[trigger]}", ""]
                rows = [cell for cell in cells if cell.trigger == trigger]
                lines += _rows(rows, results, reasons)
    lines += ["", "## Not applicable", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join(lines) + "\n"


def _counts(results: Results) -> Iterator[str]:
    applicable = [cell for cell in _every_cell() if why_not(cell) is None]
    held = [cell for cell in applicable if results.get(cell) == []]
    played = [cell for cell in applicable if cell in results]
    yield f"{len(applicable)} cells, {len(played)} played, {len(held)} held."


def _every_cell() -> Iterator[Cell]:
    for role in ROLES:
        for agent in AGENTS:
            yield from all_cells(agent, role)


def _rows(cells: Iterable[Cell], results: Results, reasons: list[str]) -> Iterator[str]:
    yield f"| point | {' | '.join(FAULTS)} |"
    yield f"| --- |{' --- |' * len(FAULTS)}"
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        word = _word(cell, results, reasons)
        if is_alone(cell.role):
            word += f", {cell.agent[0]}"
        rows.setdefault(cell.point, {})[cell.fault] = word
    for point, words in rows.items():
        yield f"| `{point}` | {' | '.join(words[fault] for fault in FAULTS)} |"


def _word(cell: Cell, results: Results, reasons: list[str]) -> str:
    reason = why_not(cell)
    if reason is not None:
        if reason not in reasons:
            reasons.append(reason)
        return f"n/a ({reasons.index(reason) + 1})"
    match results.get(cell):
        case None:
            return "not played"
        case []:
            return HELD
        case faults:
            return "**broken**: " + faults[0].replace("|", "\\|").replace("\n", " ")[:200]


def main() -> int:
    """Write the table; return 1 unless every cell held."""
    results, file = read(Path(sys.argv[1])), Path(sys.argv[2])
    file.write_text(table(results), encoding="utf-8")
    bad = [cell for cell in _every_cell() if why_not(cell) is None and results.get(cell) != []]
    for cell in bad:
        print(f"{cell}: {(results.get(cell) or ['not played'])[0]}")
    print(f"{len(results)} cells played, {len(bad)} did not hold; {file}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
