"""What the README offers to paste does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PLACE = "/tmp/try"


def blocks(language: str = "") -> list[str]:
    """Return the README's blocks in a language, in their order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Run a command to its good end and return what it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_session_to_paste_works(ground: Path) -> None:
    (script,) = [block for block in blocks() if PLACE in block]
    printed = run("bash", "-euc", script.replace(PLACE, str(ground / "try")), cwd=ROOT)
    assert (ground / "try" / "note.txt").read_text() == "hello\n"
    assert "There is a note now." in printed
    assert re.search(r"bash\W+ok", printed)


def test_the_agent_and_the_program_that_uses_it_work_and_may_be_run_again(ground: Path) -> None:
    agent, program, _ = blocks("python")
    (ground / "support.py").write_text(agent)
    (ground / "program.py").write_text(program)
    home = str(ground / "home")
    try:
        for _ in range(2):
            printed = run(sys.executable, "program.py", cwd=ground, PADDOCK_HOME=home)
            assert printed.startswith("refunded 250 of A-17\n")
            assert printed.count("refund") == 2, "one call, however often it is asked for"
    finally:
        run(str(ROOT / "dev"), "run", "down", cwd=ground, PADDOCK_HOME=home)


def test_the_test_with_a_host_of_its_own_passes(ground: Path) -> None:
    (ground / "test_hello.py").write_text(blocks("python")[2])
    command = (
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_hello.py",
    )
    assert "1 passed" in run(*command, cwd=ground)
