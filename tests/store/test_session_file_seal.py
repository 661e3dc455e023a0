"""How the file that was closed is known: a small one by its content, a large one by its times."""

from pathlib import Path

import pytest

from paddock.store.errors import Damaged
from paddock.store.session_file import SessionFile
from paddock.store.session_file import opening as opening_module
from tests.store.filebench import SESSION, make


@pytest.fixture(params=["by its content", "by its times"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "by its times":
        monkeypatch.setattr(opening_module, "SEAL_LIMIT_BYTES", 0)
    made = tmp_path / "session"
    make(made, 300)
    return made


@pytest.fixture
def whole_checks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    checks: list[object] = []
    check = opening_module.check_whole

    def noted(*told: object) -> None:
        checks.append(told)
        check(*told)  # type: ignore[arg-type]

    monkeypatch.setattr(opening_module, "check_whole", noted)
    return checks


def test_a_file_that_nobody_touched_is_not_read_whole(
    folder: Path, whole_checks: list[object]
) -> None:
    for _ in range(3):
        SessionFile.own(folder, SESSION).close(clean=True)
    assert not whole_checks


def test_f1_a_byte_that_was_changed_at_rest_is_found_wherever_it_is(folder: Path) -> None:
    path = folder / "session.sqlite"
    image = path.read_bytes()
    assert image.count(b'title 3"') == 1
    path.write_bytes(image.replace(b'title 3"', b'title 4"'))
    with pytest.raises(Damaged) as found:
        SessionFile.own(folder, SESSION)
    assert found.value.facts["sequence"] == 3


def test_a_file_that_was_copied_is_read_whole_once(
    folder: Path, whole_checks: list[object]
) -> None:
    path = folder / "session.sqlite"
    image = path.read_bytes()
    path.unlink()
    path.write_bytes(image)
    for _ in range(3):
        SessionFile.own(folder, SESSION).close(clean=True)
    assert len(whole_checks) <= 1
