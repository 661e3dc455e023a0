"""What the loop needs of a driver, and which driver runs which agent."""

from typing import Protocol

from paddock.session_worker.approvals import Toolkit
from paddock.session_worker.ledger import Moment
from paddock.session_worker.model import Naming, unnamed
from paddock.session_worker.turn import InFlight, Step, advance
from paddock.store.session import Session


class Driver(Protocol):
    """Says what comes next in a session, from the session alone."""

    def advance(self, session: Session, in_flight: InFlight, toolkit: Toolkit, now: Moment) -> Step:
        """Return the next step; empty when there is nothing to do but wait."""


class BuiltinDriver:
    """The built-in agent: a model, tools, and the conversation between them."""

    def __init__(self, named: Naming = unnamed) -> None:
        self._named = named

    def advance(self, session: Session, in_flight: InFlight, toolkit: Toolkit, now: Moment) -> Step:
        """Return the next step of the turn (see :mod:`paddock.session_worker.turn`)."""
        return advance(session, in_flight, toolkit, now, self._named)
