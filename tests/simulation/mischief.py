"""Clients that do what they should not: in some homes, and by dice of their own.

They use an id again for other words, interrupt an operation that is over by then, or one that does
not stop before more came than can be remembered, give more commands at once than may wait, and say
what was answered long ago again. Such a home remembers fewer commands than others, and lets fewer
of them wait.
"""

from random import Random
from typing import TYPE_CHECKING

from paddock.session_worker.protocol import Command
from paddock.store import fold
from paddock.store.ids import CommandId, SessionId
from paddock.supervisor.commands import WAITING_LIMIT
from paddock.supervisor.stimuli import Commanded
from tests.simulation.world import SIGKILL

if TYPE_CHECKING:
    from tests.simulation.client import Asked
    from tests.simulation.disk import File
    from tests.simulation.host import Host, Record
    from tests.simulation.house import House

HOMES = 0.2
"""Of all homes so many have such clients."""
MAY_WAIT = 3
ARE_REMEMBERED = 8
SECONDS = 55.0
REMEMBERED = fold.REMEMBERED_COMMANDS


def remember_as_ever() -> None:
    """Let as many commands be remembered again as everywhere else."""
    fold.REMEMBERED_COMMANDS = REMEMBERED


class Mischief:
    """What is done to one home, if anything is."""

    def __init__(self, house: "House") -> None:
        self.house = house
        self.world = house.world
        self._dice = Random(f"mischief {self.world.seed}")
        self.is_afoot = self._dice.random() < HOMES
        self.used_again: set[CommandId] = set()
        """Ids that were used again: who says the first words again meets the others at times."""
        self.waiting_limit = MAY_WAIT if self.is_afoot else WAITING_LIMIT
        fold.REMEMBERED_COMMANDS = ARE_REMEMBERED if self.is_afoot else REMEMBERED

    def begin(self) -> None:
        """Set out what is to happen, once there is a client."""
        if not self.is_afoot:
            return
        for _ in range(self._dice.randint(4, 10)):
            seconds = SECONDS * self._dice.random()
            self.world.after(seconds, self.world.nobody, self._act)

    def _act(self) -> None:
        dice = self._dice
        what = (
            self._other_words,
            self._old_interrupt,
            self._crowd_out,
            self._too_many,
            self._once_more,
        )
        dice.choice(what)()

    # --- an id, and other words ---

    def _other_words(self) -> None:
        """Use the id of a command that is on its way, or was answered, for other words."""
        known = [
            asked
            for asked in self.house.client.asked.values()
            if asked.command.verb != "delete" and (asked.answer is not None or not asked.is_over)
        ]
        host = self.house.client.present_host()
        if known and host is not None:
            asked = self._dice.choice(known)
            self.used_again.add(asked.command.command_id)
            self.world.soon(host.process, self._say_other_words, host, asked)

    def _say_other_words(self, host: "Host", asked: "Asked") -> None:
        other = Command.model_validate(
            {
                "command_id": asked.command.command_id,
                "verb": "annotate",
                "arguments": {"key": "other", "value": 2},
            }
        )

        def give(record: "Record") -> None:
            client, now = self.house.client, self.world.now
            if asked.answer is None:
                client.give(host, record, asked)
            ticket = client.ticket_of(None)
            self.house.judge.is_other(host, ticket, other.command_id)
            host.stimulate(record, Commanded(now, other, ticket))

        host.with_record(asked.session_id, give)

    # --- an interrupt that comes late ---

    def _old_interrupt(self) -> None:
        """Interrupt the operation of this moment, but say so only later."""
        for session_id, file in self.house.files.items():
            operation = file.live.conversation.operation
            if operation is not None:
                seconds = 15.0 * self._dice.random() ** 2
                words = (session_id, operation.operation_id)
                self.world.after(seconds, self.world.nobody, self._interrupt, *words)

    def _interrupt(self, session_id: SessionId, operation_id: str) -> None:
        self.house.client.command(session_id, "interrupt", operation_id=operation_id)

    def _crowd_out(self) -> None:
        """Interrupt each operation, command more than can be remembered, and kill its worker."""
        for session_id, file in self.house.files.items():
            operation = file.live.conversation.operation
            if operation is not None:
                self._interrupt(session_id, operation.operation_id)
                for number in range(2 * ARE_REMEMBERED):
                    seconds = 0.05 * number
                    self.world.after(seconds, self.world.nobody, self._annotate, session_id)
                self.world.after(seconds, self.world.nobody, self._kill_owner, file)

    def _kill_owner(self, file: "File") -> None:
        if file.owner is not None and file.owner.is_alive:
            self.world.end(file.owner, signal=SIGKILL)

    def _annotate(self, session_id: SessionId) -> None:
        self.house.client.command(session_id, "annotate", key="crowd", value=1)

    # --- more than may wait, and what is long over ---

    def _too_many(self) -> None:
        session_id = self._dice.choice(list(self.house.files))
        for _ in range(3 * MAY_WAIT):
            self.house.client.command(session_id, "annotate", key="many", value=1)

    def _once_more(self) -> None:
        answered = [
            asked
            for asked in self.house.client.asked.values()
            if asked.answer is not None
            and asked.command.verb != "delete"
            and asked.command.command_id not in self.used_again
        ]
        for asked in answered[:2]:
            self.house.client.say(asked)
