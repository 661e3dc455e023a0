"""A script answers in order, from the request alone, and asks again what was interrupted."""

import json
from pathlib import Path

import pytest

from paddock.session_worker.errors import UnknownModel
from paddock.session_worker.model import (
    AssistantWords,
    Called,
    Item,
    ModelAnswer,
    ModelFailed,
    ModelRequest,
    Observed,
    ToolResult,
    UserWords,
)
from paddock.session_worker.models.opening import open_model
from paddock.store.events import AssistantPart, CallStatus, TextPart, ToolCallPart, Usage
from paddock.store.ids import MessageId, ToolCallId


class Conversation:
    """What a worker would do with a script: ask, record, answer its calls."""

    def __init__(self, folder: Path, turns: object) -> None:
        path = folder / "script.json"
        path.write_text(json.dumps(turns))
        self.name = f"script:{path}"
        self.items: list[Item] = []
        self.deltas: list[tuple[str, str]] = []

    def say(self, text: str) -> None:
        message_id = MessageId(f"user-{len(self.items)}")
        self.items.append(UserWords(message_id, (TextPart(text=text),)))

    async def ask(self) -> ModelAnswer:
        # A model of its own each time: nothing may depend on what an earlier process knew.
        model = open_model(self.name, {})
        request = ModelRequest(model=model.name, items=tuple(self.items))
        answer = await model.answer(request, lambda kind, text: self.deltas.append((kind, text)))
        await model.close()
        parts: list[AssistantPart] = []
        for part in answer.parts:
            if isinstance(part, Called):
                call_id = ToolCallId(f"ours-{part.provider_call_id}")
                parts.append(
                    ToolCallPart(
                        tool_call_id=call_id,
                        provider_call_id=part.provider_call_id,
                        tool=part.tool,
                        arguments=part.arguments,
                    )
                )
            else:
                parts.append(part)
        message_id = MessageId(f"assistant-{len(self.items)}")
        self.items.append(
            AssistantWords(
                message_id, tuple(parts), answer.model, answer.provider, answer.model_state
            )
        )
        return answer

    def result(
        self, call: Called, status: CallStatus = "ok", *, happened: bool | None = None
    ) -> None:
        self.items.append(
            ToolResult(
                ToolCallId(f"ours-{call.provider_call_id}"),
                call.provider_call_id,
                call.tool,
                call.arguments,
                status,
                "result",
                happened,
            )
        )


def bash(command: str) -> dict[str, object]:
    return {"name": "bash", "arguments": {"command": command}}


async def test_t6_a_script_is_said_turn_by_turn_with_its_calls_and_usage(tmp_path: Path) -> None:
    talk = Conversation(
        tmp_path,
        [
            {
                "thinking": "hm",
                "text": "I look.",
                "tool_calls": [bash("ls")],
                "usage": {"input_tokens": 7, "output_tokens": 3},
            },
            {"text": "Done."},
        ],
    )
    talk.say("go")
    first = await talk.ask()
    assert first.text == "I look."
    assert first.usage == Usage(input_tokens=7, output_tokens=3)
    (call,) = first.calls
    assert (call.tool, call.arguments, call.observed) == ("bash", {"command": "ls"}, None)
    talk.result(call)
    last = await talk.ask()
    assert last.text == "Done."
    assert not last.calls
    assert "".join(text for kind, text in talk.deltas if kind == "text") == "I look.Done."
    assert "".join(text for kind, text in talk.deltas if kind == "thinking") == "hm"


async def test_a_call_that_came_back_interrupted_is_asked_again_each_time(tmp_path: Path) -> None:
    talk = Conversation(tmp_path, [{"tool_calls": [bash("a"), bash("b")]}, {"text": "Done."}])
    talk.say("go")
    ok, lost = (await talk.ask()).calls
    talk.result(ok)
    talk.result(lost, "interrupted")
    seen = {ok.provider_call_id, lost.provider_call_id}
    for _ in range(3):
        again = await talk.ask()
        (lost,) = again.calls
        assert (lost.tool, lost.arguments, again.text) == ("bash", {"command": "b"}, "")
        assert lost.provider_call_id not in seen
        seen.add(lost.provider_call_id)
        talk.result(lost, "interrupted")
    (lost,) = (await talk.ask()).calls
    talk.result(lost, "ok")
    assert (await talk.ask()).text == "Done."


async def test_what_is_asked_again_stands_in_the_script_not_in_a_log_without_secrets(
    tmp_path: Path,
) -> None:
    talk = Conversation(tmp_path, [{"tool_calls": [bash("echo key")]}, {"text": "Done."}])
    talk.say("go")
    (call,) = (await talk.ask()).calls
    talk.result(call._replace(arguments={"command": "echo [redacted]"}), "interrupted")
    (again,) = (await talk.ask()).calls
    assert again.arguments == {"command": "echo key"}


async def test_an_interrupted_call_that_is_known_to_have_happened_is_not_asked_again(
    tmp_path: Path,
) -> None:
    talk = Conversation(tmp_path, [{"tool_calls": [bash("a")]}, {"text": "Done."}])
    talk.say("go")
    (call,) = (await talk.ask()).calls
    talk.result(call, "interrupted", happened=True)
    assert (await talk.ask()).text == "Done."


async def test_an_interrupted_call_of_an_earlier_operation_is_let_be(tmp_path: Path) -> None:
    talk = Conversation(tmp_path, [{"tool_calls": [bash("a")]}, {"text": "Hello."}])
    talk.say("go")
    (call,) = (await talk.ask()).calls
    talk.result(call, "interrupted")
    talk.say("leave that")
    assert (await talk.ask()).text == "Hello."


async def test_a_call_of_another_model_that_was_interrupted_is_asked_again(tmp_path: Path) -> None:
    talk = Conversation(tmp_path, [{"text": "Done."}])
    talk.say("go")
    theirs = Called("toolu_1", "bash", {"command": "a"})
    talk.result(theirs, "interrupted")
    (again,) = (await talk.ask()).calls
    assert again == ("toolu_1-again", "bash", {"command": "a"}, None)


async def test_a_script_at_its_end_closes_the_operation_and_refuses_new_words(
    tmp_path: Path,
) -> None:
    talk = Conversation(tmp_path, [{"tool_calls": [bash("a")]}])
    talk.say("go")
    (call,) = (await talk.ask()).calls
    talk.result(call)
    closing = await talk.ask()
    assert (closing.parts, closing.finish_reason) == ((), "end_of_script")
    talk.say("more")
    with pytest.raises(ModelFailed, match=r"has no turn left for this message \(it has 1\)") as hit:
        await talk.ask()
    assert hit.value.kind == "script_exhausted"
    assert not hit.value.retryable


async def test_what_stands_in_no_script_took_no_tokens(tmp_path: Path) -> None:
    usage = {"input_tokens": 5, "output_tokens": 7}
    talk = Conversation(tmp_path, [{"tool_calls": [bash("a")], "usage": usage}])
    talk.say("go")
    first = await talk.ask()
    talk.result(first.calls[0], status="interrupted")
    again = await talk.ask()
    talk.result(again.calls[0])
    closing = await talk.ask()
    told = [(one.usage.input_tokens, one.usage.output_tokens) for one in (first, again, closing)]
    assert told == [(5, 7), (0, 0), (0, 0)]


async def test_turns_of_a_prompt_answer_only_that_user_message(tmp_path: Path) -> None:
    talk = Conversation(
        tmp_path,
        [
            {"prompt": 0, "tool_calls": [bash("a")]},
            {"prompt": 0, "text": "First done."},
            {"prompt": 2, "text": "Third done."},
        ],
    )
    talk.say("first")
    await talk.ask()  # and it was cancelled here: the rest of its turns stay unsaid
    talk.say("second, which was never answered")
    assert (await talk.ask()).finish_reason == "end_of_script"
    talk.say("third")
    assert (await talk.ask()).text == "Third done."
    talk.say("fourth, which was never recorded")
    with pytest.raises(ModelFailed, match="has no turn left"):
        await talk.ask()


async def test_a_recorded_result_is_handed_over_with_its_call_also_when_asked_again(
    tmp_path: Path,
) -> None:
    call = {"name": "Task", "arguments": {}, "observed": {"text": "found", "is_error": False}}
    talk = Conversation(tmp_path, [{"tool_calls": [call]}])
    talk.say("go")
    (called,) = (await talk.ask()).calls
    assert called.observed == Observed("found", is_error=False)
    talk.result(called, "interrupted")
    (again,) = (await talk.ask()).calls
    assert again.observed == Observed("found", is_error=False)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("{", r"is not JSON: .*line 1"),
        ("{}", r"holds an object; it must be a list of turns"),
        ("[1]", r"turn 0 \(from 0\): the turn must be an object, not 1"),
        ('[{}, {"txet": ""}]', r"turn 1 \(from 0\): the turn has no field 'txet'; there are text,"),
        ('[{"text": 5}]', r"turn 0 .*'text' must be a string, not 5"),
        ('[{"tool_calls": {}}]', r"'tool_calls' must be a list, not an object"),
        ('[{"tool_calls": [{"arguments": {}}]}]', r"tool call 0 needs a 'name'"),
        (
            '[{"tool_calls": [{"name": "bash", "arguments": "ls"}]}]',
            r"'arguments' of tool call 0 \(bash\) must be an object, not a string",
        ),
        *(
            (
                f'[{{}}, {{"tool_calls": [{{"name": "bash", "arguments": {{"x": {value}}}}}]}}]',
                rf"turn 1 .*'arguments' of tool call 0 \(bash\): it {flaw}",
            )
            for value, flaw in (
                ("NaN", "holds nan, which is no number in JSON"),
                ("[{}, 1e400]", "holds inf, which is no number in JSON"),
                ("-Infinity", "holds -inf, which is no number in JSON"),
                ("[" * 100 + "]" * 100, "is nested more than 100 levels deep"),
            )
        ),
        (
            '[{"delay_ms": true}]',
            r"'delay_ms' must be a whole number .*, not True",
        ),
        ('[{"delay_ms": -1}]', r"'delay_ms' must be a whole number .*, not -1"),
        *(
            (
                f'[{{"usage": {{"output_tokens": {value}}}}}]',
                r"turn 0 .*'output_tokens' must be a whole number from 0 to 2\*\*63-1, not ",
            )
            for value in ("-1", "1.5", "NaN", '"5"', 2**63)
        ),
        ('[{"usage": {"tokens": 1}}]', r"'usage' has no field 'tokens'"),
        ('[{"prompt": 0}, {}]', r"turn 1 .*'prompt' must stand in all turns or in none"),
    ],
)
def test_a_file_that_is_no_script_is_refused_in_one_line_that_names_the_turn(
    tmp_path: Path, script: str, what: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(script)
    with pytest.raises(UnknownModel, match=what) as hit:
        open_model(f"script:{path}", {})
    assert str(path) in hit.value.message
    assert "\n" not in hit.value.message


def test_a_script_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"nowhere\.json' cannot be read: No such file"):
        open_model(f"script:{tmp_path}/nowhere.json", {})
