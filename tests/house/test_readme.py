"""The session that the README offers to paste does what it says."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.house.sources import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PLACE = "/tmp/try"


def test_the_session_to_paste_works(ground: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (script,) = [block for block in blocks if PLACE in block]
    script = script.replace(PLACE, str(ground / "try"))
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ground / "try" / "note.txt").read_text() == "hello\n"
    assert "There is a note now." in done.stdout
    assert re.search(r"bash\W+ok", done.stdout)
