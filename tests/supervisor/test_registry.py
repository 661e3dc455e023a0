"""What the host's own file promises to remember."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from paddock.store.ids import CommandId, SessionId
from paddock.supervisor.registry import Registry

SESSION = SessionId("01890000-0000-7000-8000-000000000001")
DELETION = CommandId("01890000-0000-7000-8000-000000000002")


@pytest.fixture
def synced(tmp_path: Path) -> Path:
    """Return where a copy of a host's file is made of what surely is on the disk: no log."""
    return tmp_path / "synced.sqlite"


def test_l17_the_tombstone_of_an_erased_session_survives_a_power_cut(
    tmp_path: Path, synced: Path
) -> None:
    """Nothing else tells of the session then: the same deletion would not be found."""
    path = tmp_path / "host.sqlite"
    with closing(Registry(path)) as registry:
        registry.bury(SESSION, DELETION, erase=True, at_us=1)
        shutil.copy(path, synced)  # a commit lies in the write-ahead log until it is synced
    with closing(Registry(synced)) as after:
        stone = after.tombstone(SESSION)
        assert stone is not None
        assert stone.command_id == DELETION
        assert after.to_erase() == [SESSION]
