"""The pure parts as they would be without one rule: given the real one, each returns another."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from paddock.session_worker import ledger, recovery
from paddock.supervisor import certificate, life
from paddock.supervisor.stimuli import Deliver


def always(value: object) -> Callable[[Any], Any]:
    return lambda _real: lambda *_args, **_more: value


def without_calls(real: Any) -> Any:
    """Recovery that leaves intents without a result."""

    def recover(session: Any, happened: Any) -> Any:
        return [e for e in real(session, happened) if e.kind != "tool_call_finished"]

    return recover


def runs_again(_real: Any) -> Any:
    """Recovery that gives back what was started as merely allowed."""

    def recover(session: Any, happened: Any) -> Any:
        for call in ledger.open_calls(session):
            if call.stage == "started":
                call.stage = "allowed"
        return []

    return recover


def answered_anew(_real: Any) -> Any:
    """A ledger that knows no command again."""
    return lambda _session, _command_id, _digest: None


def told_done(real: Any) -> Any:
    """Not-struck in place of struck: every death strikes nothing."""
    return lambda session, in_delivery: certificate.Struck()


def spawns_at_once(_real: Any) -> Any:
    """A next start before the burial is over, or while somebody holds the lock still."""

    def take(of: Any, stimulus: Any) -> None:
        of.pid = None
        of.is_wanted = True
        of.seek_or_spawn(stimulus.at)

    return take


def delivers_nothing_again(real: Any) -> Any:
    def hand_over_again(self: Any, unanswered: Any) -> Any:
        real(self, unanswered)
        return []

    return hand_over_again


def forgets_delivery(real: Any) -> Any:
    """A queue that drops what was in delivery when its worker died."""

    def hand_over_again(self: Any, unanswered: Any) -> Any:
        self._delivered.clear()
        return real(self, unanswered)

    return hand_over_again


def sends_in_any_place(_real: Any) -> Any:
    def grew(self: Any, first: int, count: int, *, is_carried: bool, size_bytes: int = 0) -> Any:
        self.head = max(self.head, first + count - 1)
        for each in self.subscribers.values():
            each.position = first + count - 1
        return list(self.subscribers.values()), []

    return grew


def late_counts(real: Any) -> Any:
    """A machine that does not ask of which start a stimulus speaks."""

    def step(of: Any, stimulus: Any) -> Any:
        number = getattr(stimulus, "start", None)
        if number is not None and number != of.start:
            stimulus = type(stimulus)(
                **{
                    name: of.start if name == "start" else getattr(stimulus, name)
                    for name in stimulus.__dataclass_fields__
                }
            )
        return real(of, stimulus)

    return step


def waits_for_ever(_real: Any) -> Any:
    def wait(of: Any, _stimulus: Any) -> None:
        of.deadline = None

    return wait


def hands_everything_over(_real: Any) -> Any:
    def hand_over(self: Any) -> Any:
        ready = list(self._waiting.values())
        self._delivered.update(self._waiting)
        self._waiting.clear()
        return [pending.command for pending in ready]

    return hand_over


def deletes_in_turn(_real: Any) -> Any:
    """A deletion that is handed over like any other command."""

    def delete_live(of: Any, stimulus: Any) -> None:
        of.waiting_gone.append(stimulus.ticket)
        of.do(Deliver(stimulus.command))

    return delete_live


def told_early(real: Any) -> Any:
    def leave(of: Any, stimulus: Any) -> None:
        real(of, stimulus)
        if of.waiting_gone:
            of.tell_gone({"was_live": True})

    return leave


def one_check(_real: Any) -> Any:
    """A hang by wall time: one look without a beat is enough."""

    def check_beat(of: Any, stimulus: Any) -> None:
        if of.cause is not None:
            of.be_stuck(stimulus.at)
        elif not of.has_beaten:
            of.kill(stimulus.at, "hang", wants_stacks=True)
        else:
            of.has_beaten = False
            of.deadline = stimulus.at + of.patience.hang_after_seconds / life.BEAT_CHECKS

    return check_beat


def whatever_it_says(real: Any) -> Any:
    """A ledger that knows a command by its id alone."""

    def known_answer(session: Any, command_id: Any, digest: str) -> Any:
        accepted = session.life.accepted.get(command_id)
        return real(session, command_id, digest if accepted is None else accepted.digest)

    return known_answer


def nothing_forgotten(real: Any) -> Any:
    """A ledger that takes what it has forgotten for new."""

    def known_answer(session: Any, command_id: Any, digest: str) -> Any:
        is_known = command_id in session.life.accepted
        return real(session, command_id, digest) if is_known else None

    return known_answer


def whichever_is_at_work(real: Any) -> Any:
    """An interrupt that ends what is at work, whatever it names."""
    return lambda session, _operation_id: real(session, None)


def strikes_by_call(_real: Any) -> Any:
    """Strikes counted by the id of the call, which is another one each time."""

    def is_quarantined(session: Any, operation: Any) -> Any:
        struck = Counter(
            call.tool_call_id
            for exit_ in session.life.exits
            if exit_.struck_operation_id == operation.operation_id
            for call in exit_.struck_calls
        )
        return any(count >= recovery.STRIKES for count in struck.values())

    return is_quarantined
