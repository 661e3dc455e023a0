"""The promises, looked at while the world goes on and again from the files when it rests."""

from collections import Counter
from typing import TYPE_CHECKING

from paddock.session_worker.model import AssistantWords, Item, ToolResult
from paddock.session_worker.protocol import PASSING_BY, Settled
from paddock.session_worker.turn import AskModel
from paddock.store.events import Event, Row, WorkerExited, stored_of
from paddock.store.fold import evolve
from paddock.store.ids import CommandId, SessionId, ToolCallId
from paddock.store.session import Session
from paddock.supervisor.commands import Ticket
from paddock.supervisor.stimuli import Bury, Kill, Reply, ReplyError, Stage
from tests.simulation.disk import File
from tests.simulation.world import Broken, Process

if TYPE_CHECKING:
    from tests.simulation.client import Asked
    from tests.simulation.host import Host, Record
    from tests.simulation.house import House
    from tests.simulation.worker import Worker

TERMINAL = {
    "operation_completed",
    "operation_failed",
    "operation_cancelled",
    "operation_interrupted",
}
RESTING = {Stage.COLD, Stage.LIVE, Stage.FAILED, Stage.DELETED}
STRIKES = 2
ALONE = 3
"""Beats after the grace, within which an orphan at rest is to be gone."""
AT_ONCE = {"command_quarantined", "command_rejected"}
"""What is refused as it is taken in need not wait for what was accepted before."""


class Judge:
    """What may not be."""

    def __init__(self, house: "House") -> None:
        self.house = house
        self.world = house.world
        self._shown: dict[tuple[SessionId, int], Row] = {}
        self._told: dict[CommandId, tuple[SessionId, Settled]] = {}
        self._accepted: dict[CommandId, SessionId] = {}
        self._started: set[ToolCallId] = set()
        self._waits: dict[Ticket, tuple[Host, CommandId]] = {}
        """Who stays connected, has asked for a command, and was told no end of it yet."""
        self._was_accepted: set[Ticket] = set()
        self._others: set[Ticket] = set()
        """Who used the id of another command for other words."""
        self._beats_alone: Counter[int] = Counter()

    # --- while it goes on ---

    def owns(self, worker: "Worker") -> None:
        """P3: nobody else who lives believes to own the session."""
        for other in self.house.workers.values():
            if (
                other is not worker
                and other.file is worker.file
                and other.process.is_alive
                and other.engine is not None
                and other.process in other.file.holders
            ):
                raise Broken("P3", f"{worker.process.pid} owns what {other.process.pid} owns")

    def tool_starts(self, worker: "Worker", call_id: ToolCallId) -> None:
        """P6: the intent is durable, and it is the first start."""
        if call_id in self._started:
            raise Broken("P6", f"call {call_id} is run again")
        self._started.add(call_id)
        if not 0 < worker.file.started.get(call_id, 0) <= worker.file.durable:
            raise Broken("P6", f"call {call_id} runs before its intent is durable")

    def effect(self, file: File, call_id: ToolCallId) -> None:
        """P6: an effect has its intent, once, and not after its result."""
        effects = self.house.effects
        effects[call_id] = effects.get(call_id, 0) + 1
        if effects[call_id] > 1:
            raise Broken("P6", f"call {call_id} took effect twice")
        if not 0 < file.started.get(call_id, 0) <= file.durable:
            raise Broken("P6", f"call {call_id} took effect without a durable intent")
        if call_id in file.finished:
            raise Broken("P6", f"call {call_id} took effect after its result was written")

    def asks(self, worker: "Worker", act: AskModel, items: tuple[Item, ...]) -> None:
        """P2 and P5: the request is durable before it is sent, and every call in it answered."""
        file = worker.file
        for stored in reversed(file.stored):
            event = stored.event
            if event.kind == "model_call_started" and event.model_call_id == act.model_call_id:
                if stored.sequence > file.durable:
                    raise Broken("P2", "a model is asked before that is durable")
                break
        else:
            raise Broken("P2", "a model is asked and the log knows nothing of it")
        expected: list[str] = []
        for item in items:
            if isinstance(item, ToolResult):
                if not expected or item.tool_call_id != expected.pop(0):
                    raise Broken("P5", "a request holds a result out of place")
            elif expected:
                raise Broken("P5", "a request holds calls without results")
            if isinstance(item, AssistantWords):
                expected = [part.tool_call_id for part in item.parts if part.type == "tool_call"]
        if expected:
            raise Broken("P5", "a request holds calls without results")

    def shown(self, file: File, first: int, rows: tuple[Row, ...]) -> None:
        """P2: what is shown is durable, and stays."""
        for sequence, row in enumerate(rows, first):
            if row.sequence != sequence:
                raise Broken("P2", f"event {row.sequence} is shown as {sequence}")
            if sequence > file.durable or file.rows[sequence - 1] is not row:
                raise Broken("P2", f"event {sequence} is shown before it is durable")
            self._shown[file.session_id, sequence] = row

    def replied(self, record: "Record", reply: Reply) -> None:
        """P3: who is told that a session is gone is told the truth. P14: so is who is accepted."""
        file = record.file
        if reply.result == {"was_live": True}:
            for worker in self.house.workers.values():
                if worker.file is file and worker.process is file.owner:
                    raise Broken("P3", "told that it is gone while its worker lives")
        if "sequence" in reply.result:
            command_id = CommandId(str(reply.result["command_id"]))
            self.is_its_own(reply.ticket)
            sequence = reply.result["sequence"]
            assert isinstance(sequence, int)
            if not self._is_there(file, sequence, command_id):
                raise Broken("P14", "told accepted, and nothing durable says so")
            self._accepted[command_id] = file.session_id
            self._was_accepted.add(reply.ticket)
        if reply.result == {"deleted": True}:
            self.deleted(file.session_id)

    def settled(self, file: File, answer: Settled) -> None:
        """P14: an answer that is told is durable."""
        if not self._is_there(file, answer.sequence, answer.command_id):
            raise Broken("P14", "told an answer that is not durable")
        if file.rows[answer.sequence - 1].kind != answer.kind:
            raise Broken("P14", "told another answer than the log holds")
        self._told[answer.command_id] = (file.session_id, answer)

    def waits(self, host: "Host", ticket: Ticket, command_id: CommandId) -> None:
        """Somebody asks for a command, and is told how it ends as long as that host lives."""
        self._waits[ticket] = (host, command_id)

    def is_other(self, host: "Host", ticket: Ticket, command_id: CommandId) -> None:
        """Somebody asks for other words by the id of a command that is known."""
        self._others.add(ticket)
        self.waits(host, ticket, command_id)

    def is_its_own(self, ticket: Ticket) -> None:
        """P14: what is accepted and answered is the command of who is told so."""
        if ticket in self._others:
            raise Broken("P14", "other words by a known id are taken for what was said before")

    def is_forgotten(self, asked: "Asked") -> bool:
        """Whether a command is older than one that the log has forgotten, and not remembered."""
        life = self.house.files[asked.session_id].live.life
        command_id, newest = asked.command.command_id, life.newest_forgotten
        return command_id not in life.accepted and newest is not None and command_id <= newest

    def queues(self, record: "Record") -> None:
        """P11: a queue has a bound; one of those that pass by, and one of all others."""
        queue = record.life.queue
        if queue.waiting > 2 * self.house.mischief.waiting_limit + 1:
            raise Broken("P11", f"{queue.waiting} commands wait for one session")

    def has_end(self, ticket: Ticket) -> None:
        """P14: one end is told."""
        if self._waits.pop(ticket, None) is None:
            raise Broken("P14", "somebody is told two ends of one command")

    def refused(self, record: "Record", error: ReplyError) -> None:
        """P14: what was accepted, and has its answer in the log, is not told to be refused.

        A file that somebody holds who cannot be ended is not looked into: that is told instead.
        """
        if error.ticket not in self._waits:
            return
        _, command_id = self._waits[error.ticket]
        self.has_end(error.ticket)
        answer = record.file.live.answer_to(command_id)
        is_known = answer is not None and answer.sequence <= record.file.durable
        if is_known and error.ticket in self._was_accepted and record.life.stage != Stage.STUCK:
            raise Broken("P14", f"accepted and answered, and told {error.error.code}")

    def deleted(self, session_id: SessionId) -> None:
        """P14: who is told that a session is deleted is told the truth."""
        file = self.house.files[session_id]
        if file.live.life.status != "deleted" or file.head > file.durable:
            raise Broken("P14", "told deleted, and it is not")

    def _is_there(self, file: File, sequence: int, command_id: CommandId) -> bool:
        if not 0 < sequence <= file.durable:
            return False
        return file.rows[sequence - 1].command_id == command_id

    def hangs(self, process: Process) -> None:
        """P9: only who did not beat is killed for hanging."""
        is_well = not process.is_stopped and not process.is_hung
        if is_well and self.world.now - process.was_stopped_at > 30.0:
            raise Broken("P9", f"{process.pid} is killed for hanging, and it beats")

    def kills(self, kill: Kill, heard_of: list[Process], process: Process) -> None:
        """P9: nobody is killed for his silence whose word is in the socket."""
        is_silent = kill.reason in {"hang", "start_timeout", "suspend_timeout"}
        if is_silent and process.is_alive and process in heard_of:
            raise Broken("P9", f"{process.pid} is killed by {kill.reason}, and has said something")

    def leaves(self, worker: "Worker") -> None:
        """P4: who is at work leaves only if it was told to, not if it was asked to."""
        engine = worker.engine
        assert engine is not None
        suspend, conversation = engine.suspend, engine.session.conversation
        if suspend is None or suspend.force or engine.ending != "suspended":
            return
        if conversation.operation is not None and not conversation.approvals:
            raise Broken("P4", f"it was asked to leave ({suspend.reason}) and left its work")

    def is_alone(self, worker: "Worker") -> None:
        """P11: who has nothing to do and no supervisor does not stay for ever."""
        engine, pid = worker.engine, worker.process.pid
        if engine is None or not engine.is_at_rest():
            self._beats_alone[pid] = 0
            return
        self._beats_alone[pid] += 1
        if self._beats_alone[pid] > ALONE:
            raise Broken("P11", f"{pid} has nothing to do and no supervisor, and stays")

    def rests(self, session: Session, bury: Bury, events: list[Event]) -> None:
        """P4 and P14: what nobody suspended is finished, not left lying."""
        if bury.leave_reason is not None or events[-1].kind != "session_suspended":
            return
        conversation = session.conversation
        operation = conversation.operation
        if session.unanswered() or (operation is not None and not conversation.approvals):
            raise Broken("P4", "it is suspended with work that waits for nobody, and none asked")

    def certified(
        self, file: File, bury: Bury, record: "Record", exited: WorkerExited | None
    ) -> None:
        """P13: a certificate says what the log before it says, and what the world knows."""
        asked = self.house.client.asked
        new = [each for each in bury.in_delivery if each not in file.live.life.accepted]
        if sum(asked[each].command.verb not in PASSING_BY for each in new) > 1:
            raise Broken("P14", "a death befalls several commands on their way in")
        if exited is None:
            return
        boots = [s.event.boot_id for s in file.stored if s.event.kind == "worker_started"]
        was_lost = bool(boots) and boots[-1] != f"boot-{self.world.boot}"
        if exited.last_stage != "starting" and was_lost != (exited.reason == "host_lost"):
            raise Broken("P13", f"a death by {exited.reason}, and the host was lost: {was_lost}")
        if exited.reason == "host_lost" or exited.last_stage == "starting":
            if exited.struck_calls or exited.struck_operation_id or exited.struck_command_ids:
                raise Broken("P13", f"a death by {exited.reason} strikes")
            return
        running = {
            row.tool_call_id
            for row in file.rows
            if row.kind == "tool_call_started" and row.tool_call_id not in file.finished
        }
        if {struck.tool_call_id for struck in exited.struck_calls} != running:
            raise Broken("P13", "a certificate strikes other calls than were open")
        if record.status.signal != exited.signal:
            raise Broken("P13", "a certificate tells another signal")

    # --- when all is at rest ---

    def rest(self) -> None:
        """Look at everything once the world is at rest."""
        for file in self.house.files.values():
            self._fold(file)
            self._operations(file)
            self._calls(file)
            self._deaths(file)
            self._strikes(file)
            self._commands(file)
            self._deletion(file)
            self._order(file)
            self._interrupts(file)
        for (session_id, sequence), row in self._shown.items():
            rows = self.house.files[session_id].rows
            if sequence > len(rows) or rows[sequence - 1] != row:
                raise Broken("P2", f"event {sequence} was shown and is not in the log")
        for command_id, (session_id, answer) in self._told.items():
            if not self._is_there(self.house.files[session_id], answer.sequence, command_id):
                raise Broken("P14", "an answer was told and is not in the log")
        self._lives()

    def _fold(self, file: File) -> None:
        """P1 and P15: the fold from the rows alone is what was live."""
        session = Session(file.session_id)
        for row in file.rows:
            evolve(session, stored_of(file.session_id, row))
        if session != file.live:
            raise Broken("P15", "the log, read again, adds up to something else")
        for worker in self.house.workers.values():
            if worker.process is not file.owner or worker.engine is None:
                continue
            if worker.engine.session != session:
                raise Broken("P1", "a live session differs from its log")
        if [row.sequence for row in file.rows] != list(range(1, file.head + 1)):
            raise Broken("P2", "the log has a gap")

    def _operations(self, file: File) -> None:
        begun = Counter(row.operation_id for row in file.rows if row.kind == "operation_started")
        ended = Counter(row.operation_id for row in file.rows if row.kind in TERMINAL)
        if max(begun.values(), default=1) > 1 or max(ended.values(), default=1) > 1:
            raise Broken("P4", "an operation starts or ends twice")
        if not set(ended) <= set(begun):
            raise Broken("P4", "an operation ends that never began")
        is_over = file.live.life.status in {"deleted", "failed"}
        waits = bool(file.live.conversation.approvals)
        if not is_over and set(begun) - set(ended) and not waits:
            raise Broken("P4", f"an operation never ends: {file.live.life.status}")

    def _calls(self, file: File) -> None:
        counts = {
            kind: Counter(row.tool_call_id for row in file.rows if row.kind == kind)
            for kind in (
                "tool_call_requested",
                "approval_decided",
                "tool_call_started",
                "tool_call_finished",
            )
        }
        for kind, counter in counts.items():
            if max(counter.values(), default=1) > 1:
                raise Broken("P5", f"a call has two {kind}")
        requested, finished = counts["tool_call_requested"], counts["tool_call_finished"]
        started, decided = counts["tool_call_started"], counts["approval_decided"]
        if not (set(finished) <= set(requested) and set(started) <= set(decided)):
            raise Broken("P5", "a call ends that was not asked for, or starts undecided")
        operation = file.live.conversation.operation
        is_open = set(operation.open_calls) if operation is not None else set()
        if set(requested) - set(finished) - is_open:
            raise Broken("P5", "a call has no result")

    def _strikes(self, file: File) -> None:
        """P14: what killed its worker twice is not tried again."""
        strikes: Counter[object] = Counter()
        accepted: set[CommandId | None] = set()
        for stored in file.stored:
            event = stored.event
            if event.kind == "command_accepted":
                accepted.add(event.command_id)
            elif event.kind == "worker_exited":
                struck = {(call.tool, call.arguments_digest) for call in event.struck_calls}
                if event.struck_operation_id:
                    strikes.update((event.struck_operation_id, each) for each in struck)
                # What was not accepted was not tried: who is struck a third time may have been
                # about to write that it will not be (922018, 928767).
                strikes.update(
                    each
                    for each in event.struck_command_ids
                    if each in accepted or strikes[each] < STRIKES
                )
            elif (event.kind == "session_resumed" and event.reset) or (
                event.kind == "tool_call_finished" and event.status in {"ok", "error", "denied"}
            ):
                strikes.clear()
            if strikes and max(strikes.values()) > STRIKES:
                raise Broken("P14", "what killed its worker twice was tried a third time")

    def _deaths(self, file: File) -> None:
        """P3 and P13: generations rise, and each that is over has one certificate, in its place."""
        is_open: int | None = None
        highest = 0
        for stored in file.stored:
            event = stored.event
            if event.kind == "worker_started":
                if is_open is not None:
                    raise Broken("P13", f"generation {is_open} has no certificate")
                if stored.generation <= highest:
                    raise Broken("P3", f"generation {stored.generation} after {highest}")
                is_open = highest = stored.generation
            elif event.kind == "worker_exited":
                if is_open is None and event.worker_generation <= highest:
                    raise Broken("P13", f"generation {event.worker_generation} died twice")
                if is_open is not None and event.worker_generation != is_open:
                    raise Broken("P13", f"{event.worker_generation} died while {is_open} lived")
                is_open, highest = None, max(highest, event.worker_generation)
        if is_open is not None:
            worker = next(
                (
                    worker
                    for worker in self.house.workers.values()
                    if worker.file is file and worker.process is file.owner
                ),
                None,
            )
            if worker is None or worker.generation != is_open:
                raise Broken("P13", f"generation {is_open} is dead and has no certificate")

    def _commands(self, file: File) -> None:
        """P14: each accepted command once, with one answer, and with it all that it starts."""
        accepted = Counter(row.command_id for row in file.rows if row.kind == "command_accepted")
        answers = Counter(
            row.command_id
            for row in file.rows
            if row.command_id and row.kind not in {"command_accepted", "session_created"}
        )
        if max(accepted.values(), default=1) > 1:
            raise Broken("P14", "a command is accepted twice")
        if max(answers.values(), default=1) > 1:
            raise Broken("P14", "a command has two answers")
        if set(accepted) - set(answers):
            raise Broken("P14", "an accepted command has no answer")
        for command_id, session_id in self._accepted.items():
            if session_id == file.session_id and command_id not in accepted:
                raise Broken("P14", "a command was told accepted and is not in the log")
        for row, commit in zip(file.rows, file.commits, strict=True):
            if row.kind == "operation_started" and row.command_id is not None:
                following = file.rows[row.sequence] if row.sequence < file.head else None
                if following is None or file.commits[row.sequence] != commit:
                    raise Broken("P14", "an answer is without what it starts")

    def _deletion(self, file: File) -> None:
        """P14: an accepted deletion refuses all other commands; an erased file is no more."""
        rows = iter(file.stored)
        for stored in rows:
            event = stored.event
            if event.kind == "command_accepted" and event.verb == "delete":
                break
        after = [stored.event.kind for stored in rows]
        if "command_accepted" in after:
            raise Broken("P14", "a command is accepted after a deletion")
        if "session_deleted" in after:
            rest = after[after.index("session_deleted") + 1 :]
            if set(rest) - {"worker_exited"}:
                raise Broken("P14", f"a session goes on after its deletion: {rest}")
        life = file.live.life
        if life.status == "deleted" and life.erase and not file.is_erased:
            raise Broken("P14", "a session that is to be erased is still there")

    def _order(self, file: File) -> None:
        """P14: commands are answered in the order in which they were accepted."""
        waiting: list[CommandId] = []
        for stored in file.stored:
            event = stored.event
            if event.kind == "command_accepted":
                if event.verb not in PASSING_BY:
                    waiting.append(event.command_id)
            elif event.command_id in waiting:
                is_first = event.command_id == waiting[0]
                waiting.remove(event.command_id)
                if not is_first and event.kind not in AT_ONCE:
                    raise Broken("P14", "a command is answered before an earlier one")

    def _interrupts(self, file: File) -> None:
        """P14: an interrupt ends the operation that it names, and no other."""
        named: dict[CommandId, object] = {}
        for stored in file.stored:
            event = stored.event
            if event.kind == "command_accepted" and event.verb == "interrupt":
                named[event.command_id] = event.arguments.get("operation_id")
            elif event.kind != "operation_cancelled" or event.command_id is None:
                continue
            elif named.get(event.command_id) not in {None, event.operation_id}:
                raise Broken("P14", "an interrupt ends another operation than it names")

    def _lives(self) -> None:
        """P10 and P14: nothing is on its way for ever, and rooms are given back."""
        host = self.house.host
        assert host is not None
        for record in host.records.values():
            life = record.life
            if life.stage not in RESTING:
                raise Broken("P11", f"a life does not come to rest: {life.stage}")
            if host.fleet.has_room(life.session_id) != life.has_room:
                raise Broken("P10", f"a room is not given back: {life.stage}")
            if life.stage is Stage.LIVE and not life.queue.is_empty:
                raise Broken("P14", "a command waits for ever")
        if host.fleet.waiters():
            raise Broken("P10", "somebody waits for a room for ever")
        for told_by, _ in self._waits.values():
            if told_by is host:
                raise Broken("P14", "who stayed connected is told no end of a command")
        for asked in self.house.client.asked.values():
            status = self.house.files[asked.session_id].live.life.status
            if not asked.is_over and status != "deleted":
                raise Broken("P14", f"{asked.command.verb} has no answer ({asked.refused})")
