"""A function agent that is killed a lot; its ledger tells which payments were really posted."""

import time
from pathlib import Path

from paddock.agent import Context, agent, tool

LEDGER = "effects.log"
PAYMENTS = 3


@tool(effects="none", approval="allow", timeout_seconds=60)
def price_of(item: str) -> int:
    """Return the price of an item in cents."""
    return 100 + len(item)


@tool(effects="write", approval="allow", timeout_seconds=60)
def post(token: str, cents: int) -> str:
    """Write a payment into the ledger."""
    time.sleep(0.02)  # a bank somewhere takes its time
    with Path(LEDGER).open("a", encoding="utf-8") as ledger:
        ledger.write(f"{token}\n")
    return f"posted {cents} for {token}"


def plan(text: str) -> list[str]:
    """Return what is to be paid for."""
    return [f"{text}-{number}" for number in range(PAYMENTS)]


@agent("teller", version="1")
async def teller(s: Context) -> None:
    """Plan, then look up and post each payment; one that was cut off is never posted again."""
    async for turn in s.turns():
        tokens = await s.step("plan", plan, turn.text, effects="none")
        for token in tokens:
            found = await s.call(price_of, item=token)
            cents = found.value if isinstance(found.value, int) else 0
            await s.call(post, token=token, cents=cents)
            s.state["last"] = token
        await turn.reply(f"done: {turn.text}")
