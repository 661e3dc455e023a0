"""Random commands, kills and reconnects against real processes; then: what was told is what holds.

A few short examples, the same each time; ``PADDOCK_MODEL_EXAMPLES=50`` plays so many, others each
time, and looks for the shortest one that fails.
"""

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paddock.store.events import Stored
from paddock.testing import HostForTests, wait_until
from tests.crash import judge
from tests.crash.model_world import LEDGER, Player, World

EXAMPLES = int(os.environ.get("PADDOCK_MODEL_EXAMPLES", "0"))
SHORT = settings(
    max_examples=4,
    stateful_step_count=12,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
LONG = settings(max_examples=EXAMPLES or 1, stateful_step_count=30)
SESSIONS = 3
FOLDERS = count(1)
ENDS = {
    "completed": "operation_completed",
    "failed": "operation_failed",
    "cancelled": "operation_cancelled",
    "interrupted": "operation_interrupted",
}
PICK = st.integers(0, SESSIONS - 1)
KEY = st.integers(0, 5)


class Model(RuleBasedStateMachine):
    """What may be done at which time. What must hold is looked at in the end."""

    made: HostForTests
    ground: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.made, self.ground / f"e{next(FOLDERS)}")

    @initialize()
    def begin(self) -> None:
        self.world.run(self.world.create())

    def alive(self, number: int) -> Player | None:
        """Return one of the sessions that are not deleted, None if there is none."""
        alive = [player for player in self.world.players if not player.is_deleted]
        return alive[number % len(alive)] if alive else None

    # --- commands ---

    @precondition(lambda self: len(self.world.players) < SESSIONS)
    @rule()
    def create(self) -> None:
        self.world.run(self.world.create())

    @rule(number=PICK, key=KEY)
    def send(self, number: int, key: int) -> None:
        if (player := self.alive(number)) is not None:
            self.world.run(self.world.send(player, f"key {key}"))

    @rule(number=PICK, value=st.integers())
    def annotate(self, number: int, value: int) -> None:
        if (player := self.alive(number)) is not None:
            self.world.run(self.world.annotate(player, value % 2**53))

    @rule(number=PICK)
    def interrupt(self, number: int) -> None:
        if (player := self.alive(number)) is not None:
            self.world.run(self.world.interrupt(player))

    @rule(number=PICK)
    def suspend(self, number: int) -> None:
        if (player := self.alive(number)) is not None:
            self.world.run(self.world.suspend(player))

    @rule(number=PICK)
    def resume(self, number: int) -> None:
        if (player := self.alive(number)) is not None:
            self.world.run(self.world.resume(player))

    @precondition(lambda self: len(self.world.players) > 1)
    @rule(number=PICK)
    def delete(self, number: int) -> None:
        if (player := self.alive(number)) is not None:
            self.world.run(self.world.delete(player))
            self.world.run(self.world.use_deleted(player))

    # --- what befalls them ---

    @rule()
    def reconnect(self) -> None:
        self.world.run(self.world.reconnect())

    @rule(number=PICK, is_stopped=st.booleans())
    def kill_worker(self, number: int, is_stopped: bool) -> None:
        if (player := self.alive(number)) is not None:
            self.world.kill_worker(player, signal.SIGSTOP if is_stopped else signal.SIGKILL)

    @rule(name=st.sampled_from(["store_pid", "zygote_pid"]))
    def kill_named(self, name: str) -> None:
        self.world.run(self.world.kill_named(name))

    @rule()
    def kill_host(self) -> None:
        self.world.kill_host()

    # --- the end ---

    def teardown(self) -> None:
        try:
            self.world.run(self.world.settle())
            faults = [
                f"{player.name}: {fault}"
                for player in self.world.players
                for fault in self.faults_of(player)
            ]
        finally:
            self.world.close()
        assert not faults, "\n".join(faults)

    def faults_of(self, player: Player) -> list[str]:
        """Return where what the client was told is not what the file and SQL hold."""
        data, session_id = self.made.data, player.session.session_id
        log = judge.read_log(data, session_id)
        there = {one.event.command_id for one in log if one.event.kind == "command_accepted"}
        faults = judge.shown_faults(player.shown, log) + judge.file_faults(data, session_id)
        faults += [f"command {one} is lost" for one in player.accepted if one not in there]
        faults += effect_faults(player, log)
        if player.is_deleted:
            if not any(one.event.kind == "session_deleted" for one in log):
                faults.append("it was deleted, and is not")
            return faults
        faults += judge.faults_of(log, is_live=True)
        faults += [fault for key in player.outcomes for fault in outcome_faults(player, key, log)]
        wanted = [(len(log), len(log))]
        try:
            wait_until(lambda: self.world.run(self.world.counted(player)) == wanted, what="SQL")
        except AssertionError:
            faults.append(f"SQL counts {self.world.run(self.world.counted(player))}, not {wanted}")
        return faults


def outcome_faults(player: Player, key: str, log: list[Stored]) -> list[str]:
    """Return where the end that was told of an operation is not its end in the file."""
    outcome = player.outcomes[key]
    ends = [
        one.event.kind
        for one in log
        if one.event.kind in judge.ENDS and one.event.operation_id == outcome.operation_id
    ]
    faults = []
    if ends != [ENDS[outcome.status]]:
        faults.append(f"{key}: told {outcome.status}, the file says {ends}")
    if outcome.status == "cancelled" and not player.interrupts:
        faults.append(f"{key}: cancelled, and nobody interrupted it")
    if outcome.status == "interrupted" and player.kills < 2:
        faults.append(f"{key}: interrupted after {player.kills} kills")
    if outcome.status == "failed":
        faults.append(f"{key}: failed: {outcome.error}")
    return faults


def effect_faults(player: Player, log: list[Stored]) -> list[str]:
    """Return where what the tools did is not what the log says."""
    ledger = player.workspace / LEDGER
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    started = [one for one in log if one.event.kind == "tool_call_started"]
    ok = [one for one in log if getattr(one.event, "status", None) == "ok"]
    if len(ok) <= len(lines) <= len(started):
        return []
    return [f"started {len(started)} calls, {len(ok)} ok, done {len(lines)} times"]


@pytest.fixture
def machine(home: Path, ground: Path) -> Iterator[type[Model]]:
    made = HostForTests(home, hang_after_seconds=3, max_restarts=20, max_restarts_an_hour=1000)
    yield type("Machine", (Model,), {"made": made, "ground": ground / "w"})
    made.end()


@pytest.mark.slow
@pytest.mark.timeout(600 + 120 * EXAMPLES)
def test_p14_whatever_is_done_and_dies_the_client_was_told_what_the_files_hold(
    machine: Any,
) -> None:
    profile = LONG if EXAMPLES else SHORT
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine, settings=settings(profile, deadline=None, suppress_health_check=checks)
    )
