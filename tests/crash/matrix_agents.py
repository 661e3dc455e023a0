"""The function agent of the matrix."""

import matrix_effects  # type: ignore[import-not-found]  # beside this file, as in a user's project

from paddock.agent import Context, agent, tool

TOOL_SECONDS = 8.0


@tool(effects="write", approval="ask", timeout_seconds=TOOL_SECONDS)
def record(token: str) -> str:
    """Write a token into the ledger."""
    return str(matrix_effects.record(token))


def plan(text: str) -> list[str]:
    """Return what is to be recorded."""
    return [f"{text}.effect"]


@agent("clerk", version="1")
async def clerk(s: Context) -> None:
    """Plan, then record; what was cut off is not recorded again."""
    async for turn in s.turns():
        for token in await s.step("plan", plan, turn.text, effects="none"):
            await s.call(record, token=token)
            s.state["last"] = token
        await turn.reply(f"done: {turn.text}")
