"""Settings and folders, and where each value comes from."""

from pathlib import Path

import pytest

from paddock.supervisor.config import Configuration, Folders, folders_of, load
from paddock.supervisor.errors import BadConfiguration, PathTooLong
from paddock.supervisor.home import check_length, read_configuration

FOLDERS = Folders(Path("/d"), Path("/r"), Path("/c"))


def loaded(
    toml: str | None = None,
    environ: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> Configuration:
    return load(FOLDERS, {}, flags=flags or {}, environ=environ or {}, toml=toml)


def test_flags_go_before_the_environment_before_the_file_before_the_defaults() -> None:
    toml = "[host]\nidle_after_seconds = 1\nmax_restarts = 1\nmax_live_sessions = 1"
    environ = {"PADDOCK_MAX_RESTARTS": "2", "PADDOCK_MAX_LIVE_SESSIONS": "2"}
    found = loaded(toml, environ, {"max_live_sessions": "3"})
    settings = found.settings
    assert (settings.idle_after_seconds, settings.max_restarts) == (1.0, 2)
    assert settings.max_live_sessions == 3
    assert settings.hang_after_seconds == 30.0
    names = ("idle_after_seconds", "max_restarts", "max_live_sessions", "hang_after_seconds")
    assert [found.origins[name] for name in names] == [
        "/c/config.toml",
        "PADDOCK_MAX_RESTARTS",
        "--max-live-sessions",
        "default",
    ]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[host]\nidle_after = 3", "idle_after (from /c/config.toml) is unknown"),
        ("[host]\nmax_live_sessions = 0", "max_live_sessions (from /c/config.toml) is 0"),
        *(
            (f"[host]\n{count} = {2**63}", f"{count} (from /c/config.toml) is {2**63}")
            for count in ("max_live_sessions", "max_waiting_commands", "memory_limit_mb")
        ),
        ("idle = ", "is no TOML"),
        ("[other]\na = 1", "'other' is unknown"),
    ],
)
def test_a_wrong_value_names_file_and_key_and_what_is_allowed(toml: str, words: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        loaded(toml)
    assert words in caught.value.message


def test_l27_limit_zero_from_the_environment_is_a_configuration_error() -> None:
    with pytest.raises(BadConfiguration, match="PADDOCK_MAX_LIVE_SESSIONS"):
        loaded(environ={"PADDOCK_MAX_LIVE_SESSIONS": "0"})


def where(environ: dict[str, str], flags: dict[str, object] | None = None) -> Folders:
    return folders_of(environ, flags or {}, uid=7, temporary=Path("/tmp"))[0]


def test_paddock_home_puts_everything_under_one_folder() -> None:
    found = where({"PADDOCK_HOME": "/h", "HOME": "/u", "XDG_DATA_HOME": "/x"})
    assert found == Folders(Path("/h/data"), Path("/h/run"), Path("/h/config"))


def test_without_it_the_xdg_folders_are_used() -> None:
    found = where({"HOME": "/u"})
    assert found == Folders(
        Path("/u/.local/share/paddock"), Path("/tmp/paddock-7"), Path("/u/.config/paddock")
    )
    found = where({"HOME": "/u", "XDG_DATA_HOME": "/x", "XDG_RUNTIME_DIR": "/run/7"})
    assert (found.data, found.runtime) == (Path("/x/paddock"), Path("/run/7/paddock"))


def test_one_folder_can_be_named_by_itself() -> None:
    found = where({"PADDOCK_HOME": "/h", "PADDOCK_RUNTIME": "/s"}, {"data": "/d"})
    assert (found.data, found.runtime) == (Path("/d"), Path("/s"))


def test_without_any_home_it_says_what_to_set() -> None:
    with pytest.raises(BadConfiguration, match="PADDOCK_HOME"):
        where({})


def test_a_socket_path_too_long_is_one_clear_error() -> None:
    with pytest.raises(PathTooLong) as caught:
        check_length(Path("/tmp") / ("x" * 100))
    assert caught.value.facts["limit"] == 107
    assert "shorter PADDOCK_HOME" in caught.value.message
    check_length(Path("/tmp") / ("x" * 80))


def test_the_users_file_is_read_from_the_configuration_folder(home: Path) -> None:
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text("[host]\nmax_restarts = 9\n")
    assert read_configuration({}, {"PADDOCK_HOME": str(home)}).settings.max_restarts == 9
