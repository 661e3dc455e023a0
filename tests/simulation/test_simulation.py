"""The simulation in its short form: no schedule breaks a promise, and no rule is without need."""

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.runs import BUG, first_broken, run

SCHEDULES = 400
PARTS = 3
QUICKLY = 300
"""Schedules within which a rule's absence shows here; the slower ones: ``./dev simulate``."""


@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_is_kept_under_random_schedules(part: int) -> None:
    broken = first_broken("", SCHEDULES, seed=1_000 * part + 1)
    assert broken is None, f"./dev simulate --story --seed {broken.seed}: {broken.what}"


def test_a_seed_gives_the_same_run_to_the_last_event() -> None:
    once, again = run(17, tells=True), run(17, tells=True)
    assert once.told
    assert once == again


@pytest.mark.parametrize(
    "mutation", [each for each in MUTATIONS if each.is_quick], ids=lambda each: each.name
)
def test_no_rule_can_be_taken_out_unnoticed(mutation: Mutation) -> None:
    broken = first_broken(mutation.name, QUICKLY)
    assert broken is not None
    assert broken.promise != BUG, broken.what


def test_a_rule_that_is_not_missed_says_why() -> None:
    assert all(each.is_needed or len(each.why) > 20 for each in MUTATIONS)
