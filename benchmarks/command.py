"""How soon a command is answered: by the supervisor alone, and durably by its session (DESIGN §10).

Through a client, one at a time. ``touch`` is a round trip to the supervisor; an annotation is
accepted when its event is on the disk, and answered when it was carried out. Beside it the floor: a
write of as many bytes and ``fdatasync``, after as long a pause, since a disk that was idle answers
later. The peer in the same run, in turns: a Jupyter kernel that is asked who it is.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, percentile
from benchmarks._hosts import host_in, workspace_in
from benchmarks._kernels import PATIENCE_SECONDS, Kernels
from paddock.client import Host, Session
from paddock.session_worker.protocol import Command
from paddock.store.events import SessionConfig
from paddock.supervisor.protocol import SendCommand

COMMANDS = 500
WARM_UP = 50
SYNCED_BYTES = 4_096 + 24
"""A page and its header in SQLite's WAL: the least that a commit writes."""


def main() -> int:
    """Measure and print."""
    given = common.arguments(__doc__).parse_args()
    with common.scratch("command") as folder:
        result = asyncio.run(measure(folder, given.rounds or COMMANDS))
    common.show("command", result, as_json=given.json)
    return 0


async def measure(folder: Path, commands: int) -> Result:
    """Return the result of so many commands of each kind, in turns."""
    config = SessionConfig(workspace=workspace_in(folder))
    took: dict[str, list[float]] = {}
    kernels = Kernels()
    async with host_in(folder / "home") as (_, host):
        session = await host.create_session(config)
        peer = await kernels.start()
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "touch": session.touch,
            "accepted": lambda: accept(host, session),
            "answered": lambda: session.annotate("asked", "again"),
            "peer": lambda: peer.kernel_info(reply=True, timeout=PATIENCE_SECONDS),
        }
        with (folder / "floor").open("wb", buffering=0) as floor:
            asks["floor"] = lambda: asyncio.to_thread(_synced, floor.fileno())
            for number in range(WARM_UP + commands):
                for name, ask in asks.items():
                    began = time.perf_counter()
                    await ask()
                    if number >= WARM_UP:
                        took.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        peer.stop_channels()
        await kernels.close()
    return _told(took)


async def accept(host: Host, session: Session) -> None:
    """Have a command accepted, which is durable then; nobody waits for what comes of it."""
    words = {"key": "asked", "value": "again"}
    command = Command(command_id=host.new_command_id(), verb="annotate", arguments=dict(words))
    verb = SendCommand(session_id=session.session_id, command=command)
    await host.ask(verb, deadline_seconds=PATIENCE_SECONDS)


def _synced(descriptor: int) -> None:
    os.pwrite(descriptor, b"x" * SYNCED_BYTES, 0)
    os.fdatasync(descriptor)


def _told(took: dict[str, list[float]]) -> Result:
    p50 = {name: percentile(times, 50) for name, times in took.items()}
    p99 = {name: percentile(times, 99) for name, times in took.items()}
    ratio = p50["peer"] / p50["touch"]
    lines = [
        Line("a round trip to the supervisor, p50", f"{p50['touch']:.2f} ms", "≤ 1 ms"),
        Line("p99", f"{p99['touch']:.2f} ms"),
        Line("a command accepted (durable), p50", f"{p50['accepted']:.2f} ms", "≤ 1.5 ms"),
        Line("p99", f"{p99['accepted']:.2f} ms"),
        Line("a command answered, p50", f"{p50['answered']:.2f} ms"),
        Line("the floor: a page synced, p50", f"{p50['floor']:.2f} ms"),
        Line("the peer: a Jupyter kernel answers, p50", f"{p50['peer']:.2f} ms"),
        Line("ratio of the round trips", f"{ratio:.1f}"),
    ]
    numbers = {
        "round_trip_p50_ms": p50["touch"],
        "round_trip_p99_ms": p99["touch"],
        "accepted_p50_ms": p50["accepted"],
        "accepted_p99_ms": p99["accepted"],
        "answered_p50_ms": p50["answered"],
        "floor_p50_ms": p50["floor"],
        "peer_p50_ms": p50["peer"],
        "ratio": ratio,
    }
    return Result(numbers, lines, f"{len(took['touch'])} of each, one at a time, in turns")


if __name__ == "__main__":
    sys.exit(main())
