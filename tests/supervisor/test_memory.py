"""What sessions use, and when a machine runs short: numbers, and real processes of this test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.store.ids import SessionId
from paddock.supervisor.memory import MEGABYTE, Pressure, pressure, weigh

ME = SessionId("01890000-0000-7000-8000-000000000001")
TOTAL = 16_000 * MEGABYTE
HOG = "x = bytearray(50_000_000); print('full', flush=True); input()"
LAYERED = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOG!r}], stdin=0)
child.wait()
"""


@pytest.mark.parametrize(
    ("available_mb", "stalled", "reserve_mb", "is_felt"),
    [
        (5_000, 0.0, None, False),
        (500, 0.0, None, True),
        (1_000, 50.0, None, True),  # below four reserves, and it stalls
        (5_000, 50.0, None, False),  # it stalls by somebody's own limit
        (500, 99.0, 0, False),  # switched off
        (5_000, 0.0, 6_000, True),
    ],
)
def test_a_machine_runs_short_below_its_reserve_or_when_it_stalls_near_it(
    available_mb: int, stalled: float, reserve_mb: int | None, is_felt: bool
) -> None:
    assert Pressure(available_mb * MEGABYTE, TOTAL, stalled).is_felt(reserve_mb) is is_felt


def test_on_a_small_machine_a_twentieth_is_kept_free() -> None:
    small = 1_000 * MEGABYTE
    assert not Pressure(60 * MEGABYTE, small).is_felt()
    assert Pressure(40 * MEGABYTE, small).is_felt()


def test_this_machine_tells_how_it_stands(tmp_path: Path) -> None:
    found = pressure()
    assert found is not None
    assert 0 < found.available_bytes <= found.total_bytes
    assert pressure(tmp_path) is None


def test_the_children_of_children_count() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LAYERED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"full\n"
        weight = weigh({ME: child.pid}, {})[ME]
        assert weight.processes == 2
        assert weight.bytes > 50_000_000
        # Above a limit pages that are shared are counted once: never more than before.
        assert 50_000_000 < weigh({ME: child.pid}, {ME: 1})[ME].bytes <= weight.bytes
        child.communicate(b"\n")


def test_who_is_gone_weighs_nothing() -> None:
    gone = os.spawnlp(os.P_WAIT, "true", "true") + 4_000_000
    assert weigh({ME: gone}, {})[ME].bytes == 0
