"""What the tools are made of: child processes, files, searches, Python functions."""
