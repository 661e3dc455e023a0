"""``paddock config``: every setting, and where its value is from."""

from paddock.supervisor.cli import exit_codes
from paddock.supervisor.cli.printing import print_json, print_table, say
from paddock.supervisor.cli.sessions import AsJson


def config(*, as_json: AsJson = False) -> int:
    """Print every setting and where its value is from: a flag, PADDOCK_*, the file, the default.

    Settings stand in config.toml, in a table [host]; variables (PADDOCK_IDLE_AFTER_SECONDS, say)
    go over them. A host reads them when it starts.

    Examples:
      paddock config
      PADDOCK_MAX_LIVE_SESSIONS=1000 paddock config --json
    """
    from paddock.supervisor.home import read_configuration

    found = read_configuration({})
    values = {
        "data": str(found.folders.data),
        "runtime": str(found.folders.runtime),
        "config": str(found.folders.config),
        **found.settings.model_dump(),
    }
    rows = [
        {"key": key, "value": value, "origin": found.origins.get(key, "default")}
        for key, value in values.items()
    ]
    if as_json:
        print_json(rows)
    else:
        say(f"file: {found.folders.config_file}")
        print_table(
            ["key", "value", "origin"], [[row["key"], row["value"], row["origin"]] for row in rows]
        )
    return exit_codes.DONE
