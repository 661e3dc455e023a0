"""The demonstration's function agent: it posts payments into a ledger, each exactly once."""

import time
from pathlib import Path

from paddock.agent import Context, agent, tool

PAYMENTS = 5
LEDGER = "ledger.csv"


@tool(effects="none", approval="allow", timeout_seconds=20)
def price_of(item: str) -> int:
    """Return the price of an item in cents."""
    time.sleep(0.1)  # a service somewhere takes its time
    return 100 + 25 * len(item)


@tool(effects="write", approval="ask", timeout_seconds=20)
def post(payment: int, item: str, cents: int) -> str:
    """Write a payment into the ledger."""
    time.sleep(0.25)
    with Path(LEDGER).open("a", encoding="utf-8") as ledger:
        ledger.write(f"{payment},{item},{cents}\n")
    return f"posted {cents} for {item}"


def plan(text: str) -> list[str]:
    """Return what is to be paid for: a step, done once, whatever dies later."""
    return [f"item {number} of {text!r}" for number in range(1, PAYMENTS + 1)]


@agent("bookkeeper", version="1")
async def bookkeeper(s: Context) -> None:
    """Plan, then look up and post each payment; entered again after a death, it repeats none."""
    async for turn in s.turns():
        items = await s.step("plan", plan, turn.text, effects="none")
        total = 0
        for payment, item in enumerate(items, 1):
            found = await s.call(price_of, item=item)
            cents = found.value if isinstance(found.value, int) else 0
            await s.call(post, payment=payment, item=item, cents=cents)
            total += cents
            s.state["posted"] = payment
        await turn.reply(f"Posted {len(items)} payments, {total} cents in all.")
