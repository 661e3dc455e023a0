"""A session as it is read on a terminal: the agent's words on stdout, all else on stderr.

Words stream as previews come; the durable message decides what was said, so that what was lost is
printed from it and what was void is marked. In a file or a pipe no mark would stand beside it: only
words that are durable go there. Nothing of a model or a tool is printed unclean (F15).
"""

import os
import sys
from dataclasses import dataclass, field
from typing import TextIO

from paddock.client.feed import Noticed, Previewed, Told
from paddock.session_worker.approvals import UNATTENDED
from paddock.store.events import (
    ApprovalDecided,
    AssistantMessageAdded,
    AssistantMessageInterrupted,
    FileChanged,
    InputQueued,
    ModelCallFailed,
    OperationCancelled,
    OperationCompleted,
    OperationFailed,
    OperationInterrupted,
    SessionFailed,
    SessionSuspended,
    Stored,
    TextPart,
    ToolCallFinished,
    ToolCallPart,
    ToolCallRequested,
    ToolCallStarted,
    UserMessageAdded,
    WorkerExited,
)
from paddock.supervisor.cli.certificate import in_one_line, of_certificate
from paddock.supervisor.cli.printing import call_line, clean, one_line, size, split_unfinished

LINES_AT_ONCE = 20
"""Of one preview; a flood is not worth a terminal's time, and the whole is kept."""
LONGEST_HELD = 2000


@dataclass(slots=True)
class _Line:
    """What of one message stands on the screen already."""

    text: str = ""
    held: str = ""
    """The beginning of an escape sequence whose end has not come yet."""
    is_void: bool = False


@dataclass(slots=True)
class Screen:
    """Prints what is told of a session; give it everything, in order."""

    words: TextIO = field(default_factory=lambda: sys.stdout)
    notes: TextIO = field(default_factory=lambda: sys.stderr)
    shows_users: bool = False
    """Whether users' messages are printed as well: not where the user just typed them."""
    are_words_kept: bool = False
    """Whether words go to a file or a pipe, from which nothing can be taken back."""
    _lines: dict[str, _Line] = field(default_factory=dict)
    _calls: dict[str, ToolCallRequested] = field(default_factory=dict)
    _is_in_line: bool = False
    is_prompted: bool = False
    """Whether a prompt stands on the last line, and what is typed behind it."""
    denied: int = 0
    """How many calls were denied by a rule or policy, with nobody asked."""

    def show(self, told: Told) -> None:
        """Print one thing."""
        match told:
            case Previewed():
                self._preview(told)
            case Stored():
                self._event(told)
            case Noticed(what="damaged"):
                self.note(f"the session's file is damaged: {told.detail}", "31")
            case Noticed(what="memory"):
                used, limit = (told.detail.get(f"{name}_bytes") for name in ("used", "limit"))
                if isinstance(used, int) and isinstance(limit, int):
                    near = f"{size(used)} of {size(limit)}: above that it is ended and started anew"
                    self.note(f"the session runs out of memory: {near}", "33")
            case Noticed(what="ended", detail={"reason": "host_gone", "text": text}):
                self.note(f"{text}; connecting again", "33")
            case Noticed():
                pass

    def count(self, stored: Stored) -> None:
        """Notice, without printing, what is said at the end: the calls that nobody could allow."""
        event = stored.event
        if isinstance(event, ApprovalDecided) and _is_denied_unasked(event):
            self.denied += 1

    def note(self, text: str, colour: str = "2") -> None:
        """Print a line beside the agent's words."""
        self.end_line()
        line = one_line(text, 300)
        if self.notes.isatty() and not os.environ.get("NO_COLOR"):
            line = f"\x1b[{colour}m{line}\x1b[0m"
        print(line, file=self.notes, flush=True)

    def prompt(self, text: str) -> None:
        """Print what is answered behind it, on the same line."""
        self.end_line()
        print(text, end="", file=self.notes, flush=True)
        self.is_prompted = True

    def typed(self) -> None:
        """Learn that the terminal's echo ended the line of a prompt."""
        self.is_prompted = False

    def end_line(self) -> None:
        """Come to the start of a line."""
        if self._is_in_line:
            print(file=self.words, flush=True)
            self._is_in_line = False
        if self.is_prompted:
            print(file=self.notes, flush=True)
            self.is_prompted = False

    # --- inside ---

    def _preview(self, told: Previewed) -> None:
        if told.channel == "reset":
            self._void(told.message_id)
            return
        if told.channel == "output":
            self._output(told)
        if told.channel != "text" or self.are_words_kept:
            return
        line = self._lines.setdefault(told.message_id, _Line())
        if line.is_void:
            line.text, line.held, line.is_void = "", "", False
        if told.offset <= len(line.text):  # else a piece is lost: the message itself will tell
            self._write(line, told.text[len(line.text) - told.offset :])

    def _output(self, told: Previewed) -> None:
        """Print what a tool writes as it comes, whole lines at a time, indented below its call."""
        line = self._lines.setdefault(told.message_id, _Line())
        *lines, line.held = (line.held + told.text).split("\n")
        if len(line.held) > LONGEST_HELD:
            lines, line.held = [*lines, line.held], ""
        hidden = len(lines) - LINES_AT_ONCE
        if hidden > 0:
            lines = [f"… {hidden} lines …", *lines[-LINES_AT_ONCE:]]
        for one in lines:
            if one.strip():
                self.note(f"│ {one}")

    def _void(self, message_id: str) -> None:
        line = self._lines.get(message_id)
        if line is not None and line.text and not line.is_void:
            line.is_void = True
            self.note("… (that answer was cut off; it begins again)")

    def _write(self, line: _Line, text: str, *, is_all: bool = False) -> None:
        line.text += text
        ready, line.held = split_unfinished(line.held + text)
        if is_all:
            ready, line.held = ready + line.held, ""
        if shown := clean(ready):
            if self.is_prompted:
                self.end_line()
            print(shown, end="", file=self.words, flush=True)
            self._is_in_line = not shown.endswith("\n")

    def _message(self, event: AssistantMessageAdded) -> None:
        text = "".join(part.text for part in event.parts if isinstance(part, TextPart))
        line = self._lines.pop(event.message_id, _Line())
        if line.is_void or not text.startswith(line.text):
            self.end_line()
            line = _Line()
        self._write(line, text[len(line.text) :], is_all=True)
        self.end_line()
        if event.finish_reason in _CUT:
            self.note(f"… ({_CUT[event.finish_reason]})", "33")
        elif _is_silent(event, text):
            self.note("… (the model ended its turn without a word)", "33")

    def _event(self, stored: Stored) -> None:
        event = stored.event
        match event:
            case UserMessageAdded() if self.shows_users:
                text = " ".join(part.text for part in event.parts if isinstance(part, TextPart))
                self.note(f"> {text}", "1")
            case AssistantMessageAdded():
                self._message(event)
            case AssistantMessageInterrupted():
                self._lines.pop(event.message_id, None)
                self.note(f"… (the answer was cut off: {event.reason})")
            case ToolCallRequested():
                self._calls[event.tool_call_id] = event
            case ToolCallStarted():
                self.note(f"● {self._called(event.tool_call_id)}")
            case ToolCallFinished():
                self._finished(event)
            case ApprovalDecided() if _is_denied_unasked(event):
                self.count(stored)
                why = f" ({event.rule})" if event.rule else ""
                self.note(f"✗ denied{why}: {self._called(event.tool_call_id)}", "33")
            case _:
                self._turn_of_life(stored)

    def _finished(self, event: ToolCallFinished) -> None:
        call = self._called(event.tool_call_id)
        self._calls.pop(event.tool_call_id, None)
        if event.status == "ok":
            return
        if event.status == "denied":
            return
        detail = event.error or next(iter(event.text.strip().splitlines()), "")
        code = f" (exit code {event.exit_code})" if event.exit_code else ""
        self.note(f"✗ {event.status}{code}: {call}{': ' + detail if detail else ''}", "33")

    def _called(self, call_id: str) -> str:
        call = self._calls.get(call_id)
        return "a tool" if call is None else call_line(call.tool, call.arguments)

    def _turn_of_life(self, stored: Stored) -> None:
        event = stored.event
        match event:
            case FileChanged():
                self.note(
                    f"  {event.change} {event.path} +{event.lines_added}-{event.lines_removed}"
                )
            case InputQueued():
                self.note("the session is at work: these words wait for their turn")
            case ModelCallFailed():
                again = (
                    f"; asked again in {event.retry_in_ms / 1000:.1f} s"
                    if event.retry_in_ms is not None
                    else ""
                )
                self.note(f"the model failed: {event.error}{again}", "33")
            case WorkerExited(ending="crashed"):
                self._lines.clear()
                arguments = {one: call.arguments for one, call in self._calls.items()}
                self.note(in_one_line(of_certificate(stored, event, arguments)), "33")
            case SessionFailed():
                self.note(f"the session failed: {event.reason}", "31")
            case SessionSuspended() if self.shows_users:
                self.note(f"the session rests ({event.reason})")
            case OperationCompleted() if self.shows_users:
                self.note("— done")
            case OperationFailed():
                where = "; `paddock logs` tells where" if event.error_kind == "agent_error" else ""
                self.note(f"the operation failed: {event.error}{where}", "31")
            case OperationCancelled():
                self.note(f"the operation was cancelled ({event.reason})", "33")
            case OperationInterrupted():
                self.note(f"the operation was interrupted: {event.reason}", "31")
            case _:
                pass


_CUT = {
    "length": "the answer ends here, at the model's limit of tokens; ask it to go on",
    "content_filter": "the answer ends here: the model refused to go on, or a filter cut it off",
}
"""What to say of an answer that is not whole, by why it ended: its words alone do not show it."""


def _is_silent(event: AssistantMessageAdded, text: str) -> bool:
    """Whether a model had nothing to say; a script's last turn may well be empty."""
    has_call = any(isinstance(part, ToolCallPart) for part in event.parts)
    return not text.strip() and not has_call and event.provider != "script"


def _is_denied_unasked(event: ApprovalDecided) -> bool:
    """Whether nobody was there to be asked; a call of no use is denied as well, asked or not."""
    return event.decision == "denied" and event.rule == UNATTENDED
