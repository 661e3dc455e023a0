"""Verbs that only look: sessions, one session, its events, its workers' stderr."""

import difflib
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.common import LARGEST, BadArgument, labels_of, run_async
from paddock.supervisor.cli.printing import (
    ago,
    call_line,
    cell,
    clean,
    hint,
    moment_of,
    one_line,
    print_json,
    print_lines,
    print_table,
    say,
)
from paddock.supervisor.cli.sessions import AsJson, One

if TYPE_CHECKING:
    from paddock.client.feed import Previewed
    from paddock.store.errors import Damaged, SessionNotFound
    from paddock.store.events import Stored
    from paddock.store.ids import SessionId
    from paddock.store.session import Session as State
    from paddock.supervisor.cli.certificate import Death

SHOWN_DEATHS = 5
"""In `show`; `paddock deaths` has all."""
SHOWN_NAMES = 5
DOWN = "its worker is gone; the host, or the next one, takes it up"


class Status(StrEnum):
    """What a session is."""

    LIVE = "live"
    SUSPENDED = "suspended"
    FAILED = "failed"
    DELETED = "deleted"


class Order(StrEnum):
    """What sessions are ordered by."""

    CREATED = "created"
    UPDATED = "updated"
    MESSAGES = "messages"


def ls(
    *,
    status: Annotated[Status | None, typer.Option(help="Default: all but deleted.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value; all must match.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only sessions of this agent.")] = None,
    model: Annotated[str | None, typer.Option(help="Only sessions of this model.")] = None,
    text: Annotated[str | None, typer.Option(help="Words of a name, title or message.")] = None,
    order: Annotated[Order, typer.Option(help="The newest, or the most, first.")] = Order.UPDATED,
    limit: Annotated[int, typer.Option(min=0, max=LARGEST, help="At most so many; 0 for all.")] = 0,
    offset: Annotated[int, typer.Option(min=0, max=LARGEST, help="Leave the first ones out.")] = 0,
    as_json: AsJson = False,
) -> int:
    """List sessions, the last active first. Works with and without a host.

    Examples:
      paddock ls
      paddock ls --status live --label team=billing
      paddock ls --text invoice --json | jq -r '.[].session_id'
    """
    from paddock.store.protocol import SessionFilter
    from paddock.supervisor.cli.source import reading

    chosen = SessionFilter(
        status=(status.value,) if status else (),
        labels=dict(labels_of(label)),
        agent=agent,
        model=model,
        text=text,
        order_by=order.value,
        limit=limit or None,
        offset=offset,
    )

    async def work() -> list[dict[str, Any]]:
        async with reading() as store:
            return await store.list_sessions(chosen)

    rows = run_async(work())
    if as_json:
        print_json(rows)
        return exit_codes.DONE
    _hint_of_the_dead(rows)
    now = datetime.now(UTC)
    print_table(
        ["session", "name", "status", "stage", "attention", "agent", "messages", "cost", "active"],
        [
            [
                row["session_id"],
                row["name"] or row["title"],
                row["status"],
                row["stage"],
                row["attention"],
                row["agent"],
                row["message_count"],
                row["cost_usd"],
                ago(moment_of(row["last_activity_at"]), now),
            ]
            for row in rows
        ],
        empty="no sessions; make one with `paddock run` or `paddock new`",
        right=("messages", "cost", "active"),
    )
    return exit_codes.DONE


def show(session: One, *, as_json: AsJson = False) -> int:
    """Tell all about one session: what it is, does, waits for, and what its processes died of.

    Of one that is damaged, what can be read of it, and what is wrong (exit code 6).

    Examples:
      paddock show fixer
      paddock show --json 019a2c | jq .approvals
    """
    from paddock.client.files import read_what_is_left
    from paddock.client.places import places_of
    from paddock.store.errors import Damaged, SessionNotFound
    from paddock.store.ids import SessionId
    from paddock.supervisor.cli.source import find, told_by_host

    async def look() -> tuple[SessionId, dict[str, str | None]]:
        found = await find(session)
        return found, await told_by_host(found)

    places = places_of()
    found, by_host = run_async(look())
    damage: Damaged | None
    deaths: list[Death] = []
    try:
        state, damage = read_what_is_left(places.data, found)
    except SessionNotFound as error:
        told, damage = _lost(found, places.data, error)
    else:
        told = _unread(found, places.data)
        if damage is None or state.sequence:
            deaths = [] if damage is not None else _deaths(state, places.data)
            told = _about(state, places.data) | by_host
            told |= {"deaths": [death.as_json() for death in deaths]}
    if damage is not None:
        told = {"session_id": found, "damage": damage.message} | told
    if as_json:
        print_json(told)
    else:
        _print_about(told, deaths)
    if damage is not None:
        sys.stdout.flush()
        raise damage
    return exit_codes.DONE


def events(
    session: One,
    *,
    after: Annotated[int, typer.Option(min=0, max=LARGEST, help="Only those numbered above.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it goes on.")] = False,
    kind: Annotated[list[str] | None, typer.Option(help="Only these kinds; may repeat.")] = None,
    deltas: Annotated[
        bool, typer.Option("--deltas", help="With --follow: previews of texts and outputs, too.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Print the events of a session, from its own file; with --json one object a line.

    Of one that is damaged, those before the damage (exit code 6).

    A preview has no sequence and is told once, to who is there; its event follows.

    Examples:
      paddock events fixer
      paddock events --follow --json fixer | jq .kind
      paddock events --follow --deltas fixer      # outputs of tools as they come
      paddock events --kind worker_exited fixer
    """
    from paddock.client.files import read_events
    from paddock.client.places import places_of
    from paddock.supervisor.cli.source import find

    kinds = _kinds_of(kind)
    if follow:
        return _follow(session, after, kinds, deltas=deltas, as_json=as_json)
    found = run_async(find(session))
    try:
        for stored in read_events(places_of().data, found, after):
            _print_event(stored, kinds, as_json=as_json)
    finally:
        sys.stdout.flush()
    return exit_codes.DONE


def _kinds_of(words: list[str] | None) -> set[str]:
    """Return the kinds of events that are asked for.

    Raises:
        BadArgument: There is no such kind; says which come near it.
    """
    from paddock.store.events import KINDS

    for word in words or ():
        if word not in KINDS:
            near = difflib.get_close_matches(word, KINDS, n=3)
            known = '`paddock sql "SELECT DISTINCT kind FROM events"` tells which there were'
            advice = f"did you mean {', '.join(near)}?" if near else known
            raise BadArgument(f"--kind: there are no events of kind {word!r}; {advice}")
    return set(words or ())


def _follow(session: str, after: int, kinds: set[str], *, deltas: bool, as_json: bool) -> int:
    from paddock.client.feed import Previewed
    from paddock.store.events import Stored
    from paddock.supervisor.cli.common import with_host

    async def work(host: Any) -> int:
        found = await host.session(session)
        async with found.follow(after=after, deltas=deltas) as feed:
            async for told in feed:
                if isinstance(told, Stored):
                    _print_event(told, kinds, as_json=as_json)
                elif isinstance(told, Previewed):
                    _print_delta(told, as_json=as_json)
                sys.stdout.flush()
        return exit_codes.DONE

    return with_host(work, start=False)


def output(
    session: One,
    call: Annotated[
        str | None,
        typer.Argument(help="A call's id, or the digest of an output. Default: the last."),
    ] = None,
    *,
    offset: Annotated[int, typer.Option(help="The first byte; negative: from the end.")] = 0,
    limit: Annotated[int | None, typer.Option(min=0, help="Bytes at most. Default: all.")] = None,
) -> int:
    """Print the whole output of a tool call, as it was kept: byte by byte, secrets taken out.

    On a terminal it is stripped of escapes. `paddock sql` knows the digest and the size:
    columns output_blob and output_bytes of tool_calls.

    Examples:
      paddock output fixer | less
      paddock output fixer 019a2c > build.log
      paddock output --offset -2000 fixer
    """
    from paddock.client.files import read_output
    from paddock.client.places import places_of
    from paddock.supervisor.cli.source import find

    found = run_async(find(session))
    is_terminal = sys.stdout.isatty()
    for piece in read_output(places_of().data, found, call, offset, limit):
        if is_terminal:
            sys.stdout.write(clean(piece.decode("utf-8", "replace")))
        else:
            sys.stdout.buffer.write(piece)
    sys.stdout.flush()
    return exit_codes.DONE


def logs(
    session: One,
    *,
    generation: Annotated[int | None, typer.Option(min=1, help="Only this start of it.")] = None,
) -> int:
    """Print what a session's workers wrote to stdout and stderr, oldest first.

    What a function agent prints is there; what its tools print is a part of their output.

    Examples:
      paddock logs fixer
      paddock logs --generation 3 fixer
    """
    from paddock.client.places import places_of
    from paddock.store.session_file import folder_of
    from paddock.supervisor.cli.source import find

    found = run_async(find(session))
    folder = folder_of(places_of().data, found)
    files = sorted(
        (int(path.suffix[1:]), path)
        for path in folder.glob("stderr.*")
        if path.suffix[1:].isdigit()
    )
    texts = [
        (number, text)
        for number, path in files
        if generation in (None, number)
        and (text := clean(path.read_text(encoding="utf-8", errors="replace")).strip())
    ]
    if not texts:
        if generation is not None:
            _check_generation(session, found, generation)
        hint("nothing was written")
    for number, text in texts:
        say(f"--- generation {number}")
        say(text)
    return exit_codes.DONE


def _check_generation(session: str, session_id: "SessionId", generation: int) -> None:
    """Raise BadArgument where a session was not started so often."""
    from paddock.client.files import read_what_is_left
    from paddock.client.places import places_of

    state, damage = read_what_is_left(places_of().data, session_id)
    last = state.life.generation
    if damage is None and generation > last:
        raise BadArgument(f"there was no generation {generation} of {session}; its last is {last}")


# --- one event ---


def _print_event(stored: "Stored", kinds: set[str], *, as_json: bool) -> None:
    event = stored.event
    if kinds and event.kind not in kinds:
        return
    ids = {
        name: value
        for name in ("operation_id", "message_id", "tool_call_id", "command_id")
        if (value := getattr(event, name)) is not None
    }
    at = datetime.fromtimestamp(stored.occurred_at / 1e6, UTC)
    payload = event.model_dump(mode="json", exclude_none=True)
    if as_json:
        from paddock.supervisor.cli.printing import json_of

        print(
            json_of(
                {
                    "session_id": stored.session_id,
                    "sequence": stored.sequence,
                    "generation": stored.generation,
                    "occurred_at": at,
                    "kind": event.kind,
                    **ids,
                    "payload": payload,
                }
            )
        )
        return
    facts = " ".join(f"{name}={_brief(value)}" for name, value in payload.items())
    moment = at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    print(f"{stored.sequence:>6}  {moment}  {event.kind:<28}{one_line(facts, 200)}")


def _print_delta(told: "Previewed", *, as_json: bool) -> None:
    if as_json:
        from paddock.supervisor.cli.printing import json_of

        delta = {"message_id": told.message_id, "channel": told.channel, "offset": told.offset}
        print(json_of({"delta": {**delta, "text": told.text}}))
        return
    print(f"{'~':>6}  {told.channel:<14}{one_line(told.text, 200)}")


def _brief(value: Any) -> str:
    return one_line(value if isinstance(value, str) else cell(value), 60)


# --- sessions whose worker is gone, and whose log does not tell yet ---


def _is_down(data: Path, session_id: "SessionId") -> bool:
    """Whether no process owns a session that its log calls live: its lock ends with its worker."""
    from paddock.store.session_file import folder_of, is_owned

    return not is_owned(folder_of(data, session_id))


def _hint_of_the_dead(rows: list[dict[str, Any]]) -> None:
    from paddock.client.places import places_of

    data = places_of().data
    live = [row for row in rows if row["status"] == "live"]
    names = [row["name"] or row["session_id"] for row in live if _is_down(data, row["session_id"])]
    if names:
        who = ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
        hint(f"live by the log, but the worker is gone: {who}; the host, or the next, takes it up")


# --- one session ---


def _unread(session_id: "SessionId", data: Path) -> dict[str, Any]:
    """Return what is told of a session of which nothing can be read."""
    from paddock.store.session_file import folder_of

    return {"session_id": session_id, "folder": str(folder_of(data, session_id))}


def _lost(
    session_id: "SessionId", data: Path, error: "SessionNotFound"
) -> "tuple[dict[str, Any], Damaged]":
    """Return what SQL remembers of a session without files, and that they are gone.

    Raises:
        SessionNotFound: There never was one, or it was deleted.
    """
    from paddock.store.errors import StoreError
    from paddock.store.session_file import folder_lost, folder_of
    from paddock.store.session_file.place import place_of
    from paddock.supervisor.cli.source import reading

    async def ask() -> dict[str, Any]:
        async with reading() as store:
            return dict(await store.session(session_id))

    try:
        row = run_async(ask())
    except StoreError:
        raise error from None
    if row["status"] == "deleted":
        raise error
    told = {name: value for name, value in row.items() if value is not None}
    told |= _unread(session_id, data)
    return told, folder_lost(place_of(folder_of(data, session_id)))


def _about(state: "State", data: Path) -> dict[str, Any]:
    from paddock.client.approvals import open_in
    from paddock.store.session import thread
    from paddock.store.session_file import folder_of

    life, conversation = state.life, state.conversation
    config = life.config
    is_down = life.status == "live" and _is_down(data, state.session_id)
    worker = life.worker if life.status == "live" and not is_down else None
    operation, totals = conversation.operation, conversation.totals
    messages = thread(conversation)
    return {
        "session_id": state.session_id,
        "name": config.name if config else None,
        "title": life.title,
        "status": "down" if is_down else life.status,
        "reason": DOWN if is_down else life.reason,
        "agent": config.agent if config else None,
        "model": state.model(),
        "mode": state.mode(),
        "workspace": config.workspace if config else None,
        "labels": config.labels if config else {},
        "environment": config.environment if config else {},
        "credentials": list(config.credentials) if config else [],
        "unattended": config.unattended if config else None,
        "created_at": _time(life.created_at),
        "last_at": _time(state.last_at),
        "generation": life.generation,
        "pid": worker.pid if worker else None,
        "worker_version": worker.paddock_version if worker else None,
        "last_sequence": state.sequence,
        "folder": str(folder_of(data, state.session_id)),
        "message_count": conversation.message_count,
        "input_tokens": None if totals.uncounted_input_calls else totals.input_tokens,
        "output_tokens": None if totals.uncounted_output_calls else totals.output_tokens,
        "cost_usd": None if totals.unpriced_calls else totals.cost_usd,
        "operation": None
        if operation is None
        else {
            "operation_id": operation.operation_id,
            "kind": operation.operation,
            "started_at": _time(operation.started_at),
            "open_calls": [
                call_line(conversation.calls[one].tool, conversation.calls[one].arguments)
                for one in operation.open_calls
            ],
        },
        "last_operation": None
        if conversation.ended is None
        else {
            "operation_id": conversation.ended.operation_id,
            "status": conversation.ended.status,
            "error": conversation.ended.error,
        },
        "queue": [
            {"input_id": one.input_id, "text": _words(one.parts)}
            for one in conversation.queue.values()
        ],
        "approvals": [
            {
                "approval_id": asked.approval_id,
                "tool": asked.tool,
                "arguments": asked.arguments,
                "requested_at": _time(asked.requested_at),
            }
            for asked in open_in(state)
        ],
        "last_messages": [
            {
                "role": message.role,
                "at": _time(message.created_at),
                "text": _words(message.user_parts or message.assistant_parts),
            }
            for message in messages[-4:]
        ],
    }


def _deaths(state: "State", data: Path) -> "list[Death]":
    """Return the certificates that the session's own file holds, of those that are remembered."""
    from contextlib import closing
    from dataclasses import replace

    from paddock.client.files import read_events
    from paddock.store.events import WorkerExited
    from paddock.supervisor.cli.certificate import of_certificate

    calls = state.conversation.calls
    found = []
    for gone in [one for one in state.life.exits if one.ending == "crashed"][-SHOWN_DEATHS:]:
        with closing(read_events(data, state.session_id, gone.sequence - 1)) as events:
            stored = next(events)
        assert isinstance(stored.event, WorkerExited), "the fold names the certificate's event"
        open_calls = stored.event.open_tool_call_ids
        arguments = {str(one): dict(calls[one].arguments) for one in open_calls if one in calls}
        death = of_certificate(stored, stored.event, arguments)
        if (config := state.life.config) is not None:
            death = replace(death, name=config.name, agent=config.agent)
        found.append(death)
    return found


def _words(parts: Any) -> str:
    return "".join(part.text for part in parts if part.type == "text")


def _time(at_us: int) -> datetime | None:
    return datetime.fromtimestamp(at_us / 1e6, UTC) if at_us else None


def _fact(name: str, value: Any) -> str:
    """Return one of the facts about a session as a person reads it."""
    match name:
        case "environment":
            return cell(list(value))
        case "operation":
            calls = ", ".join(value["open_calls"])
            begun = f"{value['kind']} {value['operation_id']}, since {cell(value['started_at'])}"
            return begun + (f", at work on {one_line(calls, 120)}" if calls else "")
        case "last_operation":
            ended = f"{value['status']} ({value['operation_id']})"
            return ended + (f": {one_line(value['error'], 120)}" if value["error"] else "")
        case _:
            return cell(value)


def _print_about(told: dict[str, Any], deaths: "list[Death]") -> None:
    from paddock.supervisor.cli.certificate import lines as lines_of

    lists = ("queue", "approvals", "last_messages")
    for name, value in told.items():
        if name in lists or name == "deaths" or value in (None, {}, []):
            continue
        say(f"{name.replace('_', ' '):<16}{_fact(name, value)}")
    if deaths:
        say()
        say("deaths:")
        for death in deaths:
            print_lines(["  " + line for line in lines_of(death)])
    for name in lists:
        if told.get(name):
            say()
            say(f"{name.replace('_', ' ')}:")
            for one in told[name]:
                say("  " + one_line("  ".join(cell(value) for value in one.values()), 200))
