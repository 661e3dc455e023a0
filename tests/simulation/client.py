"""A client that outlives everything: it says again, by the same id, what has no answer yet.

A patient one does so only where it was refused, or where its supervisor died; the others all the
time. A deletion that was done is asked for once more at times: it gets the same answer.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from paddock.session_worker.protocol import Command, Settled
from paddock.store.events import Row
from paddock.store.ids import CommandId, SessionId
from paddock.supervisor.commands import Ticket
from paddock.supervisor.stimuli import (
    Commanded,
    DeleteAsked,
    LeaveAsked,
    Reply,
    ReplyError,
    Stage,
    Wanted,
)
from tests.simulation.disk import File
from tests.simulation.world import Broken

if TYPE_CHECKING:
    from tests.simulation.host import Host, Record
    from tests.simulation.house import House

AGAIN_SECONDS = 15.0
NAME = b"c"


@dataclass(eq=False, slots=True)
class Asked:
    """A command, and what became of it as the client was told."""

    session_id: SessionId
    command: Command
    accepted: bool = False
    answer: Settled | None = None
    refused: str | None = None
    is_over: bool = False


class Client:
    """One client, with a subscription to every session."""

    def __init__(self, house: "House") -> None:
        self.house = house
        self.world = house.world
        self.asked: dict[CommandId, Asked] = {}
        self.positions: dict[SessionId, int] = dict.fromkeys(house.files, 0)
        self.subscriptions: dict[SessionId, int] = {}
        self.approvals: dict[str, SessionId] = {}
        self.deleted: set[SessionId] = set()
        self.follows = house.world.chance() < 0.7
        self.is_patient = house.world.chance() < 0.5
        """It says nothing again while the supervisor that it told lives, and refused nothing."""
        self._requests: dict[int, Asked | None] = {}
        self._number = 0
        world = house.world
        for _ in range(world.random.randint(2, 6)):
            world.after(40.0 * world.chance() ** 2, world.nobody, self.act)
        world.after(AGAIN_SECONDS, world.nobody, self.say_again)

    # --- what it wants ---

    def act(self) -> None:
        """Ask for something at random."""
        world = self.world
        session_id = world.random.choice(list(self.house.files))
        chance = world.chance()
        text = {"type": "text", "text": "words"}
        if chance < 0.5:
            self.command(session_id, "send_input", parts=[text])
        elif chance < 0.56:
            self.command(session_id, "run_shell", command="make")
        elif chance < 0.66:
            self.command(session_id, "interrupt")
        elif chance < 0.74:
            key = "poison" if self.house.has_poison else "key"
            self.command(session_id, "annotate", key=key, value=1)
        elif chance < 0.78:
            self.command(session_id, "set_mode", mode="yolo")
        elif chance < 0.82:
            self.command(session_id, "no_such", x=1)
        elif chance < 0.87:
            self.command(session_id, "delete", erase=world.chance() < 0.5)
            if world.chance() < 0.5:  # somebody who does not know of it yet
                world.after(3.0 * world.chance() ** 3, world.nobody, self.act)
        elif chance < 0.95:
            self.leave(session_id, force=world.chance() < 0.6)
        else:
            self.resume(session_id)

    def command(self, session_id: SessionId, verb: str, **arguments: object) -> None:
        """Give a command, of a new id."""
        command_id = CommandId(self.world.mint())
        words = Command.model_validate(
            {"command_id": command_id, "verb": verb, "arguments": arguments}
        )
        asked = self.asked[command_id] = Asked(session_id, words)
        self.say(asked)

    def say(self, asked: Asked) -> None:
        """Say a command to the supervisor of the moment, if there is one."""
        host = self.present_host()
        if host is None:
            return
        ticket = self.ticket_of(asked)
        self.world.soon(host.process, self._hand, host, asked, ticket)

    def _hand(self, host: "Host", asked: Asked, ticket: Ticket) -> None:
        command = asked.command
        stone = self.house.registry.tombstones.get(asked.session_id)
        if stone is not None and command.verb == "delete":
            if stone == command.command_id:
                self._is_done(asked)
            else:
                self._not_found(asked)
            return

        def give(record: "Record") -> None:
            now = self.world.now
            if command.verb == "delete":
                host.stimulate(record, DeleteAsked(now, command, 10.0, ticket))
            else:
                self.give(host, record, asked, ticket)

        host.with_record(asked.session_id, give, lambda: self._not_found(asked))

    def give(
        self, host: "Host", record: "Record", asked: Asked, ticket: Ticket | None = None
    ) -> None:
        """Give a command to a supervisor that has the session's record."""
        ticket = ticket or self.ticket_of(asked)
        self.house.judge.waits(host, ticket, asked.command.command_id)
        host.stimulate(record, Commanded(self.world.now, asked.command, ticket))

    def leave(self, session_id: SessionId, *, force: bool) -> None:
        """Ask that a session be suspended."""
        host = self.present_host()
        if host is not None:
            ticket = self.ticket_of(None)

            def ask(record: "Record") -> None:
                host.stimulate(record, LeaveAsked(self.world.now, "asked", 8.0, force, ticket))

            self.world.soon(host.process, host.with_record, session_id, ask)

    def resume(self, session_id: SessionId, *, reset: bool = False) -> None:
        """Ask that a session live."""
        host = self.present_host()
        if host is not None:
            ticket = self.ticket_of(None)

            def ask(record: "Record") -> None:
                host.stimulate(record, Wanted(self.world.now, "resume", ticket, reset=reset))

            self.world.soon(host.process, host.with_record, session_id, ask)

    def ticket_of(self, asked: Asked | None) -> Ticket:
        """Return a ticket for a request, of a command or not."""
        self._number += 1
        self._requests[self._number] = asked
        return Ticket(NAME, self._number)

    def present_host(self) -> "Host | None":
        """Return the supervisor of the moment, if one lives."""
        host = self.house.announced
        return host if host is not None and host.process.is_alive else None

    # --- what it does until all is answered ---

    def host_is_there(self) -> None:
        """A new supervisor: say everything again, and follow again."""
        self.subscriptions.clear()
        for session_id in self.house.files:
            if self.follows:
                self.world.soon(self.world.nobody, self.follow, session_id)
        for asked in self.asked.values():
            if not asked.is_over:
                self.say(asked)

    def follow(self, session_id: SessionId) -> None:
        """Subscribe from where it stands."""
        host = self.present_host()
        if host is None or session_id in self.subscriptions:
            return

        def subscribe(record: "Record") -> None:
            if record.life.stage is not Stage.DELETED and session_id not in self.subscriptions:
                self.subscriptions[session_id] = -1
                number = host.subscribe(record, NAME, self.positions[session_id])
                self.subscriptions[session_id] = number

        self.world.soon(host.process, host.with_record, session_id, subscribe)

    def say_again(self) -> None:
        """Say again what has no answer; bring back what failed."""
        for asked in self.asked.values():
            if not asked.is_over and (asked.refused is not None or not self.is_patient):
                if asked.refused == "session_failed":
                    self._make_room(asked.session_id)
                    self.resume(asked.session_id, reset=True)
                elif asked.refused == "capacity_exceeded":
                    self._make_room(asked.session_id)
                asked.refused = None
                self.say(asked)
        for approval_id, session_id in list(self.approvals.items()):
            if self.world.chance() < 0.9:
                del self.approvals[approval_id]
                self._decide(approval_id, session_id)
        self.world.after(AGAIN_SECONDS, self.world.nobody, self.say_again)

    def _make_room(self, session_id: SessionId) -> None:
        """Nobody is suspended while somebody follows it: let the others rest."""
        if self.house.rooms >= len(self.house.files):
            return
        for other in self.house.files:
            if other != session_id:
                self.leave(other, force=True)

    def wakes_what_is_open(self) -> bool:
        """Wake suspended sessions with an open operation; return whether there was one.

        Where they share a room it stays with the first of them until that has nothing left to do:
        who takes it from each for the other, by force, sees neither come to its end (24570). Those
        that only wait for an approval come last, and where all do, one of them is woken.
        """
        unfinished = [
            file
            for file in self.house.files.values()
            if file.live.conversation.operation is not None
            and file.live.life.status in {"suspended", "down", "live"}
        ]
        is_shared = self.house.rooms < len(self.house.files)
        in_turn = sorted(unfinished, key=File.is_quiet)[: 1 if is_shared else None]
        for file in in_turn:
            if file.owner is None:
                self._make_room(file.session_id)
                if file.live.life.status == "suspended":
                    self.resume(file.session_id)
        return any(file.owner is None for file in in_turn)

    def _decide(self, approval_id: str, session_id: SessionId) -> None:
        chance = self.world.chance()
        self.command(
            session_id,
            "decide",
            approval_id=approval_id,
            decision="denied" if chance < 0.2 else "allowed",
            scope="tool" if chance > 0.8 else "once",
        )

    # --- what it is told ---

    def replied(self, reply: Reply) -> None:
        """A request was answered."""
        asked = self._requests.get(reply.ticket.request_id)
        if asked is None:
            return
        if asked.command.verb == "delete" and "deleted" in reply.result:
            self._is_done(asked)
        elif "sequence" in reply.result:
            asked.accepted = True

    def refused(self, error: ReplyError) -> None:
        """A request was refused."""
        asked = self._requests.get(error.ticket.request_id)
        if asked is None:
            return
        asked.refused = error.error.code
        if error.error.code == "session_not_found":
            self._not_found(asked)
        elif error.error.code == "forgotten" and self.house.judge.is_forgotten(asked):
            asked.is_over = True
        elif asked.command.command_id in self.house.mischief.used_again:
            pass  # the other words were before it: they are refused, and it is said again
        elif error.error.code in {"already_exists", "forgotten"}:
            raise Broken("P14", f"{asked.command.verb} was refused as {error.error.code}")

    def _is_done(self, asked: Asked) -> None:
        """A deletion is told to be done."""
        self.house.judge.deleted(asked.session_id)
        if not self._is_of(asked):
            raise Broken("P14", "a deletion is told to be done, and another one did it")
        asked.is_over = True
        if self.world.chance() < 0.5:
            self.world.after(60.0 * self.world.chance(), self.world.nobody, self._once_more, asked)

    def _once_more(self, asked: Asked) -> None:
        asked.is_over, asked.refused = False, None
        self.say(asked)

    def _not_found(self, asked: Asked) -> None:
        """A command is told that there is no such session."""
        asked.is_over = True
        if self._is_of(asked):
            raise Broken("P14", "a deletion that was done is told not to have been")

    def _is_of(self, asked: Asked) -> bool:
        """Whether the session was deleted by that command."""
        last = self.house.files[asked.session_id].stored[-2:]
        return any(
            s.event.kind == "session_deleted" and s.event.command_id == asked.command.command_id
            for s in last
        )

    def settled(self, answer: Settled) -> None:
        """A command has its answer."""
        asked = self.asked.get(answer.command_id)
        if asked is None:
            return
        if asked.answer is not None and asked.answer != answer:
            raise Broken("P14", f"{asked.command.verb} was answered {asked.answer} and {answer}")
        asked.answer, asked.is_over, asked.accepted = answer, True, True

    def takes_in(
        self, host: "Host", record: "Record", number: int, first: int, rows: tuple[Row, ...]
    ) -> None:
        """Events came: they follow what it has."""
        session_id = record.file.session_id
        if self.subscriptions.get(session_id) != number:
            return  # of a supervisor that is gone
        if first != self.positions[session_id] + 1:
            raise Broken("P2", f"shown {first} after {self.positions[session_id]}")
        self.positions[session_id] += len(rows)
        for row in rows:
            self._asked_for(session_id, row)
        self.world.soon(host.process, host.consumed, record, number, self.positions[session_id])

    def _asked_for(self, session_id: SessionId, row: Row) -> None:
        event = self.house.files[session_id].stored[row.sequence - 1].event
        if event.kind == "approval_requested":
            self.approvals[event.approval_id] = session_id
            if self.world.chance() < 0.6:
                self.world.after(
                    8.0 * self.world.chance() ** 2,
                    self.world.nobody,
                    self._decide_soon,
                    event.approval_id,
                )

    def _decide_soon(self, approval_id: str) -> None:
        session_id = self.approvals.pop(approval_id, None)
        if session_id is not None:
            self._decide(approval_id, session_id)
