"""Who is alive: the host that starts, watches, suspends and restarts the workers of sessions."""
