"""What the tools of the matrix do, the shell's and the function's; standard library only."""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

LEDGER = "effects.log"
GATE = "gate"
ORDERS = "tool.json"
PARENT = "parent"
"""Files of the workspace: what was done, whether it may be done, what is to be suffered, and whose
child does it."""


def record(token: str) -> str:
    """Write a token into the ledger, once the gate is open."""
    draft = Path(f"{PARENT}.draft")
    draft.write_text(str(os.getppid()))
    draft.rename(PARENT)
    while not Path(GATE).exists():
        time.sleep(0.01)
    orders = json.loads(Path(ORDERS).read_text()) if Path(ORDERS).exists() else {}
    if orders.get("at") == "begun":
        suffer(orders["fault"])
    with Path(LEDGER).open("a", encoding="utf-8") as ledger:
        ledger.write(f"{token}\n")
    if orders.get("at") == "effect done":
        suffer(orders["fault"])
    return f"recorded {token}"


def suffer(fault: str) -> None:
    """Suffer a fault, once: the orders are gone afterwards."""
    Path(ORDERS).unlink()
    match fault:
        case "SIGKILL" | "SIGSTOP" | "SIGSEGV":
            os.kill(os.getpid(), signal.Signals[fault])
        case "out of memory":
            hog = []
            while True:
                hog.append(b"x" * (16 << 20))
        case "hang":
            while True:
                pass
        case "disk full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            with Path(LEDGER).open("a", encoding="utf-8") as ledger:
                ledger.write("no room for this\n")
        case _:
            raise AssertionError(fault)


if __name__ == "__main__":
    print(record(sys.argv[1]))
