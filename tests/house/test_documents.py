"""What the documents say is so: commands exist, links lead somewhere, nothing names one machine."""

import os
import pwd
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from paddock.supervisor.cli.main import VERBS
from paddock.supervisor.config import Settings
from tests.house import error_table, sources

ROOT = sources.ROOT
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
# Whoever installs uses the registry that their machine names; ours would be wrong for most of them.
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|(extra-)?index-url\s*=|--(extra-)?index-url|registry\.npmjs"
)


def tracked() -> list[Path]:
    """Return the files that git knows, or all of them where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        return [p for room in (*sources.ROOMS, "docs", "tests") for p in (ROOT / room).rglob("*")]
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def texts() -> dict[Path, str]:
    """Return the text of every tracked file that is text."""
    found = {}
    for path in tracked():
        try:
            found[path] = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, IsADirectoryError, FileNotFoundError):
            continue  # recorded traffic may be bytes; a file may have gone since it was listed
    return found


def shell_lines(text: str) -> list[list[str]]:
    """Return the commands that stand in a document's blocks and in its `inline code`."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`([^`\n]+)`", prose)
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a piece of another language
        if words:
            found.append(words)
    return found


def verbs_of(program: str) -> set[tuple[Path, str]]:
    """Return the verbs with which documents call a program, each with the document."""
    return {
        (document, words[1])
        for document in DOCUMENTS
        for words in shell_lines(document.read_text(encoding="utf-8"))
        if words[0] == program and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1])
    }


def test_no_file_names_the_machine_it_was_written_on() -> None:
    here = {str(ROOT), str(ROOT.parent / "shared"), pwd.getpwuid(os.getuid()).pw_dir}
    names = [name for name in here if len(name) > len("/home")]
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in names))
    found = [path for path, text in texts().items() if pattern.search(text)]
    assert found == []


def test_no_file_names_a_registry() -> None:
    found = [path for path, text in texts().items() if REGISTRIES.search(text)]
    assert [path for path in found if path != Path(__file__)] == []


def test_the_lock_holds_no_address_and_a_hash_for_each_file() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    pins = re.split(r"^(?=[a-z0-9][\w.-]*==)", lock, flags=re.MULTILINE | re.IGNORECASE)[1:]
    assert len(pins) > 50
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("room", [*sources.ROOMS, "tests", "benchmarks"])
def test_every_room_has_a_readme(room: str) -> None:
    assert (ROOT / room / "README.md").read_text(encoding="utf-8").startswith("#")


def test_every_command_of_dev_that_a_document_names_exists() -> None:
    known = sources.load_dev().VERBS
    named = verbs_of("./dev")
    assert {"demo", "test", "check"} <= {verb for _, verb in named}
    assert [(str(path), verb) for path, verb in named if verb not in known] == []


def test_every_verb_of_paddock_that_a_document_names_exists() -> None:
    named = verbs_of("paddock")
    assert {"run", "sql", "replay"} <= {verb for _, verb in named}
    assert [(str(path), verb) for path, verb in named if verb not in VERBS] == []


def test_the_readme_tells_of_every_verb_of_paddock() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if not re.search(rf"\b(paddock|run) {verb}\b", text)] == []


def test_every_file_that_a_document_links_to_exists() -> None:
    missing = [
        (str(document.relative_to(ROOT)), target)
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("name", list(error_table.TABLES))
def test_the_tables_of_errors_and_exits_are_those_of_the_sources(name: str) -> None:
    assert error_table.written(name) == error_table.TABLES[name](), (
        "write them anew: .venv/bin/python -m tests.house.error_table"
    )


def test_every_setting_of_a_host_is_explained_with_its_default() -> None:
    text = error_table.OPERATIONS.read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", text, flags=re.MULTILINE))
    defaults = Settings().model_dump().items()
    known = {key: "none" if value is None else f"{value}" for key, value in defaults}
    assert {key: told.get(key) for key in known} == {
        key: value.removesuffix(".0") for key, value in known.items()
    }


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in error_table.errors().values()]
    assert sorted(codes) == sorted(set(codes))
