"""P13: every ending has its certificate, and ``paddock deaths`` tells it as it was."""

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.together.cli import paddock
from tests.together.hosting import HostProcess, PlainClient, Refusal, eventually, new_id


@pytest.fixture
def host(home: Path) -> Iterator[HostProcess]:
    process = HostProcess(
        home,
        *("--hang-after-seconds", "3", "--start-timeout-seconds", "10"),
        *("--max-restarts", "0", "--memory-limit-mb", "64"),
    )
    process.has_store = True
    try:
        yield process.start()
    finally:
        process.end()


def certified(host: HostProcess, session: str) -> Any:
    def found() -> Any:
        exits = [s.event for s in host.events(session) if s.event.kind == "worker_exited"]
        return exits[-1] if exits else None

    return eventually(found, "a certificate")


def told(host: HostProcess, *words: str) -> list[dict[str, Any]]:
    said = paddock(host.home, "deaths", "--json", "--limit", "0", *words)
    assert said.code == 0, said
    return list(said.json)


def test_p13_each_ending_has_its_certificate_and_is_told_by_the_verb(
    host: HostProcess, ground: Path
) -> None:
    client = host.client()
    folders = {}
    for name in ("signal", "exit_code", "hang", "stopped", "out_of_memory", "start_timeout"):
        folders[name] = ground / name
        folders[name].mkdir()
    made = {
        name: client.create(folder, name=name)
        for name, folder in folders.items()
        if name != "start_timeout"
    }
    os.kill(client.lives()[made["stopped"]]["pid"], signal.SIGSTOP)
    for name, words in (
        ("signal", "kill 11"),
        ("exit_code", "exit 3"),
        ("hang", "spin"),
        ("out_of_memory", "hog 100"),
    ):
        client.command(made[name], "send_input", parts=[{"type": "text", "text": words}])
    (folders["start_timeout"] / "sleepy").touch()
    sleepy = made["start_timeout"] = new_id()  # type: ignore[assignment]
    with pytest.raises(Refusal) as caught:
        client.ask(
            "create_session",
            session_id=sleepy,
            config={"workspace": str(folders["start_timeout"]), "name": "start_timeout"},
        )
    assert caught.value.code == "creation_failed"
    for name, session in made.items():
        certificate = certified(host, session)
        assert (name, certificate.ending, certificate.reason) == (name, "crashed", name)

    deaths = {death["name"]: death for death in told(host)}
    assert set(deaths) == set(made)
    for name, death in deaths.items():
        assert (death["what"], death["reason"]) == ("worker", name)
        assert death["session_id"] == made[name]
        assert death["pid"]
        assert death["generation"] == 1
    assert deaths["signal"]["cause"] == "crashed with SIGSEGV"
    assert deaths["signal"]["action"] == "left_down"
    assert deaths["signal"]["prompt"] == "kill 11"
    assert deaths["signal"]["operation_id"]
    assert deaths["exit_code"]["cause"] == "left with exit code 3"
    assert "fake_worker" in deaths["hang"]["stacks"]
    assert "fake_worker" in deaths["stopped"]["stacks"]
    assert deaths["out_of_memory"]["memory_limit_bytes"] == 64 * 1024 * 1024
    assert deaths["out_of_memory"]["peak_rss_bytes"] > 64 * 1024 * 1024
    assert deaths["start_timeout"]["last_stage"] == "starting"
    assert [death["name"] for death in told(host, "hang")] == ["hang"]

    shown = paddock(host.home, "show", "hang")
    assert "hung" in shown.out
    assert "fake_worker.py" in shown.out
    text = paddock(host.home, "deaths", "hang").out
    assert "left down: `paddock resume --reset` frees it" in text
    assert "\x1b" not in text


def test_p13_a_killed_supervisor_and_zygote_are_told_with_what_followed(
    host: HostProcess, ground: Path
) -> None:
    client: PlainClient = host.client()
    zygote = int(
        eventually(lambda: client.ask("status")["zygote_pid"], "the zygote that workers come from")
    )
    os.kill(zygote, signal.SIGKILL)
    eventually(
        lambda: client.ask("status")["zygote_pid"] not in {None, zygote}, "the zygote after it"
    )
    first, sign = host.pid, host.runtime / "host.json"
    written_at = sign.stat().st_mtime
    eventually(lambda: sign.stat().st_mtime > written_at, "a sign of life")
    alive_at = datetime.fromtimestamp(sign.stat().st_mtime_ns // 1000 / 1e6, UTC)
    host.kill()
    host.start()
    deaths = eventually(lambda: len(found := told(host)) == 2 and found, "both deaths") or []
    assert [(death["what"], death["pid"]) for death in deaths] == [
        ("zygote", zygote),
        ("supervisor", first),
    ]
    assert deaths[0]["cause"] == "killed by SIGKILL"
    # No watcher saw the second one: it was between two moments, and the gap is at most that.
    at, found_at = (datetime.fromisoformat(deaths[1][name]) for name in ("at", "found_at"))
    assert alive_at <= at < found_at
    assert str(zygote) in deaths[1]["last_words"]
    assert "when    between then and" in paddock(host.home, "deaths").out
    assert all(death["action"] == "restarted" for death in deaths)
    assert all(death["restarted_after_ms"] >= 0 for death in deaths)
