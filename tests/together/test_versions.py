"""L26: an upgrade under way: workers of an older version go on until they rest, and are known."""

from pathlib import Path
from typing import Any

from paddock.session_worker import __version__
from paddock.session_worker.wire import PROTOCOL_VERSION
from tests.together.cli import paddock
from tests.together.hosting import HostProcess, PlainClient, eventually, hosting


def version_of(client: PlainClient, session: str) -> Any:
    return client.lives().get(session, {}).get("paddock_version")


def rests(host: HostProcess, session: str) -> list[str]:
    kinds = ("session_suspended",)
    return [s.event.reason for s in host.events(session) if s.event.kind in kinds]


def test_l26_a_worker_of_an_older_version_goes_on_until_it_rests_and_the_next_one_is_new(
    home: Path, ground: Path
) -> None:
    older, busy = ground / "older", ground / "busy"
    for folder in (older, busy):
        folder.mkdir()
        (folder / "older").write_text("0.0.1")
    with hosting(home) as host:
        client = host.client()
        working = client.create(busy, name="busy")
        client.say_words(working, "work 600")
        assert version_of(client, working) == "0.0.1"
        resting = client.create(older, name="older")
        pid = client.lives()[working]["pid"]

        host.kill()
        client.close()
        host.clients.clear()
        host.start()
        client = host.client()
        eventually(lambda: rests(host, resting) == ["upgrade"], "the one at rest left")
        eventually(lambda: version_of(client, working) == "0.0.1", "the one at work was adopted")
        assert client.lives()[working]["pid"] == pid
        assert rests(host, working) == []
        line = paddock(host.home, "ps").out
        assert "0.0.1" in line
        shown = paddock(host.home, "show", "--json", "busy").json
        assert shown["worker_version"] == "0.0.1"

        (older / "older").unlink()
        client.say_words(resting, "echo again")
        eventually(lambda: version_of(client, resting) == __version__, "the next one is new")
        status = client.ask("status")
        assert (status["paddock_version"], status["protocol_version"]) == (
            __version__,
            PROTOCOL_VERSION,
        )
        client.ask("suspend_session", session_id=working, deadline_seconds=5)


def test_l26_a_worker_that_speaks_another_protocol_is_not_killed_and_its_work_is_done(
    home: Path, ground: Path
) -> None:
    folder = ground / "other"
    folder.mkdir()
    with hosting(home, "--adopt-within-seconds", "5", "--orphan-grace-seconds", "1") as host:
        client = host.client()
        session = client.create(folder, name="other")
        client.say_words(session, "work 12")
        host.kill()
        client.close()
        host.clients.clear()
        (folder / "protocol").write_text(str(PROTOCOL_VERSION + 1))
        host.start()
        client = host.client()
        eventually(lambda: rests(host, session), "its work is done and it rests by itself")
        kinds = host.kinds(session)
        assert "operation_completed" in kinds
        (exited,) = [s.event for s in host.events(session) if s.event.kind == "worker_exited"]
        assert exited.ending == "suspended"
        (folder / "protocol").unlink()
        client.say_words(session, "echo hello")
        assert host.kinds(session).count("worker_started") == 2
