"""Which exit code an error ends the command line with: one table, by the error's ``code``."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
"""The operation failed; or what was checked (``store verify``, ``doctor``) is not well."""
USAGE: Final = 2
NOT_FOUND: Final = 3
REFUSED: Final = 4
HOST: Final = 5
STORAGE: Final = 6
CREDENTIALS: Final = 7
TIMED_OUT: Final = 8
SQL: Final = 9
CANCELLED: Final = 11
INTERRUPTED: Final = 12
BUG: Final = 70
KEYBOARD: Final = 130
"""Ctrl-C, as a shell says it: 128 and the signal's number."""

MEANING: Final[dict[int, str]] = {
    DONE: "done",
    FAILED: "the operation failed, or a check found a fault",
    USAGE: "the words of the command are wrong",
    NOT_FOUND: "no such session, model, agent, workspace, approval …",
    REFUSED: "it cannot be done now: taken, busy, full, failed …",
    HOST: "no host, another host, or the host went away",
    STORAGE: "a disk or a file: damaged, full, newer …",
    CREDENTIALS: "a model's key is missing",
    TIMED_OUT: "a deadline passed",
    SQL: "the query was refused or failed",
    CANCELLED: "the operation was cancelled",
    INTERRUPTED: "the operation was interrupted (quarantined, or it cannot go on)",
    BUG: "a fault of Paddock's own: please report it",
    KEYBOARD: "Ctrl-C",
}

EXIT_CODES: Final[dict[str, int]] = {
    # the caller's words
    "bad_argument": USAGE,
    "bad_configuration": USAGE,
    "no_such_variable": USAGE,
    "path_too_long": USAGE,
    "not_a_transcript": USAGE,
    "needs_yolo": USAGE,
    # what is not there
    "session_not_found": NOT_FOUND,
    "agent_not_found": NOT_FOUND,
    "unknown_model": NOT_FOUND,
    "workspace_missing": NOT_FOUND,
    "blob_not_found": NOT_FOUND,
    "message_not_found": NOT_FOUND,
    "input_not_found": NOT_FOUND,
    "nothing_to_decide": NOT_FOUND,
    "nothing_to_interrupt": NOT_FOUND,
    "file_missing": NOT_FOUND,
    # what cannot be now
    "refused": REFUSED,
    "already_exists": REFUSED,
    "busy": REFUSED,
    "capacity_exceeded": REFUSED,
    "creation_failed": REFUSED,
    "forgotten": REFUSED,
    "quarantined": REFUSED,
    "session_already_has_listener": REFUSED,
    "session_failed": REFUSED,
    "session_not_active": REFUSED,
    "too_large": REFUSED,
    "too_many_waiting": REFUSED,
    "store_busy": REFUSED,
    # the host
    "already_owned": HOST,
    "bad_message": HOST,
    "host_gone": HOST,
    "host_running": HOST,
    "no_host": HOST,
    "not_greeted": HOST,
    "owner_stuck": HOST,
    "peer_broke": HOST,
    "store_gone": HOST,
    # disks and files
    "damaged": STORAGE,
    "disk_full": STORAGE,
    "needs_fold": STORAGE,
    "projection_damaged": STORAGE,
    "projection_untrusted": STORAGE,
    "newer_format": STORAGE,
    "store_error": STORAGE,
    # keys
    "needs_credentials": CREDENTIALS,
    "no_model": CREDENTIALS,
    # the rest
    "timed_out": TIMED_OUT,
    "sql_refused": SQL,
    "cancelled": SQL,
    "model_failed": FAILED,
    "bug": BUG,
    "error": FAILED,
}

OUTCOMES: Final[dict[str, int]] = {
    "completed": DONE,
    "failed": FAILED,
    "session_failed": FAILED,
    "deleted": CANCELLED,
    "removed": CANCELLED,
    "cancelled": CANCELLED,
    "interrupted": INTERRUPTED,
}
"""By the status of the operation that was waited for."""


def exit_code_of(code: str) -> int:
    """Return the exit code of an error's ``code``; one that is not in the table is ``REFUSED``."""
    return EXIT_CODES.get(code, REFUSED)
