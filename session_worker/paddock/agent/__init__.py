"""Write an agent as a function: durable steps, tools in processes of their own, replies.

    from paddock.agent import Context, agent, tool

    @tool(effects="write", approval="ask", timeout_seconds=60)
    def refund(order_id: str, cents: int) -> str: ...

    @agent("support", version="7")
    async def support(s: Context) -> None:
        async for turn in s.turns():
            plan = await s.step("plan", ask_my_model, turn.text, effects="idempotent")
            paid = await s.call(refund, order_id=plan.order, cents=plan.cents)
            await turn.reply(paid.text)

After a death the function is entered again, from its top: steps and calls that were recorded are
not done again but give back what they gave. So what an agent does besides steps and calls must
depend on nothing but them, its turn's text and its state.
"""

from paddock.agent.context import (
    CallResult,
    Context,
    OperationEnded,
    StepFailed,
    StepInterrupted,
    Turn,
)
from paddock.agent.declare import AgentSpec, ToolDeclaration, agent, progress, tool

__all__ = [
    "AgentSpec",
    "CallResult",
    "Context",
    "OperationEnded",
    "StepFailed",
    "StepInterrupted",
    "ToolDeclaration",
    "Turn",
    "agent",
    "progress",
    "tool",
]
