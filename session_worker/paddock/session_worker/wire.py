"""Messages as bytes: msgpack of ``[version, tag, fields]``, with a size limit, and back.

One frozen model a word; its ``tag`` tells it apart. Used on every socket of Paddock, so that what
is no message is refused in one place (F11).
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import msgpack
from pydantic import BaseModel, ConfigDict, ValidationError

from paddock.session_worker.errors import BadMessage

PROTOCOL_VERSION = 1
MESSAGE_LIMIT_BYTES = 32 * 1024 * 1024
"""Above a message of 10 MB with room for its envelope (F10); a frame above it is refused unread."""


class Word(BaseModel):
    """A message of some door; subclasses set ``tag``."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    tag: ClassVar[str]


class Vocabulary[W: Word]:
    """The words that may be spoken in one direction at one door."""

    def __init__(self, words: Iterable[type[W]]) -> None:
        self.words: Mapping[str, type[W]] = {word.tag: word for word in words}

    def pack(self, word: W) -> bytes:
        """Return the word as one frame.

        Raises:
            BadMessage: It is larger than ``MESSAGE_LIMIT_BYTES``. The speaker's fault.
        """
        frame: bytes = msgpack.packb(
            [PROTOCOL_VERSION, word.tag, dict(word)], default=_plain, unicode_errors="surrogatepass"
        )
        if len(frame) > MESSAGE_LIMIT_BYTES:
            message = f"{word.tag!r} of {len(frame)} bytes is above {MESSAGE_LIMIT_BYTES}"
            raise BadMessage(message, tag=word.tag, size_bytes=len(frame))
        return frame

    def unpack(self, frame: bytes | memoryview) -> W:
        """Return the word of a frame.

        Raises:
            BadMessage: The bytes are no word of this door, or of another protocol version.
        """
        if len(frame) > MESSAGE_LIMIT_BYTES:
            message = f"a message of {len(frame)} bytes is above the limit of {MESSAGE_LIMIT_BYTES}"
            raise BadMessage(message, size_bytes=len(frame))
        try:
            version, tag, fields = msgpack.unpackb(frame, unicode_errors="surrogatepass")
        except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            message = f"{len(frame)} bytes are no message"
            raise BadMessage(message, size_bytes=len(frame)) from error
        if version != PROTOCOL_VERSION:
            message = (
                f"protocol version {version!r}, not {PROTOCOL_VERSION}: upgrade the older side"
            )
            raise BadMessage(message, version=version, mine=PROTOCOL_VERSION)
        word = self.words.get(tag) if isinstance(tag, str) else None
        if word is None or not isinstance(fields, dict):
            message = f"{tag!r} is no word of this door"
            raise BadMessage(message)
        try:
            return word.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = f"{tag!r}: {where or 'fields'}: {first['msg']}"
            raise BadMessage(message, tag=tag) from error


def _plain(value: object) -> object:
    """Turn what msgpack does not know into what it does."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, frozenset | set):
        return list(value)
    message = f"{type(value).__name__} cannot be sent"
    raise TypeError(message)
