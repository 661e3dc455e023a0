"""What keeps the tools of this host in: which control group is theirs, and what was left in it."""

from collections.abc import Callable
from pathlib import Path

from paddock.session_worker.toolbox import cgroups
from paddock.store.errors import SessionNotFound
from paddock.store.ids import SessionId
from paddock.store.session_file import folder_of, is_owned
from paddock.supervisor.config import Configuration
from paddock.supervisor.home import SECRET_FILE, Secret


def group_of_host(configuration: Configuration, secret: Secret) -> Path | None:
    """Return the control group of a host's tools, tried out; None where there is none, or off."""
    if configuration.settings.cgroups == "off":
        return None
    return cgroups.open_host(secret.host_id(configuration.folders.data))


def host_groups(data: Path) -> list[Path]:
    """Return the control groups that a host of this data folder left; it may run still."""
    if not (data / SECRET_FILE).exists():
        return []
    name = cgroups.name_of(Secret.of(data).host_id(data))
    return [base / name for base in cgroups.bases() if (base / name).is_dir()]


def end_what_was_left(
    group: Path, data: Path, *, has_worker: Callable[[SessionId], bool]
) -> list[str]:
    """End the tools of generations that have no worker any more; return whose there were.

    Blocks, so it runs in a thread, once at the start: what a worker begins later is not in the list
    that it works through, and who owns its session's file is a worker, known by now or not.
    """
    ended = []
    for session, folder in list(cgroups.generations(group)):
        session_id = SessionId(session)
        if has_worker(session_id) or _is_owned(data, session_id):
            continue
        if cgroups.end(folder):
            ended.append(folder.name)
    return ended


def _is_owned(data: Path, session_id: SessionId) -> bool:
    try:
        return is_owned(folder_of(data, session_id))
    except SessionNotFound:
        return False
