"""The folder of a session: its paths and its repository."""

import os
import subprocess
from pathlib import Path

import pytest

from paddock.session_worker.workspace import (
    BadPath,
    OutsideWorkspace,
    WorkspaceFacts,
    describe,
    is_dirty,
    resolve,
    shown,
)

ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "HOME": "/"}
AUTHOR = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *AUTHOR, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "a.txt").write_text("a")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


# -- paths -----------------------------------------------------------------------------------------


def test_a_relative_path_starts_at_the_workspace(tmp_path: Path) -> None:
    assert resolve("a/../b", tmp_path) == tmp_path.resolve() / "b"
    assert resolve("/etc", tmp_path) == Path("/etc")
    assert resolve("~/a", tmp_path, home="/home/me") == Path("/home/me/a")
    assert resolve("~/a", tmp_path) == tmp_path.resolve() / "~/a"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(BadPath, match="is not a path"):
        resolve(path, tmp_path)


@pytest.mark.parametrize(
    "path", ["..", "/", "../workspace-2/x", "out", "out/passwd", "in/../../x", "dangling"]
)
def test_w14_no_name_and_no_link_leads_out_of_a_jail(path: str, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (tmp_path / "workspace-2").mkdir()
    (workspace / "out").symlink_to("/etc")
    (workspace / "in").mkdir()
    (workspace / "dangling").symlink_to("../not/there")
    with pytest.raises(OutsideWorkspace):
        resolve(path, workspace, jail=True)


def test_w14_a_workspace_that_is_a_link_is_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    expected = tmp_path.resolve() / "real" / "a"
    assert resolve("a", tmp_path / "link", jail=True) == expected
    assert resolve(str(tmp_path / "link" / "a"), tmp_path / "link", jail=True) == expected
    assert shown(expected, tmp_path / "link") == "a"
    assert shown(Path("/etc/passwd"), tmp_path / "link") == "/etc/passwd"


def test_links_in_a_ring_are_no_path_of_a_jail(tmp_path: Path) -> None:
    (tmp_path / "ring").symlink_to("ring")
    assert resolve("ring", tmp_path, jail=True).is_relative_to(tmp_path.resolve())


# -- repositories ----------------------------------------------------------------------------------


def test_outside_of_a_repository_there_is_only_the_path(tmp_path: Path) -> None:
    assert describe(tmp_path) == WorkspaceFacts(str(tmp_path.resolve()), None, None, None)
    assert is_dirty(tmp_path, ENVIRONMENT) is None


def test_w11_a_folder_below_knows_its_repository(repository: Path) -> None:
    below = repository / "deep" / "er"
    below.mkdir(parents=True)
    facts = describe(below)
    assert facts.repository == str(repository.resolve())
    assert facts.branch == "trunk"
    assert facts.commit == git(repository, "rev-parse", "HEAD")


def test_w11_the_nearest_repository_wins(repository: Path) -> None:
    inner = repository / "inner"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "other")
    facts = describe(inner)
    assert (facts.repository, facts.branch) == (str(inner.resolve()), "other")
    assert facts.commit is None


def test_w11_clean_and_dirty_are_told_apart(repository: Path) -> None:
    assert is_dirty(repository, ENVIRONMENT) is False
    (repository / "a.txt").write_text("b")
    assert is_dirty(repository, ENVIRONMENT) is True


def test_a_detached_head_has_a_commit_and_no_branch(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    facts = describe(repository)
    assert facts.branch is None
    assert facts.commit == git(repository, "rev-parse", "HEAD")


def test_packed_refs_and_branches_with_a_slash_are_read(repository: Path) -> None:
    git(repository, "checkout", "-q", "-b", "topic/one")
    git(repository, "pack-refs", "--all")
    facts = describe(repository)
    assert facts.branch == "topic/one"
    assert facts.commit == git(repository, "rev-parse", "HEAD")


def test_a_worktree_has_a_branch_of_its_own(repository: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    git(repository, "worktree", "add", "-q", "-b", "beside", str(tree))
    (tree / "b.txt").write_text("b")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "second")
    facts = describe(tree)
    assert (facts.repository, facts.branch) == (str(tree.resolve()), "beside")
    assert facts.commit == git(tree, "rev-parse", "HEAD") != git(repository, "rev-parse", "HEAD")


def test_describing_runs_nothing_of_the_repository(repository: Path) -> None:
    ran = repository / "ran"
    git(repository, "config", "core.fsmonitor", f"touch {ran}; false")
    describe(repository)
    is_dirty(repository, ENVIRONMENT)
    assert not ran.exists()


def test_without_git_nobody_knows_whether_it_is_dirty(repository: Path, tmp_path: Path) -> None:
    assert is_dirty(repository, {"PATH": str(tmp_path)}) in (None, False)
    assert is_dirty(repository / "absent", ENVIRONMENT) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root searches every folder")
def test_a_repository_that_cannot_be_searched_is_none(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    git.chmod(0)
    try:
        assert describe(tmp_path).repository is None
    finally:
        git.chmod(0o700)
