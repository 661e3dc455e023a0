"""Each rule taken out alone: by a name that the simulated world knows, or by a pure part replaced.

``MUTATIONS`` is the table; ``patched`` takes one rule out for as long as a block lasts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from paddock.session_worker import engine, ledger, recovery
from paddock.store import session as fold
from paddock.supervisor import certificate, commands, dying, feed, fleet, leaving, living
from paddock.supervisor.machine import TABLE
from tests.simulation import host as sim_host
from tests.simulation import without
from tests.simulation import worker as sim_worker

type Patch = tuple[Any, str, Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A rule, and what is done to take it out: the world's own switch of that name, or patches."""

    name: str
    section: str
    rule: str
    patches: tuple[Patch, ...] = ()
    why: str = ""
    """Why no schedule misses it; then it is not asked for."""

    is_rare: bool = False
    """Whether it takes more schedules to miss it than a test should run."""

    @property
    def is_quick(self) -> bool:
        """Whether the short form of the simulation misses it."""
        return self.is_needed and not self.is_rare

    @property
    def is_needed(self) -> bool:
        """Whether some schedule must break a promise without it."""
        return not self.why


MUTATIONS: tuple[Mutation, ...] = (
    # --- §2: processes, locks, the order after a death ---
    Mutation(
        "lock_not_exclusive", "§2, §5", "one owner: an exclusive lock, held for life", is_rare=True
    ),
    Mutation("generation_not_raised", "§5", "each start takes generation = last + 1"),
    Mutation("host_lock_not_taken", "§2", "one supervisor a home, by a lock"),
    Mutation(
        "tools_not_killed", "§2", "after a death its tools are killed before the lock", is_rare=True
    ),
    Mutation("no_certificate", "§2", "a death is certified before the next start"),
    Mutation(
        "next_start_before_burial",
        "§2",
        "nothing starts before the burial is over",
        ((dying, "died", without.spawns_at_once),),
    ),
    Mutation("no_entry_before_start", "§2", "an entry is written before a start", is_rare=True),
    Mutation(
        "entries_believed_after_boot",
        "§2",
        "after the loss of the host every session is seen",
        is_rare=True,
    ),
    Mutation(
        "finds_nothing_undone",
        "§2",
        "a new supervisor finishes what it finds",
        ((certificate, "has_work", without.always(value=False)),),
        is_rare=True,
    ),
    Mutation(
        "everybody_is_welcome",
        "§2, §6",
        "who greets and is not expected is refused",
        why="who comes to its start after the next supervisor leaves before it greets",
    ),
    Mutation(
        "late_start_begins",
        "§5",
        "who comes to its start after the next supervisor leaves",
        why="who greets and is not expected is refused; alone it is missed by 17120 first",
    ),
    Mutation(
        "everybody_is_welcome+late_start_begins",
        "§2, §5, §6",
        "both: no worker lives that its supervisor does not know",
    ),
    Mutation(
        "lower_epoch_welcome",
        "§6",
        "a supervisor of a lower epoch is refused",
        why="one supervisor a home, by a lock: the earlier one is dead before the next is found",
    ),
    Mutation(
        "next_start_while_stuck",
        "§2",
        "nothing starts while somebody holds the lock still",
        ((dying, "not_buried", without.spawns_at_once),),
        why="who does not get the lock leaves, and so does who finds a certificate missing",
    ),
    Mutation(
        "orphans_stay",
        "§2",
        "a worker at rest without a supervisor leaves after its grace",
    ),
    Mutation(
        "late_stimuli_count",
        "§7",
        "what speaks of an earlier start changes nothing",
        ((sim_host, "step", without.late_counts),),
        is_rare=True,
    ),
    # --- §5: the file ---
    Mutation(
        "commit_not_synced", "§5", "synchronous=FULL: a commit is on the disk when it returns"
    ),
    Mutation("acts_before_commit", "§5", "outward things wait for their commit"),
    Mutation(
        "wal_not_folded_by_next_owner",
        "§2, §5",
        "an owner folds what it finds first",
        why="a burial comes first, and its clean close folds before anything is told",
    ),
    Mutation(
        "close_folds_nothing",
        "§5",
        "a clean close leaves no write-ahead log",
        why="the next owner folds what it finds",
    ),
    Mutation(
        "wal_not_folded_by_next_owner+close_folds_nothing",
        "§2, §5",
        "both: a write-ahead log is folded before it counts",
        is_rare=True,
    ),
    Mutation(
        "failed_commit_believed",
        "§5",
        "after a failed write only the file is believed",
        is_rare=True,
    ),
    Mutation(
        "engine_not_rolled_back", "§5", "after a failed write the engine goes back", is_rare=True
    ),
    Mutation(
        "reader_believes_unfolded_wal",
        "§2",
        "a reader without an owner waits for the fold",
        is_rare=True,
    ),
    Mutation(
        "begins_without_certificate",
        "§5",
        "a worker leaves where a certificate is missing",
        ((sim_worker, "may_begin", without.always(True)), (dying, "died", without.spawns_at_once)),
    ),
    # --- §6: lines and commands ---
    Mutation("answer_apart", "§6", "an answer is in one commit with all that it starts"),
    Mutation(
        "interpreted_before_durable",
        "§6",
        "accepted is durable before it is carried out",
        is_rare=True,
    ),
    Mutation(
        "all_delivered_at_once",
        "§6",
        "one command is in delivery at a time",
        ((commands.Queue, "hand_over", without.hands_everything_over),),
        is_rare=True,
    ),
    Mutation(
        "no_tombstone", "§6", "a tombstone gives the same deletion the same answer", is_rare=True
    ),
    Mutation(
        "deletion_is_no_end",
        "§6",
        "a deletion refuses all other commands",
        (
            (leaving, "delete_live", without.deletes_in_turn),
            (engine, "accepted_deletion", without.always(value=None)),
        ),
        is_rare=True,
    ),
    Mutation(
        "tombstone_not_synced",
        "§6",
        "an erasure follows when its tombstone is durable",
        is_rare=True,
    ),
    Mutation(
        "line_reconnects_silently",
        "§2, §6",
        "a broken line is replaced, and greeted anew",
        is_rare=True,
    ),
    Mutation(
        "hello_hides_unanswered",
        "§6",
        "a greeting names what is accepted and unanswered",
        why="a worker carries out what it accepted before it takes what comes later",
    ),
    Mutation(
        "carried_out_late",
        "§6",
        "what is accepted is carried out before what comes later",
        is_rare=True,
    ),
    Mutation(
        "hello_hides_unanswered+carried_out_late",
        "§6",
        "both: commands are answered in their order",
        is_rare=True,
    ),
    Mutation(
        "known_command_taken_anew",
        "§6",
        "a known id gets the same answer again",
        ((engine, "known_answer", without.answered_anew),),
    ),
    Mutation(
        "known_by_id_alone",
        "§6",
        "a known id with another payload is refused",
        ((engine, "known_answer", without.whatever_it_says),),
    ),
    Mutation(
        "waiting_by_id_alone",
        "§6",
        "so is one of a command that is on its way",
        ((commands, "_assert_same", without.always(None)),),
    ),
    Mutation(
        "told_by_id_alone",
        "§6",
        "an answer is told to who said those words",
        ((commands, "_speaks_of", without.always(True)),),
        is_rare=True,
    ),
    Mutation(
        "forgotten_taken_anew",
        "§6",
        "an id older than all that is remembered is Forgotten",
        ((engine, "known_answer", without.nothing_forgotten),),
    ),
    Mutation(
        "unanswered_crowded_out",
        "§6",
        "what has no answer is not forgotten",
        ((engine, "would_forget", without.always(False)),),
        is_rare=True,
    ),
    Mutation("queue_without_bound", "§6", "a bounded number of commands wait"),
    Mutation(
        "interrupts_whatever_is_at_work",
        "§6",
        "an interrupt ends the operation that it names, and no other",
        (
            (engine, "operation_to_end", without.whichever_is_at_work),
            (ledger, "operation_to_end", without.whichever_is_at_work),
        ),
        is_rare=True,
    ),
    Mutation(
        "delivered_commands_forgotten",
        "§6",
        "what was in delivery at a death is handed to the next",
        ((commands.Queue, "hand_over_again", without.forgets_delivery),),
        is_rare=True,
    ),
    Mutation(
        "nothing_delivered_again",
        "§6",
        "a new line gets again what was handed over",
        ((commands.Queue, "hand_over_again", without.delivers_nothing_again),),
    ),
    Mutation(
        "unanswered_not_carried_out",
        "§6",
        "what a dead worker accepted, the next carries out",
        ((fold.Session, "unanswered", without.always([])),),
    ),
    Mutation(
        "answers_of_the_dead_untold",
        "§6",
        "what a dead worker answered is told at its burial",
        ((certificate, "_answers", without.always(())),),
    ),
    Mutation(
        "failing_answers_nothing",
        "P14",
        "what will not be carried out any more is refused in the log",
        ((certificate, "_refusals", without.always([])),),
    ),
    Mutation(
        "forwarded_anywhere",
        "§6",
        "forwarded bytes only where they are contiguous",
        ((feed.Feed, "grew", without.sends_in_any_place),),
    ),
    Mutation(
        "judged_before_heard",
        "§7",
        "what is in the socket is heard before anybody is judged",
        is_rare=True,
    ),
    Mutation(
        "hang_by_one_look",
        "§7",
        "a hang is missed checks in a row, not wall time",
        ((living, "check_beat", without.one_check),),
    ),
    # --- §6: poison ---
    Mutation(
        "nothing_is_struck",
        "§6",
        "a death strikes what was open",
        ((certificate, "struck_by_death", without.told_done),),
    ),
    Mutation(
        "operations_not_quarantined",
        "§6",
        "an operation that kills twice is quarantined",
        ((recovery, "is_quarantined", without.always(False)),),
    ),
    Mutation(
        "commands_not_quarantined",
        "§6",
        "a command that kills twice is quarantined",
        ((recovery, "quarantined_commands", without.always([])),),
        is_rare=True,
    ),
    Mutation(
        "strikes_by_call",
        "§6",
        "strikes are counted by tool and arguments, not by call",
        ((recovery, "is_quarantined", without.strikes_by_call),),
    ),
    Mutation("lost_host_strikes", "§6", "the loss of the whole host strikes nothing"),
    Mutation(
        "intents_left_open",
        "P6",
        "an intent without a result becomes `interrupted`",
        ((sim_worker, "recover", without.without_calls),),
    ),
    Mutation(
        "intents_run_again",
        "P6",
        "the ledger never restarts a call",
        ((sim_worker, "recover", without.runs_again),),
    ),
    # --- capacity, leaving ---
    Mutation(
        "room_not_given_back",
        "P10",
        "a room is given back on every way out",
        ((fleet.Fleet, "give_back", without.always([])),),
    ),
    Mutation(
        "nobody_is_busy",
        "§6",
        "who is at work answers Busy, unless it is told to leave",
        ((engine.Engine, "is_at_rest", without.always(value=True)),),
    ),
    Mutation(
        "told_gone_at_once",
        "P3",
        "suspend returns when the owner is gone",
        ((leaving, "leave", without.told_early),),
    ),
    Mutation(
        "nobody_hangs",
        "§7",
        "who does not beat is killed",
        ((living, "check_beat", without.waits_for_ever),),
    ),
    Mutation(
        "deadlines_of_leaving_pass",
        "§6, §7",
        "who does not leave by its deadline is killed",
        ((leaving, "not_gone", without.waits_for_ever),),
    ),
    Mutation(
        "adoption_kills_nobody",
        "§2",
        "who does not greet a new supervisor is killed",
        ((dying, "start_late", without.waits_for_ever),),
        is_rare=True,
    ),
)
"""The rules, in the order of the design."""


@contextmanager
def patched(name: str) -> Iterator[None]:
    """Take the rules of these names (``a+b``) out as long as the block lasts; maybe none."""
    if not name:
        yield
        return
    patches = [
        patch for each in MUTATIONS if each.name in name.split("+") for patch in each.patches
    ]
    before = [(place, word, getattr(place, word)) for place, word, _ in patches]
    rows = {stage: dict(row) for stage, row in TABLE.items()}
    try:
        for place, word, change in patches:
            _put(place, word, change(getattr(place, word)))
        yield
    finally:
        for place, word, real in before:
            setattr(place, word, real)
        for stage, row in rows.items():
            TABLE[stage].update(row)


def _put(place: Any, word: str, changed: Any) -> None:
    """Put a changed part where everybody finds it: in its module, and in the machine's table."""
    real = getattr(place, word)
    setattr(place, word, changed)
    for row in TABLE.values():
        for kind, handler in row.items():
            if handler is real:
                row[kind] = changed
