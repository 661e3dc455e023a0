"""What is done again and again goes on, whatever becomes of one round of it."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from structlog.testing import capture_logs

from paddock.supervisor.rounds import go_round


async def test_a_part_that_fails_keeps_no_other_from_its_turn_and_is_told_once() -> None:
    done: list[str] = []
    goes_well: Iterator[bool] = iter([False, False, True, False, True])
    is_over = asyncio.Event()

    def failing() -> None:
        done.append("failing")
        if not next(goes_well):
            raise OSError("the fault of one round")

    async def other() -> None:
        await asyncio.sleep(0)
        done.append("other")
        if len(done) == 10:
            is_over.set()

    with capture_logs() as told:
        rounds = asyncio.ensure_future(go_round({"failing": failing, "other": other}, 0))
        await is_over.wait()
        rounds.cancel()
        with suppress(asyncio.CancelledError):
            await rounds
    assert done == ["failing", "other"] * 5
    assert [(line["event"], line["part"]) for line in told] == [("round_failed", "failing")] * 2
