"""What the model of the simulated world answers: words, or calls, and again what was cut off."""

from typing import TYPE_CHECKING

from paddock.session_worker.model import AssistantWords, Called, Item, ModelAnswer, ToolResult
from paddock.store.events import TextPart

if TYPE_CHECKING:
    from tests.simulation.house import House

ANSWERS_AT_MOST = 4


def answer_of(house: "House", items: tuple[Item, ...]) -> ModelAnswer:
    """Return an answer to a conversation."""
    chance = house.world.chance
    again = [
        Called(f"p{index}", item.tool, dict(item.arguments))
        for index, item in enumerate(_last_results(items))
        if item.status == "interrupted" and item.happened is not True
    ]
    if again and chance() < 0.9:
        return _made(again)
    answers = sum(isinstance(item, AssistantWords) for item in items)
    if answers >= ANSWERS_AT_MOST or chance() < 0.4:
        return _made([])
    return _made([_call(house, index) for index in range(1 + (chance() < 0.4))])


def _last_results(items: tuple[Item, ...]) -> list[ToolResult]:
    found: list[ToolResult] = []
    for item in reversed(items):
        if not isinstance(item, ToolResult):
            break
        found.append(item)
    return found[::-1]


def _call(house: "House", index: int) -> Called:
    chance = house.world.chance()
    if house.has_poison and chance < 0.25:
        return Called(f"p{index}", "poison", {"n": 0})
    tool = ("bash", "write_file", "write_file", "read_file", "unknown")[int(chance * 4.3)]
    arguments: dict[str, object] = {"command": "make"} if tool == "bash" else {"n": int(chance * 9)}
    return Called(f"p{index}", tool, arguments)  # type: ignore[arg-type]


def _made(calls: list[Called]) -> ModelAnswer:
    return ModelAnswer((TextPart(text="words"), *calls), "script", "script")
