"""``./dev simulate``: schedules by the thousand, or each rule taken out alone."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.runs import BUG, Run, first_broken, run

TABLE_AT = Path(__file__).parents[2] / "docs" / "SIMULATION.md"
MARK = "<!-- the table below is written by ./dev simulate --mutations -->"
SCHEDULES = 100_000
MUTATED_SCHEDULES = 4_000
NEEDED_SCHEDULES = 60_000
"""Of a rule that is needed: one that few schedules miss is looked for longer."""
PROGRESS_SECONDS = 10.0
AT_ONCE = 50


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return 1 if a promise was broken, or a rule was not missed."""
    parser = argparse.ArgumentParser(prog="./dev simulate", description=__doc__)
    parser.add_argument("--schedules", type=int, default=SCHEDULES, help="how many (100000)")
    parser.add_argument("--seed", type=int, default=1, help="the first; each next is one higher")
    parser.add_argument("--story", action="store_true", help="tell all of the one of --seed")
    parser.add_argument("--mutation", default="", help="take a rule out, by its name")
    parser.add_argument("--mutations", action="store_true", help="each rule; writes the table")
    parser.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    flags = parser.parse_args(arguments)
    if flags.story:
        return _story(flags.seed, flags.mutation)
    if flags.mutations:
        return _mutations(as_json=flags.json)
    return _schedules(flags.seed, flags.schedules, flags.mutation, as_json=flags.json)


def _story(seed: int, mutation: str) -> int:
    told = run(seed, mutation, tells=True)
    _print("\n".join(told.told))
    _print(told.what or "every promise was kept")
    return int(told.promise is not None)


def _schedules(seed: int, schedules: int, mutation: str, *, as_json: bool) -> int:
    began = said = time.monotonic()
    steps, broken = 0, list[Run]()
    for number, each in enumerate(_all_of(seed, schedules, mutation), start=1):
        steps += each.steps
        if each.promise is not None:
            broken.append(each)
            _note(f"seed {each.seed}: {each.what}")
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            _note(f"{number} of {schedules}, {number / (said - began):.0f} a second")
    seconds = time.monotonic() - began
    broken.sort(key=lambda each: each.seed)
    if as_json:
        outcome = {
            "schedules": schedules,
            "seed": seed,
            "seconds": round(seconds, 1),
            "schedules_per_second": round(schedules / seconds, 1),
            "steps": steps,
            "broken": [{"seed": b.seed, "promise": b.promise, "what": b.what} for b in broken],
        }
        _print(json.dumps(outcome))
    else:
        _print(
            f"{schedules} schedules from seed {seed}: {len(broken)} broken; {seconds:.0f} s, "
            f"{schedules / seconds:.0f} a second, {steps / schedules:.0f} steps each"
        )
        for each in broken[:1]:
            again = f" --mutation {mutation}" if mutation else ""
            _print(
                f"again, with all that happens: ./dev simulate --seed {each.seed} --story{again}"
            )
    return int(bool(broken))


def _all_of(seed: int, schedules: int, mutation: str) -> Iterator[Run]:
    jobs = ((each, mutation) for each in range(seed, seed + schedules))
    with get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        yield from pool.imap_unordered(_one, jobs, chunksize=AT_ONCE)


def _one(job: tuple[int, str]) -> Run:
    return run(*job)


def _found(number: int) -> Run | None:
    mutation = MUTATIONS[number]
    return first_broken(mutation.name, _schedules_of(mutation))


def _schedules_of(mutation: Mutation) -> int:
    return NEEDED_SCHEDULES if mutation.is_needed else MUTATED_SCHEDULES


def _mutations(*, as_json: bool) -> int:
    with get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        runs = pool.imap(_found, range(len(MUTATIONS)), chunksize=1)
        found = list(_told(zip(MUTATIONS, runs, strict=True)))
    if TABLE_AT.exists():
        text = TABLE_AT.read_text(encoding="utf-8").partition(MARK)[0]
        TABLE_AT.write_text(text + MARK + "\n\n" + _table(found), encoding="utf-8")
    if as_json:
        rows = [
            {
                "mutation": mutation.name,
                "found_after": None if first is None else first.seed,
                "promise": None if first is None else first.promise,
            }
            for mutation, first in found
        ]
        _print(json.dumps({"mutations": rows}))
    return int(any(each.is_needed and not _is_missed(first) for each, first in found))


def _is_missed(first: Run | None) -> bool:
    """Return whether a promise was broken without a rule; a bug would only be the mutation's."""
    return first is not None and first.promise != BUG


def _told(
    found: Iterable[tuple[Mutation, Run | None]],
) -> Iterator[tuple[Mutation, Run | None]]:
    for mutation, first in found:
        what = "not found" if first is None else f"{first.seed}: {first.what}"
        _note(f"{mutation.name}: {what}")
        yield mutation, first


def _table(found: list[tuple[Mutation, Run | None]]) -> str:
    lines = [
        "| rule | where | taken out as | found after | by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for mutation, first in found:
        after = f"none of {_schedules_of(mutation)}" if first is None else str(first.seed)
        by = mutation.why if first is None else first.promise
        name = f"`{mutation.name}`"
        lines.append(f"| {mutation.rule} | {mutation.section} | {name} | {after} | {by} |")
    return "\n".join(lines) + "\n"


def _print(text: str) -> None:
    print(text, flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
