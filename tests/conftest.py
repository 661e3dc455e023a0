"""What every test stands on: folders of its own, nobody's keys, and a look at what it leaves."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.house import leaks

ROOT = Path(__file__).resolve().parent.parent
# An ipc path ends at 107 characters, and pytest's own folders have used up most of them.
SHORT = Path(tempfile.gettempdir() if len(tempfile.gettempdir()) < 32 else "/tmp")
# uv's cache is what makes a second set-up offline; tests see another HOME and must find it anyway.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
os.environ.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))
# Children keep what they compile: a host that compiles all of its modules takes seconds to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

NUMBERS = count(1)

# No test judges by time, nor does the tool that makes its examples: the machine may be busy.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_the_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail where a fixture wider than one test left a process, or a host ran in the clone."""
    # Settled before the first test moves TMPDIR: pytest would make its base folder inside that.
    tmp_path_factory.getbasetemp()
    before, files = leaks.look(), leaks.host_files(ROOT)
    os.environ[leaks.MARK] = f"{os.getpid()}.0"
    yield
    del os.environ[leaks.MARK]
    left = leaks.processes_left(before, f"{os.getpid()}.0", [])
    found = [leaks.describe(process) for process in left]
    leaks.end(left)
    found += [f"file {path}" for path in leaks.host_files(ROOT) - files]
    assert not found, "left behind by these tests:\n" + "\n".join(found)


@pytest.fixture(autouse=True)
def ground(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test a short folder that is its HOME, TMPDIR and working folder, and look after it.

    Afterwards no process, socket file or open descriptor of the test may be there. It is the first
    fixture of each test, and so the last to be taken down; what wider fixtures hold is theirs.
    """
    folder = Path(tempfile.mkdtemp(prefix="pd-", dir=SHORT))
    mark = f"{os.getpid()}.{next(NUMBERS)}"
    stand_on(folder, monkeypatch)
    monkeypatch.setenv(leaks.MARK, mark)
    folders = [folder]
    if "tmp_path" in request.fixturenames:
        folders.append(request.getfixturevalue("tmp_path"))
    before = leaks.look()
    yield folder
    left = leaks.processes_left(before, mark, folders)
    found = [leaks.describe(process) for process in left]
    leaks.end(left)
    found += [f"something in the control group {group}" for group in leaks.groups_left(folders)]
    found += [f"socket {path}" for path in leaks.sockets_left(folders)]
    found += [f"descriptor of {target}" for target in leaks.descriptors_left(before)]
    monkeypatch.undo()
    shutil.rmtree(folder)
    assert not found, "left behind by this test:\n" + "\n".join(found)


def stand_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point all that names a place at the folder; forget the caller's settings and keys."""
    for name in list(os.environ):
        if name.startswith(("PADDOCK_", "XDG_")) or name.endswith(("_API_KEY", "_AUTH_TOKEN")):
            monkeypatch.delenv(name)
    for variable, part in (("HOME", "user"), ("TMPDIR", "tmp")):
        (folder / part).mkdir()
        monkeypatch.setenv(variable, str(folder / part))
    # Python has worked out the old one by now.
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    monkeypatch.chdir(folder)


@pytest.fixture
def home(ground: Path) -> Path:
    """Return a folder for PADDOCK_HOME: private, short enough for sockets, and gone afterwards."""
    folder = ground / "home"
    folder.mkdir(mode=0o700)
    return folder
