"""A program: connects so often to a socket that nobody greets, whatever refuses it in between.

``python crowd_at_door.py PATH COUNT``: says on a line when all have connected, and holds them until
its input ends.
"""

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE_SECONDS = 60.0
DESCRIPTORS = 2000
"""Of a process that is to run out of them soon."""
CROWD = 2100


@contextmanager
def crowd_at(path: Path, pid: int) -> Iterator[None]:
    """Have more stand at a socket of a process than it has descriptors, and say nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    with subprocess.Popen(
        [sys.executable, __file__, str(path), str(CROWD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as crowd:
        assert crowd.stdout is not None
        assert int(crowd.stdout.readline()) == CROWD
        yield


def main(path: str, count: int) -> None:
    """Connect, and stay."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    until = time.monotonic() + DEADLINE_SECONDS
    held: list[socket.socket] = []
    while len(held) < count and time.monotonic() < until:
        each = socket.socket(socket.AF_UNIX)
        try:
            each.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            each.close()
            time.sleep(0.01)
        else:
            held.append(each)
    print(len(held), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
