"""How a worker that could not begin leaves: its exit codes, so that a certificate can name them."""

EXITS = {
    64: "configuration: the agent or the workspace is not there",
    65: "damaged: the session's file is not what was written",
    70: "a fault of Paddock's own; the story is in the worker's stderr",
    73: "not owned: another process owns the session's file",
    74: "the session's file cannot be read or written",
    75: "nothing to do: deleted, a death without its certificate, or another host since",
}
"""None of them leaves a ``worker_started``, but 70, which may come at any time."""
