"""The state of one session's worker's life, and the small moves that its transitions are made of.

Pure. Who moves when stands in ``machine``; the moves of one kind are in ``arriving``, ``living``,
``leaving`` and ``dying``.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from paddock.session_worker.errors import Busy
from paddock.session_worker.protocol import Command, Settled
from paddock.session_worker.protocol import Stage as WorkerStage
from paddock.store.errors import PaddockError, Refused, SessionNotFound
from paddock.store.ids import CommandId, OperationId, SessionId
from paddock.supervisor.commands import Queue, Ticket
from paddock.supervisor.errors import OwnerStuck, SessionFailed
from paddock.supervisor.stimuli import (
    AskToLeave,
    Buried,
    Bury,
    Commanded,
    DeleteAsked,
    Deliver,
    Effect,
    GiveBackRoom,
    Greeted,
    Kill,
    LeaveAsked,
    Notify,
    Reply,
    ReplyError,
    SeekRoom,
    Spawn,
    Stage,
    Stayed,
    TellSettled,
)

KILL_WAIT_SECONDS = 5.0
"""A killed process that is not dead after this sits in the kernel (a hung disk, say)."""
STUCK_RETRY_SECONDS = 5.0
START_AGAIN_SECONDS = 30.0
"""A host that cannot fork, or is full, gets time before what it owes a start is tried again."""
RIVALS = 64
"""Other deletions that wait to hear which of them it was; the next one is told to ask again."""
BEAT_CHECKS = 6
"""A hang is so many checks in a row without a beat, not wall time: a closed lid is one check."""
LEAVE_SHARE = 0.7
"""Of a deadline the worker is told this much; the rest is for killing it and proving it dead."""
KILL_SHARE = 0.85
GREETS_WITHIN_SECONDS = 30.0
"""A worker that nobody answers greets anew every 5 s (``session_worker.link``)."""
STORY_LENGTH = 40
WARN_SHARE = 0.8
"""Of its memory limit: from here on a session is warned, once."""
CALM_SHARE = 0.7
"""Below it the warning is over, and the next one is news again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what, in seconds."""

    start_seconds: float = 30.0
    fork_seconds: float = 60.0
    """Of a host that has no zygote at the moment; a start is judged from its process on."""
    room_seconds: float = 30.0
    hang_after_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of a life, for its story."""

    at: float
    stimulus: str
    before: Stage
    after: Stage
    effects: tuple[str, ...]

    def __str__(self) -> str:
        arrow = self.before if self.before == self.after else f"{self.before}→{self.after}"
        return f"{self.at:.3f} {self.stimulus}: {arrow} {' '.join(self.effects)}".rstrip()


_WITH_PROCESS = frozenset(
    {Stage.STARTING, Stage.LIVE, Stage.NEEDS_CREDENTIALS, Stage.SUSPENDING, Stage.STUCK}
)


class Life:
    """Where the life of one session's worker stands; only ``machine.step`` changes it."""

    def __init__(self, session_id: SessionId, patience: Patience, *, head: int = 0) -> None:
        self.session_id = session_id
        self.stage = Stage.COLD
        self.queue = Queue()
        self.story: deque[Transition] = deque(maxlen=STORY_LENGTH)
        self.deadline: float | None = None
        """When ``TimerFired`` is due."""
        self.head = head
        self.start = 0
        self.generation: int | None = None
        self.pid: int | None = None
        self.worker_stage: WorkerStage | None = None
        self.operation_id: OperationId | None = None
        self.peak_rss_bytes: int | None = None
        self.is_over = False
        """Whether it was above its limit, tools included, at the last look."""
        self.memory_limit_bytes: int | None = None
        """Above it the worker is killed."""
        self.memory_bytes: int | None = None
        """What it and its tools use, as last summed up."""
        self.is_warned = False
        """Whether it was told that it comes near its limit."""
        self.last_active_at = 0.0
        self.error: PaddockError | None = None
        """Why it is stuck or failed."""
        self.fault: PaddockError | None = None
        """Why its worker can write nothing at the moment."""
        self.patience = patience
        self.effects: list[Effect] = []
        self.has_room = self.is_wanted = self.reset = False
        self.why = ""
        self.cause: str | None = None
        """Why we killed it."""
        self.missed_beats = 0
        self.has_beaten = False
        self.leaving: LeaveAsked | None = None
        self.deletion: DeleteAsked | None = None
        self.rivals: list[DeleteAsked] = []  # asked after it: an earlier host may have begun one
        self.deleted_by: CommandId | None = None  # as its log says
        self.waiting_up: list[Ticket] = []  # who waits for it to be live
        self.waiting_gone: list[Ticket] = []  # and for it to be gone
        self.was_live = False
        self.owes_start = False
        """Whether it was cut off and is started again, whoever waits or not."""
        self.is_found = False
        """Whether this death was found, not seen."""
        self.is_buried_as_asked = self.is_buried_to_delete = False
        """Whether the present burial began after it was asked to leave, or to be deleted."""
        self.owes_news = False
        """Whether subscribers were not told yet of the last death."""

    # --- what others ask ---

    @property
    def has_process(self) -> bool:
        """Whether a worker may be there."""
        return self.stage in _WITH_PROCESS

    @property
    def is_live(self) -> bool:
        """Whether its worker is there and takes commands."""
        return self.stage in {Stage.LIVE, Stage.NEEDS_CREDENTIALS}

    def awaits(self, start: int) -> bool:
        """Whether the process of that start is wanted still."""
        return self.stage is Stage.STARTING and self.start == start and self.cause is None

    @property
    def is_at_rest(self) -> bool:
        """Whether it is live with nothing to do but wait: it may be suspended unnoticed."""
        return (
            self.is_live
            and self.queue.is_empty
            and self.worker_stage in {"resting", "waiting", "needs_credentials"}
        )

    # --- coming to life ---

    def enqueue(self, stimulus: Commanded) -> bool:
        """Put a command into the queue; return whether it is there."""
        self.last_active_at = stimulus.at
        if self.deletion is not None:
            self.refuse(stimulus.ticket, was_deleted(self.session_id))
            return False
        try:
            pending = self.queue.add(stimulus.command, stimulus.ticket)
        except Refused as error:
            self.refuse(stimulus.ticket, error)
            return False
        if pending.accepted_at and stimulus.ticket is not None:
            result = {"command_id": pending.command_id, "sequence": pending.accepted_at}
            self.reply(stimulus.ticket, result)
        return True

    def seek_or_spawn(self, at: float) -> None:
        """Start it, after getting it a room if it has none."""
        if self.has_room:
            self.spawn(at)
            return
        self.stage = Stage.SEEKING
        self.deadline = at + self.patience.room_seconds
        self.do(SeekRoom())

    def spawn(self, at: float) -> None:
        """Have a worker started."""
        self.begin_start(at, self.patience.fork_seconds)
        self.do(Spawn(self.start, self.why, self.reset))

    def begin_start(self, at: float, patience_seconds: float) -> None:
        """Number a new start and forget the last worker."""
        self.stage = Stage.STARTING
        self.start += 1
        self.deadline = at + patience_seconds
        self.generation = self.pid = self.worker_stage = self.operation_id = None
        self.peak_rss_bytes = self.memory_bytes = self.error = self.cause = self.fault = None
        self.is_warned = self.is_over = False
        self.was_live = False

    def note_greeting(self, stimulus: Greeted) -> None:
        """Take over what a Hello says."""
        self.generation, self.pid, self.head = stimulus.generation, stimulus.pid, stimulus.head
        self.worker_stage, self.operation_id = stimulus.stage, stimulus.operation_id
        self.last_active_at = stimulus.at
        self.was_live = self.has_beaten = True

    def be_live(self, at: float) -> None:
        """Take commands, and watch the beat, from now on."""
        needs = self.worker_stage == "needs_credentials"
        self.stage = Stage.NEEDS_CREDENTIALS if needs else Stage.LIVE
        self.missed_beats = 0  # a worker that greets or answers is well
        self.deadline = at + self.patience.hang_after_seconds / BEAT_CHECKS

    # --- leaving ---

    def ask_to_leave(self, asked: LeaveAsked, at: float) -> None:
        """Have the worker asked to leave; most of the deadline is its own."""
        self.stage = Stage.SUSPENDING
        self.leaving = asked
        self.is_wanted = False
        self.deadline = at + asked.deadline_seconds * KILL_SHARE
        self.do(AskToLeave(asked.reason, asked.deadline_seconds * LEAVE_SHARE, asked.force))

    def stay(self, reason: str, ticket: Ticket | None) -> None:
        """Tell that it stays, and why."""
        message = f"session {self.session_id!r} is at work ({reason}): wait, or use force"
        self.refuse(ticket, Busy(message, session_id=self.session_id))
        self.do(Stayed())

    def note_deletion(self, stimulus: DeleteAsked) -> None:
        """Remember who deletes it; from here on it takes no command."""
        if self.deletion is not None and self.deletion.command != stimulus.command:
            if len(self.rivals) < RIVALS:
                self.rivals.append(stimulus)  # its log will tell which of them it was
            else:
                self.refuse(stimulus.ticket, Busy("it is being deleted already; ask again"))
            return
        self.deletion = stimulus
        if stimulus.ticket is not None:
            self.waiting_gone.append(stimulus.ticket)
        # What its worker was handed it may have answered, or answers yet: the burial knows.
        self.refuse_waiting_up(was_deleted(self.session_id))
        self.refuse_waiting(was_deleted(self.session_id))

    # --- dying ---

    def bury(self, at: float) -> None:
        """Have the dead worker buried; nothing starts before that is over."""
        is_asked = self.leaving is not None or self.deletion is not None
        self.is_buried_as_asked = is_asked
        self.is_buried_to_delete = self.deletion is not None
        self.last_active_at = at
        self.stage = Stage.BURYING
        self.deadline = None
        self.do(
            Bury(
                start=self.start,
                pid=self.pid,
                generation=self.generation,
                cause=self.cause,
                is_asked=is_asked,
                last_stage=self.worker_stage if self.was_live else "starting",
                peak_rss_bytes=self.peak_rss_bytes,
                in_delivery=self.queue.in_delivery(),
                delete=None if self.deletion is None else self.deletion.command,
                is_found=self.is_found,
                leave_reason=self._leave_reason(),
                unsettled=self.queue.unsettled(),
            )
        )

    def _leave_reason(self) -> str | None:
        asked = self.leaving
        return None if asked is None or asked.is_own else asked.reason

    def start_again(self, stimulus: Buried) -> None:
        """Start the next worker, now or after a pause."""
        self.why = self.why if self.is_wanted else f"restart after {stimulus.reason}"
        self.owes_start = True
        if self.has_room:
            self.do(Stayed())  # it left to make room, and is wanted again: another must make it
        seconds = stimulus.restart_seconds or 0.0
        if seconds > 0:
            self.stage = Stage.BACKING_OFF
            self.deadline = stimulus.at + seconds
        else:
            self.seek_or_spawn(stimulus.at)

    def kill(self, at: float, cause: str, *, wants_stacks: bool = False) -> None:
        """Have the process ended; the first cause counts."""
        self.cause = self.cause or cause
        self.deadline = at + KILL_WAIT_SECONDS
        self.do(Kill(self.start, self.cause, wants_stacks))

    # --- ways to end ---

    def rest(self) -> None:
        """Be at rest, without a process and without a room."""
        self.stage = Stage.COLD
        self.deadline = None
        self.is_wanted = self.reset = self.owes_start = self.is_found = False
        self.leaving = self.fault = None
        self.worker_stage = self.operation_id = None
        self.return_room()

    def rest_as_before(self) -> None:
        """No start came of it: a failed session is as failed as it was."""
        self.rest()
        if self.error is not None:
            self.stage = Stage.FAILED

    def return_room(self) -> None:
        """Give its room, or its place in the line, back."""
        # Also from a place in the line, which is why it does not depend on having one.
        self.has_room = False
        self.do(GiveBackRoom())

    def fail(self, error: PaddockError) -> None:
        """Be left down until a reset."""
        self.rest()
        self.stage = Stage.FAILED
        self.error = error
        self.do(Notify("failed", {"reason": error.message, "code": error.code}))
        self.refuse_all(error)

    def end(self, deleted_by: CommandId) -> None:
        """Be deleted by the command of that id; another that asked for it was too late."""
        self.rest()
        self.stage, self.deleted_by = Stage.DELETED, deleted_by
        self.refuse_all(was_deleted(self.session_id))
        rivals, self.rivals = self.rivals, []
        for rival in rivals:
            self.tell_deleted(rival)
        if self.deletion is None or self.deletion.command.command_id == deleted_by:
            self.tell_gone({"deleted": True})
        else:
            self.tell_gone_error(was_deleted(self.session_id))
        self.do(Notify("deleted", {}))

    def tell_deleted(self, asked: DeleteAsked) -> None:
        """Answer a deletion of what is deleted: done if it was that one, else not found."""
        if asked.command.command_id != self.deleted_by:
            self.refuse(asked.ticket, was_deleted(self.session_id))
        elif asked.ticket is not None:
            self.reply(asked.ticket, {"deleted": True})

    def be_stuck(self, at: float, error: PaddockError | None = None) -> None:
        """Wait until whoever holds the session is gone; start nothing."""
        if error is None:
            message = f"process {self.pid} of session {self.session_id!r} does not end"
            error = OwnerStuck(message, pid=self.pid, state="killed", session_id=self.session_id)
        self.stage, self.error = Stage.STUCK, error
        self.deadline = at + STUCK_RETRY_SECONDS
        self.refuse_all(error)
        self.tell_gone_error(error)

    def failure(self) -> PaddockError:
        """Return why it is down."""
        return self.error or is_left_down(self.session_id, "unknown")

    # --- telling ---

    def do(self, effect: Effect) -> None:
        """Want something done."""
        self.effects.append(effect)

    def deliver(self, commands: Iterable[Command]) -> None:
        """Hand commands to the worker."""
        for command in commands:
            self.do(Deliver(command))

    def reply(self, ticket: Ticket, result: Mapping[str, object]) -> None:
        """Answer a request."""
        self.do(Reply(ticket, dict(result)))

    def refuse(self, ticket: Ticket | None, error: PaddockError) -> None:
        """Refuse a request, if somebody waits for it."""
        if ticket is not None:
            self.do(ReplyError(ticket, error))

    def settle(self, answer: Settled) -> None:
        """Tell who asked for a command how it was answered; nothing if nobody did."""
        pending = self.queue.settled(answer.command_id, answer.digest)
        if pending is None:
            return
        if pending.accepted_at is None:  # its Accepted was lost with a connection
            result = {"command_id": pending.command_id, "sequence": answer.sequence}
            for ticket in pending.tickets:
                self.reply(ticket, result)
        self.do(TellSettled(tuple(pending.tickets), answer))

    def refuse_all(self, error: PaddockError) -> None:
        """Tell all who wait for it to be live, and all whose command has no answer.

        Of a command that was accepted this is no answer, only the end of waiting for one: asked for
        again by the same id it is told what became of it.
        """
        self.refuse_waiting_up(error)
        for pending in self.queue.empty():
            for ticket in pending.tickets:
                self.refuse(ticket, error)

    def refuse_waiting_up(self, error: PaddockError) -> None:
        """Tell those who wait for it to be live that it will not be."""
        waiting, self.waiting_up = self.waiting_up, []
        for ticket in waiting:
            self.refuse(ticket, error)

    def refuse_waiting(self, error: PaddockError) -> None:
        """Tell those whose command was not handed over that it will not be."""
        for pending in self.queue.take_waiting():
            for ticket in pending.tickets:
                self.refuse(ticket, error)

    def tell_gone(self, result: Mapping[str, object]) -> None:
        """Answer those who wait for it to be gone."""
        waiting, self.waiting_gone = self.waiting_gone, []
        for ticket in waiting:
            self.reply(ticket, result)

    def tell_gone_error(self, error: PaddockError) -> None:
        """Tell those who wait for it to be gone that it is not."""
        waiting, self.waiting_gone = self.waiting_gone, []
        rivals, self.rivals = self.rivals, []
        for ticket in [*waiting, *(rival.ticket for rival in rivals)]:
            self.refuse(ticket, error)


def is_left_down(session_id: SessionId, reason: str) -> SessionFailed:
    """Return the error of a session that spent its restarts."""
    message = (
        f"session {session_id!r} is left down: {reason}. "
        "`paddock logs` shows its last words; `paddock resume --reset` frees it"
    )
    return SessionFailed(message, session_id=session_id, reason=reason)


def was_deleted(session_id: SessionId) -> SessionNotFound:
    """Return the error of a session that is no more."""
    message = f"session {session_id!r} was deleted; `paddock ls` shows those that are there"
    return SessionNotFound(message, session_id=session_id)
