"""A wheel is built, and what is in it runs in an empty environment outside the clone."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.house.sources import ROOMS, ROOT, modules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def succeed(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed; fail with all of it if the command does."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel; hatchling is in the lock, so that nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    hatchling = (sys.executable, "-P", "-m", "hatchling")
    succeed(*hatchling, "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("paddock-*.whl")
    return built


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel with its core dependencies, and nothing else, outside the clone."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    uv = (ROOT / "dev", "uv")
    succeed(*uv, "venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
    locked = ("--constraint", ROOT / "requirements.lock")
    install = ("pip", "install", "--quiet", "--python", folder / "bin" / "python")
    succeed(*uv, *install, *locked, wheel, cwd=ROOT)
    return folder


def bare(ground: Path) -> dict[str, str]:
    """Return the environment of a user who has done nothing yet."""
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "PADDOCK_TEST")}
    return {**kept, "PATH": "/usr/bin:/bin", "PADDOCK_HOME": str(ground / "home")}


def test_the_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata = "\n".join(name for name in archive.namelist() if ".dist-info/" in name)
    assert [name for name in names if not name.startswith("paddock/")] == []
    assert "paddock/__init__.py" not in names
    expected = {m.replace(".", "/") for m in modules()}
    found = {name.removesuffix(".py").removesuffix("/__init__") for name in names}
    assert expected - found == set()
    assert {f"paddock/{room}/py.typed" for room in ROOMS} <= set(names)
    assert "licenses/LICENSE" in metadata
    assert "entry_points.txt" in metadata


def test_all_of_it_can_be_imported_without_the_extras(
    empty_environment: Path, ground: Path
) -> None:
    code = "import paddock.store.events, paddock.session_worker.protocol as p; print(p.__file__)"
    python = empty_environment / "bin" / "python"
    shown = succeed(python, "-P", "-W", "error", "-c", code, cwd=ground, env=bare(ground))
    assert Path(shown.strip()).is_relative_to(empty_environment)


def test_paddock_demo_runs_from_the_wheel(empty_environment: Path, ground: Path) -> None:
    paddock = empty_environment / "bin" / "paddock"
    assert "demo" in succeed(paddock, "--help", cwd=ground, env=bare(ground))
    succeed(paddock, "demo", cwd=ground, env=bare(ground))
