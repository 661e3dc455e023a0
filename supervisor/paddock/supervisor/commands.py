"""The commands on their way to one session: who waits, who is in delivery, who must be told.

One command is in delivery at a time, until its answer; interrupts, decisions and removals pass by
(DESIGN §6). What is in delivery when a worker dies is handed to the next one: the ledger of the
session knows a command by its id and answers it once, however often it is handed over.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from paddock.session_worker.commands import digest_of_words
from paddock.session_worker.protocol import PASSING_BY, Command
from paddock.store.errors import AlreadyExists
from paddock.store.ids import CommandId
from paddock.supervisor.errors import TooManyWaiting

WAITING_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Ticket:
    """Who asked, and which of his requests it was: where an answer goes."""

    client: bytes
    request_id: int


@dataclass(slots=True)
class Pending:
    """A command that has no answer yet. Without ``command`` it was accepted before our time."""

    command_id: CommandId
    command: Command | None
    tickets: list[Ticket] = field(default_factory=list)
    accepted_at: int | None = None
    """The sequence of its acceptance."""

    @property
    def passes_by(self) -> bool:
        """Whether it is handed over although another one is in delivery."""
        return self.command is not None and self.command.verb in PASSING_BY


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A command that a worker may have answered, and its words, where they are known here."""

    command_id: CommandId
    command: Command | None = None


class Queue:
    """The commands of one session that have no answer yet, oldest first."""

    def __init__(self, limit: int = WAITING_LIMIT) -> None:
        self.limit = limit
        self._waiting: dict[CommandId, Pending] = {}
        self._delivered: dict[CommandId, Pending] = {}

    @property
    def waiting(self) -> int:
        """How many were not handed over yet."""
        return len(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether every command has its answer."""
        return not self._waiting and not self._delivered

    def knows(self, command_id: CommandId) -> bool:
        """Whether a command is here, and has no answer yet."""
        return command_id in self._waiting or command_id in self._delivered

    def in_delivery(self) -> tuple[CommandId, ...]:
        """Return the ids of those handed over and not accepted yet."""
        return tuple(
            pending.command_id
            for pending in self._delivered.values()
            if pending.accepted_at is None and pending.command is not None
        )

    def unsettled(self) -> tuple[Unsettled, ...]:
        """Return all that a worker may have answered: those that were handed over once.

        One that waits was, too, where somebody asked for it anew that an earlier supervisor knew.
        """
        everything = (*self._delivered.values(), *self._waiting.values())
        return tuple(Unsettled(pending.command_id, pending.command) for pending in everything)

    def add(self, command: Command, ticket: Ticket | None) -> Pending:
        """Take a command in; one that is here already gets one more who is told.

        Raises:
            TooManyWaiting: As many wait as may. The caller's fault.
            AlreadyExists: The id is here with another payload. The caller's fault.
        """
        known = self._waiting.get(command.command_id) or self._delivered.get(command.command_id)
        if known is not None:
            _assert_same(known, command)
            if known.command is None:
                # Only the worker knows where it was accepted: handed over again, it says so.
                known.command, known.accepted_at = command, None
                del self._delivered[command.command_id]
                self._waiting = {command.command_id: known, **self._waiting}
            if ticket is not None and ticket not in known.tickets:
                known.tickets.append(ticket)
            return known
        pending = Pending(command.command_id, command, [] if ticket is None else [ticket])
        ahead = self._ahead_of(pending)
        if ahead >= self.limit:
            message = (
                f"{ahead} commands wait for this session already: "
                "wait for answers before sending more"
            )
            raise TooManyWaiting(message, waiting=ahead, limit=self.limit)
        self._waiting[command.command_id] = pending
        return pending

    def _ahead_of(self, pending: Pending) -> int:
        """Return how many count against the bound: of those that pass by, all without an answer.

        They are bounded by themselves, so that a session with a full queue can be interrupted.
        """
        if pending.passes_by:
            everything = [*self._waiting.values(), *self._delivered.values()]
            return sum(each.passes_by for each in everything)
        return sum(not each.passes_by for each in self._waiting.values())

    def hand_over(self) -> list[Command]:
        """Return what is to be delivered now, and count it as delivered."""
        is_free = all(pending.passes_by for pending in self._delivered.values())
        ready: list[Command] = []
        for pending in list(self._waiting.values()):
            if pending.command is None or not (pending.passes_by or is_free):
                continue
            is_free = is_free and pending.passes_by
            del self._waiting[pending.command_id]
            self._delivered[pending.command_id] = pending
            ready.append(pending.command)
        return ready

    def hand_over_again(self, unanswered: Iterable[CommandId]) -> list[Command]:
        """Return what a new worker (or a new connection of it) is to be handed.

        ``unanswered`` are those that its file knows as accepted. What we had handed over and it
        does not know comes first; those it knows and we do not are kept as a place in the queue, so
        that the next one waits for them.
        """
        for command_id in unanswered:
            if command_id in self._waiting:
                self._delivered[command_id] = self._waiting.pop(command_id)
            elif command_id not in self._delivered:
                self._delivered[command_id] = Pending(command_id, None, accepted_at=0)
        known = set(unanswered)
        for pending in list(self._delivered.values()):
            if pending.command is None and pending.command_id not in known:
                del self._delivered[pending.command_id]
        return self.hand_over_anew()

    def hand_over_anew(self) -> list[Command]:
        """Return all that was handed over and has no answer, and what is next.

        The worker may have heard of it or not: it knows a command by its id.
        """
        again = [p.command for p in self._delivered.values() if p.command is not None]
        return again + self.hand_over()

    def accepted(self, command_id: CommandId, sequence: int, digest: str = "") -> list[Ticket]:
        """Note that it is durable, and return who is to be told (each once).

        ``digest`` as in :meth:`settled`.
        """
        pending = self._delivered.get(command_id)
        if pending is None or not _speaks_of(pending, digest):
            return []
        is_news = pending.accepted_at is None
        pending.accepted_at = sequence
        return list(pending.tickets) if is_news else []

    def settled(self, command_id: CommandId, digest: str = "") -> Pending | None:
        """Take it out, answered; None if it is not known here.

        ``digest`` is that of the words that are answered. Nobody else's are: who said others by the
        same id since is answered for them, once they were handed over.
        """
        for pendings in (self._delivered, self._waiting):
            pending = pendings.get(command_id)
            if pending is not None and _speaks_of(pending, digest):
                return pendings.pop(command_id)
        return None

    def take_waiting(self) -> list[Pending]:
        """Take out and return what was not handed over."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        return waiting

    def empty(self) -> list[Pending]:
        """Take out and return everything: the session takes no command any more."""
        everything = [*self._delivered.values(), *self._waiting.values()]
        self._delivered.clear()
        self._waiting.clear()
        return everything


def _speaks_of(pending: Pending, digest: str) -> bool:
    """Return whether a worker's word is about these words; empty says nothing of them."""
    if not digest or pending.command is None:
        return True
    return digest == digest_of_words(pending.command)


def _assert_same(known: Pending, command: Command) -> None:
    if known.command is None:
        return
    if (known.command.verb, known.command.arguments) != (command.verb, command.arguments):
        message = (
            f"command {command.command_id!r} is on its way with another payload: "
            "make a new id for a new command"
        )
        raise AlreadyExists(message, command_id=command.command_id)
