"""What a person at a terminal is asked, told and spared."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.supervisor.cli import exit_codes
from paddock.testing import HostForTests, call, turn, write_script
from tests.together.cli import paddock
from tests.together.terminal import Terminal

NOTE = (turn("I look.", call("bash", command="echo hi > note; cat note")), turn("Done."))


@pytest.fixture(scope="module")
def host() -> Iterator[HostForTests]:
    folder = Path(tempfile.mkdtemp(prefix="pd-tty-", dir="/tmp"))
    made = HostForTests(folder)
    made.start()
    yield made
    made.end()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def put_away(host: HostForTests, ground: Path) -> Iterator[None]:
    """Delete the sessions of the test, whose workers stand in its folder."""
    yield
    with host.client() as client:
        for life in client.lives():
            client.session(life["session_id"]).delete(deadline_seconds=1)


def script(ground: Path, *turns: Any) -> str:
    return write_script(ground / "script.json", turns)


def answered(home: Path, model: str, *answers: str) -> tuple[str, int]:
    terminal = Terminal(home, "run", "--model", model, "go")
    for answer in answers:
        terminal.wait_for("[n]o: ")
        terminal.screen = ""
        terminal.type(answer)
    code = terminal.end()
    return terminal.screen, code


def test_in_a_terminal_run_asks_and_yes_lets_the_call_run(host: HostForTests, ground: Path) -> None:
    screen, code = answered(host.home, script(ground, *NOTE), "y\n")
    assert code == 0
    assert "Done." in screen
    assert (ground / "note").exists()


def test_in_a_terminal_no_is_told_to_the_agent(host: HostForTests, ground: Path) -> None:
    screen, code = answered(host.home, script(ground, *NOTE), "no\n")
    assert code == 0
    assert "Done." in screen
    assert not (ground / "note").exists()


def test_f15_a_question_hides_nothing_of_what_would_run(host: HostForTests, ground: Path) -> None:
    model = script(ground, turn(call("bash", command="echo hi \x1b]; touch hidden")), turn("Done."))
    terminal = Terminal(host.home, "run", "--model", model, "go")
    terminal.wait_for("[n]o: ")
    assert r"command: echo hi \x1b]; touch hidden" in terminal.screen
    assert "\x1b" not in terminal.screen
    listed = paddock(host.home, "approvals").out
    assert r"echo hi \x1b]; touch hidden" in listed
    terminal.type("n\n")
    assert terminal.end() == 0


def test_r7_always_is_not_asked_again(host: HostForTests, ground: Path) -> None:
    twice = script(
        ground,
        turn(call("bash", command="echo > one")),
        turn(call("bash", command="echo > two")),
        turn("Done."),
    )
    screen, code = answered(host.home, twice, "a\n")
    assert code == 0
    assert "[n]o" not in screen
    assert (ground / "two").exists()


def test_ctrl_c_at_a_question_cancels_the_operation(host: HostForTests, ground: Path) -> None:
    _, code = answered(host.home, script(ground, *NOTE), "\x03")
    assert code == exit_codes.CANCELLED
    assert not (ground / "note").exists()


def test_attach_sends_what_is_typed_and_leaves_on_ctrl_c(host: HostForTests, ground: Path) -> None:
    paddock(host.home, "new", "friend", "--model", script(ground, turn("hello you")))
    terminal = Terminal(host.home, "attach", "friend")
    terminal.wait_for("attached")
    terminal.type("hi there\n")
    terminal.wait_for("hello you")
    terminal.type("\x03")
    assert terminal.end() == 0
    assert "goes on by itself" in terminal.screen
