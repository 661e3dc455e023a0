"""Reading, writing and editing files."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from paddock.session_worker.toolbox.disk import sha256
from paddock.session_worker.tools import BadCall, Room, ToolOutcome, builtin_tools
from tests.session_worker.toolbench import call, room, run

TOOLS = builtin_tools()


@pytest.fixture
def where(tmp_path: Path) -> Room:
    return room(tmp_path)


@pytest.fixture
def jailed(tmp_path: Path) -> Room:
    return room(tmp_path, jail=True)


def put(where: Room, name: str, content: bytes | str) -> Path:
    path = where.workspace / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


async def read(where: Room, path: object, **more: object) -> ToolOutcome:
    return await call(TOOLS["read_file"], where, path=str(path), **more)


async def edit(where: Room, old: str, new: str, **more: object) -> ToolOutcome:
    return await call(
        TOOLS["edit_file"], where, **{"path": "a.txt", "old_string": old, "new_string": new, **more}
    )


# -- reading ---------------------------------------------------------------------------------------


async def test_lines_come_numbered(where: Room) -> None:
    put(where, "a.txt", "one\n\nthree")
    assert (await read(where, "a.txt")).text == "     1\tone\n     2\t\n     3\tthree"


async def test_w3_offset_and_limit_are_exact(where: Room) -> None:
    put(where, "a.txt", "".join(f"line {n}\n" for n in range(1, 101)))
    done = await read(where, "a.txt", offset=40, limit=2)
    assert done.text == "    40\tline 40\n    41\tline 41\n[the file goes on: read from offset 42]"
    assert (await read(where, "a.txt", offset=99, limit=2)).text.endswith("\tline 100")


async def test_w3_a_page_beyond_the_end_says_how_long_the_file_is(where: Room) -> None:
    put(where, "a.txt", "one\ntwo\n")
    assert (await read(where, "a.txt", offset=9)).text == "[the file has only 2 lines]"
    put(where, "empty", "")
    assert (await read(where, "empty")).text == "[the file is empty]"


async def test_w3_long_lines_of_many_byte_characters_are_cut_between_characters(
    where: Room,
) -> None:
    put(where, "a.txt", "é" * 500_000 + "\nnext\n")
    done = await read(where, "a.txt")
    assert done.text.startswith("     1\t" + "é" * 2000 + " [... a line of 1,000,001 bytes")
    assert "�" not in done.text
    assert done.text.endswith("     2\tnext")


async def test_a_large_file_is_read_page_by_page(where: Room) -> None:
    put(where, "a.txt", "x" * 1000 + "\n")
    put(where, "a.txt", ("x" * 1000 + "\n") * 5000)
    done = await read(where, "a.txt")
    assert len(done.text) < 125_000
    assert done.text.splitlines()[-1].startswith("[the file goes on: read from offset")


@pytest.mark.parametrize("content", ["a\r\nb\r\n", "\ufeffbom\n", "no end", "\ttab \n\n"])
async def test_w3_raw_keeps_every_byte(where: Room, content: str) -> None:
    put(where, "a.txt", content)
    assert (await read(where, "a.txt", raw=True)).text == content


async def test_w3_raw_ignores_the_caps_and_keeps_offset_and_limit_exact(where: Room) -> None:
    text = "".join(f"{'x' * 5000}{n}\r\n" for n in range(3000))
    put(where, "a.txt", text)
    assert (await read(where, "a.txt", raw=True)).text == text
    lines = text.splitlines(keepends=True)
    done = await read(where, "a.txt", raw=True, offset=2500, limit=3)
    assert done.text == "".join(lines[2499:2502])


async def test_w3_raw_bytes_that_are_no_text_are_kept_beside_it(where: Room) -> None:
    put(where, "a.bin", b"a\xff\0b")
    done = await read(where, "a.bin", raw=True)
    assert done.text == "a�␀b"
    assert done.spool is not None
    assert done.spool.read_bytes() == b"a\xff\0b"


async def test_a_binary_file_is_called_that(where: Room) -> None:
    put(where, "a.bin", b"\x7fELF\0\0")
    done = await read(where, "a.bin")
    assert (done.status, done.error_kind) == ("error", "binary")
    assert "6 bytes" in done.text


async def test_what_is_no_file_is_refused_without_waiting(where: Room) -> None:
    os.mkfifo(where.workspace / "fifo")
    assert (await read(where, "fifo")).error_kind == "not_a_file"
    assert (await read(where, "/dev/zero")).error_kind == "not_a_file"
    assert (await read(where, ".")).error_kind == "is_a_directory"


async def test_a_missing_file_is_said_with_names_near_it(where: Room) -> None:
    put(where, "settings.py", "")
    done = await read(where, "setings.py")
    assert (done.status, done.error_kind) == ("error", "not_found")
    assert "settings.py" in done.text


async def test_a_leading_tilde_is_the_session_s_home(where: Room, ground: Path) -> None:
    (ground / "user" / "note").write_text("kept")
    assert "kept" in (await read(where, "~/note")).text


# -- the jail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "link/passwd", "~/x"])
async def test_w14_a_jailed_session_reaches_nothing_outside(jailed: Room, path: str) -> None:
    (jailed.workspace / "link").symlink_to("/etc")
    assert (await read(jailed, path)).error_kind == "outside_workspace"
    done = await call(TOOLS["write_file"], jailed, path=path, content="x")
    assert done.error_kind == "outside_workspace"


async def test_w14_links_that_stay_inside_are_followed(jailed: Room) -> None:
    put(jailed, "deep/a.txt", "here")
    (jailed.workspace / "link").symlink_to("deep/a.txt")
    assert "here" in (await read(jailed, "link")).text


async def test_w14_a_link_swapped_after_the_decision_is_refused(jailed: Room) -> None:
    put(jailed, "folder/a.txt", "old")
    plan = TOOLS["write_file"].prepare({"path": "folder/a.txt", "content": "new"}, jailed)
    (jailed.workspace / "folder").rename(jailed.workspace / "moved")
    outside = jailed.workspace.parent / "outside"
    outside.mkdir()
    (jailed.workspace / "folder").symlink_to(outside)
    assert (await run(TOOLS["write_file"], plan, jailed)).error_kind == "outside_workspace"
    assert list(outside.iterdir()) == []


async def test_without_a_jail_paths_lead_anywhere(where: Room, tmp_path: Path) -> None:
    (tmp_path / "beside").write_text("there")
    assert "there" in (await read(where, "../beside")).text


# -- writing ---------------------------------------------------------------------------------------


async def test_a_file_is_made_with_its_folders(where: Room) -> None:
    done = await call(TOOLS["write_file"], where, path="a/b/c.txt", content="one\ntwo\n")
    assert (where.workspace / "a/b/c.txt").read_text() == "one\ntwo\n"
    (change,) = done.file_changes
    assert (change.path, change.change) == ("a/b/c.txt", "created")
    assert (change.lines_added, change.lines_removed) == (2, 0)
    assert (change.before_sha256, change.after_sha256) == (None, sha256(b"one\ntwo\n"))


async def test_a_file_is_written_over_and_keeps_its_mode(where: Room) -> None:
    path = put(where, "run.sh", "old\nsame\n")
    path.chmod(0o751)
    done = await call(TOOLS["write_file"], where, file_path="run.sh", content="new\nsame\n")
    assert path.read_text() == "new\nsame\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o751
    (change,) = done.file_changes
    assert (change.change, change.lines_added, change.lines_removed) == ("modified", 1, 1)
    assert sorted(entry.name for entry in where.workspace.iterdir()) == ["run.sh"]


async def test_a_new_file_gets_the_umask(where: Room) -> None:
    before = os.umask(0o027)
    try:
        await call(TOOLS["write_file"], where, path="a.txt", content="x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((where.workspace / "a.txt").stat().st_mode) == 0o640


async def test_a_link_is_written_through(where: Room) -> None:
    target = put(where, "real.txt", "old")
    (where.workspace / "link").symlink_to("real.txt")
    await call(TOOLS["write_file"], where, path="link", content="new")
    assert target.read_text() == "new"
    assert (where.workspace / "link").is_symlink()


@pytest.mark.parametrize("path", ["folder", "fifo", "a.txt/below"])
async def test_what_cannot_be_written_is_said(where: Room, path: str) -> None:
    (where.workspace / "folder").mkdir()
    os.mkfifo(where.workspace / "fifo")
    put(where, "a.txt", "file")
    done = await call(TOOLS["write_file"], where, path=path, content="x")
    assert done.status == "error"
    assert done.file_changes == ()


def test_p6_whether_an_intent_happened_is_not_known_where_its_folder_is_none_any_more(
    where: Room,
) -> None:
    put(where, "folder", "a file by now")
    intent = {
        "path": str(where.workspace / "folder" / "a.txt"),
        "before_sha256": "b",
        "after_sha256": "a",
        "temporary": ".a.tmp",
    }
    assert TOOLS["write_file"].happened(intent, where) is not True


@pytest.mark.parametrize("tool", ["write_file", "edit_file"])
async def test_p6_the_file_itself_says_whether_an_intent_happened(where: Room, tool: str) -> None:
    path = put(where, "a.txt", "old")
    given = {"content": "new"} if tool == "write_file" else {"old_string": "ol", "new_string": "ne"}
    plan = TOOLS[tool].prepare({"path": "a.txt", **given}, where)
    assert plan.intent is not None
    assert plan.intent["before_sha256"] == sha256(b"old")
    changed = {"path": "a.txt", "change": "modified", "lines_added": 1, "lines_removed": 1}
    assert plan.intent["change"] == changed
    assert path.read_text() == "old"
    assert TOOLS[tool].happened(plan.intent, where) is False
    await run(TOOLS[tool], plan, where)
    assert plan.intent["after_sha256"] == sha256(path.read_bytes())
    assert TOOLS[tool].happened(plan.intent, where) is True
    path.write_text("of somebody else")
    assert TOOLS[tool].happened(plan.intent, where) is None


def test_p6_what_a_killed_writer_left_is_removed(where: Room) -> None:
    plan = TOOLS["write_file"].prepare({"path": "a.txt", "content": "new"}, where)
    assert plan.intent is not None
    left = put(where, str(plan.intent["temporary"]), "ne")
    assert TOOLS["write_file"].happened(plan.intent, where) is False
    assert not left.exists()


async def test_a_file_that_changed_meanwhile_is_not_overwritten(where: Room) -> None:
    path = put(where, "a.txt", "old")
    plan = TOOLS["write_file"].prepare({"path": "a.txt", "content": "new"}, where)
    path.write_text("of somebody else")
    done = await run(TOOLS["write_file"], plan, where)
    assert (done.status, done.error_kind) == ("error", "changed_meanwhile")
    assert path.read_text() == "of somebody else"


async def test_a_cancelled_write_is_done_or_not(where: Room) -> None:
    plan = TOOLS["write_file"].prepare({"path": "a.txt", "content": "x" * 5_000_000}, where)
    assert plan.intent is not None
    task = asyncio.create_task(run(TOOLS["write_file"], plan, where))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert TOOLS["write_file"].happened(plan.intent, where) is not None


def test_f16_a_lone_surrogate_cannot_be_written(where: Room) -> None:
    with pytest.raises(BadCall, match="surrogate"):
        TOOLS["write_file"].prepare({"path": "a.txt", "content": "\ud800"}, where)


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("read_file", {}, "path"),
        ("read_file", {"path": "a", "offset": -1}, "offset"),
        ("read_file", {"path": "a", "limit": "many"}, "limit"),
        ("write_file", {"path": "a"}, "content"),
        ("write_file", {"content": "a"}, "path"),
        ("write_file", {"path": "a", "content": 3}, "content"),
        ("edit_file", {"path": "a", "old_string": "x"}, "new_string"),
        ("edit_file", {"path": "a", "old_string": "x", "new_string": "y", "all": True}, "all"),
        ("multi_edit_file", {"path": "a", "edits": []}, "edits"),
        ("multi_edit_file", {"path": "a", "edits": [{"old_string": "a"}]}, "edits.0.new_string"),
    ],
)
def test_a7_malformed_arguments_are_named(
    where: Room, tool: str, arguments: dict[str, object], named: str
) -> None:
    with pytest.raises(BadCall, match=named):
        TOOLS[tool].prepare(arguments, where)


# -- editing ---------------------------------------------------------------------------------------


async def test_w4_the_one_occurrence_is_replaced_and_shown(where: Room) -> None:
    path = put(where, "a.txt", "".join(f"line {n}\n" for n in range(1, 21)))
    done = await edit(where, "line 10\n", "{ten}\n")
    assert path.read_text().splitlines()[9] == "{ten}"
    assert "    10\t{ten}" in done.text
    assert "     6\tline 6" in done.text
    (change,) = done.file_changes
    assert (change.lines_added, change.lines_removed) == (1, 1)


async def test_w4_an_empty_old_string_is_an_error(where: Room) -> None:
    put(where, "a.txt", "x")
    assert (await edit(where, "", "y")).error_kind == "empty_old_string"


async def test_w4_a_text_that_is_not_there_is_an_error(where: Room) -> None:
    put(where, "a.txt", "x")
    done = await edit(where, "absent text", "y")
    assert done.error_kind == "not_found"
    assert "absent text" in done.text


async def test_w4_a_text_that_is_not_unique_is_an_error_with_previews(where: Room) -> None:
    put(where, "a.txt", "first x\nsecond x\nno\nfourth x\nfifth x\n")
    done = await edit(where, "x", "y")
    assert done.error_kind == "not_unique"
    for preview in ("4 times", "line 1: 'first x'", "line 4: 'fourth x'", "and 1 more"):
        assert preview in done.text


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({"replace_all": True}, "y y y"),
        ({"occurrence": "all"}, "y y y"),
        ({"occurrence": "first"}, "y x x"),
        ({"occurrence": "nth", "index": 3}, "x x y"),
    ],
)
async def test_w4_first_all_and_nth(where: Room, which: dict[str, object], expected: str) -> None:
    path = put(where, "a.txt", "x x x")
    assert (await edit(where, "x", "y", **which)).status == "ok"
    assert path.read_text() == expected


async def test_w4_nth_needs_an_index_in_range(where: Room) -> None:
    put(where, "a.txt", "x x")
    assert (await edit(where, "x", "y", occurrence="nth")).error_kind == "index_missing"
    for index in (0, 3):
        done = await edit(where, "x", "y", occurrence="nth", index=index)
        assert done.error_kind == "index_out_of_range"


async def test_a_faulty_edit_is_known_before_it_is_decided_upon(where: Room) -> None:
    put(where, "a.txt", "x")
    arguments = {"path": "a.txt", "old_string": "absent", "new_string": "y"}
    plan = TOOLS["edit_file"].prepare(arguments, where)
    assert plan.intent is None
    assert plan.foregone == await run(TOOLS["edit_file"], plan, where)


async def test_line_endings_stay_as_they_are(where: Room) -> None:
    path = put(where, "a.txt", b"one\r\ntwo\r\nthree\r\n")
    assert (await edit(where, "one\ntwo\n", "1\n2\n")).status == "ok"
    assert path.read_bytes() == b"1\r\n2\r\nthree\r\n"


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"one\r\ntwo\r\n", "one", "1\n1b", b"1\r\n1b\r\ntwo\r\n"),
        (b"one\r\ntwo\r\n", "one\ntwo", "1\r\n2", b"1\r\n2\r\n"),
        (b"one\r\ntwo\n", "one", "1\n1b", b"1\n1b\r\ntwo\n"),  # which it would be, nobody knows
        (b"one\r\ntwo\r\n", "one\r\n", "1\n", b"1\ntwo\r\n"),  # meant so
    ],
)
async def test_lines_that_an_edit_adds_to_a_windows_file_end_as_its_others_do(
    where: Room, before: bytes, old: str, new: str, after: bytes
) -> None:
    path = put(where, "a.txt", before)
    assert (await edit(where, old, new)).status == "ok"
    assert path.read_bytes() == after


async def test_bytes_that_are_no_text_survive_an_edit(where: Room) -> None:
    path = put(where, "a.txt", b"\xff\xfe caf\xe9 x")
    assert (await edit(where, "x", "y")).status == "ok"
    assert path.read_bytes() == b"\xff\xfe caf\xe9 y"


async def test_several_edits_are_made_in_order_all_or_none(where: Room) -> None:
    path = put(where, "a.txt", "a b")
    several = TOOLS["multi_edit_file"]
    edits = [{"old_string": "a", "new_string": "c"}, {"old_string": "c b", "new_string": "d"}]
    assert (await call(several, where, file_path="a.txt", edits=edits)).status == "ok"
    assert path.read_text() == "d"
    edits = [{"old_string": "d", "new_string": "e"}, {"old_string": "absent", "new_string": "f"}]
    done = await call(several, where, path="a.txt", edits=edits)
    assert done.error_kind == "not_found"
    assert "edit 2 of 2" in done.text
    assert path.read_text() == "d"
