"""What happened: the files of sessions, what they add up to, and what can be asked of them."""
