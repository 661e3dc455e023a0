"""The words at the store's door: what is asked of it, and what it says.

A frame is msgpack of ``[version, request id, tag, fields]``. Each request is answered by frames
with its id: one ``Done`` or ``Failed`` ends it, and a query sends ``Header`` and ``Rows`` before.
The asker gives leave for so many ``Rows`` at a time (``More``), so that nobody holds a result that
nobody reads. ``Heads`` is not answered.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol
from uuid import UUID

import msgpack
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from pydantic_core import from_json

from paddock.store.errors import PeerBroke, Refused, SqlRefused, StoreError
from paddock.store.ids import SessionId

PROTOCOL_VERSION = 1
MESSAGE_LIMIT_BYTES = 32 * 1024 * 1024
"""A frame above it is refused unread; rows are sent in far smaller ones."""
ROWS_AHEAD = 4
"""How many ``Rows`` a query may send before it is told ``More``."""
QUERY_LIMIT_CHARACTERS = 1_000_000


class ProjectionDamaged(StoreError):
    """DuckDB's file failed while it was read; it is made anew from the logs. Ask again."""

    code = "projection_damaged"


class Cancelled(SqlRefused):
    """The query was ended before its end, by who asked it or because the store goes."""

    code = "cancelled"


class StoreBusy(Refused):
    """The store has as much to do as it takes on; ask again."""

    code = "store_busy"


class Word(BaseModel):
    """A message at this door; ``tag`` tells it apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tag: ClassVar[str]


# --- what is asked --------------------------------------------------------------------------------

type Status = Literal["live", "suspended", "failed", "deleted"]
type Stage = Literal["resting", "working", "waiting"]
type Attention = Literal["approval", "question", "failed", "budget", "credentials"]


class SessionFilter(BaseModel):
    """Which sessions, in which order. All that is given must hold; times are UTC microseconds.

    ``after`` is exclusive and ``before`` too. Deleted sessions come only where ``status`` names
    them; it, ``stage`` and ``attention`` name one, as a text, or several. ``labels``: each must be
    there with that text, or with any where it is None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    created_after_us: int | None = None
    created_before_us: int | None = None
    updated_after_us: int | None = None
    updated_before_us: int | None = None
    labels: dict[str, str | None] = Field(default_factory=dict)
    status: tuple[Status, ...] = ()
    stage: tuple[Stage, ...] = ()
    attention: tuple[Attention, ...] = ()
    model: str | None = None
    agent: str | None = None
    source: str | None = None
    project: str | None = None
    owner: str | None = None
    name: str | None = None
    parent_session_id: SessionId | None = None
    text: str | None = None
    """In its name, title or messages, whatever the case of letters."""
    order_by: Literal["created", "updated", "messages"] = "updated"
    descending: bool = True
    limit: Annotated[int, Field(ge=0)] | None = None
    offset: Annotated[int, Field(ge=0)] = 0

    @field_validator("status", "stage", "attention", mode="before")
    @classmethod
    def _several(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given


class Request(Word):
    """Something asked of the store."""


class Sql(Request):
    """One SELECT or EXPLAIN. Answered by ``Header``, ``Rows``…, ``Done`` with ``{rows, is_cut}``.

    ``wait_for``: the query begins when these events can be seen, or fails as ``timed_out``; event 0
    stands for an erased session of which nothing can be seen any more. ``is_noted``: its asker
    gives the header's notice on; what is told once is kept for such a one.
    """

    tag = "sql"
    query: Annotated[str, Field(max_length=QUERY_LIMIT_CHARACTERS)]
    params: list[Any] | dict[str, Any] = Field(default_factory=list)
    timeout_ms: Annotated[int, Field(gt=0, le=3_600_000)] = 30_000
    row_limit: Annotated[int, Field(ge=0)] | None = None
    wait_for: dict[SessionId, int] = Field(default_factory=dict)
    is_noted: bool = True


class GetSession(Request):
    """One session's row: ``{session: {...}}``; SessionNotFound if there is none."""

    tag = "session"
    session_id: SessionId
    wait_for: dict[SessionId, int] = Field(default_factory=dict)


class Heads(Request):
    """Logs that have grown, and up to where. Not answered."""

    tag = "heads"
    heads: dict[SessionId, int]


class Verify(Request):
    """Every row of DuckDB is read and compared with the logs: ``{ok, problems: [...], ...}``."""

    tag = "verify"


class Rebuild(Request):
    """Throw DuckDB's file away and fill a new one, in the background: ``{}`` when it has begun."""

    tag = "rebuild"


class Checkpoint(Request):
    """Fold DuckDB's log into its file: ``{size_bytes}``."""

    tag = "checkpoint"


class Snapshot(Request):
    """A consistent copy of DuckDB's file: ``{path, size_bytes}``. No file is replaced."""

    tag = "snapshot"
    path: str


class Erase(Request):
    """Remove every row of a session, and every byte of it from DuckDB's file: ``{}``."""

    tag = "erase"
    session_id: SessionId


class GetStatus(Request):
    """How the store fares: ``StoreStatus``."""

    tag = "status"


class Watch(Request):
    """Stay as long as that process lives: the supervisor of the moment: ``{}``."""

    tag = "watch"
    pid: Annotated[int, Field(gt=0)]


class More(Request):
    """Leave for more ``Rows`` of the query with this request id. Not answered."""

    tag = "more"
    frames: Annotated[int, Field(gt=0, le=1000)] = 1


class Cancel(Request):
    """The query with this request id is not wanted any more; it ends as ``cancelled``."""

    tag = "cancel"


# --- what is said ---------------------------------------------------------------------------------


class StoreStatus(BaseModel):
    """How the store fares. ``word`` is one line for a person."""

    model_config = ConfigDict(frozen=True)
    word: str
    pid: int
    state: Literal["ready", "catching_up", "rebuilding", "stalled"]
    sessions: int
    due: int
    events: int
    rebuilt: int
    events_rebuilt: int
    events_to_rebuild: int
    waiting_for_fold: int
    damaged: dict[str, str]
    size_bytes: int
    notice: str | None = None
    """Why it was rebuilt, or is stalled."""
    bad_messages: int = 0
    strangers: int = 0
    refused_of_sessions: int = 0
    """Requests of what a session started: it may not ask here."""

    @property
    def progress(self) -> str:
        """How far a rebuild is, in words."""
        return (
            f"{self.events_rebuilt:,} of {self.events_to_rebuild:,} events, "
            f"{self.rebuilt:,} of {self.sessions:,} sessions"
        )


class Said(Word):
    """Something the store says about a request."""


class Header(Said):
    """The columns of a result, with DuckDB's types; ``notice`` is for a person to read."""

    tag = "header"
    names: list[str]
    types: list[str]
    notice: str | None = None


class Rows(Said):
    """Some rows, packed by :func:`pack_rows`."""

    tag = "rows"
    rows: bytes


class Done(Said):
    """The request is done."""

    tag = "done"
    result: dict[str, JsonValue]


class Failed(Said):
    """The request is not done; ``code`` as in the error classes."""

    tag = "failed"
    code: str
    message: str
    facts: dict[str, JsonValue] = Field(default_factory=dict)


REQUESTS: Mapping[str, type[Request]] = {
    word.tag: word
    for word in (
        Sql,
        GetSession,
        Heads,
        Verify,
        Rebuild,
        Checkpoint,
        Snapshot,
        Erase,
        GetStatus,
        Watch,
        More,
        Cancel,
    )
}
SAID: Mapping[str, type[Said]] = {word.tag: word for word in (Header, Rows, Done, Failed)}


class Frame(NamedTuple):
    """A word with the request that it belongs to."""

    request_id: int
    word: Word


def pack(request_id: int, word: Word) -> bytes:
    """Return a frame.

    Raises:
        PeerBroke: It is larger than ``MESSAGE_LIMIT_BYTES``.
    """
    fields = {name: getattr(word, name) for name in type(word).model_fields}
    frame: bytes = msgpack.packb(
        [PROTOCOL_VERSION, request_id, word.tag, fields],
        default=_plain,
        unicode_errors="surrogatepass",
    )
    if len(frame) > MESSAGE_LIMIT_BYTES:
        message = f"{word.tag!r} of {len(frame)} bytes is above {MESSAGE_LIMIT_BYTES}"
        raise PeerBroke(message, size_bytes=len(frame))
    return frame


def unpack(frame: bytes | memoryview, words: Mapping[str, type[Word]]) -> Frame:
    """Return the word of a frame.

    Raises:
        PeerBroke: The bytes are none of ``words``, or of another protocol version.
    """
    if len(frame) > MESSAGE_LIMIT_BYTES:
        raise PeerBroke(f"a frame of {len(frame)} bytes is above {MESSAGE_LIMIT_BYTES}")
    try:
        version, request_id, tag, fields = msgpack.unpackb(
            frame, ext_hook=_from_ext, unicode_errors="surrogatepass"
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise PeerBroke(f"{len(frame)} bytes are no frame") from error
    if version != PROTOCOL_VERSION:
        message = f"protocol version {version!r}, not {PROTOCOL_VERSION}: upgrade the older side"
        raise PeerBroke(message, version=version)
    word = words.get(tag) if isinstance(tag, str) else None
    if word is None or not isinstance(fields, dict) or not isinstance(request_id, int):
        raise PeerBroke(f"{tag!r} is no word of this door")
    try:
        return Frame(request_id, word.model_validate(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PeerBroke(f"{tag!r}: {where or 'fields'}: {first['msg']}") from error


# --- values of a result ---------------------------------------------------------------------------

_TIMESTAMP, _INTEGER, _DECIMAL, _DATE, _TIME, _INTERVAL = range(1, 7)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - DuckDB's TIMESTAMP has no zone; ours are all UTC
_MICROSECOND = timedelta(microseconds=1)
_INT64 = range(-(2**63), 2**64)


def pack_rows(rows: Sequence[Sequence[Any]]) -> bytes:
    """Return rows as bytes; every value of DuckDB that Python knows survives."""
    packed: bytes = msgpack.packb(
        [list(row) for row in rows], default=_to_ext, unicode_errors="surrogatepass"
    )
    return packed


def unpack_rows(packed: bytes) -> list[tuple[Any, ...]]:
    """Return the rows that :func:`pack_rows` packed."""
    rows = msgpack.unpackb(
        packed, ext_hook=_from_ext, strict_map_key=False, unicode_errors="surrogatepass"
    )
    return [tuple(row) for row in rows]


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return _to_ext(value)


def _to_ext(value: object) -> object:
    match value:
        case datetime():
            naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return _ext(_TIMESTAMP, str((naive - _EPOCH) // _MICROSECOND))
        case date():
            return _ext(_DATE, value.isoformat())
        case time():
            return _ext(_TIME, value.isoformat())
        case timedelta():
            return _ext(_INTERVAL, str(value // _MICROSECOND))
        case Decimal():
            return _ext(_DECIMAL, str(value))
        case int():
            return _ext(_INTEGER, str(value))
        case UUID():
            return str(value)
        case bytearray() | memoryview():
            return bytes(value)
        case tuple() | set() | frozenset():
            return list(value)
        case _:
            return str(value)


def _ext(code: int, text: str) -> msgpack.ExtType:
    return msgpack.ExtType(code, text.encode())


def _from_ext(code: int, data: bytes) -> object:
    text = data.decode()
    match code:
        case 1:
            return _EPOCH + int(text) * _MICROSECOND
        case 2:
            return int(text)
        case 3:
            return Decimal(text)
        case 4:
            return date.fromisoformat(text)
        case 5:
            return time.fromisoformat(text)
        case 6:
            return int(text) * _MICROSECOND
        case _:
            return text


class Sink(Protocol):
    """Takes the rows of a result, of which there may be more than memory holds."""

    def begin(self, names: Sequence[str], types: Sequence[str]) -> None:
        """The rows of a result with these columns follow; what came before counts no more."""

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Here are the next of them."""


def json_rows(
    names: Sequence[str], types: Sequence[str], rows: Iterable[Sequence[Any]]
) -> list[dict[str, JsonValue]]:
    """Return rows as JSON objects.

    Timestamps are UTC texts like ``2026-01-02T03:04:05.123456Z``, integers of any size integers,
    JSON columns the values themselves, NaN and infinities null, bytes hexadecimal.
    """
    are_json = [kind == "JSON" for kind in types]
    unique = unique_names(names)
    return [
        {
            name: _parsed(value) if is_json else json_value(value)
            for name, value, is_json in zip(unique, row, are_json, strict=True)
        }
        for row in rows
    ]


def unique_names(names: Sequence[str]) -> list[str]:
    """Return column names with a number behind those that were there before."""
    taken = set(names)
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        told = name
        while count > 1 and told in taken:
            told = f"{name}_{count}"
            count += 1
        taken.add(told)
        unique.append(told)
    return unique


def _parsed(value: object) -> JsonValue:
    if not isinstance(value, str):
        return json_value(value)
    try:
        parsed: JsonValue = from_json(value, allow_inf_nan=False)
    except ValueError:
        return value
    return parsed if _is_finite(parsed) else value  # 1e400 is infinite once it is read


def _is_finite(value: JsonValue) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case list():
            return all(map(_is_finite, value))
        case dict():
            return all(map(_is_finite, value.values()))
        case _:
            return True


def json_value(value: object) -> JsonValue:
    """Return one value of a result as JSON takes it; see :func:`json_rows`."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return naive.isoformat(timespec="microseconds") + "Z"
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value / timedelta(milliseconds=1)
        case Decimal():
            return float(value) if value.is_finite() else None
        case bytes() | bytearray():
            return value.hex()
        case Mapping():
            return {str(key): json_value(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [json_value(item) for item in value]
        case _:
            return str(value)
