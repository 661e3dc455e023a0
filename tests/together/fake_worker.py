"""A worker for tests of the supervisor: the real words and the real file, an agent without thought.

Words it is given are obeyed: ``echo`` completes at once, ``work N`` works for N seconds (or till
told to leave), ``exit N`` ends the process, ``spin`` holds the loop, ``approve`` waits, ``tool``
leaves a process of a tool in a group and session of its own (``orphan-tool``: and dies), ``slow``
accepts and never answers, ``answer-exits N`` ends before it answers, ``untold N`` after it is
durable and before it is told. A file named ``crash`` in the workspace lets it die starting.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import zmq

from paddock.session_worker import __version__, wire
from paddock.session_worker.answers import settled
from paddock.session_worker.ledger import digest_of
from paddock.session_worker.link import HostAddress
from paddock.session_worker.protocol import (
    FROM_WORKER,
    TO_WORKER,
    Accepted,
    Beat,
    BusyNow,
    Bye,
    Command,
    Deliver,
    Delta,
    Durable,
    FromWorker,
    Hello,
    NotAccepted,
    Refuse,
    Settled,
    StartOrders,
    Suspend,
    Welcome,
)
from paddock.store.events import (
    ApprovalRequested,
    CommandAccepted,
    CommandRejected,
    EventBase,
    OperationCompleted,
    OperationStarted,
    SessionAnnotated,
    SessionDeleted,
    SessionResumed,
    SessionSuspended,
    TextPart,
    ToolCallRequested,
    UserMessageAdded,
    WorkerExited,
    WorkerStarted,
)
from paddock.store.fold import evolve
from paddock.store.ids import uuid7
from paddock.store.session import Session
from paddock.store.session_file import SessionFile, events_of, folder_of, this_process


def now_us() -> int:
    return time.time_ns() // 1000


def new_id() -> Any:
    return uuid7(now_us(), os.urandom(10))


class FakeWorker:
    def __init__(self, orders: StartOrders) -> None:
        self.orders = orders
        self.folder = folder_of(Path(orders.data), orders.session_id)
        errors = os.open(
            self.folder / f"stderr.{orders.start_id}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        os.dup2(errors, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        faulthandler.register(signal.SIGUSR2, file=2)
        self.file = SessionFile.own(
            self.folder, orders.session_id, wait_seconds=orders.owner_wait_seconds
        )
        self.session = Session(orders.session_id)
        for stored in events_of(orders.session_id, self.file.rows(0, 1_000_000)):
            evolve(self.session, stored)
        config = self.session.life.config
        assert config is not None
        self.workspace = Path(config.workspace)
        if (self.workspace / "crash").exists():
            print("it crashes at starting", file=sys.stderr)
            os._exit(9)
        if (self.workspace / "misconfigured").exists():
            print("agent_not_found: no agent of that name", file=sys.stderr)
            os._exit(64)
        if (self.workspace / "sleepy").exists():
            time.sleep(100)
        if self.session.life.worker is not None or self.session.life.status == "deleted":
            os._exit(75)
        self.generation = self.file.last_generation + 1
        (self.folder / f"stderr.{orders.start_id}").rename(
            self.folder / f"stderr.{self.generation}"
        )
        self.epoch = 0
        self.busy_until: float | None = None
        self.operation: str | None = None
        self.waits = False
        self.leaving: Suspend | None = None
        self.context = zmq.Context()
        self.socket: Any = None
        self.lost_at: float | None = None
        self.rss = 1_000_000

    def version(self) -> str:
        """Return the version that it claims to be of: a file ``older`` names another one."""
        older = self.workspace / "older"
        return older.read_text() if older.exists() else __version__

    # --- log ---

    def append(self, *events: EventBase) -> int:
        at = now_us()
        first = self.file.append(events, generation=self.generation, at_us=at)
        rows = self.file.rows(first - 1, len(events))
        for stored in events_of(self.orders.session_id, rows):
            evolve(self.session, stored)
        packed = msgpack.packb([list(row[:9]) for row in rows])
        self.say(Durable(first=first, count=len(events), rows=packed))
        return first

    def say(self, word: FromWorker) -> None:
        if self.socket is not None:
            with suppress(zmq.Again):
                self.socket.send(FROM_WORKER.pack(word), zmq.DONTWAIT)

    # --- life ---

    def run(self) -> None:
        me = this_process(self.generation)
        first: list[EventBase] = []
        if self.session.life.status in {"suspended", "failed"}:
            reason = self.orders.resume_reason or "?"
            first.append(SessionResumed(reason=reason, reset=self.orders.reset))
        self.append(
            *first,
            WorkerStarted(
                pid=me.pid,
                start_ticks=me.start_ticks,
                boot_id=me.boot_id,
                agent="fake",
                paddock_version=self.version(),
                ready_ms=(now_us() - self.orders.asked_at_us) / 1000,
            ),
        )
        self.recover()
        self.host = HostAddress(self.orders.address, self.orders.epoch, self.orders.supervisor_pid)
        self.connect()
        next_beat = 0.0
        while True:
            if self.socket.poll(20):
                self.hear(TO_WORKER.unpack(self.socket.recv()))
            if time.monotonic() >= next_beat:
                self.beat()
                next_beat = time.monotonic() + 0.2
            self.work()
            self.look_for_host()

    def recover(self) -> None:
        """Answer what was accepted and end what was open, as the real ledger does."""
        operation = self.session.conversation.operation
        if operation is not None:
            waiting = [
                call for call in self.session.conversation.calls.values() if call.stage == "waiting"
            ]
            self.operation = operation.operation_id
            self.waits = bool(waiting)
            self.busy_until = None if waiting else time.monotonic()
        for command_id in self.session.unanswered():
            accepted = self.session.life.accepted[command_id]
            row = self.file.rows(accepted.sequence - 1, 1)[0]
            arguments = json.loads(row.payload)["arguments"]
            self.obey(Command(command_id=command_id, verb=accepted.verb, arguments=arguments))

    def connect(self) -> None:
        if self.socket is not None:
            self.socket.close(linger=0)
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.setsockopt(zmq.LINGER, 200)
        self.socket.connect(self.host.address)
        self.say(
            Hello(
                session_id=self.orders.session_id,
                generation=self.generation,
                pid=os.getpid(),
                head=self.session.sequence,
                stage=self.stage(),
                start_id=self.orders.start_id,
                token=self.orders.token,
                epoch=self.epoch,
                paddock_version=self.version(),
                unanswered=tuple(self.session.unanswered()),
            )
        )

    def look_for_host(self) -> None:
        try:
            os.kill(self.host.pid, 0)
            alive = True
        except ProcessLookupError:
            alive = False
        found = HostAddress.read(Path(self.orders.runtime))
        if found is not None and found.epoch > self.host.epoch:
            self.host = found
            self.lost_at = None
            protocol = self.workspace / "protocol"
            if protocol.exists():  # from here on it is of another version: nobody answers it
                wire.PROTOCOL_VERSION = int(protocol.read_text())
                self.lost_at = time.monotonic()
            self.connect()
        elif not alive and self.lost_at is None:
            self.lost_at = time.monotonic()
        elif (
            self.lost_at is not None
            and self.stage() != "working"
            and time.monotonic() - self.lost_at > self.orders.orphan_grace_seconds
        ):
            self.leave("orphaned")

    def stage(self) -> Any:
        if self.leaving is not None:
            return "suspending"
        if self.waits:
            return "waiting"
        return "working" if self.operation is not None else "resting"

    def beat(self) -> None:
        self.say(Beat(stage=self.stage(), head=self.session.sequence, rss_bytes=self.rss))

    def hear(self, word: Any) -> None:
        match word:
            case Welcome():
                self.epoch = word.epoch
            case Refuse():
                self.file.close(clean=True)
                os._exit(0)
            case Deliver():
                self.take(word.command)
            case Suspend():
                if not word.force and self.stage() == "working":
                    self.say(BusyNow(reason="working"))
                elif (self.workspace / "stays").exists():
                    pass
                else:
                    self.leaving = word
                    self.leave(word.reason)
            case _:
                pass

    def leave(self, reason: str) -> None:
        self.append(
            SessionSuspended(reason=reason),
            WorkerExited(
                worker_generation=self.generation,
                ending="suspended",
                reason=reason,
                exit_code=0,
                last_stage=self.stage(),
                pid=os.getpid(),
            ),
        )
        self.file.close(clean=True)
        self.say(Bye(reason="suspended", head=self.session.sequence))
        self.end()

    def end(self) -> None:
        self.socket.close(linger=200)
        self.context.term()
        os._exit(0)

    # --- commands ---

    def take(self, command: Command) -> None:
        if self.leaving is not None:
            return
        digest = digest_of([command.verb, command.arguments])
        known = self.session.life.accepted.get(command.command_id)
        if known is None:
            if self.text(command) == "die unaccepted":
                os.kill(os.getpid(), signal.SIGKILL)
            sequence = self.append(
                CommandAccepted(
                    command_id=command.command_id,
                    verb=command.verb,
                    digest=digest,
                    arguments=command.arguments,
                    by=command.by,
                )
            )
            self.say(Accepted(command_id=command.command_id, sequence=sequence))
            self.obey(command)
            return
        if known.digest != digest:
            self.say(
                NotAccepted(command_id=command.command_id, code="already_exists", reason="other")
            )
            return
        self.say(Accepted(command_id=command.command_id, sequence=known.sequence))
        answer = self.session.answer_to(command.command_id)
        if answer is not None:
            self.say(settled(command.command_id, answer))

    def text(self, command: Command) -> str:
        parts: Any = command.arguments.get("parts") or [{}]
        return str(parts[0].get("text", ""))

    def settle(self, *events: EventBase) -> None:
        first = self.append(*events)
        for sequence, event in enumerate(events, first):
            if event.command_id is not None:
                self.say(
                    Settled(
                        command_id=event.command_id,
                        sequence=sequence,
                        kind=event.kind,
                        operation_id=event.operation_id,
                    )
                )

    def obey(self, command: Command) -> None:  # noqa: C901, PLR0912, PLR0915 - one arm a word
        command_id = command.command_id
        if command.verb == "delete":
            if (self.workspace / "keeps").exists():
                return
            erase = bool(command.arguments.get("erase"))
            self.settle(SessionDeleted(command_id=command_id, erase=erase))
            self.file.close(clean=True)
            self.say(Bye(reason="deleted", head=self.session.sequence))
            self.end()
        if command.verb == "annotate":
            self.settle(SessionAnnotated(command_id=command_id, key="k", value="v"))
            return
        if command.verb != "send_input":
            self.settle(CommandRejected(command_id=command_id, code="busy", reason="not here"))
            return
        text = self.text(command)
        verb, _, rest = text.partition(" ")
        if verb == "slow":
            return
        if verb == "answer-dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if verb == "answer-exits":
            os._exit(int(rest))
        operation_id = new_id()
        events: list[EventBase] = [
            OperationStarted(
                command_id=command_id, operation_id=operation_id, input_ids=(command_id,)
            ),
            UserMessageAdded(
                message_id=new_id(), operation_id=operation_id, parts=(TextPart(text=text),)
            ),
        ]
        if verb == "untold":
            self.append(*events)
            os._exit(int(rest))
        if verb == "echo":
            for offset in range(3):
                self.say(Delta(message_id="m", channel="text", offset=offset, text="x"))
            self.settle(*events, OperationCompleted(operation_id=operation_id))
            return
        if verb == "many":
            self.settle(*events)
            for _ in range(int(rest) // 50):
                self.append(*[SessionAnnotated(key="n", value="x" * 100)] * 50)
            self.append(OperationCompleted(operation_id=operation_id))
            return
        self.operation = operation_id
        if verb == "hog":
            self.rss = int(rest) * 1024 * 1024
        if verb == "approve":
            call = new_id()
            events += [
                ToolCallRequested(
                    operation_id=operation_id,
                    tool_call_id=call,
                    tool="bash",
                    arguments={},
                    arguments_digest="d",
                ),
                ApprovalRequested(
                    operation_id=operation_id, tool_call_id=call, approval_id=new_id()
                ),
            ]
            self.waits = True
        self.settle(*events)
        self.beat()
        if verb == "work":
            self.busy_until = time.monotonic() + float(rest)
        if verb == "exit":
            os._exit(int(rest))
        if verb == "kill":
            os.kill(os.getpid(), int(rest))
        if verb == "spin":
            while True:
                pass
        if verb in {"tool", "orphan-tool"}:
            environment = {
                **os.environ,
                "PADDOCK_OWNER": f"{self.orders.session_id}.{self.generation}",
            }
            pid = os.fork()
            if pid == 0:
                os.setsid()
                os.execvpe("sleep", ["sleep", "1000"], environment)
            (self.workspace / "tool.pid").write_text(str(pid))
            if verb == "orphan-tool":
                os.kill(os.getpid(), signal.SIGKILL)

    def work(self) -> None:
        if self.busy_until is not None and time.monotonic() >= self.busy_until:
            self.busy_until = None
            operation, self.operation = self.operation, None
            assert operation is not None
            self.append(OperationCompleted(operation_id=operation))  # type: ignore[arg-type]
            self.beat()


def run_worker(packed: bytes) -> None:
    orders = StartOrders.model_validate(msgpack.unpackb(packed))
    try:
        FakeWorker(orders).run()
    except BaseException:  # noqa: BLE001 - its last words
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(70)
