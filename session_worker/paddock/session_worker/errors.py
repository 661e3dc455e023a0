"""What a worker can refuse, beside the errors of :mod:`paddock.store.errors`."""

from paddock.store.errors import PeerBroke, Refused


class BadMessage(PeerBroke):
    """Bytes that are no message of this protocol, or of another version of it."""

    code = "bad_message"


class BadArgument(Refused):
    """A command's argument is missing, unknown or of the wrong form; the text names it."""

    code = "bad_argument"


class NothingToDecide(Refused):
    """The approval is unknown, was decided before, or died with its operation."""

    code = "nothing_to_decide"


class NothingToInterrupt(Refused):
    """No operation (or another one than was named) is at work."""

    code = "nothing_to_interrupt"


class InputNotFound(Refused):
    """No waiting input has that id, or none waits at all."""

    code = "input_not_found"


class MessageNotFound(Refused):
    """The conversation has no such message."""

    code = "message_not_found"


class Busy(Refused):
    """The command cannot be done while an operation is at work."""

    code = "busy"


class Quarantined(Refused):
    """The command killed its worker twice and is not tried again."""

    code = "quarantined"


class AgentNotFound(Refused):
    """No agent of that name, or its module cannot be imported."""

    code = "agent_not_found"


class UnknownModel(Refused):
    """No model of that name; the text says which forms are known."""

    code = "unknown_model"


class WorkspaceMissing(Refused):
    """The workspace's folder does not exist."""

    code = "workspace_missing"


class NeedsCredentials(Refused):
    """The session's secrets are not here; a client that has them must wake it."""

    code = "needs_credentials"
