"""What to do next in one conversation: the worker of a session."""

__version__ = "0.1.0"
