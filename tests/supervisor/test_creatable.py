"""What a session can be made with, played with values."""

import pytest

from paddock.session_worker.errors import BadArgument
from paddock.store.events import Limits, SessionConfig
from paddock.supervisor.creatable import creatable


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (SessionConfig(workspace="/", name=""), "name"),
        (SessionConfig(workspace="/", environment={"A": "x\0"}), "'A' holds a NUL"),
        (SessionConfig(workspace="/", environment={"A=B": "x"}), "'A=B' can be no variable"),
        (SessionConfig(workspace="/", environment={"": "x"}), "'' can be no variable"),
        (SessionConfig(workspace="/", environment={"A\0": "x"}), "can be no variable"),
        (SessionConfig(workspace="/", limits=Limits(memory_mb=0)), "'memory_mb'"),
        (SessionConfig(workspace="/", limits=Limits(tool_seconds=-1)), "not -1.0"),
        (SessionConfig(workspace="/", limits=Limits(tokens=-1)), "'tokens' must be above 0"),
    ],
)
def test_a_configuration_that_no_worker_could_live_with_is_refused(
    wrong: SessionConfig, told: str
) -> None:
    with pytest.raises(BadArgument) as refusal:
        creatable(wrong)
    assert told in refusal.value.message


def test_f16_half_a_character_in_a_configuration_is_mended_and_the_rest_left_as_it_is() -> None:
    config = SessionConfig(
        workspace="/",
        name="half \ud800",
        environment={"PATH": "/bin:/\udcff", "EMPTY": ""},
        limits=Limits(memory_mb=1, cost_usd=0.5),
        python_path=("/a",),
    )
    made = creatable(config)
    assert made.name == "half \ufffd"
    assert made.environment == {"PATH": "/bin:/\ufffd", "EMPTY": ""}
    mended = {"name": made.name, "environment": made.environment}
    assert made == config.model_copy(update=mended)
