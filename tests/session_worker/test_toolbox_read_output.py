"""Whole outputs, read a part at a time."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from paddock.session_worker import journal
from paddock.session_worker.journal import LONGEST_REST_SECONDS, with_rests, without_secrets_in
from paddock.session_worker.outputs import Outputs
from paddock.session_worker.tools import BadCall, Limits, Room, Tool, builtin_tools
from paddock.store.errors import BlobNotFound
from paddock.store.events import ToolCallFinished
from paddock.store.ids import OperationId, SessionId, ToolCallId, uuid7
from paddock.store.session_file import Blob, SessionFile
from tests.session_worker.toolbench import call, room

SESSION = SessionId(uuid7(1, bytes(10)))
CALL = ToolCallId("call-1")
LINES = [b"line %d %s\n" % (n, b"x" * 50) for n in range(60_000)]
WHOLE = b"".join(LINES)
SECRET = "correct-horse-battery"


@pytest.fixture
def where(tmp_path: Path) -> Room:
    return room(tmp_path)


@pytest.fixture
def file(ground: Path) -> Iterator[SessionFile]:
    file = SessionFile.create(ground / "session", SESSION, at_us=1)
    yield file
    file.close(clean=True)


@pytest.fixture
def blob(file: SessionFile) -> Blob:
    blob = file.put_blob(WHOLE)
    finished = ToolCallFinished(
        operation_id=OperationId("op"),
        tool_call_id=CALL,
        status="ok",
        text="…",
        output_blob=blob.digest,
    )
    file.append([finished], generation=1, at_us=1)
    return blob


@pytest.fixture
def tool(file: SessionFile, blob: Blob) -> Tool:
    return builtin_tools(Limits(output_bytes=10_000), Outputs(file))["read_output"]


@pytest.mark.parametrize("offset", [0, 1, 1_048_570, 2_500_000])
async def test_f10_a_part_of_an_output_is_read_by_call_or_digest(
    tool: Tool, where: Room, blob: Blob, offset: int
) -> None:
    for name in (CALL, blob.digest, blob.digest[:12]):
        done = await call(tool, where, output=name, offset=offset, limit=40)
        part = WHOLE[offset : offset + 40].decode()
        assert done.text.startswith(part + "\n[bytes "), done.text
        assert f"go on at offset {offset + 40}]" in done.text


async def test_f10_no_part_is_larger_than_a_result_may_be(
    tool: Tool, where: Room, blob: Blob
) -> None:
    done = await call(tool, where, output=CALL, limit=10**9)
    assert done.output_bytes == 10_000
    done = await call(tool, where, output=CALL, offset=-20)
    assert done.text.startswith(WHOLE[-20:].decode())
    assert "this is the end" in done.text
    assert "this is the end" in (await call(tool, where, output=CALL, offset=10**12)).text


async def test_f10_matching_lines_come_with_the_offset_to_read_on_from(
    tool: Tool, where: Room, blob: Blob
) -> None:
    done = await call(tool, where, output=CALL, pattern=r"^line 4[0-9]999 ")
    assert done.status == "ok", done.text
    offset = WHOLE.index(b"line 40999 ")
    first, *_, last = done.text.splitlines()
    assert first.startswith(f"{offset}: line 40999 ")
    assert last == "[10 lines match]"
    few = await call(tool, where, output=CALL, pattern="line", offset=offset, limit=2)
    assert few.text.splitlines()[2] == f"[there may be more: go on at offset {offset + 124}]"
    literal = await call(tool, where, output=CALL, pattern="no (such")
    assert literal.text.strip() == "[0 lines match]"


async def test_f4_an_expression_that_never_ends_does_not_hold_the_session(
    file: SessionFile, where: Room
) -> None:
    blob = file.put_blob(b"a" * 100_000)
    tool = builtin_tools(Limits(seconds=1.0), Outputs(file))["read_output"]
    done = await call(tool, where, output=blob.digest, pattern="(a+)+b")
    assert (done.status, done.error_kind) == ("timed_out", "timeout")


async def test_what_is_not_kept_is_said(tool: Tool, where: Room) -> None:
    for name in ("call-2", "0123456789ab", "'; --"):
        done = await call(tool, where, output=name)
        assert (done.status, done.error_kind) == ("error", "not_found")
    with pytest.raises(BadCall, match="limit"):
        tool.prepare({"output": CALL, "limit": 0}, where)


def test_secrets_are_not_in_what_is_kept(file: SessionFile, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    key = "ghp" + "_" + "a1B2" * 9
    spool.write_bytes(WHOLE[:1_048_570] + SECRET.encode() + WHOLE + key.encode() + b"\n")
    blob = file.put_blob(without_secrets_in(spool, [SECRET]))
    kept = b"".join(file.blob(blob.digest))
    assert kept == WHOLE[:1_048_570] + b"[redacted:secret]" + WHOLE + b"[redacted:github-token]\n"
    assert b"".join(file.blob_range(blob.digest, 0, blob.size_bytes)) == kept


def test_p9_a_large_output_is_kept_with_rests_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, rests = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        rests.append(round(seconds, 6))

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(journal, "time", clock)
    kept = with_rests(iter([b"one", b"two", b"three"]))
    for part, work in ((b"one", 0.004), (b"two", 60.0), (b"three", 0.0)):
        assert next(kept) == part
        now += work
    assert next(kept, None) is None
    assert rests == [0.004, LONGEST_REST_SECONDS]


def test_s22_a_blob_that_a_death_left_without_a_name_is_collected(
    file: SessionFile, blob: Blob
) -> None:
    left = file.put_blob(b"nobody names this" * 1000)
    assert file.discard_unnamed_blobs() == 1
    assert b"".join(file.blob(blob.digest)) == WHOLE
    with pytest.raises(BlobNotFound):
        next(file.blob(left.digest))
