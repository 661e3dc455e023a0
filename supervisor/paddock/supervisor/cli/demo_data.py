"""What the demonstration works on: three small repositories with a failing test, and scripts.

A script plays the model, its tool calls are real: the tests are run, fail, the code is read and
changed, and the tests are run again.
"""

import shlex
import sys
from dataclasses import dataclass
from typing import Any

type Turn = dict[str, Any]
type Call = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Repository:
    """Files with a fault in them, what the agent is asked, and what it will say and do."""

    name: str
    prompt: str
    files: dict[str, str]
    turns: tuple[Turn, ...]


SLOW_MARK = "slow-check"
"""Stands in the command of the call in whose middle a worker is killed."""

PYTHON = shlex.quote(sys.executable)
TESTS = f"{PYTHON} -m unittest 2>&1"
SLOW_TESTS = f": {SLOW_MARK}; sleep 1.5; {TESTS}"
PAUSE_MS = 350
"""Between two answers: models take their time, and something has to be at work to be killed."""


def _call(name: str, **arguments: Any) -> Call:
    return {"name": name, "arguments": arguments}


def _says(*said: str | Call) -> Turn:
    return {
        "text": "".join(one for one in said if isinstance(one, str)),
        "tool_calls": [one for one in said if not isinstance(one, str)],
        "delay_ms": PAUSE_MS,
    }


INTERVALS = Repository(
    name="intervals",
    prompt="A test of this repository fails. Find out why and mend the code, not the test.",
    files={
        "intervals.py": '''\
"""Intervals of whole numbers, both ends included."""


def merge(intervals):
    """Return the same numbers in as few intervals as possible, sorted."""
    merged = []
    for start, end in sorted(intervals):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
''',
        "test_intervals.py": """\
import unittest

from intervals import merge


class Merging(unittest.TestCase):
    def test_neighbours_become_one(self):
        self.assertEqual(merge([(1, 3), (4, 6)]), [(1, 6)])

    def test_one_inside_another_changes_nothing(self):
        self.assertEqual(merge([(1, 9), (2, 3)]), [(1, 9)])

    def test_those_apart_stay_apart(self):
        self.assertEqual(merge([(5, 6), (1, 2)]), [(1, 2), (5, 6)])
""",
    },
    turns=(
        _says("I run the tests first.", _call("bash", command=TESTS)),
        _says("Two fail, both in merge.", _call("read_file", path="intervals.py")),
        _says(
            "Neighbours touch when the next start is one past the end, and an inner interval must "
            "not shorten the outer one.",
            _call(
                "edit_file",
                path="intervals.py",
                old_string="        if merged and start < merged[-1][1]:\n"
                "            merged[-1] = (merged[-1][0], end)\n",
                new_string="        if merged and start <= merged[-1][1] + 1:\n"
                "            merged[-1] = (merged[-1][0], max(merged[-1][1], end))\n",
            ),
        ),
        _says("Now all of them, slowly and carefully.", _call("bash", command=SLOW_TESTS)),
        _says("The tests pass: merge compared ends wrongly in two places."),
    ),
)

INVOICE = Repository(
    name="invoice",
    prompt="An invoice is a cent short. Mend it and note it in CHANGELOG.md.",
    files={
        "invoice.py": '''\
"""Invoices, in cents."""


def total(lines, tax_percent):
    """Return the sum of (quantity, price) lines with tax, half a cent rounded up."""
    net = sum(quantity * price for quantity, price in lines)
    return round(net + net * tax_percent / 100)


def shown(cents):
    """Return an amount as it is printed."""
    return f"{cents / 100:.2f} EUR"
''',
        "test_invoice.py": """\
import unittest

from invoice import shown, total


class Totals(unittest.TestCase):
    def test_half_a_cent_is_rounded_up(self):
        self.assertEqual(total([(1, 50)], 5), 53)

    def test_lines_add_up(self):
        self.assertEqual(total([(2, 100), (1, 300)], 20), 600)

    def test_thousands_are_set_apart(self):
        self.assertEqual(shown(123456789), "1,234,567.89 EUR")
""",
        "CHANGELOG.md": "# Changes\n",
    },
    turns=(
        _says("Let me see what fails.", _call("bash", command=TESTS)),
        _says(
            "round() rounds halves to even, so 52.5 becomes 52.",
            _call("grep", pattern="round\\("),
            _call("read_file", path="invoice.py"),
        ),
        _says(
            "Whole numbers need no rounding at all.",
            _call(
                "multi_edit_file",
                path="invoice.py",
                edits=[
                    {
                        "old_string": "round(net + net * tax_percent / 100)",
                        "new_string": "(net * (100 + tax_percent) + 50) // 100",
                    },
                    {"old_string": ":.2f}", "new_string": ":,.2f}"},
                ],
            ),
        ),
        _says(
            _call(
                "write_file",
                path="CHANGELOG.md",
                content="# Changes\n\n- Totals round half a cent up; thousands are set apart.\n",
            )
        ),
        _says(_call("bash", command=f"sleep 0.4; {TESTS}")),
        _says("Done: totals are exact now, and the change is noted."),
    ),
)

SLUGS = Repository(
    name="slugs",
    prompt="Titles with accents give ugly links. Make the tests pass.",
    files={
        "slugs.py": '''\
"""Links from titles."""

import re


def slug(title):
    """Return a title as a part of a link."""
    return re.sub(r"[^a-z0-9]", "-", title.lower())
''',
        "test_slugs.py": """\
import unittest

from slugs import slug


class Slugs(unittest.TestCase):
    def test_accents_become_plain_letters(self):
        self.assertEqual(slug("Crème brûlée"), "creme-brulee")

    def test_signs_become_one_hyphen(self):
        self.assertEqual(slug("Why? -- Because!"), "why-because")
""",
    },
    turns=(
        _says("First, what is here.", _call("ls", path="."), _call("bash", command=TESTS)),
        _says(_call("bash", command=f"sleep 0.5; {PYTHON} -V")),
        _says(
            "The title is to be taken apart into letters and marks first.",
            _call(
                "write_file",
                path="slugs.py",
                content='"""Links from titles."""\n\nimport re\nimport unicodedata\n\n\n'
                'def slug(title):\n    """Return a title as a part of a link."""\n'
                '    plain = unicodedata.normalize("NFKD", title)\n'
                '    letters = plain.encode("ascii", "ignore").decode().lower()\n'
                '    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-")\n',
            ),
        ),
        _says(_call("bash", command=f"sleep 0.5; {TESTS}")),
        _says(_call("read_file", path="slugs.py")),
        _says(_call("bash", command=f"sleep 0.5; {TESTS}")),
        _says("Accents are plain letters now, and signs become one hyphen."),
    ),
)

REPOSITORIES = (INTERVALS, INVOICE, SLUGS)
