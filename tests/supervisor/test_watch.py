"""When a watcher takes a host for hanging: only by time that it saw itself."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddock.supervisor.registry import Former
from paddock.supervisor.serve import _former
from paddock.supervisor.watch import SILENT_LOOKS, Silence, Watcher

LOOK = 5.0


def looks(silence: Silence, count: int, *, has_beat: bool = False, waited: float = LOOK) -> bool:
    """Take so many looks in; return what the last one said."""
    told = [silence.is_too_long(has_beat=has_beat, waited=waited) for _ in range(count)]
    assert not any(told[:-1])
    return told[-1]


def test_f6_a_host_that_says_nothing_for_all_looks_in_a_row_hangs() -> None:
    silence = Silence(LOOK)
    assert not looks(silence, 1, has_beat=True, waited=1.0)
    assert not looks(silence, SILENT_LOOKS - 1)
    assert not looks(silence, 1, has_beat=True, waited=1.0)
    assert looks(silence, SILENT_LOOKS)


def test_f6_a_host_that_has_not_begun_to_beat_is_given_its_time() -> None:
    assert not looks(Silence(LOOK), 10 * SILENT_LOOKS)


@pytest.mark.parametrize("waited", [2 * LOOK, 3_600.0])
def test_f6_looks_that_did_not_see_their_own_time_are_no_proof(waited: float) -> None:
    """The machine slept, or watcher and host were stopped together."""
    silence = Silence(LOOK)
    looks(silence, 1, has_beat=True, waited=1.0)
    assert not looks(silence, 10 * SILENT_LOOKS, waited=waited)
    assert looks(silence, SILENT_LOOKS)


@pytest.mark.parametrize(
    ("text", "former"),
    [
        ("7:-9:5:1", Former(7, -9, 5, hung=True)),
        ("7:4:5:0", Former(7, 4, 5)),
        ("7:-9:5", Former(7, -9, 5)),  # of a watcher that was started before an upgrade
    ],
)
def test_how_the_last_host_ended_is_read_from_any_watcher(text: str, former: Former) -> None:
    assert _former(text) == former


class Fatal(Watcher):
    """Its host dies each time; it may begin two."""

    begun = 0

    def _run(self, former: list[str]) -> tuple["subprocess.Popen[bytes]", bool]:
        self.begun += 1
        assert self.begun < 3, "somebody has ended it"
        return subprocess.Popen([sys.executable, "-c", "import os; os.abort()"]), False


def test_no_host_is_started_where_another_was_ended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came back by itself after ``paddock down`` had ended the one in its place."""
    monkeypatch.setenv("PADDOCK_RUNTIME", str(tmp_path))
    announcement = tmp_path / "host.json"
    announcement.touch()
    watcher = Fatal([])

    def pause(_seconds: float) -> None:
        if watcher.begun == 2:
            announcement.unlink()  # as a host that says goodbye does

    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert watcher.watch() == 0
    assert watcher.begun == 2
