"""How many events a second become durable, folded, and visible in SQL (P1, P2; DESIGN §10).

Four processes, each with a session's file of its own, make real events, fold them and append them
in batches of 100, while no store runs. In the same run, in turns: plain ``sqlite3`` with the same
rows and batches (the floor), and the ``eventsourcing`` library (the peer). Then one session alone
with batches of one, the projection of those files, and the time from a commit to its being seen in
SQL while 5,000 events a second are written.
"""

import asyncio
import sys
from pathlib import Path

from benchmarks import _common as common
from benchmarks._common import Line, Result, median, percentile
from benchmarks._projecting import Load, catch_up, lateness
from benchmarks._writing import (
    Job,
    Pace,
    Task,
    acknowledgements,
    together,
    write_log,
    write_peer,
    write_plain,
)

WRITERS = 4
BATCH = 100
EVENTS_A_WRITER = 25_000
PEER_EVENTS_A_WRITER = 5_000
SINGLE_EVENTS = 2_000
ROUNDS = 3
STEADY = Load(writers=4, events_a_second=5_000, batch=10, seconds=8.0)


def main() -> int:
    parser = common.arguments(__doc__)
    given = parser.parse_args()
    with common.scratch("ingest") as folder:
        result = measure(folder, given.rounds or ROUNDS)
    common.show("ingest", result, as_json=given.json)
    return 0


def measure(folder: Path, rounds: int) -> Result:
    """Return the result of so many rounds of each."""
    ours, floor, peer = [], [], []
    for number in range(rounds):
        at = folder / str(number)
        ours.append(_paced(write_log, at / "log", number, EVENTS_A_WRITER))
        floor.append(_paced(write_plain, at / "plain", number, EVENTS_A_WRITER))
        peer.append(_paced(write_peer, at / "peer", number, PEER_EVENTS_A_WRITER))
    common.progress("one session, batches of 1")
    acks = acknowledgements(folder / "single", 7, SINGLE_EVENTS)
    common.progress("the store catches up")
    speed = catch_up(folder / "0" / "log")
    common.progress(f"SQL is asked while {STEADY.events_a_second:,} events/s are written")
    late = asyncio.run(lateness(folder / "steady", STEADY))
    return _told(ours, floor, peer, acks, speed, late)


def _paced(job: Job, data: Path, number: int, events: int) -> Pace:
    common.progress(f"round {number + 1}: {job.__name__}")
    data.mkdir(parents=True)
    seeds = [number * WRITERS + writer for writer in range(WRITERS)]
    return together(job, [Task(data, seed, events, BATCH) for seed in seeds])


def _told(
    ours: list[Pace],
    floor: list[Pace],
    peer: list[Pace],
    acks: list[float],
    catching_up: float,
    late: list[float],
) -> Result:
    speed, floor_speed, peer_speed = (
        median([pace.events_per_s for pace in paces]) for paces in (ours, floor, peer)
    )
    cpu, floor_cpu, peer_cpu = (
        median([pace.cpu_us_per_event for pace in paces]) for paces in (ours, floor, peer)
    )
    share = median([pace.share for pace in ours])
    numbers = {
        "events_per_s": speed,
        "ack_p50_ms": percentile(acks, 50),
        "ack_p99_ms": percentile(acks, 99),
        "catch_up_events_per_s": catching_up,
        "sql_lag_p99_ms": percentile(late, 99),
        "floor_events_per_s": floor_speed,
        "peer_events_per_s": peer_speed,
        "ratio": speed / peer_speed,
        "batch": BATCH,
        "writers": WRITERS,
        "cpu_us_per_event": cpu,
        "machine_share": share,
    }
    steady = f"at {STEADY.events_a_second:,} events/s in batches of {STEADY.batch}"
    lines = [
        Line("durable events/s, batches of 100", f"{speed:,.0f}", "≥ 100,000", f"{cpu:.1f} µs cpu"),
        Line(
            "the floor: sqlite3, rows ready", f"{floor_speed:,.0f}", "", f"{floor_cpu:.1f} µs cpu"
        ),
        Line("the peer: eventsourcing", f"{peer_speed:,.0f}", "", f"{peer_cpu:.1f} µs cpu"),
        Line("of the machine's processors we had", f"{share:.0%}"),
        Line("ratio to the peer", f"{speed / peer_speed:.1f}"),
        Line("part of the floor", f"{speed / floor_speed:.2f}"),
        Line(
            "one event, durable, p50", f"{percentile(acks, 50):.2f} ms", "≤ 0.5 ms", "batches of 1"
        ),
        Line("one event, durable, p99", f"{percentile(acks, 99):.2f} ms"),
        Line("the store catches up, events/s", f"{catching_up:,.0f}", "≥ 50,000"),
        Line("seen in SQL after, p50", f"{percentile(late, 50):.0f} ms", "", steady),
        Line("seen in SQL after, p99", f"{percentile(late, 99):.0f} ms", "≤ 150 ms", steady),
    ]
    how = f"{WRITERS} processes, {EVENTS_A_WRITER:,} events each, medians of {len(ours)} rounds"
    return Result(numbers, lines, how)


if __name__ == "__main__":
    sys.exit(main())
