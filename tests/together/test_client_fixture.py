"""The fixture that others write tests with, used as they use it."""

import pytest

from paddock.testing import HostForTests, NotYet, call, host, turn, wait_until

__all__ = ["host"]  # a fixture is found by its name in the module


def test_a_test_gets_a_host_of_its_own_with_a_scripted_model(host: HostForTests) -> None:
    model = host.script(turn(call("bash", command="echo hi")), turn("done"))
    with host.client() as paddock:
        session = paddock.new(model=model, cwd=host.home, mode="yolo")
        assert session.send("go").wait(60).final_message == "done"
        first = host.worker_pid(session.session_id)
        assert host.kill_worker(session.session_id) == first
        second = wait_until(lambda: host.worker_pid(session.session_id), 60)
        assert second != first


def test_a_condition_that_never_holds_is_named() -> None:
    with pytest.raises(NotYet, match="the moon"):
        wait_until(lambda: None, 0.01, what="the moon")
