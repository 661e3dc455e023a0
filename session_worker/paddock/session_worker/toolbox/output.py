"""What of an output a model is shown: head and tail, readable, with a visible mark of the cut."""

import re

CUT_MARK = "\n\n[... {cut:,} of {total:,} bytes cut here ...]\n\n"
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF8_CONTINUES = 0b10
_LONGEST_CHARACTER = 4


def safe(text: str) -> str:
    """Return the text with NUL shown as ␀ and lone surrogates as �; all other text unchanged."""
    if "\0" in text:
        text = text.replace("\0", "\u2400")
    return _SURROGATE.sub("\ufffd", text)


def decode(data: bytes) -> str:
    """Return bytes as text that can be stored and sent; what is not UTF-8 shows as �."""
    return safe(data.decode("utf-8", "replace"))


def join(head: bytes, tail: bytes, total: int) -> str:
    """Return head and tail of an output of ``total`` bytes as one text, the cut marked.

    Characters that the cut went through are left out rather than shown broken.
    """
    cut = total - len(head) - len(tail)
    if cut <= 0:
        return decode(head + tail)
    head, tail = _without_broken_end(head), _without_broken_start(tail)
    cut = total - len(head) - len(tail)
    return decode(head) + CUT_MARK.format(cut=cut, total=total) + decode(tail)


def shorten(text: str, limit_bytes: int) -> str:
    """Return the text if its UTF-8 form is short enough, else its head and tail with a mark."""
    data = safe(text).encode()
    if len(data) <= limit_bytes:
        return safe(text)
    half = limit_bytes // 2
    return join(data[:half], data[len(data) - half :] if half else b"", len(data))


def _without_broken_end(data: bytes) -> bytes:
    for back in range(1, min(_LONGEST_CHARACTER, len(data)) + 1):
        byte = data[-back]
        if byte >> 6 != _UTF8_CONTINUES:
            return data[:-back] if _length(byte) > back else data
    return data


def _without_broken_start(data: bytes) -> bytes:
    for start in range(min(_LONGEST_CHARACTER, len(data))):
        if data[start] >> 6 != _UTF8_CONTINUES:
            return data[start:]
    return data


def _length(lead: int) -> int:
    """Return how many bytes the character has that begins with this byte."""
    for length, smallest in ((4, 0xF0), (3, 0xE0), (2, 0xC0)):
        if lead >= smallest:
            return length
    return 1
