"""Functions that the tests of Python tools call, as a user would write them."""

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

print("a module may print when it is imported")
LOADED_BY = os.getpid()


class Order(BaseModel):
    name: str
    cents: int = 0


@dataclass
class Point:
    x: float
    y: float


def add(a: int, b: int = 2) -> int:
    return a + b


async def add_later(a: int, b: int) -> int:
    return a + b


def half(of: float) -> float:
    assert isinstance(of, float)
    return of / 2


def place(
    order: Order, kind: Literal["fast", "slow"] = "slow", *, tags: frozenset[str] = frozenset()
) -> str:
    """Place an order."""
    assert isinstance(order, Order)
    return f"{order.name} {order.cents} {kind} {sorted(tags)}"


def bounded(count: Annotated[int, Field(ge=1, le=3, description="How many.")]) -> int:
    return count


def shadowing(copy: int, model_fields: int, validate: int) -> int:
    return copy + model_fields + validate


def positional(a: int, /, b: int) -> int:
    return a - b


def anything(a: int, **more: object) -> dict[str, object]:
    return {"a": a, **more}


def rest(*many: int) -> None: ...


def unreadable(a: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821


def rich() -> dict[str, object]:
    return {"at": datetime(2026, 1, 1, tzinfo=UTC), "point": Point(1.0, 2.0), "nan": float("nan")}


def nothing() -> None: ...


def texts() -> list[str]:
    return ["\ud800", "a\0b", "é", str(2**70)]


def chatter(text: str) -> str:
    print(f"about to say {text}")
    print("on stderr too", file=sys.stderr)
    os.write(1, b"and below Python\n")
    return text


def fail(message: str) -> None:
    raise ValueError(message)


def deep(levels: int) -> list[object]:
    return [deep(levels - 1)] if levels > 1 else []


def many_digits() -> int:
    return 10**5000


def leave(code: int) -> None:
    sys.exit(code)


def vanish(code: int) -> None:
    os._exit(code)


def crash() -> None:
    ctypes.string_at(0)


def spin() -> None:
    while True:
        pass


def hold_the_interpreter() -> None:
    ctypes.PyDLL(None).sleep(1000)


def ask() -> str:
    return input("your name? ")


def unserialisable() -> object:
    return object()


def circular() -> object:
    ring: list[object] = []
    ring.append(ring)
    return ring


def huge(kind: str) -> object:
    print("it was done")
    return "x" * (20 << 20) if kind == "text" else ["é" * (10 << 20)]


def fail_at_length(size: int) -> None:
    raise ValueError("no tea " * (size // 7))


def forge() -> None:
    """Write a line that promises more than is there, to whatever it can write to."""
    for number in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(number, b'{"status": "large", "bytes": 1000000000}\n')
    os._exit(0)


def large() -> str:
    return "x" * 100_000


def close_everything() -> None:
    os.closerange(3, 1000)


def leave_a_thread() -> str:
    import threading

    threading.Thread(target=time.sleep, args=(1000,)).start()
    return "done"


def leave_a_process(pid_file: str) -> str:
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    Path(pid_file).write_text(str(child.pid))
    return "done"


def surroundings() -> dict[str, object]:
    return {
        "loaded_by": LOADED_BY,
        "pid": os.getpid(),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "modules": sorted(sys.modules),
        "descriptors": [str(Path(f"/proc/self/fd/{n}").readlink()) for n in (0, 1, 2)],
    }


def wait_for(path: str) -> str:
    Path(path + ".begun").touch()
    while not Path(path).exists():
        time.sleep(0.01)
    return "there it was"


def where_am_i() -> dict[str, object]:
    return {"folder": str(Path.cwd()), "environment": dict(os.environ), "path": sys.path}


class Desk:
    @staticmethod
    def ring(times: int) -> str:
        return "ring " * times


def reach(path: str, parent: int) -> dict[str, bool]:
    """Say what can be done to a file, and to a process that is not one's own."""

    def can(work: Callable[[], object]) -> bool:
        try:
            work()
        except OSError:
            return False
        return True

    place = Path(path)
    return {
        "read": can(place.read_bytes),
        "written": can(lambda: place.open("ab").close()),
        "signalled": can(lambda: os.kill(parent, 0)),
    }
