"""P9, P12: a tool works as it would anywhere, but not in the folders of its host."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.session_worker.toolbox import cgroups, sandbox
from paddock.session_worker.toolbox.contract import Sandbox
from paddock.session_worker.tools import (
    Confines,
    Limits,
    Room,
    Tool,
    ToolSpec,
    Warm,
    builtin_tools,
    python_tool,
)
from tests.session_worker.toolbench import call, room

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = "tests.session_worker.toolbox_functions"
WAYS = {
    "a veil": (),
    "Landlock alone": (sandbox.VEIL,),
    "no sandbox": (sandbox.VEIL, sandbox.LANDLOCK),
}


@pytest.fixture
def tools() -> dict[str, Tool]:
    return dict(builtin_tools())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the data folder of a host, with a secret in it."""
    folder = tmp_path / "home" / "data"
    folder.mkdir(parents=True)
    (folder / "secret").write_text("the secret")
    return folder


def confined(
    folder: Path, data: Path, way: str, mode: Sandbox = "auto", group: Path | None = None
) -> Room:
    if way == "a veil" and os.geteuid() != 0:
        pytest.skip("only root can be sure to have it")
    if way == "Landlock alone" and sandbox.landlock_version() < sandbox.OLDEST_VERSION:
        pytest.skip("this kernel has no Landlock that will do")
    closed = (os.path.realpath(data),)
    confines = Confines(None if group is None else f"{group}/s.1", mode, closed, WAYS[way])
    return replace(room(folder), confines=confines)


async def said(tools: dict[str, Tool], where: Room, command: str) -> str:
    return (await call(tools["bash"], where, command=command)).text


SANDBOXES = pytest.mark.parametrize("way", ["a veil", "Landlock alone"])


@SANDBOXES
async def test_f11_a_shell_command_cannot_use_the_folders_of_its_host(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    where = confined(tmp_path, data, way)
    worker = os.getpid()
    for attempt in (
        f"cat {data}/secret",
        "cat ../home/data/secret",
        f"cat /proc/{worker}/root{data}/secret",
        f"cat /proc/{worker}/cwd/x /proc/{worker}/environ",
        f"echo new > {data}/new",
        f"echo new > {data}/secret",
        f"rm -f {data}/secret && test -e {data}/secret",
        f"mv {data} elsewhere",
        f"ln {data}/secret linked",
        f"umount {data}; cat {data}/secret",
        f"mount --bind {data} .",
        f"unshare -m cat {data}/secret && false",
        f"kill -0 {worker}",
    ):
        text = await said(tools, where, f"if {attempt}; then echo SUCCEEDED; fi")
        assert "SUCCEEDED" not in text, attempt
        assert "the secret" not in text, attempt
    assert os.listdir(data) == ["secret"]  # noqa: PTH208 - takes no time
    assert (data / "secret").read_text() == "the secret"


@SANDBOXES
async def test_p9_a_tool_cannot_put_another_home_in_the_place_of_its_hosts(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    """It moved the folder above those that are closed, and made one with settings of its own."""
    home, config = data.parent, data.parent / "config"
    where = confined(tmp_path, data, way)
    if way == "a veil":  # nothing but what the host closes is in the way of a command
        (home / "beside").touch()
        (tmp_path / "other").mkdir()
        text = await said(tools, where, f"mv {home}/beside {home}/moved; mv {home}/moved .; ls")
        assert "moved" in text
    for attempt in (
        f"mv {home} {tmp_path}/elsewhere",
        f"mv {home} {tmp_path}/other",
        f'python3 -c \'import os; os.rename("{home}", "{tmp_path}/elsewhere")\'',
        f"mv {tmp_path} {tmp_path}.elsewhere",
        f"mkdir -p new/data && mv -T new {home}",
        f"mkdir -p new/data && mv --exchange -T new {home}",
        f"rm -rf {home} && test ! -e {home}",
    ):
        text = await said(tools, where, f"if {attempt}; then echo SUCCEEDED; fi")
        assert "SUCCEEDED" not in text, attempt
    assert (data / "secret").read_text() == "the secret"
    whole = replace(where, confines=replace(where.confines, closed=(str(home), str(data))))
    attempt = f"mkdir -p {config} && touch {config}/config.toml"
    assert "SUCCEEDED" not in await said(tools, whole, f"if {attempt}; then echo SUCCEEDED; fi")
    assert not config.exists()


@SANDBOXES
@pytest.mark.parametrize("place", ["home", "home/work", "home/data/work", "."])
async def test_a_workspace_in_the_home_or_around_it_can_be_worked_in(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str, place: str
) -> None:
    """It stays open, and what is closed inside it is closed."""
    where = confined(tmp_path, data, way)
    workspace = tmp_path / place
    workspace.mkdir(exist_ok=True)
    closed = (str(data.parent), str(data))
    where = replace(where, workspace=workspace, confines=replace(where.confines, closed=closed))
    (workspace / "mine").mkdir()
    command = f"echo new > mine/made; cat {data}/secret; mv {tmp_path}/home gone || pwd"
    text = await said(tools, where, command)
    assert text.endswith(f"{workspace}\n")
    assert "the secret" not in text
    assert (workspace / "mine" / "made").read_text() == "new\n"
    for path, is_open in (("mine/two", True), (f"{data.parent}/junk", place == "home")):
        done = await call(tools["write_file"], where, path=path, content="x")
        assert (done.status == "ok") == is_open, path
    done = await call(tools["read_file"], where, path=f"{data}/secret")
    assert done.status == "error"


@SANDBOXES
async def test_an_ordinary_command_notices_nothing_of_the_sandbox(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    where = confined(tmp_path, data, way)
    command = """
set -e
mkdir a b; echo one > a/file; mv a/file b/; ln b/file b/hard; rm b/hard
git init -q . && git add b && git -c user.name=n -c user.email=e@x commit -qm first
mktemp > /dev/null; echo rc > $HOME/.rc
sleep 100 & kill $!; wait $! || true
python3 -I -S -c 'import tempfile; tempfile.TemporaryFile().write(b"x")'
ls / $HOME > /dev/null; cat /proc/self/status > /dev/null; echo nothing > /dev/null
cat b/file; git log --format=%s
"""
    assert await said(tools, where, command) == "one\nfirst\n"


@SANDBOXES
async def test_a_command_longer_than_an_argument_runs_in_a_sandbox(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    where = replace(confined(tmp_path, data, way), scratch=data)
    assert await said(tools, where, f"# {'x' * 200_000}\necho long") == "long\n"


@SANDBOXES
async def test_a_workspace_in_a_closed_folder_stays_open(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    inside = data / "workspaces" / "one"
    inside.mkdir(parents=True)
    where = replace(confined(tmp_path, data, way), workspace=inside)
    text = await said(tools, where, "pwd; echo new > made; cat ../../secret")
    assert text.startswith(f"Exit code 1\n{inside}\n")
    assert "the secret" not in text
    assert (inside / "made").read_text() == "new\n"
    done = await call(tools["read_file"], where, path="made")
    assert done.status == "ok"
    assert (await call(tools["read_file"], where, path="../../secret")).status == "error"


@SANDBOXES
async def test_f5_a_sandboxed_tool_cannot_leave_its_control_group(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    host = cgroups.open_host(f"test{os.getpid():x}{os.urandom(4).hex()}")
    if host is None:
        pytest.skip("this machine gives no control groups")
    where = confined(tmp_path, data, way, group=host)
    base = cgroups.mount_of(host)
    try:
        text = await said(
            tools, where, f"grep ^0: /proc/self/cgroup; echo $$ > {base}/cgroup.procs"
        )
        assert f"{host.name}/s.1/" in text
        assert text.startswith("Exit code 1\n")
        assert cgroups.pids(host) == []
    finally:
        cgroups.end(host)


@pytest.mark.parametrize("way", WAYS)
async def test_f11_the_tools_for_files_keep_out_of_closed_folders(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    """Those that run in the worker itself refuse the path, however it is named."""
    where = confined(tmp_path, data, way)
    (where.workspace / "link").symlink_to(data)
    for path in (f"{data}/secret", "../home/data/secret", "link/secret"):
        done = await call(tools["read_file"], where, path=path)
        assert (done.status, done.error_kind) == ("error", "closed_folder")
        done = await call(tools["write_file"], where, path=path, content="mine")
        assert (done.status, done.error_kind) == ("error", "closed_folder")
        done = await call(tools["grep"], where, pattern="secret", path=path)
        assert (done.status, done.error_kind) == ("error", "closed_folder")
    assert (data / "secret").read_text() == "the secret"
    wide = replace(where, workspace=tmp_path)
    done = await call(tools["read_file"], wide, path="home/data/secret")
    assert done.error_kind == "closed_folder"  # in the workspace, and closed all the same


@SANDBOXES
async def test_f11_a_search_from_above_finds_nothing_in_closed_folders(
    tools: dict[str, Tool], tmp_path: Path, data: Path, way: str
) -> None:
    where = confined(tmp_path, data, way)
    (where.workspace / "own").write_text("the secret of mine")
    done = await call(
        tools["grep"], where, pattern="the secret", path=str(tmp_path), output_mode="content"
    )
    assert "of mine" in done.text
    assert "home/data" not in done.text


@SANDBOXES
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
async def test_f11_a_python_tool_cannot_use_the_folders_of_its_host(
    tmp_path: Path, data: Path, way: str, *, is_warm: bool
) -> None:
    where = confined(tmp_path, data, way)
    spec = ToolSpec("reach", "", {"type": "object"}, "write", "ask", 60.0, 30_000, exclusive=True)
    warm = Warm() if is_warm else None
    reach = python_tool(f"{FUNCTIONS}:reach", spec, (str(ROOT),), Limits(), warm)
    try:
        for path, reached in ((data / "secret", False), (where.workspace / "own", True)):
            path.write_text("text")
            done = await call(reach, where, path=str(path), parent=os.getpid())
            assert done.status == "ok", done.text
            assert done.value == {"read": reached, "written": reached, "signalled": False}
    finally:
        if warm is not None:
            await warm.close()


async def test_without_a_sandbox_that_is_required_no_tool_is_run(
    tools: dict[str, Tool], tmp_path: Path, data: Path
) -> None:
    where = confined(tmp_path, data, "no sandbox", "require")
    done = await call(tools["bash"], where, command="touch ran")
    assert (done.status, done.error_kind) == ("error", "no_sandbox")
    assert not (where.workspace / "ran").exists()
    there_is_none = confined(tmp_path, data, "no sandbox", "auto")
    assert (await call(tools["bash"], there_is_none, command="echo ran")).text == "ran\n"


def test_what_is_allowed_is_all_beside_the_way_to_what_is_closed(tmp_path: Path) -> None:
    for name in ("home/data/deep", "home/other", "beside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    closed, workspace = str(tmp_path / "home/data"), str(tmp_path / "beside")
    rules = dict(sandbox.allowed([closed], workspace, [], sandbox.ALL_RIGHTS))
    below = {path for path in rules if path.startswith(str(tmp_path))}
    assert below == {str(tmp_path / name) for name in ("home/other", "beside", "file")}
    assert "/usr" in rules
    assert not any(closed.startswith(path) for path in rules)
