"""Asking the person at the terminal: one approval at a time, the oldest first (A3).

Lines are read by the loop itself, never by a thread that would hang on after Ctrl-C. A question
that somebody else answers meanwhile is withdrawn, and what was typed for it answers no other.
"""

import asyncio
import os
import sys
import termios
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from paddock.client.feed import Previewed, Told
from paddock.client.session import Session
from paddock.session_worker.errors import NothingToDecide
from paddock.store.errors import PaddockError
from paddock.store.events import (
    ApprovalDecided,
    ApprovalRequested,
    OperationCancelled,
    OperationCompleted,
    OperationFailed,
    OperationInterrupted,
    Stored,
    ToolCallRequested,
)
from paddock.store.ids import ApprovalId
from paddock.supervisor.cli.printing import call_line, one_line, visible
from paddock.supervisor.cli.screen import Screen

type Choice = Literal["once", "always", "deny"]

CHOICES: dict[str, Choice] = {
    "y": "once",
    "yes": "once",
    "a": "always",
    "always": "always",
    "n": "deny",
    "no": "deny",
}


def answer_of(line: str) -> tuple[Choice, str | None] | None:
    """Return the choice that a line names, and the reason of a refusal; None if it names none."""
    word, _, reason = line.strip().partition(" ")
    choice = CHOICES.get(word.lower().rstrip(",:"))
    if choice is None or (reason and choice != "deny"):
        return None
    return choice, reason.strip() or None


@dataclass(frozen=True, slots=True)
class Question:
    """An open approval, with the call that it is about."""

    approval_id: ApprovalId
    operation_id: str
    tool: str
    arguments: dict[str, object]


class Lines:
    """Lines typed at a terminal, handed to a function as they come."""

    def __init__(self, take: Callable[[str], None], *, at_end: Callable[[], None]) -> None:
        self._take = take
        self._at_end = at_end
        self._rest = b""
        self.is_open = True
        self._loop = asyncio.get_running_loop()
        self._descriptor = sys.stdin.fileno()
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Read no more."""
        self.is_open = False
        self._loop.remove_reader(self._descriptor)

    def forget(self) -> None:
        """Throw away what was typed and is not handed out yet."""
        if self.is_open:
            termios.tcflush(self._descriptor, termios.TCIFLUSH)
            self._rest = b""

    def _read(self) -> None:
        data = os.read(self._descriptor, 65536)
        if not data:
            self.close()
            self._at_end()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode("utf-8", "replace"))


class Asker:
    """Keeps the open questions of a session and asks them one after another."""

    def __init__(
        self,
        session: Session,
        screen: Screen,
        *,
        otherwise: Callable[[str], Awaitable[None]] | None = None,
        at_end: Callable[[], object] | None = None,
    ) -> None:
        self._session = session
        self._screen = screen
        self._otherwise = otherwise
        self._at_end = at_end
        self._calls: dict[str, tuple[str, dict[str, object]]] = {}
        self._open: OrderedDict[str, Question] = OrderedDict()
        self._asked: str | None = None
        self._answered: set[str] = set()
        self._is_due = False
        """Whether something happened since a question was put last."""
        self._answering: set[asyncio.Task[None]] = set()
        self._lines = Lines(self._line, at_end=self._ended)

    def close(self) -> None:
        """Ask no more."""
        self._lines.close()
        for task in self._answering:
            task.cancel()

    def take(self, told: Told) -> None:
        """See what is told of the session: questions come and go."""
        self._is_due = self._is_due or not isinstance(told, Previewed)
        if not isinstance(told, Stored):
            return
        event = told.event
        match event:
            case ToolCallRequested():
                self._calls[event.tool_call_id] = (event.tool, dict(event.arguments))
            case ApprovalRequested():
                tool, arguments = self._calls.get(event.tool_call_id, ("a tool", {}))
                question = Question(event.approval_id, event.operation_id, tool, arguments)
                self._open[event.approval_id] = question
            case ApprovalDecided() if event.approval_id is not None:
                if self._asked == event.approval_id and self._asked not in self._answered:
                    self._lines.forget()
                    self._screen.note(f"that was decided elsewhere: {event.decision}")
                self._withdraw(event.approval_id)
            case (
                OperationCompleted()
                | OperationFailed()
                | OperationCancelled()
                | OperationInterrupted()
            ):
                for question in list(self._open.values()):
                    if question.operation_id == event.operation_id:
                        self._withdraw(question.approval_id)
            case _:
                return

    def ask(self) -> None:
        """Put the oldest open question, if none is put; called when all that was told is shown.

        One that is put already is put again below what happened since.
        """
        if self._asked is None and self._open:
            question = next(iter(self._open.values()))
            self._asked = question.approval_id
            self._put(question)
        elif self._is_due and self._lines.is_open and not self._screen.is_prompted:
            self._put_again()
        self._is_due = False

    # --- inside ---

    def _put(self, question: Question) -> None:
        self._screen.end_line()
        print(f"\nMay it run {visible(question.tool)}?", file=sys.stderr)
        for name, value in question.arguments.items():
            text = visible(value) if isinstance(value, str) else one_line(repr(value), 2000)
            print("  " + f"{visible(name)}: {text}".replace("\n", "\n    "), file=sys.stderr)
        if self._lines.is_open:
            self._prompt(question)
        else:
            self._screen.note(f"answer with `paddock approve {question.approval_id}`")

    def _put_again(self) -> None:
        question = self._open.get(self._asked or "")
        if question is not None and question.approval_id not in self._answered:
            self._screen.note(f"May it run {call_line(question.tool, question.arguments)}?", "0")
            self._prompt(question)

    def _prompt(self, question: Question) -> None:
        tool = visible(question.tool)
        self._screen.prompt(f"[y]es, [a]lways {tool} in this session, n and why, or [n]o: ")

    def _withdraw(self, approval_id: str) -> None:
        self._open.pop(approval_id, None)
        if self._asked == approval_id:
            self._asked = None

    def _line(self, line: str) -> None:
        self._screen.typed()
        question = self._open.get(self._asked or "")
        if question is None:
            if self._otherwise is not None and line.strip():
                self._begin(self._otherwise(line))
            return
        if question.approval_id in self._answered:
            return
        answer = answer_of(line)
        if answer is None:
            self._screen.prompt("y, a or n: ")
            return
        self._answered.add(question.approval_id)
        self._begin(self._decide(question, *answer))

    async def _decide(self, question: Question, choice: Choice, reason: str | None) -> None:
        try:
            await self._session.decide(
                question.approval_id,
                "denied" if choice == "deny" else "allowed",
                scope="tool" if choice == "always" else "once",
                note=reason,
                door="cli",
            )
        except NothingToDecide:
            self._screen.note("that was decided elsewhere")
            self._withdraw(question.approval_id)
        except PaddockError as error:
            self._screen.note(error.message, "31")
            self._answered.discard(question.approval_id)
            self._put_again()

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._answering.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._answering.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._screen.note(str(error), "31")

    def _ended(self) -> None:
        if self._at_end is not None:
            self._at_end()
            return
        which = f" {self._asked}" if self._asked is not None else ""
        self._screen.note(f"the terminal's input ended; answer with `paddock approve{which}`")
