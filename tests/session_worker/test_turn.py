"""The built-in agent's turn, played with values (T, C, Q, A statements)."""

import pytest

from paddock.session_worker.acts import RunCall
from paddock.session_worker.drivers.driver import BuiltinDriver
from paddock.session_worker.model import AssistantWords, ModelFailed, Named, ToolResult, UserWords
from paddock.session_worker.protocol import Command, NotAccepted, Suspend
from paddock.session_worker.stimuli import (
    Answered,
    CallEnded,
    DeadlinePassed,
    Delivered,
    Prepared,
    SuspendAsked,
)
from paddock.session_worker.toolbox.contract import Plan, ToolOutcome
from paddock.session_worker.turn import AskModel, PrepareCall, RetryLater
from paddock.store.events import ApprovalDecided, FileChanged, ModelCallStarted, stored_of
from paddock.store.ids import CommandId
from paddock.store.session import thread
from tests.session_worker.play import Play, answer, call, fold, observed

# Put together here, so that no scanner takes this file for one that leaks a key.
KEY = "sk-ant-" + "api03-" + "0a1B2c3D" * 6


def yolo() -> Play:
    return Play({"mode": "yolo"})


def test_t1_input_on_an_idle_session_is_stored_started_asked_and_titled() -> None:
    play = yolo()
    assert play.send("fix the test").kind == "operation_started"
    assert [m.role for m in thread(play.session.conversation)] == ["user"]
    assert play.has(AskModel)
    assert play.session.life.title == "fix the test"


def test_t1_a_title_is_tried_again_when_the_first_message_had_no_usable_text() -> None:
    play = yolo()
    play.send("  ")
    assert play.session.life.title is None
    play.model_says("what?")
    play.send("fix the test")
    assert play.session.life.title == "fix the test"


def test_each_request_to_a_model_tells_who_is_asked() -> None:
    play = Play(driver_of=lambda: BuiltinDriver(lambda _: Named("anthropic", "m", 200_000)))
    play.send("hello")
    play.model_fails(ModelFailed("rate_limited", "slow down", http_status=429))
    play.retry()
    rows = [row for row in play.log if row.kind == "model_call_started"]
    asked = [stored_of(play.session.session_id, row).event for row in rows]
    assert [
        (one.provider, one.model, one.context_limit, one.attempt)
        for one in asked
        if isinstance(one, ModelCallStarted)
    ] == [
        ("anthropic", "m", 200_000, 1),
        ("anthropic", "m", 200_000, 2),
    ]


def test_t2_a_title_is_cut_at_80_characters_without_breaking_text() -> None:
    play = yolo()
    play.send("é" * 200)
    title = play.session.life.title
    assert title is not None
    assert len(title) == 80
    assert title.startswith("é" * 79)


def test_t3_an_answer_without_tools_ends_the_operation() -> None:
    play = yolo()
    play.send("hello")
    play.model_says("hi")
    assert play.session.conversation.operation is None
    assert play.count("operation_completed") == 1


def test_t4_a_gated_tool_asks_and_the_model_is_not_called_before_its_result() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="ls"))
    play.prepare()
    assert play.count("approval_requested") == 1
    assert not play.open
    assert play.engine.stage() == "waiting"


def test_t5_a_result_calls_the_model_only_when_no_other_is_pending() -> None:
    play = yolo()
    play.send("go")
    play.model_says(call("read_file", path="a"), call("grep", pattern="x"))
    play.prepare_all()
    assert sum(isinstance(act, RunCall) for act in play.open) == 2
    play.finish()
    assert not play.has(AskModel)
    play.finish()
    assert play.has(AskModel)


def test_t6_a_full_turn_is_four_messages_and_idle() -> None:
    play = yolo()
    play.send("go")
    play.model_says(call("bash", command="ls"))
    play.prepare()
    play.finish()
    play.model_says("done")
    assert play.session.conversation.message_count == 4
    assert play.engine.stage() == "resting"
    assert [type(item) for item in play.items()] == [
        UserWords,
        AssistantWords,
        ToolResult,
        AssistantWords,
    ]


def test_t7_completion_of_an_older_operation_does_not_clear_a_newer_one() -> None:
    play = yolo()
    play.send("one")
    older = next(act for act in play.open if isinstance(act, AskModel))
    play.command("interrupt")
    play.send("two")
    newer = play.session.conversation.operation
    play.take(Answered(older.model_call_id, answer("late"), 1.0))
    assert play.session.conversation.operation is newer
    assert play.count("assistant_message_added") == 0


@pytest.mark.parametrize("with_newer", [False, True])
def test_t8_t9_a_late_result_for_a_cancelled_operation_is_ignored(*, with_newer: bool) -> None:
    play = yolo()
    play.send("go")
    play.model_says(call("bash", command="sleep 9"))
    play.prepare()
    running = next(act for act in play.open if isinstance(act, RunCall))
    play.command("interrupt")
    if with_newer:
        play.send("next")
    before = play.count("tool_call_finished")
    play.take(CallEnded(running.tool_call_id, ToolOutcome("ok", "late")))
    assert play.count("tool_call_finished") == before == 1
    assert play.statuses() == ["cancelled"]


def test_t10_denied_and_allowed_calls_lead_to_exactly_one_next_model_call() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="rm x"), call("write_file", path="a"))
    play.prepare_all()
    first, second = list(play.session.conversation.approvals)
    play.command("decide", approval_id=first, decision="denied")
    assert not play.has(AskModel)
    play.command("decide", approval_id=second, decision="allowed")
    play.prepare()
    assert not play.has(AskModel)
    play.finish()
    play.one(AskModel)
    assert play.statuses() == ["denied", "ok"]


def test_t11_the_same_stimuli_on_two_fresh_sessions_give_equal_states() -> None:
    def run() -> Play:
        play = yolo()
        play.send("go")
        play.model_says(call("bash", command="ls"))
        play.prepare()
        play.finish()
        play.model_says("done")
        return play

    one, two = run(), run()
    assert one.session == two.session
    assert one.log == two.log


def test_t12_other_tool_timing_gives_the_same_thread() -> None:
    def run(order: list[int]) -> list[tuple[str, str]]:
        play = yolo()
        play.send("go")
        play.model_says(call("read_file", path="a"), call("grep", pattern="b"))
        play.prepare_all()
        for which in order:
            acts = [act for act in play.open if isinstance(act, RunCall)]
            tool = acts[which].plan.tool
            play.finish(which, text=tool)
        play.model_says("done")
        return [(i.tool, i.text) for i in play.items() if isinstance(i, ToolResult)]

    assert run([0, 0]) == run([1, 0]) == [("read_file", "read_file"), ("grep", "grep")]


def test_exclusive_calls_of_one_answer_run_one_after_another_in_order() -> None:
    play = yolo()
    play.send("go")
    play.model_says(call("write_file", path="a"), call("write_file", path="b"))
    play.prepare_all()
    assert sum(isinstance(act, RunCall) for act in play.open) == 1
    play.finish()
    play.prepare()
    play.finish()
    play.one(AskModel)


def test_c1_interrupt_closes_waiting_queued_and_running_calls_once_each() -> None:
    play = Play({"approvals": {"tools": ("write_file",)}})
    play.send("go")
    play.model_says(
        call("write_file", path="a"), call("bash", command="x"), call("write_file", path="b")
    )
    play.prepare_all()
    assert play.has(RunCall)
    answer = play.command("interrupt")
    assert answer.kind == "operation_cancelled"
    assert play.statuses() == ["cancelled"] * 3
    assert play.count("tool_call_finished") == 3
    assert play.count("operation_cancelled") == 1
    results = [one.text for one in play.session.conversation.calls.values()]
    assert all(tool in text for tool, text in zip(("write_file", "bash"), results, strict=False))
    assert play.session.conversation.approvals == {}


def test_c5_a_cancelled_model_stream_reports_cancelled_not_error() -> None:
    play = yolo()
    play.send("go")
    play.command("interrupt")
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.status == "cancelled"
    assert play.count("operation_failed") == 0


def test_q1_q2_q4_busy_input_is_queued_and_coalesced_into_the_next_operation() -> None:
    play = yolo()
    play.send("one")
    assert play.send("two").kind == "input_queued"
    assert play.send("three").kind == "input_queued"
    play.model_says("done one")
    assert play.session.conversation.queue == {}
    last = thread(play.session.conversation)[-1]
    assert [part.text for part in last.user_parts if part.type == "text"] == ["two\n\nthree"]
    play.model_says("done both")
    assert play.count("operation_completed") == 2


def test_q3_shell_commands_stay_separate() -> None:
    play = yolo()
    play.send("one")
    play.command("run_shell", command="ls")
    play.send("two")
    play.model_says("done")
    assert [q.operation for q in play.session.conversation.queue.values()] == ["turn"]
    play.prepare()
    play.finish()
    play.one(AskModel)


def test_q6_dequeue_removes_without_starting_and_an_empty_queue_is_an_error() -> None:
    play = yolo()
    play.send("one")
    queued = play.send("two")
    removed = play.command("dequeue_input", input_id=queued.command_id)
    assert removed.kind == "input_dequeued"
    again = play.command("dequeue_input", input_id=queued.command_id)
    assert again.code == "input_not_found"
    play.model_says("done")
    assert play.session.conversation.operation is None


def test_q7_the_queue_survives_a_restart() -> None:
    play = yolo()
    play.send("one")
    play.send("two")
    play.crash()
    play.start()
    assert len(play.session.conversation.queue) == 1
    play.model_says("one is done")
    play.model_says("two is done")
    assert play.engine.stage() == "resting"


def test_a_call_whose_secret_died_with_its_worker_is_interrupted_and_was_not_done() -> None:
    play = yolo()
    play.send("go")
    key = "AKIA" + 16 * "A"
    play.model_says(call("bash", command=f"echo {key}"), call("bash", command="echo a"))
    play.crash()
    play.start()
    secret = play.one_prepared()
    asked = play.session.conversation.calls[secret]
    assert play.engine.arguments_of(asked) is None
    play.take(Prepared(secret, None, "its secret is gone", is_lost=True))
    play.prepare()
    play.finish()
    lost, ok = play.items()[-2:]
    assert isinstance(lost, ToolResult)
    assert isinstance(ok, ToolResult)
    assert (lost.status, lost.happened, ok.status) == ("interrupted", False, "ok")
    assert lost.text == "The call of bash was interrupted before it ran: its secret is gone"
    assert play.kinds.count("approval_decided") == play.kinds.count("tool_call_finished") == 2


def test_a4_always_cascades_to_waiting_calls_of_that_tool() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="a"), call("bash", command="b"))
    play.prepare_all()
    first = next(iter(play.session.conversation.approvals))
    play.command("decide", approval_id=first, decision="allowed", scope="tool")
    assert play.session.conversation.approvals == {}
    play.prepare()
    play.finish()
    play.prepare()
    play.finish()
    play.one(AskModel)


@pytest.mark.parametrize("pattern", ["", "gti *", "cat", "git log*", None])
def test_a9_a_pattern_that_does_not_match_the_call_itself_is_refused_and_changes_nothing(
    pattern: str | None,
) -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="git status && cat x"))
    play.prepare()
    approval = next(iter(play.session.conversation.approvals))
    refused = play.command(
        "decide", approval_id=approval, decision="allowed", scope="pattern", pattern=pattern
    )
    assert refused.code == "bad_argument"
    assert list(play.session.conversation.approvals) == [approval]
    assert play.session.conversation.allowed_patterns == []


def test_a_pattern_is_of_shell_commands_only() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("write_file", path="a", content="b"))
    play.prepare()
    approval = next(iter(play.session.conversation.approvals))
    refused = play.command(
        "decide", approval_id=approval, decision="allowed", scope="pattern", pattern="*"
    )
    assert refused.code == "bad_argument"
    assert "write_file" in (refused.reason or "")


def test_p7_who_decided_is_told_also_where_the_worker_dies_before_it_answers() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="a"))
    play.prepare()
    approval = next(iter(play.session.conversation.approvals))
    words = {"approval_id": approval, "decision": "allowed"}
    command = {"command_id": play.mint(), "verb": "decide", "arguments": words, "by": "uid:7"}
    play.take(Delivered(Command.model_validate(command)))
    accepted = max(row.sequence for row in play.log if row.kind == "command_accepted")
    play.crash(cut=accepted)
    play.start()
    [row] = [row for row in play.log if row.kind == "approval_decided"]
    decided = stored_of(play.session.session_id, row).event
    assert isinstance(decided, ApprovalDecided)
    assert decided.decided_by == "uid:7"


@pytest.mark.parametrize(("happened", "changes"), [(True, 1), (False, 0), (None, 0)])
def test_p6_a_change_that_is_known_to_have_been_made_is_told_after_a_death(
    happened: bool | None,
    changes: int,
) -> None:
    play = yolo()
    play.send("go")
    play.model_says(call("write_file", path="a.txt", content="new"))
    asked = play.one(PrepareCall)
    change = {"path": "a.txt", "change": "created", "lines_added": 1, "lines_removed": 0}
    intent = {"path": "/w/a.txt", "after_sha256": "ab", "before_sha256": None, "change": change}
    play.take(Prepared(asked.tool_call_id, Plan("write_file", {}, intent, "c")))
    play.crash()
    play.start({asked.tool_call_id: happened})
    assert play.statuses() == ["interrupted"]
    told = [row for row in play.log if row.kind == "file_changed"]
    assert len(told) == changes
    for row in told:
        event = stored_of(play.session.session_id, row).event
        assert isinstance(event, FileChanged)
        assert (event.path, event.change, event.lines_added) == ("a.txt", "created", 1)
        assert (event.tool_call_id, event.after_sha256) == (asked.tool_call_id, "ab")


def test_r7_always_rules_hold_after_a_restart() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="a"))
    play.prepare()
    approval = next(iter(play.session.conversation.approvals))
    play.command("decide", approval_id=approval, decision="allowed", scope="tool")
    play.crash()
    play.start()
    play.prepare()
    play.finish()
    play.model_says(call("bash", command="b"))
    play.prepare()
    assert play.count("approval_requested") == 1
    assert play.has(RunCall)


def test_r4_no_pending_approval_remains_after_a_decided_one() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="a"))
    play.prepare()
    approval = next(iter(play.session.conversation.approvals))
    play.command("decide", approval_id=approval, decision="denied")
    assert play.session.conversation.approvals == {}
    again = play.command("decide", approval_id=approval, decision="allowed")
    assert again.code == "nothing_to_decide"


def test_p7_an_open_approval_survives_a_death_and_can_still_be_answered() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash", command="a"))
    play.prepare()
    approval = next(iter(play.session.conversation.approvals))
    play.crash()
    play.start()
    assert list(play.session.conversation.approvals) == [approval]
    play.command("decide", approval_id=approval, decision="allowed")
    play.prepare()
    play.finish()
    play.one(AskModel)


def test_a7_a_malformed_call_is_rejected_and_never_prompted() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("bash"))
    play.prepare(error="bash: command: missing")
    assert play.count("approval_requested") == 0
    assert play.statuses() == ["error"]
    play.one(AskModel)


def test_a8_an_unknown_tool_is_an_error_never_prompted_never_executed() -> None:
    play = Play()
    play.send("go")
    play.model_says(call("launch_rocket", at="moon"))
    assert play.statuses() == ["error"]
    assert play.count("approval_requested") == play.count("tool_call_started") == 0
    play.one(AskModel)


def test_a18_unattended_what_needs_approval_is_denied_and_the_run_completes() -> None:
    play = Play({"unattended": True})
    play.send("go")
    play.model_says(call("bash", command="rm -rf x"))
    play.prepare()
    assert play.statuses() == ["denied"]
    play.model_says("then not")
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.status == "completed"


def test_observed_calls_give_their_recorded_result_and_never_run() -> None:
    play = yolo()
    play.send("go")
    play.model_says(observed("WebSearch", "found it"))
    (one,) = play.session.conversation.calls.values()
    assert (one.custody, one.status, one.text) == ("observed", "ok", "found it")
    assert play.count("tool_call_started") == 0
    play.one(AskModel)


def test_a_failed_request_is_recorded_and_asked_again_after_its_delay() -> None:
    play = yolo()
    play.send("go")
    play.model_fails(ModelFailed("rate_limited", "slow down", http_status=429))
    assert play.has(RetryLater)
    play.retry()
    assert [act.attempt for act in play.open if isinstance(act, AskModel)] == [2]
    play.model_says("hi")
    assert play.count("model_call_failed") == 1
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.status == "completed"


def test_a_request_that_cannot_be_retried_fails_the_operation() -> None:
    play = yolo()
    play.send("go")
    play.model_fails(ModelFailed("invalid_request", "no", http_status=400))
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.error_kind == "invalid_request"


def test_limits_end_the_operation_and_say_which() -> None:
    play = Play({"mode": "yolo", "limits": {"model_calls": 1}})
    play.send("go")
    play.model_says(call("bash", command="ls"))
    play.prepare()
    play.finish()
    assert play.count("budget_exceeded") == 1
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.error_kind == "budget_exceeded"


def test_an_answer_that_ends_a_turn_ends_it_whatever_limit_it_reached() -> None:
    """A turn of one request, whose limit was one, had its answer and failed."""
    play = Play({"mode": "yolo", "limits": {"model_calls": 1}})
    play.send("go")
    play.model_says("done")
    assert play.count("budget_exceeded") == 0
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.status == "completed"


def test_another_model_is_asked_at_once_where_the_one_before_wants_to_be_waited_for() -> None:
    play = yolo()
    play.send("go")
    play.model_fails(ModelFailed("rate_limited", "slow down", retry_after_ms=300_000))
    assert play.command("set_model", model="openai:other").kind == "model_changed"
    assert [act.attempt for act in play.open if isinstance(act, AskModel)] == [2]
    play.model_says("hi")
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.status == "completed"


def test_a_wait_beyond_the_time_of_a_turn_is_not_waited() -> None:
    """A provider that was away for minutes was waited for, and asked, long after that time."""
    play = Play({"mode": "yolo", "limits": {"operation_seconds": 60}})
    play.send("go")
    play.model_fails(ModelFailed("overloaded", "busy", retry_after_ms=10_000))
    play.retry()
    play.model_fails(ModelFailed("rate_limited", "slow down", retry_after_ms=300_000))
    assert not play.has(RetryLater)
    ended = play.session.conversation.ended
    assert ended is not None
    assert ended.error_kind == "budget_exceeded"
    assert ended.error is not None
    assert ended.error.startswith("slow down; to ask again 3")


def test_p14_the_same_command_again_gets_the_same_answer_and_no_second_effect() -> None:
    play = yolo()
    first = play.send("go")
    again = play.command(
        "send_input", str(first.command_id), parts=[{"type": "text", "text": "go"}]
    )
    assert again == first
    assert play.count("operation_started") == 1


def test_p14_a_known_id_with_another_payload_is_refused() -> None:
    play = yolo()
    first = play.send("go")
    other = Command(command_id=first.command_id, verb="interrupt", arguments={})
    play.take(Delivered(other))
    refused = [word for word in play.said if isinstance(word, NotAccepted)]
    assert [word.code for word in refused] == ["already_exists"]


def test_p14_what_kills_its_worker_twice_is_quarantined() -> None:
    play = yolo()
    play.send("go")
    for _ in range(2):
        play.model_says(call("bash", command="kill -9 $PPID"))
        play.prepare()
        play.crash()
        play.start()
    assert play.session.conversation.operation is None
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.status == "interrupted"
    assert set(play.statuses()) == {"interrupted"}


def test_p14_a_struck_operation_that_waits_for_an_approval_holds_nobody_back() -> None:
    # Whoever commanded would have waited for a person's answer, without a bound.
    play = Play()
    play.send("go")
    play.crash()
    play.start()
    held = play.deliver("annotate", key="k")
    assert play.session.answer_to(held) is None
    play.model_says(call("bash", command="make"))
    play.prepare()
    assert play.engine.stage() == "waiting"
    assert play.session.answer_to(held) is not None


def test_p14_one_kill_at_each_of_two_different_calls_is_no_poison() -> None:
    play = yolo()
    play.send("go")
    for command in ("a", "b"):
        play.model_says(call("bash", command=command))
        play.prepare()
        play.crash()
        play.start()
        play.model_says(call("bash", command=command))
        play.prepare()
        play.finish()
    play.model_says("done")
    assert play.session.conversation.ended is not None
    assert play.session.conversation.ended.status == "completed"


def test_secrets_are_taken_out_before_anything_is_folded_or_written() -> None:
    play = yolo()
    play.send(f"my key is {KEY}")
    assert not any(KEY in row.payload for row in play.log)
    assert KEY not in str(play.items())


def test_a_call_with_a_secret_runs_with_it_and_is_refused_when_only_the_log_has_it() -> None:
    play = Play({"approvals": {"tools": ("read_file",)}})
    play.send("go")
    play.model_says(call("bash", command=f"echo {KEY}"))
    (asked,) = play.session.conversation.calls.values()
    assert KEY not in str(asked.arguments)
    assert play.engine.arguments_of(asked) == {"command": f"echo {KEY}"}
    play.crash()
    play.start()
    (asked,) = play.session.conversation.calls.values()
    assert play.engine.arguments_of(asked) is None


def test_an_older_deadline_does_not_end_what_is_stopped_later() -> None:
    play = yolo()
    play.send("go")
    play.command("interrupt")
    play.send("again")
    play.model_says(call("bash", command="sleep 9"))
    play.prepare()
    play.take(SuspendAsked(Suspend(reason="asked", deadline_seconds=60.0)))
    play.take(DeadlinePassed(1))
    assert play.statuses() == [None]
    play.take(DeadlinePassed(2))
    assert play.statuses() == ["interrupted"]
    assert play.engine.ending == "suspended"


def test_f16_half_characters_are_replaced_visibly_wherever_they_come_from() -> None:
    play = yolo()
    play.send("half \ud800 of it")
    play.model_says("and \udfff too", call("bash", command="echo \ud800"))
    play.prepare()
    play.finish(text="out \ud800")
    play.model_says("done")
    assert play.session == fold(play.log)
    assert "half \N{REPLACEMENT CHARACTER} of it" in str(play.items())
    assert play.statuses() == ["ok"]


def test_p14_a_command_that_kills_its_worker_twice_before_it_is_accepted_is_quarantined() -> None:
    play = yolo()
    poison = CommandId("01890000-0000-7000-8000-00000000dead")
    for _ in range(2):
        play.crash(struck_command_ids=(poison,))
        play.start()
    answered = play.command("send_input", poison, parts=[{"type": "text", "text": "die"}])
    assert (answered.kind, answered.code) == ("command_quarantined", "quarantined")
    assert play.session.conversation.operation is None
    assert play.kinds[-2:] == ["command_accepted", "command_quarantined"]
    again = play.command("send_input", poison, parts=[{"type": "text", "text": "die"}])
    assert again == answered
    assert play.send("go on").kind == "operation_started"
