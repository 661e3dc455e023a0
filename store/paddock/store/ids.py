"""Identifiers: types of their own, and how a UUIDv7 is made from a time and random bytes."""

from typing import NewType

SessionId = NewType("SessionId", str)
OperationId = NewType("OperationId", str)
MessageId = NewType("MessageId", str)
ToolCallId = NewType("ToolCallId", str)
CommandId = NewType("CommandId", str)
ApprovalId = NewType("ApprovalId", str)
ModelCallId = NewType("ModelCallId", str)

RANDOM_BYTES = 10
"""How many random bytes :func:`uuid7` takes (74 of their bits are used)."""


def uuid7(at_us: int, random_bytes: bytes) -> str:
    """Return the UUIDv7 (RFC 9562) of a UTC time in microseconds and ten random bytes.

    The millisecond goes into the first 48 bits and the microsecond within it into the 12 bits of
    ``rand_a`` (RFC 9562 §6.2, method 3), so that ids made by one process sort by time.

    Raises:
        ValueError: ``random_bytes`` is not ten bytes long. The caller's fault.
    """
    if len(random_bytes) != RANDOM_BYTES:
        message = f"uuid7 takes {RANDOM_BYTES} random bytes, got {len(random_bytes)}"
        raise ValueError(message)
    milliseconds, microseconds = divmod(at_us, 1000)
    fraction = microseconds * 4096 // 1000
    tail = int.from_bytes(random_bytes[2:]) & 0x3FFF_FFFF_FFFF_FFFF
    number = (
        (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail
    )
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def time_of(uuid: str) -> int:
    """Return the UTC time in microseconds that a UUIDv7 was made at, to the millisecond.

    Raises:
        ValueError: ``uuid`` is no UUID of version 7. The caller's fault.
    """
    if not is_uuid7(uuid):
        message = f"{uuid!r} is no UUIDv7"
        raise ValueError(message)
    return int(uuid[:8] + uuid[9:13], 16) * 1000


def is_uuid7(text: str) -> bool:
    """Return whether ``text`` is a UUIDv7 in its lower-case form with four hyphens."""
    if len(text) != 36 or text[8] + text[13] + text[18] + text[23] != "----":  # noqa: PLR2004 - RFC 9562 §4
        return False
    digits = text.replace("-", "")
    return (
        len(digits) == 32  # noqa: PLR2004 - 128 bits in hex
        and all(digit in "0123456789abcdef" for digit in digits)
        and text[14] == "7"
        and text[19] in "89ab"
    )
