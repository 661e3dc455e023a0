"""What is printed of a session: streamed words, what was lost or void, and nothing unclean."""

import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from paddock.client.feed import Previewed
from paddock.session_worker.approvals import UNATTENDED
from paddock.store.events import (
    ApprovalDecided,
    AssistantMessageAdded,
    Event,
    Stored,
    TextPart,
    ToolCallFinished,
    ToolCallRequested,
    ToolCallStarted,
    WorkerExited,
)
from paddock.store.ids import MessageId, OperationId, SessionId, ToolCallId
from paddock.supervisor.cli.asking import answer_of
from paddock.supervisor.cli.printing import call_line, clean, json_of, one_line, visible
from paddock.supervisor.cli.screen import Screen

OPERATION = OperationId("operation")
CALL = ToolCallId("call")


class Shown:
    """A screen that writes into strings."""

    def __init__(self) -> None:
        self.words, self.notes = io.StringIO(), io.StringIO()
        self.screen = Screen(words=self.words, notes=self.notes)
        self.sequence = 0

    def preview(self, text: str, offset: int, *, channel: str = "text") -> None:
        self.screen.show(Previewed("message", channel, offset, text))  # type: ignore[arg-type]

    def event(self, event: Event) -> None:
        self.sequence += 1
        self.screen.show(Stored(SessionId("session"), self.sequence, 1, 0, event))

    def message(self, text: str, *, finish_reason: str = "stop") -> None:
        self.event(
            AssistantMessageAdded(
                message_id=MessageId("message"),
                operation_id=OPERATION,
                parts=(TextPart(text=text),),
                finish_reason=finish_reason,
            )
        )


def test_words_stream_and_the_message_adds_only_what_was_not_shown() -> None:
    shown = Shown()
    shown.preview("Hello ", 0)
    shown.preview("wor", 6)
    shown.message("Hello world")
    assert shown.words.getvalue() == "Hello world\n"


@pytest.mark.parametrize(
    ("finish_reason", "told"),
    [("length", "at the model's limit of tokens"), ("content_filter", "refused to go on")],
)
def test_an_answer_that_is_not_whole_is_said_to_be_so(finish_reason: str, told: str) -> None:
    """It looked like any other: half a sentence, and an operation that was completed."""
    shown = Shown()
    shown.message("And the third is", finish_reason=finish_reason)
    assert shown.words.getvalue() == "And the third is\n"
    assert told in shown.notes.getvalue()


def test_a_lost_preview_is_made_good_by_the_message() -> None:
    shown = Shown()
    shown.preview("Hello ", 0)
    shown.preview("ld", 9)
    shown.message("Hello world")
    assert shown.words.getvalue() == "Hello world\n"


def test_a_preview_that_comes_twice_is_shown_once() -> None:
    shown = Shown()
    shown.preview("Hello ", 0)
    shown.preview("Hello world", 0)
    shown.message("Hello world")
    assert shown.words.getvalue() == "Hello world\n"


def test_v5_a_reset_voids_what_was_shown_and_the_new_answer_is_whole() -> None:
    shown = Shown()
    shown.preview("Hullo", 0)
    shown.preview("", 0, channel="reset")
    shown.preview("Hel", 0)
    shown.message("Hello")
    assert shown.words.getvalue() == "Hullo\nHello\n"
    assert "begins again" in shown.notes.getvalue()


def test_v5_in_a_file_stands_no_answer_that_was_void() -> None:
    """`paddock run … > answer.txt` held half an answer of a broken connection, too."""
    shown = Shown()
    shown.screen.are_words_kept = True
    shown.preview("Hullo", 0)
    shown.preview("", 0, channel="reset")
    shown.preview("Hel", 0)
    shown.message("Hello")
    assert shown.words.getvalue() == "Hello\n"


def test_an_answer_without_a_word_is_told() -> None:
    shown = Shown()
    shown.message("")
    assert shown.words.getvalue() == ""
    assert "without a word" in shown.notes.getvalue()


def test_a_message_without_previews_is_printed_whole() -> None:
    shown = Shown()
    shown.message("Hello")
    assert shown.words.getvalue() == "Hello\n"


def test_thinking_is_not_among_the_words() -> None:
    shown = Shown()
    shown.preview("hm", 0, channel="thinking")
    shown.message("Hello")
    assert shown.words.getvalue() == "Hello\n"


def test_a_call_that_fails_says_how() -> None:
    shown = Shown()
    shown.event(
        ToolCallRequested(
            operation_id=OPERATION,
            tool_call_id=CALL,
            tool="bash",
            arguments={"command": "make"},
            arguments_digest="",
        )
    )
    shown.event(ToolCallStarted(operation_id=OPERATION, tool_call_id=CALL))
    shown.event(
        ToolCallFinished(
            operation_id=OPERATION, tool_call_id=CALL, status="error", text="no rule", exit_code=2
        )
    )
    assert shown.notes.getvalue() == "● bash make\n✗ error (exit code 2): bash make: no rule\n"
    assert shown.words.getvalue() == ""


def test_a_call_that_nobody_could_be_asked_about_is_counted() -> None:
    shown = Shown()
    shown.event(
        ApprovalDecided(
            operation_id=OPERATION,
            tool_call_id=CALL,
            decision="denied",
            door="policy",
            rule=UNATTENDED,
        )
    )
    assert shown.screen.denied == 1
    assert f"denied ({UNATTENDED})" in shown.notes.getvalue()


def test_p13_subscribers_are_told_of_a_death() -> None:
    shown = Shown()
    shown.event(
        WorkerExited(
            worker_generation=1, ending="crashed", reason="signal", signal=9, action="restarted"
        )
    )
    told = "the session's process died: killed by SIGKILL; is started again\n"
    assert shown.notes.getvalue() == told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[2J\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("over\rwritten", "overwritten"),
        ("line\r\nline", "line\nline"),
        ("bell\x07 back\x08 nul\x00", "bell back nul"),
        ("c1 \x9b31m red", "c1  red"),
        ("right\u202eleft", "rightleft"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("cut \x1b", "cut "),
        ("cut \x1b]0;never ends", "cut "),
        ("Grüße, 世界 👋", "Grüße, 世界 👋"),
    ],
)
def test_f15_text_of_models_and_tools_moves_no_cursor(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_f15_a_sequence_that_comes_in_pieces_moves_no_cursor_either() -> None:
    text = "a\x1b[2Jb\x1b]0;title\x07c\x1b[31md\x9b1me\x1b"
    for cut in range(len(text)):
        shown = Shown()
        shown.preview(text[:cut], 0)
        shown.preview(text[cut:], cut)
        shown.message(text)
        assert shown.words.getvalue() == "abcde\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("echo hi \x1b]; rm -rf ~", r"echo hi \x1b]; rm -rf ~"),
        ("echo \x9b; rm x", r"echo \x9b; rm x"),
        ("rm x\rls", r"rm x\rls"),
        ("right\u202eleft", r"right\u202eleft"),
        ("one\r\ntwo\tthree", "one\ntwo\tthree"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("Grüße, 世界 👋", "Grüße, 世界 👋"),
    ],
)
def test_what_is_to_be_decided_is_shown_whole_and_moves_no_cursor(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_call_on_one_line_hides_no_command_behind_an_escape_or_a_line_end() -> None:
    arguments = {"command": "echo hi \x1b]; rm x\nrm y\n"}
    assert call_line("bash", arguments) == r"bash echo hi \x1b]; rm x ⏎ rm y"


def test_one_line_is_one_line() -> None:
    assert one_line("a\n  b\tc" + "d" * 50, 10) == "a b cdddd…"


def test_values_of_every_kind_become_json() -> None:
    value = {
        "at": datetime(2026, 5, 1, 12, 0, tzinfo=UTC),
        "cost": Decimal("0.25"),
        "bytes": b"\x01",
        "many": (1, 2),
        "big": 2**63,
        "lone": "\ud800",
    }
    assert json_of(value) == (
        '{"at": "2026-05-01T12:00:00Z", "cost": 0.25, "bytes": "01", "many": [1, 2], '
        '"big": 9223372036854775808, "lone": "\ufffd"}'
    )


def test_the_output_of_a_call_shows_line_by_line_as_it_comes() -> None:
    shown = Shown()
    shown.preview("one\ntw", 0, channel="output")
    assert shown.notes.getvalue() == "│ one\n"
    shown.preview("o\n", 6, channel="output")
    assert shown.notes.getvalue() == "│ one\n│ two\n"
    assert shown.words.getvalue() == ""


def test_f4_a_flood_of_output_shows_its_last_lines_and_f15_nothing_unclean() -> None:
    shown = Shown()
    shown.preview("".join(f"line {n}\n" for n in range(1000)), 0, channel="output")
    shown.preview("\x1b[2Jred\n", 9000, channel="output")
    lines = shown.notes.getvalue().splitlines()
    assert lines[0] == "│ … 980 lines …"
    assert lines[-2:] == ["│ line 999", "│ red"]
    assert "\x1b" not in shown.notes.getvalue()


def test_what_is_shown_while_a_prompt_stands_begins_on_a_line_of_its_own() -> None:
    shown = Shown()
    shown.screen.prompt("yes or no: ")
    shown.screen.note("it died")
    assert shown.notes.getvalue() == "yes or no: \nit died\n"
    shown.screen.prompt("again: ")
    shown.screen.typed()
    shown.screen.note("so be it")
    assert shown.notes.getvalue().endswith("again: so be it\n")
    shown.screen.prompt("and: ")
    shown.message("Hello")
    assert shown.notes.getvalue().endswith("and: \n")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (" Y ", ("once", None)),
        ("always", ("always", None)),
        ("n", ("deny", None)),
        ("no, not that", ("deny", "not that")),
        ("N: use the other", ("deny", "use the other")),
        ("yes please", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_a_line_names_a_choice_and_a_refusal_its_reason(
    line: str, answer: tuple[str, str | None] | None
) -> None:
    assert answer_of(line) == answer
