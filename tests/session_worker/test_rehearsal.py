"""What a fork does that is kept in hand: it lives through a start, and nothing of that is left."""

import threading
from pathlib import Path

from paddock.session_worker.main import rehearse
from tests.house.leaks import open_descriptors


def test_a_rehearsal_leaves_no_file_no_thread_and_no_descriptor(ground: Path) -> None:
    room = ground / "room"
    room.mkdir()
    scratch = room / "rehearsal-1"
    rehearse(scratch)  # what the interpreter keeps of a first time is no leak
    before = open_descriptors(), threading.active_count()
    rehearse(scratch)
    assert (open_descriptors(), threading.active_count()) == before
    assert list(room.iterdir()) == []


def test_a_rehearsal_without_room_is_left_out_and_the_fork_is_good_all_the_same(
    ground: Path,
) -> None:
    room = ground / "room"
    room.write_text("no folder can be made below a file")
    rehearse(room / "rehearsal-1")
    assert room.is_file()
