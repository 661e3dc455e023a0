"""A recorded Claude Code session is read whole, and becomes a script that runs its calls again."""

import gzip
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from paddock.session_worker.model import Observed
from paddock.session_worker.models.script import parse_script
from paddock.session_worker.sizes import flaw_in
from paddock.store.events import Usage
from paddock.store.importers.claude_code import NO_NAME, TYPES, read_transcript
from paddock.store.importers.transcript import (
    NO_RESULT,
    NotATranscript,
    RecordedTurn,
    Transcript,
    to_script,
)
from tests.house import shared

COLLECTION = "claude_code"
CWD = "/recorded"


# --- a transcript by hand -------------------------------------------------------------------------


class Recording:
    """A transcript in the making; each record is the child of the one before unless told."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.last: str | None = None

    def add(self, kind: str, *, parent: str | None = "", **fields: Any) -> str:
        uuid = f"u{len(self.records)}"
        self.records.append(
            {
                "type": kind,
                "uuid": uuid,
                "parentUuid": self.last if parent == "" else parent,
                "sessionId": "s1",
                "cwd": CWD,
                "timestamp": f"2026-01-02T03:04:{len(self.records):02}.500Z",
                **fields,
            }
        )
        self.last = uuid
        return uuid

    def user(self, content: JsonValue, **fields: Any) -> str:
        return self.add("user", message={"role": "user", "content": content}, **fields)

    def result(self, call_id: str, text: JsonValue = "fine", **fields: Any) -> str:
        is_error = fields.pop("is_error", None)
        block = {"type": "tool_result", "tool_use_id": call_id, "content": text}
        return self.user([block | ({"is_error": is_error} if is_error else {})], **fields)

    def assistant(self, message_id: str, *blocks: JsonValue, **fields: Any) -> str:
        usage = {"input_tokens": 1, "cache_read_input_tokens": 10, "output_tokens": 5}
        message = {"id": message_id, "model": "claude-x", "content": list(blocks), "usage": usage}
        return self.add("assistant", message=message | fields.pop("message", {}), **fields)

    def says(self, message_id: str, text: str, **fields: Any) -> str:
        return self.assistant(message_id, {"type": "text", "text": text}, **fields)

    def calls(self, message_id: str, call_id: str, tool: str = "Bash", **fields: Any) -> str:
        arguments: JsonValue = {"of": call_id}
        block = {"type": "tool_use", "id": call_id, "name": tool, "input": arguments}
        return self.assistant(message_id, block, **fields)

    def read(self) -> Transcript:
        return read_transcript("\n".join(json.dumps(record) for record in self.records))


@pytest.fixture
def recording() -> Recording:
    return Recording()


def script(transcript: Transcript) -> tuple[list[str], list[dict[str, Any]]]:
    def ours(
        tool: str, arguments: Mapping[str, Any], recorded_cwd: str, cwd: str, asked_in: str | None
    ) -> tuple[str, dict[str, Any]] | None:
        mapped = {**arguments, "from": recorded_cwd, "to": cwd}
        if asked_in != recorded_cwd:
            mapped["in"] = asked_in
        return (tool.lower(), mapped) if tool in ("Bash", "Edit") else None

    return to_script(transcript, recorded_cwd=CWD, cwd="/here", map_call=ours)


def told(turn: RecordedTurn) -> tuple[str, list[str]]:
    return turn.text, [call.call_id for call in turn.calls]


# --- the chain ------------------------------------------------------------------------------------


def test_blocks_of_one_message_are_one_turn_with_the_results_of_its_calls(
    recording: Recording,
) -> None:
    recording.user("do it")
    recording.assistant("m1", {"type": "thinking", "thinking": "hm", "signature": "s"})
    recording.says("m1", "I look.")
    recording.calls("m1", "c1")
    recording.result("c1", [{"type": "text", "text": "a"}, {"type": "image", "source": {}}])
    recording.says("m2", "Done.")
    (prompt,) = recording.read().prompts
    first, last = prompt.turns
    assert (first.thinking, *told(first)) == ("hm", "I look.", ["c1"])
    assert first.usage == Usage(input_tokens=11, cache_read_tokens=10, output_tokens=5)
    assert first.calls[0].outcome is not None
    assert first.calls[0].outcome.text == "a\n[image]"
    assert told(last) == ("Done.", [])


def test_calls_and_results_beside_the_chain_belong_to_their_message(recording: Recording) -> None:
    prompt = recording.user("do it")
    first = recording.calls("m1", "c1")
    recording.calls("m1", "c2", parent=prompt)
    recording.calls("m1", "c3", parent=prompt)
    recording.result("c3")
    recording.result("c2", parent="u2")
    recording.result("c1", parent=first)  # the chain goes on from here, past c2 and c3
    recording.says("m2", "Done.")
    transcript = recording.read()
    turn, _ = transcript.turns
    assert [call.call_id for call in turn.calls] == ["c1", "c2", "c3"]
    assert all(call.outcome for call in turn.calls)


def test_a_call_beside_the_chain_whose_result_is_on_it_belongs_to_it(
    recording: Recording,
) -> None:
    prompt = recording.user("do it")
    result = recording.result("c1")  # written first, and not as the call's child
    recording.calls("m1", "c1", parent=prompt)
    recording.says("m2", "Done.", parent=result)
    transcript = recording.read()
    assert [told(turn) for turn in transcript.turns] == [("", ["c1"]), ("Done.", [])]
    assert transcript.problems == ()


def test_the_chain_goes_through_records_of_other_types_and_over_a_compaction(
    recording: Recording,
) -> None:
    recording.user("do it")
    recording.calls("m1", "c1")
    recording.add("progress", data={})
    recording.result("c1")
    before = recording.add("attachment", attachment={})
    recording.add("system", parent=None, logicalParentUuid=before, subtype="compact_boundary")
    recording.user("This session is being continued from …", isCompactSummary=True)
    recording.calls("m2", "c2")
    recording.result("c2")
    recording.says("m3", "Done.")
    (prompt,) = recording.read().prompts
    assert [told(turn)[1] for turn in prompt.turns] == [["c1"], ["c2"], []]


def test_a_branch_that_was_left_is_no_part_of_the_chain(recording: Recording) -> None:
    root = recording.user("first try")
    recording.says("m1", "no")
    recording.user("second try", parent=root)
    recording.says("m2", "yes")
    transcript = recording.read()
    assert [prompt.text for prompt in transcript.prompts] == ["first try", "second try"]
    assert [told(turn)[0] for turn in transcript.turns] == ["yes"]
    assert transcript.counts.messages == {"user": 2, "assistant": 2}


def test_a_branch_that_was_left_is_told_of(recording: Recording) -> None:
    recording.user("first try")
    recording.calls("m1", "c1")
    recording.result("c1")
    recording.user("first prompt, in other words", parent=None)
    recording.says("m2", "yes")
    transcript = recording.read()
    assert [prompt.text for prompt in transcript.prompts] == ["first prompt, in other words"]
    assert [problem.what for problem in transcript.problems] == [
        "branches that were left are left out (prompts: 1, calls: 1)"
    ]


def test_a_session_that_was_resumed_as_another_goes_on_with_the_first(
    recording: Recording,
) -> None:
    recording.user("first")
    recording.says("m1", "One.")
    recording.user("second", parent=None, sessionId="s2")
    recording.says("m2", "Two.", sessionId="s2")
    transcript = recording.read()
    assert [prompt.text for prompt in transcript.prompts] == ["first", "second"]
    assert transcript.problems == ()


def test_a_missing_parent_is_taken_to_be_the_record_before_and_told_of(
    recording: Recording,
) -> None:
    recording.user("do it")
    recording.says("m1", "one", parent="gone-1")
    recording.says("m2", "two", parent="gone-2")
    transcript = recording.read()
    assert [told(turn)[0] for turn in transcript.turns] == ["one", "two"]
    assert [problem.what for problem in transcript.problems] == [
        "record gone-2 is not in the file, but a child of it is",
        "record gone-1 is not in the file, but a child of it is",
    ]


@pytest.mark.parametrize("kind", ["summary", "boundary"])
def test_a_compaction_that_names_no_record_before_it_goes_on_with_the_last_one(
    recording: Recording, kind: str
) -> None:
    recording.user("first")
    recording.says("m1", "Before.")
    if kind == "boundary":
        recording.add("system", parent=None, subtype="compact_boundary")
    parent = "" if kind == "boundary" else None
    recording.user("This session is continued", parent=parent, isCompactSummary=True)
    recording.says("m2", "After.")
    assert [turn.text for turn in recording.read().turns] == ["Before.", "After."]


def test_lines_out_of_order_are_read_in_the_order_of_the_conversation(
    recording: Recording,
) -> None:
    recording.user("first")
    recording.says("m1", "One.")
    recording.user("second")
    recording.says("m2", "Two.")
    for order in itertools.permutations(recording.records):
        shuffled = Recording()
        shuffled.records = list(order)
        transcript = shuffled.read()
        assert [prompt.text for prompt in transcript.prompts] == ["first", "second"]
        assert [turn.text for turn in transcript.turns] == ["One.", "Two."]


@pytest.mark.parametrize("without", [("parentUuid",), ("parentUuid", "uuid")])
def test_records_that_name_none_before_them_are_one_conversation(
    recording: Recording, without: tuple[str, ...]
) -> None:
    recording.user("first")
    recording.says("m1", "One.")
    recording.says("m2", "Of a sub-agent.", parent_tool_use_id="c1")
    recording.user("second")
    recording.says("m3", "Two.")
    recording.records = [
        {key: value for key, value in record.items() if key not in without}
        for record in recording.records
    ]
    transcript = recording.read()
    assert [prompt.text for prompt in transcript.prompts] == ["first", "second"]
    assert [turn.text for turn in transcript.turns] == ["One.", "Two."]


def test_what_has_no_uuid_is_part_of_a_conversation_that_is_no_tree(recording: Recording) -> None:
    recording.user("first")
    recording.says("m1", "One.")
    recording.user("second")
    recording.says("m2", "Two.")
    for number, record in enumerate(recording.records):
        del record["parentUuid"]
        if number % 2:
            del record["uuid"]
    assert [turn.text for turn in recording.read().turns] == ["One.", "Two."]


def test_side_chains_are_left_out_unless_the_file_is_one(recording: Recording) -> None:
    recording.user("do it")
    recording.says("m1", "Done.")
    recording.user("of a sub-agent", isSidechain=True)
    recording.says("m2", "sub", isSidechain=True)
    assert [turn.text for turn in recording.read().turns] == ["Done."]
    recording.records = recording.records[2:]
    assert [turn.text for turn in recording.read().turns] == ["sub"]


# --- prompts --------------------------------------------------------------------------------------


def test_a_hooks_feedback_that_was_answered_is_a_prompt_of_its_own(recording: Recording) -> None:
    recording.user("do it")
    recording.says("m1", "Done.")
    recording.user("Stop hook feedback: commit", isMeta=True)
    recording.says("m2", "Committed.")
    recording.user("Stop hook feedback: again", isMeta=True)
    prompts = recording.read().prompts
    assert [(prompt.text, prompt.is_meta, len(prompt.turns)) for prompt in prompts] == [
        ("do it", False, 1),
        ("Stop hook feedback: commit", True, 1),
    ]


def test_what_only_goes_with_a_prompt_is_no_prompt_of_its_own(recording: Recording) -> None:
    recording.user("do it")
    recording.says("m1", "Done.")
    recording.user("Continue from where you left off.", isMeta=True)
    recording.says("m2", "No response requested.", message={"model": "<synthetic>"})
    recording.user("<command-name>/model</command-name>")
    recording.user("<local-command-stdout>Set model to x</local-command-stdout>")
    recording.user([{"type": "text", "text": "look"}, {"type": "image", "source": {}}])
    recording.user("[Image: source: /tmp/a.png]", isMeta=True)
    recording.says("m3", "A cat.")
    prompts = recording.read().prompts
    assert [(prompt.text, len(prompt.turns)) for prompt in prompts] == [
        ("do it", 1),
        ("look\n[image]", 1),
    ]


def test_what_was_typed_while_the_agent_was_busy_is_a_prompt(recording: Recording) -> None:
    recording.user("do it")
    recording.calls("m1", "c1")
    recording.result("c1")
    for mode, words in (("prompt", "and that"), ("task-notification", "<task-notification>")):
        queued = {"type": "queued_command", "prompt": words, "commandMode": mode}
        recording.add("attachment", attachment=queued)
    recording.calls("m2", "c2")
    said: JsonValue = [
        {"type": "tool_result", "tool_use_id": "c2", "content": "fine"},
        {"type": "text", "text": "<system-reminder>be good</system-reminder>"},
        {"type": "text", "text": "and this"},
    ]
    recording.user(said)
    recording.says("m3", "Done.")
    prompts = recording.read().prompts
    assert [(prompt.text, [told(turn)[1] for turn in prompt.turns]) for prompt in prompts] == [
        ("do it", [["c1"]]),
        ("and that", [["c2"]]),
        ("and this", [[]]),
    ]


def test_a_reminder_or_an_interruption_beside_a_result_is_no_prompt(recording: Recording) -> None:
    recording.user("do it")
    recording.calls("m1", "c1")
    result: JsonValue = {"type": "tool_result", "tool_use_id": "c1", "content": "fine"}
    reminder: JsonValue = {"type": "text", "text": "<system-reminder>be good</system-reminder>"}
    stopped: JsonValue = {"type": "text", "text": "[Request interrupted by user for tool use]"}
    recording.user([result, reminder, stopped])
    recording.says("m2", "Done.")
    assert [prompt.text for prompt in recording.read().prompts] == ["do it"]


def test_the_clients_own_bookkeeping_is_no_prompt(recording: Recording) -> None:
    recording.user("<local-command-caveat>Caveat: …", isMeta=True)
    recording.user("<command-name>/clear</command-name>")
    recording.user("<local-command-stdout></local-command-stdout>")
    recording.user("do it")
    recording.calls("m1", "c1")
    recording.result("c1")
    recording.user([{"type": "text", "text": "[Request interrupted by user]"}])
    recording.user("do this instead")
    recording.says("m2", "Done.")
    recording.user("<bash-input>ls</bash-input>")
    prompts = recording.read().prompts
    assert [prompt.text for prompt in prompts] == ["do it", "do this instead"]


def test_a_slash_command_and_the_text_it_stands_for_are_one_prompt(recording: Recording) -> None:
    recording.user("<command-message>ship</command-message>\n<command-name>/ship</command-name>")
    recording.user([{"type": "text", "text": "Ship the changes."}], isMeta=True)
    recording.calls("m1", "c1", "Skill")
    recording.result("c1")
    recording.user("Base directory for this skill: …", isMeta=True, sourceToolUseID="c1")
    recording.says("m2", "Shipped.")
    (prompt,) = recording.read().prompts
    assert prompt.text.endswith("/ship</command-name>\n\nShip the changes.")
    assert len(prompt.turns) == 2


def test_a_slice_that_begins_with_an_answer_gets_a_prompt_that_says_so(
    recording: Recording,
) -> None:
    recording.says("m1", "Done.", parent="gone")
    (prompt,) = recording.read().prompts
    assert prompt.text == "(the recording begins here; its first prompt is not in it)"


# --- files that are not as they should be ---------------------------------------------------------


def test_a_result_before_its_call_an_orphan_and_an_unanswered_call_are_told_apart(
    recording: Recording,
) -> None:
    recording.user("do it")
    recording.result("c1")
    recording.calls("m1", "c1", parent="u0")
    recording.result("nobodys", parent="u0")
    recording.calls("m2", "c2", parent="u1")
    transcript = recording.read()
    by_id = {call.call_id: call for call in transcript.counts.calls}
    assert by_id["c1"].outcome is not None
    assert by_id["c2"].outcome is None
    assert transcript.counts.orphan_results == 1
    assert {problem.what for problem in transcript.problems} == {
        "the result of nobodys has no call in the file",
        "call c2 (Bash) was never answered",
    }


def test_lines_with_two_records_and_lines_that_are_no_json_are_read_around(
    recording: Recording,
) -> None:
    recording.user("do it")
    recording.says("m1", "Done.")
    two = "".join(json.dumps(record) for record in recording.records)
    transcript = read_transcript(f'{two}\n\n{{"type": "user", "mess')
    assert [turn.text for turn in transcript.turns] == ["Done."]
    assert (transcript.counts.recovered_lines, transcript.counts.unparseable_lines) == (1, 1)
    assert [problem.line for problem in transcript.problems] == [1, 3]


def test_a_byte_order_mark_costs_no_record_however_the_file_is_read(
    recording: Recording,
) -> None:
    recording.user("do it")
    recording.says("m1", "Done.")
    lines = [f"{json.dumps(record)}\r\n".encode() for record in recording.records]
    lines[0] = b"\xef\xbb\xbf" + lines[0]
    for source in (lines, b"".join(lines), b"".join(lines).decode()):
        transcript = read_transcript(source)
        assert [prompt.text for prompt in transcript.prompts] == ["do it"]
        assert transcript.problems == ()


@pytest.mark.parametrize("half", [r"\ud83d", r"\uD83D", r"\uDE00"])
def test_f16_half_a_character_is_replaced_visibly(recording: Recording, half: str) -> None:
    recording.user("cut HALF here")
    recording.says("m1", "Done.")
    content = "\n".join(map(json.dumps, recording.records)).replace("HALF", half)
    text = read_transcript(content).prompts[0].text
    assert text == "cut \N{REPLACEMENT CHARACTER} here"


def test_f16_bytes_that_are_no_text_are_replaced_visibly_and_told_of(recording: Recording) -> None:
    recording.user("caf?")
    recording.says("m1", "Done.")
    content = "\n".join(map(json.dumps, recording.records)).encode().replace(b"?", b"\xe9")
    transcript = read_transcript(content)
    assert transcript.prompts[0].text == "caf\N{REPLACEMENT CHARACTER}"
    (problem,) = transcript.problems
    assert problem.line == 1
    assert problem.what.startswith("is not UTF-8 (byte ")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"hello\nworld\n", "it holds no JSON records"),
        (b'{"type": "session_meta", "payload": {}}\n', "it holds records of type session_meta"),
        (b'{"type": ["user"]}\n[1]\n', "it holds records of type"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "it holds no JSON records"),
        (gzip.compress(b'{"type": "user"}\n', mtime=0), "it is compressed, unpack it"),
        ('{"type": "user"}\n'.encode("utf-16"), "it is UTF-16, write it as UTF-8"),
    ],
)
def test_what_is_no_transcript_is_refused_in_one_line(content: bytes, what: str) -> None:
    with pytest.raises(NotATranscript, match=what) as hit:
        read_transcript(content)
    assert "\n" not in hit.value.message


# --- as a script ----------------------------------------------------------------------------------


def test_calls_of_ours_are_run_and_all_others_carry_their_recorded_result(
    recording: Recording,
) -> None:
    rejected = "The user doesn't want to proceed with this tool use. The tool use was rejected"
    unread = "<tool_use_error>File has not been read yet. Read it first before writing to it."
    recording.user("do it")
    recording.calls("m1", "run")
    recording.calls("m1", "failed")
    recording.calls("m1", "foreign", "Task")
    recording.calls("m1", "rejected")
    recording.calls("m1", "unread", "Edit")
    recording.calls("m1", "unanswered")
    recording.result("run")
    recording.result("failed", "Exit code 1", is_error=True)
    recording.result("foreign", "found")
    recording.result("rejected", rejected, is_error=True)
    recording.result("unread", unread, is_error=True)
    prompts, turns = script(recording.read())
    assert prompts == ["do it"]
    first, last = turns
    assert first["prompt"] == last["prompt"] == 0
    assert "tool_calls" not in last  # added: an operation ends with an answer that asks for nothing
    calls = first["tool_calls"]
    assert calls[0] == {
        "name": "bash",
        "arguments": {"of": "run", "from": CWD, "to": "/here"},
    }
    assert [(call["name"], call.get("observed")) for call in calls[1:]] == [
        ("bash", None),
        ("Task", {"text": "found", "is_error": False}),
        ("bash", {"text": rejected, "is_error": True}),
        ("edit", {"text": unread, "is_error": True}),
        ("bash", {"text": NO_RESULT, "is_error": True}),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_use_error>Sibling tool call errored</tool_use_error>",
        "<tool_use_error>Cancelled: parallel tool call Bash(ls) errored</tool_use_error>",
        "<tool_use_error>InputValidationError: Bash failed</tool_use_error>",
        "<tool_use_error>Error: No such tool available: Bash</tool_use_error>",
        "PreToolUse:Bash hook error: [guard.sh]: no",
        "Hook PreToolUse:Bash denied this tool",
        "Execution stopped by PreToolUse hook: no",
        "Operation stopped by hook: no",
        "Bash operation blocked by hook:\n- [guard.sh]: no",
        "Tool permission request failed: Error: Stream closed",
        "Permission to use Bash with command ls has been denied.",
        "Permission for this action has been denied. Reason: [Data Exfiltration] …",
        "This Bash command contains multiple operations. The following part requires approval: ls",
        "cd to '/x' was blocked. For security, Claude Code may only change directories to …",
        "[Request interrupted by user for tool use]",
    ],
)
def test_a_call_that_was_ended_before_it_began_is_not_run(recording: Recording, text: str) -> None:
    recording.user("do it")
    recording.calls("m1", "never")
    recording.result("never", text, is_error=True)
    _, (turn, _) = script(recording.read())
    assert turn["tool_calls"][0]["observed"] == {"text": text, "is_error": True}


@pytest.mark.parametrize(
    ("kind", "runs"), [("permission-rule", False), ("user-rejected", False), ("interrupted", True)]
)
def test_a_call_that_is_said_to_have_been_denied_is_not_run_whatever_its_result_says(
    recording: Recording, kind: str, *, runs: bool
) -> None:
    recording.user("do it")
    recording.calls("m1", "c1")
    recording.result("c1", "Force push is blocked", is_error=True, toolDenialKind=kind)
    _, (turn, _) = script(recording.read())
    assert ("observed" not in turn["tool_calls"][0]) is runs


@pytest.mark.parametrize(
    "text",
    [
        "String to replace not found in file.",
        "Found 2 matches of the string to replace, but replace_all is false.",
        "No changes to make: old_string and new_string are exactly the same.",
    ],
)
def test_a_change_that_its_own_words_rule_out_is_tried(recording: Recording, text: str) -> None:
    recording.user("do it")
    recording.calls("m1", "c1", "Edit")
    recording.result("c1", text, is_error=True)
    _, (turn, _) = script(recording.read())
    assert "observed" not in turn["tool_calls"][0]


def test_of_what_sub_agents_did_it_is_told_that_it_is_not_done(recording: Recording) -> None:
    recording.user("do it")
    recording.calls("m1", "c1", "Task")
    recording.result("c1", "the sub-agent is done")
    (problem,) = recording.read().problems
    assert problem.what == "what sub-agents did is not done again (calls that sent them: 1)"


def test_a_change_of_a_file_that_failed_is_not_made(recording: Recording) -> None:
    failed = "EACCES: permission denied, open '/recorded/a'"
    recording.user("do it")
    recording.calls("m1", "c1", "Edit")
    recording.result("c1", failed, is_error=True)
    _, (turn, _) = script(recording.read())
    assert turn["tool_calls"][0]["observed"] == {"text": failed, "is_error": True}


@pytest.mark.parametrize(
    ("old", "told", "took"),
    [
        ("b", {"originalFile": "a\nb\nc\n"}, "b\n"),
        ("b", {"originalFile": "a\r\nb\r\nc\r\n"}, "b\n"),
        ("b\n", {"originalFile": "a\nb\n\nc\n"}, "b\n"),
        ("b", {"originalFile": "a\nbc\n"}, "b"),
        ("b", {"originalFile": "a\nb"}, "b"),
        ("b", {"structuredPatch": [{"lines": [" a", "-b", " c"]}]}, "b\n"),
        ("b", {"structuredPatch": [{"lines": [" a", "-bc", "+c"]}]}, "b"),
        ("b", {"structuredPatch": [{"lines": [" a", "-b", "\\ No newline at end of file"]}]}, "b"),
        ("b", {"structuredPatch": [{"lines": ["-b", "-b"]}], "replaceAll": True}, "b"),
        ("b", {"structuredPatch": "b"}, "b"),
    ],
)  # fmt: skip
def test_a_line_that_an_edit_took_out_goes_with_its_end(
    recording: Recording, old: str, told: JsonValue, took: str
) -> None:
    assert isinstance(told, dict)
    result: JsonValue = {"oldString": old, "newString": "", **told}
    assert edited(recording, {"old_string": old, "new_string": ""}, result) == (took, "")


def test_an_edit_that_claude_p_printed_is_made_with_the_text_that_was_found(
    recording: Recording,
) -> None:
    given: JsonValue = {"old_string": '"a"', "new_string": "b"}
    block: JsonValue = {"type": "tool_use", "id": "c1", "name": "Edit", "input": given}
    recording.assistant("m1", block)
    recording.result("c1", tool_use_result={"oldString": "\u201ca\u201d", "newString": "b"})
    assert recording.read().turns[0].calls[0].arguments["old_string"] == "\u201ca\u201d"


def test_an_edit_is_made_with_the_text_that_was_found_in_the_file(recording: Recording) -> None:
    curly = {"oldString": "\u201ca\u201d", "newString": "\u201cb\u201d"}
    given: JsonValue = {"old_string": '"a"', "new_string": '"b"'}
    assert edited(recording, given, cast("JsonValue", curly)) == ("\u201ca\u201d", "\u201cb\u201d")


@pytest.mark.parametrize("result", [None, "Error: no", [], {}, {"oldString": 1, "newString": ""}])
def test_an_edit_that_tells_nothing_of_itself_is_made_as_it_was_asked(
    recording: Recording, result: JsonValue
) -> None:
    assert edited(recording, {"old_string": "a", "new_string": ""}, result) == ("a", "")


def test_a_file_is_written_as_it_was_after_a_user_changed_the_proposal(
    recording: Recording,
) -> None:
    recording.user("do it")
    given: JsonValue = {"file_path": "/recorded/a", "content": "proposed"}
    block: JsonValue = {"type": "tool_use", "id": "c1", "name": "Write", "input": given}
    recording.assistant("m1", block)
    told: JsonValue = {"type": "create", "filePath": "/recorded/a", "content": "kept"}
    recording.result("c1", toolUseResult=told)
    assert recording.read().turns[0].calls[0].arguments["content"] == "kept"


@pytest.mark.parametrize("error", [None, "", "Cell not found"])
def test_a_notebook_is_told_as_it_was_after_an_edit_of_a_cell(
    recording: Recording, error: str | None
) -> None:
    recording.user("do it")
    given: dict[str, JsonValue] = {"notebook_path": "/recorded/a.ipynb", "new_source": "1"}
    block: JsonValue = {"type": "tool_use", "id": "c1", "name": "NotebookEdit", "input": given}
    recording.assistant("m1", block)
    told: JsonValue = {"original_file": "{}", "updated_file": "{1}", "error": error}
    recording.result("c1", toolUseResult=told)
    known: dict[str, JsonValue] = {} if error else {"updated_file": "{1}"}
    assert recording.read().turns[0].calls[0].arguments == {**given, **known}


def test_each_of_several_edits_takes_the_line_end_that_it_took(recording: Recording) -> None:
    recording.user("do it")
    edits: JsonValue = [
        {"old_string": "a", "new_string": "", "replace_all": True},
        {"old_string": "b", "new_string": "c"},
        {"old_string": "c", "new_string": ""},
    ]
    given: JsonValue = {"file_path": "/recorded/a", "edits": edits}
    block: JsonValue = {"type": "tool_use", "id": "c1", "name": "MultiEdit", "input": given}
    recording.assistant("m1", block)
    told: JsonValue = {"edits": edits, "originalFileContents": "a\na\nb\nd"}
    recording.result("c1", toolUseResult=told)
    made = cast("list[Any]", recording.read().turns[0].calls[0].arguments["edits"])
    assert [edit["old_string"] for edit in made] == ["a\n", "b", "c\n"]


def edited(recording: Recording, given: JsonValue, result: JsonValue) -> tuple[str, str]:
    """Return what an edit is made with, which was asked for with ``given``."""
    recording.user("do it")
    block: JsonValue = {"type": "tool_use", "id": "c1", "name": "Edit", "input": given}
    recording.assistant("m1", block)
    recording.result("c1", toolUseResult=result)
    _, (turn, _) = script(recording.read())
    arguments = turn["tool_calls"][0]["arguments"]
    return arguments["old_string"], arguments["new_string"]


def test_a_call_tells_in_which_folder_it_was_made(recording: Recording) -> None:
    recording.user("do it")
    recording.calls("m1", "one", cwd=f"{CWD}/sub")
    recording.result("one")
    _, (turn, _) = script(recording.read())
    assert turn["tool_calls"][0]["arguments"]["in"] == f"{CWD}/sub"


def test_calls_without_ids_and_counts_that_cannot_be_are_read_around(recording: Recording) -> None:
    recording.user("do it")
    for call_id in (None, ["a"], {"b": 1}, 7):
        block = {"type": "tool_use", "id": call_id, "name": "Bash", "input": {}}
        usage = {"input_tokens": -1, "output_tokens": 2**70, "cache_read_input_tokens": True}
        recording.assistant("m1", cast("JsonValue", block), message={"usage": usage})
    transcript = recording.read()
    assert len(transcript.turns[0].calls) == 4
    assert transcript.turns[0].usage == Usage()
    script(transcript)


@pytest.mark.parametrize(
    ("value", "kept"),
    [("1e400", "1e400"), ("NaN", "NaN"), ("-Infinity", "-Infinity"), ("1e3", 1000.0)],
)
def test_a_number_that_is_none_stands_as_its_text(
    recording: Recording, value: str, kept: JsonValue
) -> None:
    recording.user("do it")
    recording.calls("m1", "one")
    content = "\n".join(map(json.dumps, recording.records)).replace(
        '{"of": "one"}', f'{{"of": {value}}}'
    )
    (turn,) = read_transcript(content).turns
    assert turn.calls[0].arguments == {"of": kept}


def test_arguments_that_are_nested_too_deep_for_a_log_stand_as_text(recording: Recording) -> None:
    recording.user("do it")
    recording.calls("m1", "one")
    deep = "[" * 2000 + "1" + "]" * 2000
    content = "\n".join(map(json.dumps, recording.records)).replace('"one"}', f"{deep}}}")
    (turn,) = read_transcript(content).turns
    assert flaw_in(turn.calls[0].arguments) is None
    assert deep.replace("[", "").replace("]", "") in json.dumps(turn.calls[0].arguments)


def test_a_call_of_a_tool_without_a_name_is_told_of_and_not_run(recording: Recording) -> None:
    recording.user("do it")
    recording.calls("m1", "one", "")
    recording.result("one")
    prompts, turns = script(recording.read())
    assert prompts == ["do it"]
    (turn, _) = parse_script(json.dumps(turns), "recorded")
    assert (turn.calls[0].name, turn.calls[0].observed) == (NO_NAME, Observed("fine", False))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(data=st.data())
def test_whatever_stands_in_a_field_is_read_around(data: st.DataObject) -> None:
    recording = Recording()
    recording.user("do it")
    recording.calls("m1", "one")
    recording.result("one")
    recording.says("m2", "done")
    for _ in range(data.draw(st.integers(1, 4))):
        at: Any = data.draw(st.sampled_from(recording.records))
        while True:
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            inner = at[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
                break
            at = inner
        at[key] = data.draw(json_values)
    try:
        _, turns = script(recording.read())
        parse_script(json.dumps(turns), "recorded")
    except NotATranscript:
        assert not any(record.get("type") in TYPES for record in map(dict, recording.records))


def test_each_operation_ends_with_its_only_turn_that_asks_for_nothing(
    recording: Recording,
) -> None:
    recording.user("first")
    recording.says("m1", "Wait.")
    recording.add("system", subtype="api_error")
    recording.says("m2", "I go on.")
    recording.calls("m3", "c1")
    recording.result("c1")
    recording.user("never answered")
    recording.user("last")
    recording.says("m4", "Done.")
    recording.says("m5", "No response requested.", message={"model": "<synthetic>"})
    prompts, turns = script(recording.read())
    assert prompts == ["first", "never answered", "last"]
    assert [
        (turn["prompt"], turn.get("text", ""), len(turn.get("tool_calls", ()))) for turn in turns
    ] == [(0, "Wait.\n\nI go on.", 1), (0, "", 0), (1, "", 0), (2, "Done.", 0)]
    assert turns[1]["usage"] == turns[2]["usage"] == {"input_tokens": 0, "output_tokens": 0}
    assert turns[0]["usage"] == {"input_tokens": 33, "cache_read_tokens": 30, "output_tokens": 15}


# --- sessions that nobody here wrote --------------------------------------------------------------


def reference() -> list[dict[str, Any]]:
    if not shared.DATA.is_dir():
        return []
    answers = json.loads((shared.DATA / "reference_answers.json").read_text())
    sessions: list[dict[str, Any]] = answers["collections"][COLLECTION]["per_session"]
    return sessions


def counted(transcript: Transcript) -> dict[str, Any]:
    counts = transcript.counts
    names = [call.tool for call in counts.calls]
    usages = counts.usage.values()
    read = sum(usage.cache_read_tokens or 0 for usage in usages)
    written = sum(usage.cache_write_tokens or 0 for usage in usages)
    return {
        "session_id": transcript.session_id,
        "messages": dict(counts.messages),
        "tool_calls_by_name": {name: names.count(name) for name in names},
        "failing": sum(call.outcome.is_error for call in counts.calls if call.outcome),
        "unanswered": sum(call.outcome is None for call in counts.calls),
        "orphan_results": counts.orphan_results,
        "recovered_lines": counts.recovered_lines,
        "unparseable_lines": counts.unparseable_lines,
        "models": dict(counts.models),
        "api_messages": len(counts.usage),
        "tokens": {
            "input_tokens": sum(usage.input_tokens or 0 for usage in usages) - read - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "output_tokens": sum(usage.output_tokens or 0 for usage in usages),
        },
    }


@pytest.mark.real_data
@shared.NEEDS_DATA
def test_recorded_sessions_are_counted_as_an_independent_reading_counts_them() -> None:
    for answer in reference():
        transcript = read_transcript((shared.DATA / answer["file"]).read_bytes())
        found = counted(transcript)
        wanted = {key: answer.get(key, 0) for key in found}
        wanted["tokens"] = {key: wanted["tokens"].get(key, 0) for key in found["tokens"]}
        assert found == wanted, answer["file"]


@pytest.mark.real_data
@shared.NEEDS_DATA
def test_latencies_of_recorded_calls_are_those_of_an_independent_reading() -> None:
    for answer in reference():
        calls = read_transcript((shared.DATA / answer["file"]).read_bytes()).counts.calls
        latencies = [
            (call.outcome.at - call.at) / 1000
            for call in calls
            if call.at is not None and call.outcome is not None and call.outcome.at is not None
        ]
        wanted = answer["latency_ms"] or {"n": 0}
        assert len(latencies) == wanted["n"], answer["file"]
        if latencies:
            assert (min(latencies), max(latencies)) == (wanted["min"], wanted["max"])


@pytest.mark.real_data
@shared.NEEDS_DATA
def test_every_call_of_every_recorded_session_is_in_its_script_once_and_each_prompt_ends() -> None:
    for answer in reference():
        transcript = read_transcript((shared.DATA / answer["file"]).read_bytes())
        prompts, turns = script(transcript)
        assert sum(len(turn.get("tool_calls", ())) for turn in turns) == answer["tool_calls"]
        for number in range(len(prompts)):
            *working, last = [turn for turn in turns if turn["prompt"] == number]
            assert all(turn["tool_calls"] for turn in working), answer["file"]
            assert "tool_calls" not in last, answer["file"]


@pytest.mark.real_data
@shared.NEEDS_DATA
def test_the_recorded_folder_of_sessions_that_can_be_replayed_is_found() -> None:
    sessions = json.loads((shared.DATA / "replay.json").read_text())["sessions"]
    ours = [session for session in sessions if session["file"].startswith(f"{COLLECTION}/")]
    assert ours
    for session in ours:
        path: Path = shared.DATA / session["file"]
        assert read_transcript(path.read_bytes()).cwd == session["recorded_cwd"]


@pytest.mark.real_data
@shared.NEEDS_DATA
def test_a_recorded_session_that_was_cut_anywhere_still_becomes_a_script() -> None:
    content = (shared.DATA / COLLECTION / "cli__89-7eb280e769-14.jsonl").read_bytes()
    for size in range(2000, len(content), 4999):
        prompts, turns = script(read_transcript(content[:size]))
        assert {turn["prompt"] for turn in turns} == set(range(len(prompts)))
