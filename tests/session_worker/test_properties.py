"""What holds for every run of a session: random stimuli, deaths anywhere, logs cut anywhere."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.session_worker.acts import RunCall
from paddock.session_worker.model import AssistantWords, Item, ModelFailed, ToolResult
from paddock.session_worker.turn import AskModel, PrepareCall, RetryLater
from paddock.store.events import LIFECYCLE, Row, stored_of
from paddock.store.fold import evolve
from paddock.store.session import Session, dump, load
from tests.session_worker.play import Play, call, fold, observed

TOOLS = ("bash", "write_file", "read_file", "grep", "unknown")
MOVES = (
    "send",
    "shell",
    "answer",
    "calls",
    "observed",
    "fail",
    "retry",
    "prepare",
    "malformed",
    "finish",
    "allow",
    "always",
    "deny",
    "interrupt",
    "edit",
    "mode",
    "crash",
)
RUNS = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 5)), max_size=30)
TERMINAL = {
    "operation_completed",
    "operation_failed",
    "operation_cancelled",
    "operation_interrupted",
}


def move(play: Play, what: str, n: int) -> None:  # noqa: C901, PLR0912 - one arm a move
    """Make one move if it is possible now."""
    approvals = list(play.session.conversation.approvals)
    match what:
        case "send":
            play.deliver("send_input", parts=[{"type": "text", "text": f"words {n}"}])
        case "shell":
            play.deliver("run_shell", command=f"echo {n}")
        case "answer" if play.has(AskModel):
            play.model_says(f"answer {n}")
        case "calls" if play.has(AskModel):
            play.model_says("text", *(call(TOOLS[(n + i) % 5], n=i) for i in range(1 + n % 3)))
        case "observed" if play.has(AskModel):
            play.model_says(observed("Elsewhere", "it was so"))
        case "fail" if play.has(AskModel):
            kind = "overloaded" if n else "auth"
            play.model_fails(ModelFailed(kind, "no"))  # type: ignore[arg-type]
        case "retry" if play.has(RetryLater):
            play.retry()
        case "prepare" if play.has(PrepareCall):
            play.prepare()
        case "malformed" if play.has(PrepareCall):
            play.prepare(error="bad")
        case "finish" if play.has(RunCall):
            running = sum(isinstance(act, RunCall) for act in play.open)
            play.finish(n % running, status="ok" if n else "error")
        case "allow" if approvals:
            play.deliver("decide", approval_id=approvals[0], decision="allowed")
        case "always" if approvals:
            play.deliver("decide", approval_id=approvals[0], decision="allowed", scope="tool")
        case "deny" if approvals:
            play.deliver("decide", approval_id=approvals[-1], decision="denied")
        case "interrupt":
            play.deliver("interrupt")
        case "edit":
            users = [m for m in play.session.conversation.messages.values() if m.role == "user"]
            if users:
                message_id = users[n % len(users)].message_id
                parts = [{"type": "text", "text": f"edited {n}"}]
                play.deliver("edit_message", message_id=message_id, parts=parts)
        case "mode":
            play.deliver("set_mode", mode=("normal", "plan", "yolo")[n % 3])
        case "crash":
            play.crash()
            play.start()
        case _:
            pass


def carry_on(play: Play) -> None:
    """Let a session come to its next model request or to rest, whatever it waits for."""
    for _ in range(60):
        approvals = list(play.session.conversation.approvals)
        if play.has(AskModel) or play.engine.stage() == "resting":
            return
        if play.has(PrepareCall):
            play.prepare()
        elif play.has(RunCall):
            play.finish()
        elif play.has(RetryLater):
            play.retry()
        elif approvals:
            play.deliver("decide", approval_id=approvals[0], decision="allowed")
    message = f"the session neither asks nor rests: {play.engine.stage()} {play.open}"
    raise AssertionError(message)


def check_request(items: tuple[Item, ...]) -> None:
    """Every call of an answer is followed by exactly its results, in call order (P5)."""
    expected: list[str] = []
    for item in items:
        if isinstance(item, ToolResult):
            assert expected, "a result without a call before it"
            assert item.tool_call_id == expected.pop(0)
        else:
            assert not expected, f"calls without a result: {expected}"
        if isinstance(item, AssistantWords):
            expected = [part.tool_call_id for part in item.parts if part.type == "tool_call"]
    assert not expected, f"calls without a result: {expected}"


def check_log(log: list[Row]) -> None:
    """P4, P5 and P6, read from the log alone."""
    started = Counter(row.tool_call_id for row in log if row.kind == "tool_call_started")
    finished = Counter(row.tool_call_id for row in log if row.kind == "tool_call_finished")
    requested = Counter(row.tool_call_id for row in log if row.kind == "tool_call_requested")
    assert max(started.values(), default=1) == 1
    assert max(finished.values(), default=1) == 1
    assert max(requested.values(), default=1) == 1
    assert set(finished) <= set(requested)
    begun = Counter(row.operation_id for row in log if row.kind == "operation_started")
    ended = Counter(row.operation_id for row in log if row.kind in TERMINAL)
    assert max(begun.values(), default=1) == 1
    assert max(ended.values(), default=1) == 1
    assert set(ended) <= set(begun)
    assert len(set(begun) - set(ended)) <= 1
    answers = Counter(
        row.command_id for row in log if row.command_id and row.kind != "command_accepted"
    )
    assert max(answers.values(), default=1) == 1


@settings(max_examples=150, deadline=None)
@given(RUNS)
def test_r5_live_state_equals_the_fold_of_the_log_at_every_point(
    run: list[tuple[str, int]],
) -> None:
    play = Play({"approvals": {"tools": ("write_file",)}})
    for what, n in run:
        move(play, what, n)
        assert play.session == fold(play.log)
    assert load(dump(play.session)) == play.session
    check_log(play.log)


@settings(max_examples=100, deadline=None)
@given(RUNS, st.integers(1, 200))
def test_r2_folding_in_two_parts_equals_folding_at_once(
    run: list[tuple[str, int]], cut: int
) -> None:
    play = Play()
    for what, n in run:
        move(play, what, n)
    first = load(dump(fold(play.log[:cut])))
    for row in play.log[cut:]:
        evolve(first, stored_of(first.session_id, row))
    assert first == fold(play.log)


@settings(max_examples=200, deadline=None)
@given(RUNS, st.integers(1, 200))
def test_r6_a_log_cut_at_any_event_gives_a_well_formed_next_request(
    run: list[tuple[str, int]], cut: int
) -> None:
    played = Play({"mode": "yolo"})
    for what, n in run:
        move(played, what, n)
    log = played.log[: max(1, min(cut, len(played.log)))]
    before = {row.tool_call_id for row in log if row.kind == "tool_call_started"}
    play = Play(log=log, clock=played.clock, minted=played.minted + 1000)
    if play.session.life.worker is not None:
        play.crash()
        play.start()
    carry_on(play)
    check_request(play.items())
    check_log(play.log)
    again = [row for row in play.log if row.kind == "tool_call_started"]
    assert all(count == 1 for count in Counter(row.tool_call_id for row in again).values())
    assert before <= {row.tool_call_id for row in again}


@settings(max_examples=100, deadline=None)
@given(RUNS)
def test_lifecycle_events_and_all_others_commute(run: list[tuple[str, int]]) -> None:
    play = Play()
    for what, n in run:
        move(play, what, n)
    whole = fold(play.log)
    apart = Session(whole.session_id)
    stored = [stored_of(whole.session_id, row) for row in play.log]
    ordered = [s for s in stored if not isinstance(s.event, LIFECYCLE)]
    ordered += [s for s in stored if isinstance(s.event, LIFECYCLE)]
    for one in ordered:
        apart.sequence = one.sequence - 1
        evolve(apart, one)
    assert apart.life == whole.life
    assert apart.conversation == whole.conversation
