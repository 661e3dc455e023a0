"""./dev says what it knows, and refuses in one line what it does not."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.sources import ROOT, load_dev


def dev(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ./dev as a user's shell does, from some other folder."""
    return subprocess.run(
        [ROOT / "dev", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "words", [(), ("--help",), ("-h",), ("help",), ("check", "--help"), ("bench", "-h")]
)
def test_help_shows_every_verb_with_an_example(words: tuple[str, ...]) -> None:
    shown = dev(*words)
    assert shown.returncode == 0
    assert [verb for verb in load_dev().VERBS if f"./dev {verb}" not in shown.stdout] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frobnicate",), "unknown verb 'frobnicate'; one of: demo, test"),
        (("bench", "nothing"), "there is no benchmark 'nothing'"),
        (("bench",), "which benchmark?"),
        (("check", "extra"), "takes no such arguments: extra"),
    ],
)
def test_words_that_are_wrong_are_refused_in_one_line(words: tuple[str, ...], said: str) -> None:
    refused = dev(*words)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("dev: ")
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_caller_s_python_settings_do_not_confuse_it(ground: Path) -> None:
    (ground / "json.py").write_text("raise SystemExit('the wrong json')")
    shown = dev("--help", PYTHONPATH=str(ground), PYTHONHOME=str(ground), VIRTUAL_ENV="/nowhere")
    assert (shown.returncode, shown.stderr) == (0, "")


def test_it_runs_on_the_oldest_python_there_is(ground: Path) -> None:
    """Any Python from 3.9 on starts it; each that is here is tried."""
    module = load_dev()
    names = [f"python3.{minor}" for minor in range(9, 15)]
    found = [path for name in names for path in module.on_path(name)]
    for folder in module.pyenv_folders():
        found += [str(path) for name in names for path in folder.glob(f"3.*/bin/{name}")]
    runs = [path for path in dict.fromkeys(found) if module.ask([path, "-c", "print(1)"])]
    assert runs
    for path in runs:
        command = [path, ROOT / "dev", "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        assert (path, shown.returncode, shown.stderr) == (path, 0, b"")


def test_a_shim_that_fails_is_no_interpreter(ground: Path) -> None:
    shim = ground / "python3.13"
    shim.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    shim.chmod(0o755)
    module = load_dev()
    assert module.probe(str(shim)) is None
    assert module.probe(str(ground / "missing")) is None
    assert module.probe(sys.executable) is not None


def test_the_first_of_a_name_on_path_does_not_hide_the_next(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = ground / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    real = ground / "bin"
    real.mkdir()
    (real / "python3.13").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{ground}{os.pathsep}{real}")
    module = load_dev()
    assert module.find_interpreter("no uv here")[0] == os.path.realpath(
        getattr(sys, "_base_executable", sys.executable)
    )


def test_what_would_make_another_environment_is_not_handed_to_uv(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurting = (
        "UV_PYTHON",
        "UV_TARGET",
        "UV_PROJECT_ENVIRONMENT",
        "UV_SYSTEM_PYTHON",
        "UV_OVERRIDE",
    )
    for name in (*hurting, "PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX"):
        monkeypatch.setenv(name, "/nonsense")
    monkeypatch.setenv("UV_INDEX_URL", "kept")
    environment = load_dev().for_uv()
    assert "/nonsense" not in environment.values()
    assert environment["UV_INDEX_URL"] == "kept"
    assert environment["VIRTUAL_ENV"] == str(ROOT / ".venv")


def test_a_damaged_stamp_is_no_stamp(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_dev()
    monkeypatch.setattr(module, "STAMP", ground / "stamp.json")
    for text in ("", "[]", "{", '{"lock": "x"}'):
        (ground / "stamp.json").write_text(text)
        assert module.read_stamp() is None


def test_the_scripts_are_executable() -> None:
    assert [name for name in ("dev", ".ci/run") if not os.access(ROOT / name, os.X_OK)] == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_scripts_parse() -> None:
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


FAKE_UV = """\
#!/bin/sh
echo "$1 $2" >> "$ROOT_OF_FAKE/calls"
case "$1" in
  --version) echo "uv 0.13.9" ;;
  venv) for last; do :; done; mkdir -p "$last/bin" && ln -s "$PYTHON_OF_FAKE" "$last/bin/python" ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone with nothing in it, whose uv only writes down what it was asked for."""

    root: Path

    def start(self) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{self.root.parent}/fake:/usr/bin:/bin",
            "PADDOCK_PYTHON": sys.executable,
            "PYTHON_OF_FAKE": sys.executable,
            "ROOT_OF_FAKE": str(self.root.parent),
        }
        command = [sys.executable, "-I", str(self.root / "dev"), "setup"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    def set_up(self) -> list[str]:
        """Run ``./dev setup`` and return what it had uv do, less the question for its version."""
        (self.root.parent / "calls").unlink(missing_ok=True)
        with self.start() as running:
            _, said = running.communicate(timeout=60)
        assert running.returncode == 0, said.decode()
        return self.calls()

    def calls(self) -> list[str]:
        try:
            lines = (self.root.parent / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if not line.startswith("--version")]


@pytest.fixture
def clone(ground: Path) -> Clone:
    root = ground / "clone"
    root.mkdir()
    (ground / "fake").mkdir()
    shutil.copy(ROOT / "dev", root / "dev")
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "requirements.lock").write_text("a==1\n")
    uv = ground / "fake" / "uv"
    uv.write_text(FAKE_UV)
    uv.chmod(0o755)
    return Clone(root)


def test_a_second_set_up_does_nothing(clone: Clone) -> None:
    assert clone.set_up() == ["venv --quiet", "pip sync", "pip install"]
    assert clone.set_up() == []


def test_a_change_of_the_project_installs_nothing_but_the_project(clone: Clone) -> None:
    clone.set_up()
    (clone.root / "pyproject.toml").write_text("[project]\nversion = '2'\n")
    assert clone.set_up() == ["pip install"]
    (clone.root / "requirements.lock").write_text("a==2\n")
    assert clone.set_up() == ["pip sync", "pip install"]
    assert clone.set_up() == []


def test_a_clone_that_was_moved_or_lost_its_interpreter_is_made_anew(clone: Clone) -> None:
    whole = clone.set_up()
    moved = Clone(clone.root.rename(clone.root.with_name("elsewhere")))
    assert moved.set_up() == whole
    (moved.root / ".venv" / "bin" / "python").unlink()
    (moved.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    assert moved.set_up() == whole


def test_two_set_ups_at_once_are_one(clone: Clone) -> None:
    running = [clone.start() for _ in range(3)]
    ended = [(r.communicate(timeout=60), r.returncode) for r in running]
    assert [code for _, code in ended] == [0, 0, 0]
    assert clone.calls() == ["venv --quiet", "pip sync", "pip install"]
