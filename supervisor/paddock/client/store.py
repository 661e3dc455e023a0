"""Asking the store: the running one, or one that is opened for the call."""
