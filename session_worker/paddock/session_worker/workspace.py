"""The folder a session works in: what its paths mean, and what repository it belongs to."""

import os
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from paddock.store.events import WorkspaceChanged

LONGEST_REF_FILE_BYTES = 4 * 1024 * 1024
GIT_SECONDS = 5.0


class BadPath(Exception):
    """A path cannot be used; the message says why. The asker's fault."""

    code = "bad_path"


class ClosedFolder(BadPath):
    """A path leads into a folder that is closed to tools, by its name or through a link."""

    code = "closed_folder"


class OutsideWorkspace(BadPath):
    """A path leads out of a jailed workspace, by its name or through a symbolic link."""

    code = "outside_workspace"


@dataclass(frozen=True, slots=True)
class WorkspaceFacts:
    """What a session's folder is; the git fields are None outside a repository."""

    path: str
    repository: str | None
    branch: str | None
    commit: str | None


def resolve(
    path: str,
    workspace: Path,
    *,
    jail: bool = False,
    home: str | None = None,
    closed: Collection[str] = (),
) -> Path:
    """Return the absolute path that ``path`` means in the workspace, symbolic links followed.

    Relative paths start at the workspace; a leading ``~/`` is ``home`` where that is given. The
    file need not exist. No path means anything in a ``closed`` folder, but what lies in a workspace
    that is itself in there. The answer holds for the moment: who can write to the workspace can
    swap a link afterwards, so this guards against mistakes, not against another process.

    Raises:
        BadPath: The path is empty, or no path at all.
        ClosedFolder: It leads into one.
        OutsideWorkspace: ``jail`` is set and it leads out.
    """
    if not path or "\0" in path:
        raise BadPath(f"{path!r} is not a path")
    if home and (path == "~" or path.startswith("~/")):
        path = home + path[1:]
    try:
        real = Path(os.path.realpath(workspace / path))
        root = Path(os.path.realpath(workspace))
    except (OSError, ValueError) as error:
        raise BadPath(f"{path!r} is not a path: {error}") from error
    if any(_is_closed(real, root, folder) for folder in closed):
        raise ClosedFolder(f"{path!r} is the host's own, and closed to tools")
    if jail and not real.is_relative_to(root):
        raise OutsideWorkspace(f"{path!r} is outside the workspace {str(root)!r}")
    return real


def _is_closed(real: Path, root: Path, folder: str) -> bool:
    if not real.is_relative_to(folder):
        return False
    return not (root.is_relative_to(folder) and real.is_relative_to(root))


def shown(path: Path, workspace: Path) -> str:
    """Return the path as a person would write it: relative where it lies in the workspace."""
    root = Path(os.path.realpath(workspace))
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def describe(workspace: Path) -> WorkspaceFacts:
    """Return what the folder is; the nearest repository wins, and nothing is executed.

    Branch and commit are read from the files of git, worktrees and packed refs included; branch is
    None on a detached head, commit None before the first commit and where git keeps its refs in
    another format.
    """
    path = Path(os.path.realpath(workspace))
    for folder in (path, *path.parents):
        git = _git_folder(folder)
        if git is not None:
            branch, commit = _head(git)
            return WorkspaceFacts(str(path), str(folder), branch, commit)
    return WorkspaceFacts(str(path), None, None, None)


def workspace_seen(workspace: Path) -> WorkspaceChanged:
    """Return what :func:`describe` sees, as an event."""
    facts = describe(workspace)
    return WorkspaceChanged(
        workspace=facts.path, repo=facts.repository, branch=facts.branch, commit=facts.commit
    )


def is_dirty(workspace: Path, environment: Mapping[str, str]) -> bool | None:
    """Tell whether the repository has uncommitted changes; None without one, or in five seconds.

    It runs git and blocks meanwhile. Hooks that a repository's configuration could have run by a
    mere status are off.
    """
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v1", "-z"]
    try:
        done = subprocess.run(
            command,
            cwd=workspace,
            env={**environment, **quiet},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return bool(done.stdout) if done.returncode == 0 else None


def _git_folder(folder: Path) -> Path | None:
    """Return the folder that holds HEAD for a work tree at ``folder``; a worktree has its own."""
    entry = folder / ".git"
    # Not by pathlib, which raises where a folder cannot be searched: that is no repository of ours.
    if os.path.isdir(entry):  # noqa: PTH112
        return entry if os.path.exists(entry / "HEAD") else None  # noqa: PTH110
    text = _read(entry)
    if text is None or not text.startswith("gitdir:"):
        return None
    return folder / text.removeprefix("gitdir:").strip()


def _head(git: Path) -> tuple[str | None, str | None]:
    head = _read(git / "HEAD")
    if head is None:
        return None, None
    if not head.startswith("ref:"):
        return None, head or None
    ref = head.removeprefix("ref:").strip()
    common = _read(git / "commondir")
    shared = git / common if common else git
    commit = _read(git / ref) or _read(shared / ref) or _packed(shared, ref)
    branch = ref.removeprefix("refs/heads/")
    return (None if branch == ".invalid" else branch), commit


def _packed(git: Path, ref: str) -> str | None:
    for line in (_read(git / "packed-refs") or "").splitlines():
        commit, _, name = line.partition(" ")
        if name == ref:
            return commit
    return None


def _read(path: Path) -> str | None:
    try:
        if not path.is_file() or path.stat().st_size > LONGEST_REF_FILE_BYTES:
            return None
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
