"""``paddock demo``: four sessions at work at once, and everything that may die is killed.

Three scripted agents repair three small repositories with real tools, and a function agent posts
payments. One worker is killed in the middle of a tool call, one session is suspended and woken, and
the host is killed and started again, all while they work. Then it is asked, in SQL, what happened.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import run_async
from paddock.supervisor.cli.printing import say

DEADLINE_SECONDS = 120.0
"""For the whole of it, on a machine that is busy with other things."""
LONGEST_FOLDER = 40


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave its folder there, to look around in it.")
    ] = False,
) -> int:
    """Watch four sessions work, be killed, and recover. Needs no key and no network.

    It exits 0 only if every repository passes its tests at the end and nothing was lost.

    Examples:
      paddock demo
      paddock demo --keep
    """
    return run_async(_demo(keep=keep))


async def _demo(*, keep: bool) -> int:
    from paddock.client.places import places_of
    from paddock.supervisor.cli.demo_report import report
    from paddock.supervisor.cli.demo_stage import Stage

    base = tempfile.gettempdir()
    folder = Path(
        tempfile.mkdtemp(prefix="pd-demo-", dir=base if len(base) <= LONGEST_FOLDER else "/tmp")  # noqa: S108
    )
    stage = Stage(folder, places_of(folder / "home"))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await stage.play()
            faults = await report(stage)
    finally:
        await stage.clear()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if keep:
        say(f"\nKept: PADDOCK_HOME={folder / 'home'} paddock ls")
    return exit_codes.FAILED if faults else exit_codes.DONE
