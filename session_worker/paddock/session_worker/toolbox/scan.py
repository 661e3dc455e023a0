"""Find lines in what comes from a pipe: the main of a child process, standard library only.

Arguments: the pipe's descriptor, the offset of its first byte, how many lines at most, the pattern.
"""

import os
import re
import sys

LONGEST_LINE_BYTES = 1024 * 1024  # a longer one counts as several
SHOWN_BYTES = 2000


def main() -> None:
    """Print the lines that match, each after the offset of its first byte."""
    descriptor, at, limit, pattern = sys.argv[1:5]
    expression = _expression(os.fsencode(pattern))
    offset, found = int(at), 0
    out = sys.stdout.buffer
    with os.fdopen(int(descriptor), "rb") as source:
        while line := source.readline(LONGEST_LINE_BYTES):
            if expression.search(line):
                found += 1
                out.write(b"%d: %s\n" % (offset, _short(line.rstrip(b"\r\n"))))
                if found == int(limit):
                    out.write(b"[there may be more: go on at offset %d]\n" % (offset + len(line)))
                    break
            offset += len(line)
        else:
            out.write(b"[%d lines match]\n" % found)
    out.flush()
    os._exit(0)


def _expression(pattern: bytes) -> "re.Pattern[bytes]":
    try:
        return re.compile(pattern)
    except re.error:  # as grep does: what is no expression is meant as it stands
        return re.compile(re.escape(pattern))


def _short(line: bytes) -> bytes:
    if len(line) <= SHOWN_BYTES:
        return line
    return line[:SHOWN_BYTES] + b" [... %d bytes of this line]" % (len(line) - SHOWN_BYTES)
