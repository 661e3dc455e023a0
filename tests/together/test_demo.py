"""The demonstration: it exits 0 only if it shows what it says."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.together.cli import PADDOCK, environment

DEADLINE_SECONDS = 170


@pytest.mark.slow
def test_the_demo_kills_what_it_says_and_loses_nothing(ground: Path, home: Path) -> None:
    done = subprocess.run(
        [*PADDOCK, "demo"],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout
    assert len(re.findall("✂ kill -9", out)) == 2
    assert "✂ suspended in its work" in out
    assert "adopted 4 of 4 workers" in out
    assert len(re.findall("its tests pass", out)) == 3
    assert "each posted exactly once" in out
    assert re.search(r"intervals .* crashed +signal +9 ", out), out
    assert "✗" not in out
    assert "paddock run" in out.splitlines()[-4]
    assert not list((ground / "tmp").glob("pd-demo-*"))
    assert list(home.iterdir()) == []
