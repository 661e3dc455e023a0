"""Searching contents, finding files, listing folders."""

import os
from pathlib import Path

import pytest

from paddock.session_worker.toolbox.globs import BadPattern, alternatives, include_glob, path_glob
from paddock.session_worker.toolbox.ignore_rules import parse
from paddock.session_worker.tools import BadCall, Limits, Room, ToolOutcome, builtin_tools
from tests.session_worker.toolbench import call, room

TOOLS = builtin_tools()


@pytest.fixture
def where(tmp_path: Path) -> Room:
    return room(tmp_path)


def put(where: Room, name: str, content: bytes | str = "", age: int = 0) -> Path:
    path = where.workspace / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


async def grep(where: Room, pattern: str, **more: object) -> ToolOutcome:
    return await call(TOOLS["grep"], where, **{"pattern": pattern, **more})


async def matching(where: Room, pattern: str, **more: object) -> list[str]:
    done = await grep(where, pattern, **more)
    assert done.status == "ok", done.text
    lines = done.text.splitlines()
    return [] if lines == ["No matches found"] else lines[1:]


async def lines(where: Room, pattern: str, **more: object) -> list[str]:
    return (await grep(where, pattern, output_mode="content", **more)).text.splitlines()


async def globbed(where: Room, pattern: str, **more: object) -> list[str]:
    return (await call(TOOLS["glob"], where, **{"pattern": pattern, **more})).text.splitlines()


# -- grep ------------------------------------------------------------------------------------------


async def test_w1_plain_text_and_regular_expressions_are_found(where: Room) -> None:
    put(where, "a.txt", "one\nneedle here\n")
    put(where, "b.txt", "two\n")
    assert await matching(where, "needle") == ["a.txt"]
    assert await matching(where, r"n\w+le\s+h") == ["a.txt"]
    assert (await grep(where, "needle")).text == "Found 1 file\na.txt\n"


async def test_w1_no_match_is_said(where: Room) -> None:
    put(where, "a.txt", "one")
    assert (await grep(where, "needle")).text == "No matches found\n"


async def test_w1_a_path_narrows_the_search_be_it_a_folder_or_a_file(where: Room) -> None:
    for name in ("a/x.txt", "b/x.txt"):
        put(where, name, "needle")
    assert await matching(where, "needle", path="a") == ["a/x.txt"]
    assert await matching(where, "needle", path="b/x.txt") == ["b/x.txt"]
    assert await matching(where, "needle", path=str(where.workspace / "b")) == ["b/x.txt"]


async def test_w1_a_missing_path_is_an_error(where: Room) -> None:
    done = await grep(where, "x", path="absent")
    assert (done.status, done.error_kind) == ("error", "bad_question")
    assert "absent" in done.text


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ("*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
        ("src/*.py", ["src/b.py"]),
        ("src/**/*.py", ["src/b.py", "src/deep/c.py"]),
        ("*.{py,ts}", ["a.py", "src/b.py", "src/d.ts", "src/deep/c.py"]),
        ("**/deep/*", ["src/deep/c.py"]),
        ("!*.py", ["src/d.ts"]),
        ("*.py !c.*", ["a.py", "src/b.py"]),
        ("*.ts,a.*", ["a.py", "src/d.ts"]),
        ("src/", ["src/b.py", "src/d.ts", "src/deep/c.py"]),
        ("./src/b.py", ["src/b.py"]),
        ("[a-b].py", ["a.py", "src/b.py"]),
    ],
)
async def test_w1_includes_may_be_relative_and_complex(
    where: Room, include: str, expected: list[str]
) -> None:
    for name in ("a.py", "src/b.py", "src/deep/c.py", "src/d.ts"):
        put(where, name, "needle")
    assert await matching(where, "needle", glob=include) == expected
    assert await matching(where, "needle", include=include) == expected


async def test_w1_an_include_may_be_given_from_the_root(where: Room) -> None:
    put(where, "src/a.py", "needle")
    put(where, "b.py", "needle")
    assert await matching(where, "needle", glob=f"{where.workspace}/src/*.py") == ["src/a.py"]


async def test_a_type_of_file_is_known_by_its_endings(where: Room) -> None:
    for name in ("a.py", "b.pyi", "c.txt"):
        put(where, name, "needle")
    assert await matching(where, "needle", type="py") == ["a.py", "b.pyi"]
    assert (await grep(where, "needle", type="cobol")).error_kind == "bad_question"


async def test_w1_what_gitignore_leaves_out_is_not_searched(where: Room) -> None:
    put(where, ".gitignore", "*.log\n/build/\n!kept.log\n")
    put(where, "sub/.gitignore", "local\n")
    seen = ["kept.log", "sub/build/a.txt", "a.txt"]
    for name in (*seen, "x.log", "build/a.txt", "build/deep/b.txt", "sub/local", ".git/config"):
        put(where, name, "needle")
    assert await matching(where, "needle") == sorted(seen)
    everything = await matching(where, "needle", include_ignored=True)
    assert "build/deep/b.txt" in everything
    assert ".git/config" not in everything


async def test_w1_rules_of_the_repository_hold_in_its_folders(where: Room) -> None:
    (where.workspace / ".git").mkdir()
    put(where, ".gitignore", "sub/secret.txt\n")
    put(where, ".git/info/exclude", "private\n")
    for name in ("sub/secret.txt", "sub/open.txt", "sub/private/a.txt"):
        put(where, name, "needle")
    assert await matching(where, "needle", path="sub") == ["sub/open.txt"]


async def test_w1_an_invalid_expression_is_searched_for_literally(where: Room) -> None:
    put(where, "a.txt", "call(((x")
    done = await grep(where, "(((", output_mode="content")
    assert done.status == "ok"
    assert "searched for literally" in done.text.splitlines()[0]
    assert done.text.splitlines()[1] == "a.txt:1:call(((x"


async def test_w1_the_newest_file_comes_first_then_by_path(where: Room) -> None:
    put(where, "old.txt", "needle", age=100)
    put(where, "b.txt", "needle")
    put(where, "a.txt", "needle")
    put(where, "older.txt", "needle", age=200)
    assert await matching(where, "needle") == ["a.txt", "b.txt", "old.txt", "older.txt"]
    assert [line.split(":")[0] for line in await lines(where, "needle")] == [
        "a.txt",
        "b.txt",
        "old.txt",
        "older.txt",
    ]


async def test_w1_paths_through_a_link_come_out_canonical(where: Room) -> None:
    put(where, "real/a.txt", "needle")
    (where.workspace / "link").symlink_to("real")
    assert await matching(where, "needle", path="link") == ["real/a.txt"]
    assert await matching(where, "needle") == ["real/a.txt"]


def test_w1_an_empty_pattern_is_refused(where: Room) -> None:
    with pytest.raises(BadCall, match="pattern"):
        TOOLS["grep"].prepare({"pattern": ""}, where)


async def test_content_shows_numbers_and_context(where: Room) -> None:
    put(where, "a.txt", "".join(f"{n}\n" for n in range(1, 13)))
    assert await lines(where, "^(2|11)$", **{"-A": 1, "-B": 1}) == [
        "a.txt-1-1",
        "a.txt:2:2",
        "a.txt-3-3",
        "--",
        "a.txt-10-10",
        "a.txt:11:11",
        "a.txt-12-12",
    ]
    assert await lines(where, "^2$", **{"-C": 1, "-n": False}) == ["a.txt-1", "a.txt:2", "a.txt-3"]


async def test_context_of_matches_next_to_each_other_is_shown_once(where: Room) -> None:
    put(where, "a.txt", "x\nx\ny\nx\n")
    assert await lines(where, "x", context=1) == [
        "a.txt:1:x",
        "a.txt:2:x",
        "a.txt-3-y",
        "a.txt:4:x",
    ]


async def test_counts_and_case(where: Room) -> None:
    put(where, "a.txt", "Needle\nneedle\nNEEDLE\n")
    assert (await grep(where, "needle", output_mode="count")).text == "a.txt:1\n"
    done = await grep(where, "needle", output_mode="count", **{"-i": True})
    assert done.text == "a.txt:3\n"


async def test_a_match_may_span_lines_when_asked(where: Room) -> None:
    put(where, "a.txt", "start\nmiddle\nend\nother\n")
    assert await matching(where, "start.*end") == []
    found = await lines(where, "start.*end", multiline=True)
    assert found == ["a.txt:1:start", "a.txt:2:middle", "a.txt:3:end"]


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("end$", "the end"),
        (r"\Aend", "end"),
        ("(?<=a)b(?!c)", "abd"),
        ("[[:space:]]x", "a x"),
        (r"(?<name>a)\z", "ba"),
        ("é+$", "caféé"),
    ],
)
async def test_expressions_mean_what_they_mean_on_a_line_of_its_own(
    where: Room, pattern: str, line: str
) -> None:
    put(where, "unix.txt", f"first\n{line}\nlast\n")
    put(where, "windows.txt", f"first\r\n{line}\r\nlast\r\n")
    assert await matching(where, pattern) == ["unix.txt", "windows.txt"]


async def test_answers_are_bounded_and_can_be_paged(where: Room) -> None:
    put(where, "a.txt", "".join(f"x{n}\n" for n in range(5000)))
    assert len(await lines(where, "x")) == 1001
    first = await lines(where, "x", head_limit=2)
    assert first[:2] == ["a.txt:1:x0", "a.txt:2:x1"]
    assert "there is more" in first[2]
    assert (await lines(where, "x", head_limit=1, offset=4998))[0] == "a.txt:4999:x4998"
    put(where, "long.txt", "x" * 1_000_000)
    found = await lines(where, "x", path="long.txt")
    assert "1,000,000 characters" in found[0]
    assert len(found[0]) < 600


async def test_binary_files_links_and_fifos_are_passed_over(where: Room) -> None:
    put(where, "a.bin", b"needle\0")
    (where.workspace / "loop").symlink_to(".")
    os.mkfifo(where.workspace / "fifo")
    put(where, "a.txt", b"\xffneedle\n")
    assert await matching(where, "needle") == ["a.txt"]


async def test_f4_an_expression_that_never_ends_is_ended(where: Room) -> None:
    put(where, "a.txt", "a" * 64 + "b\n")
    impatient = builtin_tools(Limits(seconds=1.0))["grep"]
    done = await call(impatient, where, pattern="(a+)+$")
    assert done.status == "timed_out"


async def test_w14_a_jailed_search_stays_inside(tmp_path: Path) -> None:
    jailed = room(tmp_path, jail=True)
    (jailed.workspace / "link").symlink_to("/etc")
    for tool, more in (("grep", {"pattern": "root"}), ("glob", {"pattern": "*"}), ("ls", {})):
        for path in ("/etc", "link", ".."):
            done = await call(TOOLS[tool], jailed, **{"path": path, **more})
            assert done.error_kind == "outside_workspace"
    done = await call(TOOLS["glob"], jailed, pattern="/etc/*")
    assert done.error_kind == "outside_workspace"


# -- glob ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.json", ["a.json"]),
        ("**/*.json", ["a.json", "src/b.json", "src/deep/c.json"]),
        ("src/**/*.json", ["src/b.json", "src/deep/c.json"]),
        ("src/**", ["src/b.json", "src/deep/c.json"]),
        ("**/.hidden/**", [".hidden/d.txt"]),
        (".hid*/*", [".hidden/d.txt"]),
        ("**/{b,c}.json", ["src/b.json", "src/deep/c.json"]),
        ("nothing", ["No files found"]),
    ],
)
async def test_files_are_found_by_their_path(
    where: Room, pattern: str, expected: list[str]
) -> None:
    for name in ("a.json", "src/b.json", "src/deep/c.json", ".hidden/d.txt"):
        put(where, name)
    assert await globbed(where, pattern) == expected
    if "nothing" not in pattern:
        assert await globbed(where, f"{where.workspace}/{pattern}") == expected


async def test_globbed_files_come_newest_first_and_bounded(where: Room) -> None:
    for n in range(5):
        put(where, f"{n}.txt", age=-n)
    assert await globbed(where, "*.txt", limit=2) == [
        "4.txt",
        "3.txt",
        "[the newest 2 of 5 files]",
    ]


async def test_a_bad_pattern_is_an_error(where: Room) -> None:
    done = await call(TOOLS["glob"], where, pattern="[z-a]")
    assert (done.status, done.error_kind) == ("error", "bad_question")


# -- ls --------------------------------------------------------------------------------------------


async def listed(where: Room, **more: object) -> list[str]:
    return (await call(TOOLS["ls"], where, **more)).text.splitlines()


async def test_w7_a_folder_is_listed_with_dotfiles_and_links(where: Room) -> None:
    put(where, "b.txt", "12345")
    put(where, ".env", "")
    put(where, "sub/inner", "")
    (where.workspace / "link").symlink_to("b.txt")
    expected = ["sub/", ".env  0 bytes", "b.txt  5 bytes", "link -> b.txt"]
    assert await listed(where) == expected
    assert ".env  0 bytes" not in await listed(where, hidden=False)


async def test_w7_a_query_keeps_what_contains_it(where: Room) -> None:
    for name in ("readme.md", "src/Readme.txt", "src/other.txt", "empty/x"):
        put(where, name)
    found = await listed(where, query="readme", depth=3)
    assert found == ["src/", "  Readme.txt  0 bytes", "readme.md  0 bytes"]
    assert await listed(where, query="absent") == ["[nothing here matches]"]


async def test_w8_the_tree_is_bounded_in_depth_and_items(where: Room) -> None:
    put(where, "a/b/c/d.txt")
    assert await listed(where, depth=2) == ["a/", "  b/"]
    for n in range(30):
        put(where, f"{n:02}")
    found = await listed(where, limit=10)
    assert len(found) == 11
    assert found[-1] == "[cut at 10 entries]"


async def test_w8_what_is_left_out_is_left_out(where: Room) -> None:
    for name in ("node_modules/x/y.js", "src/a.js", "src/a.log", ".gitignore"):
        put(where, name, "*.log\n" if name == ".gitignore" else "")
    found = await listed(where, depth=3, ignore=["node_modules", "src/*.js"], hidden=False)
    assert found == ["src/", "  a.log  0 bytes"]
    assert "  a.log  0 bytes" not in await listed(where, depth=3, include_ignored=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
async def test_w7_an_unreadable_folder_is_skipped_and_counted(where: Room) -> None:
    put(where, "closed/a.txt", "needle")
    put(where, "open.txt", "needle")
    (where.workspace / "closed").chmod(0)
    try:
        assert "[1 folders could not be read]" in await listed(where, depth=2)
        assert await matching(where, "needle") == ["open.txt", "[1 folders could not be read]"]
    finally:
        (where.workspace / "closed").chmod(0o700)


async def test_f15_a_name_cannot_break_its_line(where: Room) -> None:
    put(where, "evil\n\x1b[2Jname", "needle")
    put(where, "naïve 名前", "")
    assert await listed(where) == ["evil\\n\\x1b[2Jname  6 bytes", "naïve 名前  0 bytes"]
    assert await matching(where, "needle") == ["evil\\n\\x1b[2Jname"]


async def test_a_file_and_a_missing_folder_cannot_be_listed(where: Room) -> None:
    put(where, "a.txt")
    for path in ("a.txt", "absent"):
        assert (await call(TOOLS["ls"], where, path=path)).error_kind == "bad_question"
    (where.workspace / "void").mkdir()
    assert await listed(where, path="void") == ["[the folder is empty]"]


# -- patterns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matches", "misses"),
    [
        ("a?c", ["abc"], ["ac", "a/c", "abbc"]),
        ("a*c", ["ac", "abbc"], ["a/c"]),
        ("a[!b]c", ["axc"], ["abc", "a/c"]),
        ("a[]]c", ["a]c"], ["abc"]),
        (r"a\*c", ["a*c"], ["abc"]),
        ("a[c", ["a[c"], ["ac"]),
        ("a{b,c{d,e}}", ["ab", "acd", "ace"], ["ac", "a"]),
        ("a{b", ["a{b"], ["ab"]),
        ("a**c", ["a/b/c", "ac"], ["a"]),
        ("**", ["a", "a/b"], []),
    ],
)
def test_a_glob_matches_what_it_says(pattern: str, matches: list[str], misses: list[str]) -> None:
    test = path_glob(pattern)
    assert [path for path in matches if not test(path)] == []
    assert [path for path in misses if test(path)] == []


def test_alternatives_are_bounded() -> None:
    with pytest.raises(BadPattern, match="1000"):
        alternatives("{a,b}" * 12)


def test_an_empty_include_takes_everything() -> None:
    assert include_glob("")("any/thing")


def test_lines_of_an_ignore_file_that_are_no_rules_are_passed_over() -> None:
    assert parse(["# comment", "", "   ", "/", "!"]) == []
    assert [rule.ignores for rule in parse(["a ", "!b", "\\#c"])] == [True, False, True]
