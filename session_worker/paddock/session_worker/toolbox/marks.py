"""The mark of a tool's processes that no environment carries: numbers in a limit nobody uses.

A process can clear its environment, and the kernel hides the environment of one that is not
dumpable; its limits are inherited by every child, survive exec and are shown to everybody. The
limit on uninterrupted realtime work is unlimited by default; here it is set to some ten thousand
years, and in the digits stands whose process it is. (It can be lowered once more by who means to:
that one is held by its control group, where there is one.)

Standard library only: the keeper of a call sets it, the worker and the supervisor look for it.
"""

import hashlib
import os
import resource

LIMIT = getattr(resource, "RLIMIT_RTTIME", 15)
"""Microseconds a process may work at realtime priority without a pause."""
HARD_BIT, SOFT_BIT = 1 << 62, 1 << 61
SESSION_BITS, GENERATION_BITS, CALL_BITS = 60, 29, 31
LINE = b"Max realtime timeout"
READ_BYTES = 4096


def mark_of(owner: str, call: str | None) -> tuple[int, int]:
    """Return the (soft, hard) limit that marks a call of ``<session id>.<generation>``."""
    session, _, generation = owner.rpartition(".")
    whose = _digest(generation, GENERATION_BITS) << CALL_BITS | _digest(call or "", CALL_BITS)
    return SOFT_BIT | whose, HARD_BIT | _digest(session, SESSION_BITS)


def set_mark(soft: int, hard: int) -> None:
    """Mark this process and all it starts; a limit that stands already stays."""
    try:
        resource.setrlimit(LIMIT, (soft, hard))
    except (OSError, ValueError):
        return


def read_mark(pid: int) -> tuple[int, int] | None:
    """Return the mark that a process carries; None if it has none, or is gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/limits", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(descriptor, READ_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    fields = text[text.find(LINE) + len(LINE) :].split(maxsplit=2) if LINE in text else []
    if not fields or not fields[0].isdigit() or not fields[1].isdigit():
        return None
    soft, hard = int(fields[0]), int(fields[1])
    is_mark = soft >> SESSION_BITS == SOFT_BIT >> SESSION_BITS and hard >> SESSION_BITS == (
        HARD_BIT >> SESSION_BITS
    )
    return (soft, hard) if is_mark else None


def is_of(mark: tuple[int, int], owner: str, call: str | None) -> bool:
    """Tell whether a mark is the owner's (and the call's); a final dot: of any generation."""
    soft, hard = mark_of(owner, call)
    if mark[1] != hard:
        return False
    if owner.endswith("."):
        return True
    if call is None:
        return mark[0] >> CALL_BITS == soft >> CALL_BITS
    return mark[0] == soft


def _digest(text: str, bits: int) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & ((1 << bits) - 1)
