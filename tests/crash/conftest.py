"""What every crash test stands on: processes that start as fast as they can."""

import pytest


@pytest.fixture(autouse=True)
def compiled(ground: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let children keep their compiled modules: without them each start takes a second more."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
