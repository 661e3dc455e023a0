"""Ready questions: one SQL file each, its first line a comment that says what it answers."""

from importlib import resources


def names() -> list[str]:
    """Return the reports there are."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".sql") for file in files if file.name.endswith(".sql"))


def query_of(name: str) -> str:
    """Return the query of a report.

    Raises:
        KeyError: There is none of that name.
    """
    if name not in names():
        raise KeyError(name)
    return resources.files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def says(name: str) -> str:
    """Return what a report answers, in one line."""
    return query_of(name).splitlines()[0].removeprefix("-- ")
