"""Recorded calls of Claude Code become calls of ours."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.session_worker.toolbox.claude_code import (
    CLAUDE_CODE_TOOLS,
    map_claude_code_call,
    turn_paths,
)
from paddock.session_worker.toolbox.disk import sha256
from paddock.session_worker.tools import builtin_tools
from tests.session_worker.toolbench import call, room

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RECORDED = DATA / "claude_code"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/tmp/rec", "/new"),
        ("/tmp/rec/a.py", "/new/a.py"),
        ("/private/tmp/rec/a.py", "/new/a.py"),
        ("chmod +x /tmp/rec/a.sh && /tmp/rec/a.sh", "chmod +x /new/a.sh && /new/a.sh"),
        ("cd '/tmp/rec' && ls \"/tmp/rec/x\"", "cd '/new' && ls \"/new/x\""),
        ("PATH=/bin:/tmp/rec/bin x", "PATH=/bin:/new/bin x"),
        ("cc -I/tmp/rec/include a.c", "cc -I/new/include a.c"),
        ("git clone file:///tmp/rec b", "git clone file:///new b"),
        ("in /tmp/rec.", "in /new."),
        ("/tmp/recorded/a /tmp/rec-2 /tmp/rec.bak", "/tmp/recorded/a /tmp/rec-2 /tmp/rec.bak"),
        ("/home/tmp/rec ~/tmp/rec", "/home/tmp/rec ~/tmp/rec"),
    ],
)
def test_the_recorded_folder_is_turned_where_it_is_meant(text: str, expected: str) -> None:
    assert turn_paths("/tmp/rec", "/new")(text) == expected
    assert turn_paths("/private/tmp/rec/", "/new/")(text) == expected


def test_a_space_in_a_folder_is_found_escaped_or_not() -> None:
    turn = turn_paths("/Users/a/My Work", "/new folder", in_shell=True)
    assert turn("cd /Users/a/My\\ Work/x") == "cd /new\\ folder/x"
    assert turn("cd '/Users/a/My Work/x'") == "cd '/new folder/x'"


def test_what_a_shell_needs_escaped_in_a_folder_is_found_so() -> None:
    turn = turn_paths("/Users/a/App (1)", "/new", in_shell=True)
    assert turn("cd /Users/a/App\\ \\(1\\)/x") == "cd /new/x"
    assert turn('cd "/Users/a/App (1)/x"') == 'cd "/new/x"'


@pytest.mark.parametrize("home", ["/Users/me", "/home/me", "/root"])
def test_a_folder_in_a_home_is_found_under_the_homes_own_names(home: str) -> None:
    turn = turn_paths(f"{home}/a b", "/new", in_shell=True)
    assert turn("cd ~/a\\ b/x; ls ~/a") == "cd /new/x; ls ~/a"
    assert turn('cd "$HOME/a b" && ls "${HOME}/a b/x"') == 'cd "/new" && ls "/new/x"'
    written = "cat > f <<'END'\n~/a b and $HOME/a b\nEND\ngit commit -m 'in $HOME/a b' -m \"~/a b\""
    assert turn(written) == written  # no shell would look there
    assert turn("ls ~/a\\ bc /x~/a\\ b ~") == "ls ~/a\\ bc /x~/a\\ b ~"


@pytest.mark.parametrize("home", ["/Users/me", "/home/me", "/root"])
def test_a_home_is_found_under_its_own_names(home: str) -> None:
    turn = turn_paths(home, "/new", in_shell=True)
    assert turn("cd ~ && ls ~/.x; (cd ~) | cat ~") == "cd /new && ls /new/.x; (cd /new) | cat /new"
    assert turn('ls "$HOME/a" ${HOME} $HOME') == 'ls "/new/a" /new /new'
    assert turn(f"ls {home}/a {home}") == "ls /new/a /new"
    other = "[[ $a =~ x ]]; git show HEAD~ HEAD~2; ls ~you/a b~ '~/a' '$HOME' $HOMES .~/a"
    assert turn(other) == other
    mapped = map_claude_code_call("Write", {"file_path": "~/a", "content": "~/a"}, home, "/new")
    assert mapped == ("write_file", {"path": "/new/a", "content": "~/a"})


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ('cd "C:\\Users\\me\\proj" && ls', 'cd "/new" && ls'),
        ("ls 'C:\\Users\\me\\proj\\src\\a.py'", "ls '/new/src/a.py'"),
        ("ls C:\\\\Users\\\\me\\\\proj\\\\src", "ls /new/src"),
        ("ls c:/Users/me/proj/src; ls", "ls /new/src; ls"),
        ("cat /c/Users/me/proj/a.py", "cat /new/a.py"),
        ("cat /c/Users/me/project/a C:/Users/me/proj.bak", None),
        ("cat /x/c/Users/me/proj/a", None),
    ],
)
def test_a_folder_of_windows_is_turned_however_it_is_written(
    command: str, expected: str | None
) -> None:
    turn = turn_paths("C:\\Users\\me\\proj", "/new", in_shell=True)
    assert turn(command) == (command if expected is None else expected)


def test_a_call_that_was_made_on_windows_is_made_here() -> None:
    def made(tool: str, there: str | None = None, **arguments: object) -> object:
        mapped = map_claude_code_call(tool, arguments, "C:\\Users\\me\\proj", "/new dir", there)
        assert mapped is not None
        return mapped[1]

    assert made("Read", file_path="C:\\Users\\me\\proj\\a b\\c.py") == {"path": "/new dir/a b/c.py"}
    assert made("Read", file_path="c:/Users/me/proj/c.py") == {"path": "/new dir/c.py"}
    assert made("Bash", "C:\\Users\\me\\proj\\sub", command="ls /c/Users/me/proj") == {
        "command": "cd ./sub 2>/dev/null || true; ls /new\\ dir"
    }


@pytest.mark.parametrize("folder", ["/tmp/rec copy", "/tmp/rec+1", "/tmp/rec, old", "/tmp/rec.d"])
def test_a_file_in_a_folder_whose_name_goes_on_stays_there(folder: str) -> None:
    mapped = map_claude_code_call("Read", {"file_path": f"{folder}/a"}, "/tmp/rec", "/new")
    assert mapped == ("read_file", {"path": f"{folder}/a"})
    mapped = map_claude_code_call("Read", {"file_path": "/tmp/rec"}, "/tmp/rec", "/new")
    assert mapped == ("read_file", {"path": "/new"})


def test_a_path_that_goes_up_and_down_again_is_where_it_leads() -> None:
    given = {"file_path": "/tmp/rec/../rec/a", "content": ""}
    mapped = map_claude_code_call("Write", given, "/tmp/rec", "/new")
    assert mapped == ("write_file", {"path": "/new/a", "content": ""})


ODD_FOLDERS = ("a b", "it's", 'a"b', "$HOME", "`x`", "a;b", "(a)", "a\\b", "ä*?", "#a", "-a b", "~")


@pytest.mark.parametrize("folder", ODD_FOLDERS)
@pytest.mark.parametrize(
    "command",
    [
        "cat {}/f",
        "cat '{}/f'",
        'cat "{}/f"',
        'cd {} && cat "{}/f" | cat',
        'echo "$(cat "{}/f")"',
        "echo $(cat {}/f)",
        "(cd {}; cat f)",
        "# don't\ncat {}/f",
        "echo it\\'s >/dev/null; cat {}/f",
        'echo "it\'s" >/dev/null; cat {}/f',
        "read -r p <<'END'\n{}/f\nEND\ncat \"$p\"",
        'read -r p <<END\n{}/f\nEND\ncat "$p"',
        'read -r p <<-"END"\n\t{}/f\n\tEND\ncat "$p"; cat {}/f >/dev/null',
        'read -r p <<<"{}/f"; cat "$p"',
        'FILE={}/f; cat "$FILE"',
        "cat < {}/f",
    ],
)
def test_in_a_command_a_folder_stays_one_word_whatever_its_name(
    tmp_path: Path, folder: str, command: str
) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / "f").write_text("here\n")
    turned = turn_paths("/tmp/rec", str(place), in_shell=True)(command.replace("{}", "/tmp/rec"))
    done = subprocess.run(["bash", "-c", turned], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("here\n", ""), turned


def test_a_call_is_made_again_in_the_folder_where_it_was_made() -> None:
    def made(tool: str, there: str | None, **arguments: object) -> object:
        mapped = map_claude_code_call(tool, arguments, "/private/tmp/rec", "/new", there)
        assert mapped is not None
        return mapped[1]

    assert made("Bash", "/tmp/rec/a b", command="ls") == {
        "command": "cd './a b' 2>/dev/null || true; ls"
    }
    assert made("Grep", "/tmp/rec/sub", pattern="x") == {"pattern": "x", "path": "sub"}
    assert made("Glob", "/tmp/rec/sub", pattern="x", path="y") == {"pattern": "x", "path": "sub/y"}
    assert made("Glob", "/tmp/rec/sub", pattern="/tmp/rec/*") == {"pattern": "/new/*"}
    assert made("Read", "/tmp/rec/sub", file_path="/tmp/rec/f") == {"path": "/new/f"}
    for elsewhere in (None, "/tmp/rec", "/tmp", "/tmp/recorded", "/tmp/rec/../other"):
        assert made("Bash", elsewhere, command="ls") == {"command": "ls"}


def test_a_file_elsewhere_is_not_changed_and_can_be_read() -> None:
    def made(tool: str, path: str) -> bool:
        given: dict[str, dict[str, object]] = {
            "Write": {"content": "x"},
            "Edit": {"old_string": "x", "new_string": "y"},
            "MultiEdit": {"edits": [{"old_string": "x", "new_string": "y"}]},
            "Read": {},
        }
        arguments: dict[str, object] = {"file_path": path, **given[tool]}
        return map_claude_code_call(tool, arguments, "/home/ann/rec", "/new/here") is not None

    for tool in ("Write", "Edit", "MultiEdit"):
        for path in ("/home/ann/rec/a", "~/rec/a", "a/b", "/tmp/a", "/new/here/a"):
            assert made(tool, path), path
        for path in (
            "/home/ann/.claude/plans/a.md",
            "~/.claude/a.md",
            "/home/ann/rec/../.bashrc",
            "/home/ann/record/a",
            "/new/hereafter/a",
            "/tmp/../etc/a",
        ):
            assert not made(tool, path), path
    assert made("Read", "/home/ann/.claude/plans/a.md")


def test_what_makes_a_new_file_by_several_edits_is_a_write() -> None:
    edits: list[dict[str, object]] = [
        {"old_string": "", "new_string": "one one\n"},
        {"old_string": "one", "new_string": "two"},
        {"old_string": "o", "new_string": "0", "replace_all": True},
    ]
    given = {"file_path": "/tmp/rec/a", "edits": edits}
    assert map_claude_code_call("MultiEdit", given, "/tmp/rec", "/new") == (
        "write_file",
        {"path": "/new/a", "content": "tw0 0ne\n"},
    )
    edits[1]["old_string"] = "three"  # which fails as it did then
    mapped = map_claude_code_call("MultiEdit", given, "/tmp/rec", "/new")
    assert mapped is not None
    assert mapped[0] == "multi_edit_file"


def test_a_notebook_that_is_known_whole_is_written_whole() -> None:
    given = {"notebook_path": "/tmp/rec/a.ipynb", "new_source": "1", "edit_mode": "replace"}
    assert map_claude_code_call("NotebookEdit", given, "/tmp/rec", "/new") is None
    known = {**given, "updated_file": '{"in": "/tmp/rec"}'}
    assert map_claude_code_call("NotebookEdit", known, "/tmp/rec", "/new") == (
        "write_file",
        {"path": "/new/a.ipynb", "content": '{"in": "/tmp/rec"}'},
    )


def test_arguments_become_ours_and_contents_stay_as_recorded() -> None:
    given = {"file_path": "/tmp/rec/a", "content": "in /tmp/rec", "extra": 1}
    assert map_claude_code_call("Write", given, "/tmp/rec", "/new") == (
        "write_file",
        {"path": "/new/a", "content": "in /tmp/rec"},
    )


@pytest.mark.parametrize(("tool", "ours"), [("Grep", "grep"), ("Glob", "glob"), ("LS", "ls")])
def test_an_empty_folder_glob_or_type_of_a_search_is_none(tool: str, ours: str) -> None:
    given = {"pattern": "", "path": "", "glob": "", "type": ""}
    mapped = map_claude_code_call(tool, given, "/rec", "/new")
    assert mapped == (ours, {} if tool == "LS" else {"pattern": ""})
    assert map_claude_code_call("Write", {"content": ""}, "/r", "/n") == (
        "write_file",
        {"content": ""},
    )


def test_a_timeout_of_nothing_is_none() -> None:
    given = {"command": "ls", "timeout": 0}
    assert map_claude_code_call("Bash", given, "/tmp/rec", "/new") == ("bash", {"command": "ls"})


def test_what_makes_a_new_file_by_an_edit_is_a_write() -> None:
    given = {"file_path": "/tmp/rec/a", "old_string": "", "new_string": "x"}
    mapped = map_claude_code_call("Edit", given, "/tmp/rec", "/new")
    assert mapped == ("write_file", {"path": "/new/a", "content": "x"})


@pytest.mark.parametrize("name", ["TodoWrite", "Task", "WebFetch", "mcp__x__Bash", "bash", ""])
def test_a_tool_that_is_not_ours_is_none(name: str) -> None:
    assert map_claude_code_call(name, {}, "/a", "/b") is None


def recorded_calls(path: Path) -> Iterator[tuple[str, dict[str, object], str]]:
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # two values on one line: not what is tested here
            continue
        message = record.get("message") or {}
        content = message.get("content") if message.get("role") == "assistant" else None
        for block in content if isinstance(content, list) else []:
            if block.get("type") == "tool_use":
                yield block["name"], block["input"], record.get("cwd") or "/nowhere"


@pytest.mark.real_data
@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded sessions are not here")
def test_every_recorded_call_of_a_tool_of_ours_is_well_formed(tmp_path: Path) -> None:
    tools, where, seen = builtin_tools(), room(tmp_path), 0
    every = (one for path in sorted(RECORDED.rglob("*.jsonl")) for one in recorded_calls(path))
    for name, arguments, recorded_cwd in every:
        mapped = map_claude_code_call(name, arguments, recorded_cwd, str(where.workspace))
        if mapped is None and name in CLAUDE_CODE_TOOLS:
            assert name in {"Write", "Edit", "MultiEdit"}
            assert not Path(str(arguments["file_path"])).is_relative_to(recorded_cwd)
            continue
        assert (mapped is None) == (name not in CLAUDE_CODE_TOOLS)
        if mapped is not None and mapped[0] in tools:
            assert recorded_cwd not in str(mapped[1].get("path", ""))
            tools[mapped[0]].prepare(mapped[1], where)
            seen += 1
    assert seen > 500


def self_contained() -> list[dict[str, Any]]:
    """Return the recorded sessions that bring all their files, with the hashes at their end."""
    if not DATA.exists():
        return []
    sessions = json.loads((DATA / "replay.json").read_text())["sessions"]
    return [
        session
        for session in sessions
        if session["tier"].startswith("A") and session["file"].startswith("claude_code/")
    ]


@pytest.mark.real_data
@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded sessions are not here")
@pytest.mark.parametrize("session", self_contained(), ids=lambda session: session["test"])
async def test_a_recorded_session_s_calls_make_the_files_it_ended_with(
    session: dict[str, Any], tmp_path: Path
) -> None:
    tools, where = builtin_tools(), room(tmp_path)
    for name, content in session["initial_files"].items():
        path = where.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    if session["git_init"]:
        assert (await call(tools["bash"], where, command="git init -q")).status == "ok"
    for name, arguments, recorded_cwd in recorded_calls(DATA / session["file"]):
        mapped = map_claude_code_call(name, arguments, recorded_cwd, str(where.workspace))
        if mapped is not None:
            await call(tools[mapped[0]], where, **mapped[1])
    for name, digest in session["expected_final_sha256"].items():
        assert sha256((where.workspace / name).read_bytes()) == digest, name
