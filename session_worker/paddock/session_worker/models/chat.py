"""Chat completions as servers of that form stream them, which is not always as OpenAI does.

Loaded with the providers' libraries, never before (it imports pydantic-ai).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from openai.types.chat.chat_completion_chunk import Choice, ChoiceDeltaToolCall
from pydantic_ai.messages import ModelResponseStreamEvent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse
from pydantic_ai.usage import RequestUsage


class ChatModel(OpenAIChatModel):
    """A model that is asked for chat completions."""

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return _ChatStream


@dataclass(slots=True)
class _Begun:
    """A call under way: the id and name it began with, and the place that its pieces go to."""

    id: str
    name: str
    place: int


@dataclass
class _ChatStream(OpenAIStreamedResponse):
    _begun: dict[int, _Begun] = field(default_factory=dict[int, _Begun], init=False)
    """By the index that its pieces have."""
    _moved: int = field(default=0, init=False)

    def _add_usage(self, usage: RequestUsage, *, reported: bool, cumulative: bool = False) -> None:
        """Take what was used so far: some tell it with every piece (Google's, vLLM), not once."""
        del cumulative
        if reported:
            super()._add_usage(usage, reported=True, cumulative=True)

    def _map_tool_call_delta(self, choice: Choice) -> Iterable[ModelResponseStreamEvent]:
        for piece in choice.delta.tool_calls or []:
            self._tell_apart(piece)
        return super()._map_tool_call_delta(choice)

    def _tell_apart(self, piece: ChoiceDeltaToolCall) -> None:
        """Give each call a place of its own; some servers number every one of them 0.

        What begins under another id is another call. The same id and name again is the same one:
        some say both with every piece, and the names were joined to one that no tool has.
        """
        index, function = piece.index, piece.function
        name = (function.name if function else None) or ""
        begun = self._begun.get(index)
        if begun is None:
            self._begun[index] = _Begun(piece.id or "", name, index)
        elif piece.id and name and piece.id != begun.id:
            self._moved += 1
            self._begun[index] = _Begun(piece.id, name, -self._moved)
        elif function and piece.id and (piece.id, name) == (begun.id, begun.name):
            function.name = None
        piece.index = self._begun[index].place
