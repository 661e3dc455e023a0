"""A function agent that calls the tool it is told to; each tool does what no tool should."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from paddock.agent import Context, agent, progress, tool
from paddock.store.door import StoreClient
from paddock.store.errors import Refused, TooLarge

SECONDS = 4


@tool(effects="none", approval="allow")
def segfault() -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


@tool(effects="none", approval="allow")
def leave() -> None:
    """End the process."""
    os._exit(7)


@tool(effects="none", approval="allow", timeout_seconds=SECONDS)
def hold_the_interpreter() -> None:
    """Keep the interpreter in C."""
    ctypes.PyDLL(None).sleep(1000)


@tool(effects="none", approval="allow", timeout_seconds=600)
def hold_for_long() -> None:
    """Keep the interpreter in C until somebody ends it."""
    Path("held").touch()
    ctypes.PyDLL(None).sleep(1000)


@tool(effects="none", approval="allow")
def fork_bomb() -> None:
    """Fork on and on."""
    while True:
        os.fork()


@tool(effects="none", approval="allow")
def eat_memory() -> None:
    """Use more and more memory."""
    eaten = []
    while True:
        eaten.append(b"x" * (8 << 20))


@tool(effects="none", approval="allow")
def ask() -> str:
    """Read from stdin."""
    return input()


@tool(effects="none", approval="allow", timeout_seconds=SECONDS)
def flood() -> None:
    """Print without end."""
    while True:
        sys.stdout.write("flood " * 10_000)


@tool(effects="none", approval="allow", timeout_seconds=600)
def take_steps() -> str:
    """Say a step, and go on when somebody has seen it."""
    progress("half way, é")
    while not Path("seen").exists():
        time.sleep(0.01)
    return "done"


@tool(effects="none", approval="allow")
def numbers() -> list[object]:
    """Return what is larger than other languages' numbers."""
    return [2**53 + 1, 2**63, -(2**63), 2**70, 1e308, "\ud800", "\0"]


@tool(effects="write", approval="allow")
def give_much() -> str:
    """Do something, and return more than a value may have."""
    with Path("done").open("a") as file:
        file.write("once\n")
    return "much " * 4_000_000 + "and the end"


@agent("taker", version="1")
async def taker(s: Context) -> None:
    """Have a large value given, and say what can be had of it."""
    async for turn in s.turns():
        result = await s.call(give_much)
        try:
            said = type(result.value).__name__
        except TooLarge as error:
            said = error.code
        await turn.reply(f"{result.status} {said} {result.text.splitlines()[-2][-12:]}")


@agent("hazards", version="1")
async def hazards(s: Context) -> None:
    """Call what it is told to."""
    async for turn in s.turns():
        result = await s.call(turn.text)
        await turn.reply(f"{result.status}: {result.error}")


@agent("strays", version="1")
async def strays(s: Context) -> None:
    """Leave processes behind, and their numbers in a file; ``die``: and end the worker."""
    async for turn in s.turns():
        what, _, file = turn.text.partition(" ")
        _leave_some(Path(file))
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        await turn.reply("left")


def _leave_some(told: Path) -> None:
    kept = subprocess.Popen(["sleep", "1000"])
    hidden = subprocess.Popen(["/bin/sleep", "1000"], env={}, start_new_session=True)
    with told.open("a") as numbers:
        numbers.write(f"{kept.pid} {hidden.pid} ")


@agent("asker", version="1")
async def asker(s: Context) -> None:
    """Ask the store at the address it is told for all sessions."""
    async for turn in s.turns():
        async with StoreClient(turn.text) as client:
            try:
                found = await client.sql("SELECT * FROM sessions")
            except Refused as refusal:
                await turn.reply(refusal.code)
            else:
                await turn.reply(f"{len(found.rows)} sessions")
