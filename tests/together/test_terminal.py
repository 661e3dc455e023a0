"""What a person at a terminal is asked, told and spared."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.supervisor.cli import exit_codes
from paddock.testing import HostForTests, call, turn, write_script
from tests.together.cli import paddock
from tests.together.hosting import delete_what_lives, host_for_tests
from tests.together.terminal import Terminal

NOTE = (turn("I look.", call("bash", command="echo hi > note; cat note")), turn("Done."))


@pytest.fixture(scope="module")
def host() -> Iterator[HostForTests]:
    with host_for_tests("tty") as made:
        yield made


@pytest.fixture(autouse=True)
def put_away(host: HostForTests, ground: Path) -> Iterator[None]:
    yield
    delete_what_lives(host)


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
    screen, code = answered(host.home, script(ground, *NOTE), "\x03")
    assert code == exit_codes.CANCELLED
    assert "May it run" not in screen  # what is being ended is not asked about again
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


TWO_QUESTIONS = (
    turn("First.", call("bash", command="echo > one")),
    turn("Second.", call("bash", command="echo > two")),
    turn("Done."),
)
QUESTION = "[n]o: "


def open_approval(host: HostForTests) -> str:
    [asked] = paddock(host.home, "approvals", "--json").json
    return str(asked["approval_id"])


def test_what_was_typed_for_a_question_that_is_decided_elsewhere_answers_no_other(
    host: HostForTests, ground: Path
) -> None:
    terminal = Terminal(host.home, "run", "--model", script(ground, *TWO_QUESTIONS), "go")
    terminal.wait_for(QUESTION)
    terminal.screen = ""
    terminal.type("y")
    terminal.wait_for("y")
    assert paddock(host.home, "deny", open_approval(host)).code == 0
    terminal.wait_for(QUESTION)
    assert "\r\nthat was decided elsewhere: denied\r\nSecond." in terminal.screen
    terminal.type("\n")
    terminal.wait_for("y, a or n: ")
    terminal.type("n\n")
    assert terminal.end() == 0
    assert not (ground / "two").exists()


def test_a_question_is_put_again_below_what_happened_since(
    host: HostForTests, ground: Path
) -> None:
    terminal = Terminal(host.home, "run", "--model", script(ground, *NOTE), "go")
    terminal.wait_for(QUESTION)
    terminal.screen = ""
    [life] = paddock(host.home, "ps", "--json").json
    os.kill(life["pid"], signal.SIGKILL)
    terminal.wait_for(QUESTION)
    died, asked = terminal.screen.split("\r\n")[1:3]
    assert "SIGKILL" in died
    assert asked == "May it run bash echo hi > note; cat note?"
    terminal.type("y\n")
    assert terminal.end() == 0
    assert (ground / "note").exists()


def test_a_refusal_may_have_a_reason_that_the_agent_is_told(
    host: HostForTests, ground: Path
) -> None:
    model = script(ground, *NOTE)
    terminal = Terminal(host.home, "run", "--model", model, "--name", "told", "go")
    terminal.wait_for(QUESTION)
    terminal.type("no, write a file instead\n")
    assert terminal.end() == 0
    decided = paddock(host.home, "events", "--kind", "approval_decided", "told").out
    assert "decision=denied" in decided
    assert "note=write a file instead" in decided


def test_whose_input_has_ended_is_told_how_to_answer_each_question(
    host: HostForTests, ground: Path
) -> None:
    terminal = Terminal(host.home, "run", "--model", script(ground, *TWO_QUESTIONS), "go")
    terminal.wait_for(QUESTION)
    terminal.type("\x04")
    terminal.wait_for(f"answer with `paddock approve {open_approval(host)}`")
    terminal.screen = ""
    assert paddock(host.home, "approve", open_approval(host)).code == 0
    terminal.wait_for("answer with ")
    assert QUESTION not in terminal.screen
    assert paddock(host.home, "approve", open_approval(host)).code == 0
    assert terminal.end() == 0
    assert (ground / "two").exists()


def test_who_is_attached_to_a_session_that_is_deleted_is_not_told_that_it_goes_on(
    host: HostForTests, ground: Path
) -> None:
    paddock(host.home, "new", "brief", "--model", script(ground, turn("never")))
    terminal = Terminal(host.home, "attach", "brief")
    terminal.wait_for("attached")
    assert paddock(host.home, "erase", "--yes", "brief").code == 0
    assert terminal.end() == 0
    assert "the session was deleted" in terminal.screen
    assert "goes on" not in terminal.screen


def test_whose_host_goes_away_is_told_and_asked_again_when_it_is_back(
    home: Path, ground: Path
) -> None:
    lone = HostForTests(home)
    lone.start()
    try:
        terminal = Terminal(home, "run", "--model", script(ground, *NOTE), "go")
        terminal.wait_for(QUESTION)
        terminal.screen = ""
        lone.kill()
        terminal.wait_for(QUESTION)
        assert "the host went away; connecting again" in terminal.screen
        lone.start()
        terminal.type("y\n")
        assert terminal.end() == 0
    finally:
        lone.end()
    assert (ground / "note").exists()
