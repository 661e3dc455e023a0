"""Readers of what other agents recorded; formats are told by content, never by a file's name."""
