"""What the host can refuse or fail at, beside the errors of store and worker."""

from paddock.store.errors import PeerBroke, Refused


class CapacityExceeded(Refused):
    """No room for another live session: ``current`` of ``max`` live, none can be suspended."""

    code = "capacity_exceeded"


class SessionNotActive(Refused):
    """The session has no worker and the request does not wake it."""

    code = "session_not_active"


class SessionHasListener(Refused):
    """Another client listens to the session exclusively."""

    code = "session_already_has_listener"


class CreationFailed(Refused):
    """The session's first worker did not come up; the certificate tells why."""

    code = "creation_failed"


class OwnerStuck(PeerBroke):
    """The deadline passed and the session's owner is still there: ``pid`` and ``state``."""

    code = "owner_stuck"


class SessionFailed(Refused):
    """The session is left down after its restart budget; ``resume --reset`` frees it."""

    code = "session_failed"


class TooManyWaiting(Refused):
    """As many commands wait for the session as may."""

    code = "too_many_waiting"


class HostRunning(Refused):
    """Another host holds this data folder: ``pid``."""

    code = "host_running"


class NoHost(Refused):
    """No host runs on this data folder and the request needs one."""

    code = "no_host"


class HostGone(PeerBroke):
    """The host went away in the middle of a request; ask again with the same id."""

    code = "host_gone"


class NotGreeted(HostGone):
    """The host does not know this client, or no longer: greet it, then ask again."""

    code = "not_greeted"


class PathTooLong(Refused):
    """A socket's path is longer than the system allows; ``path`` and ``limit``."""

    code = "path_too_long"


class BadConfiguration(Refused):
    """A configuration value is wrong: names file, key and what is allowed."""

    code = "bad_configuration"
