"""Who may know whom (DESIGN: layout). import-linter checks the layers; this checks each module."""

import sys
import tomllib

import pytest

from tests.house import sources

CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((sources.ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "tool"
    ]["importlinter"]["contracts"]
}
# Machines and words: all that they depend on comes in as arguments, so that a test can play them.
PURE = tuple(CONTRACTS["pure"]["source_modules"])
THE_WORLD = set(CONTRACTS["pure"]["forbidden_modules"])
ASKS_DUCKDB = tuple(CONTRACTS["duckdb"]["allowed_importers"])
# A worker must be able to run inside another project's environment, and to start in milliseconds.
WORKER_NEEDS = {"msgpack", "multiprocess", "pydantic", "pydantic_core", "zmq", "zstandard"}
WORKERS = ("paddock.session_worker", "paddock.agent")
# Loaded in a session that uses them, by the one place that chooses a model or a server.
LOADED_LATER = ("paddock.session_worker.mcp", "paddock.session_worker.models")


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return module.startswith(tuple(f"{package}." for package in packages)) or module in packages


def touched(module: str) -> dict[str, list[str]]:
    """Return what of the world a module imports, and what importing it brings in through ours.

    In the module itself an import within a function counts too; in what it reaches it does not:
    there may stand a door beside the words that belong to it.
    """
    return {
        f"{name}, asked for by {asker}": sorted(world)
        for name, asker in sources.reached(module, in_functions=False).items()
        if (world := sources.foreign(name, in_functions=name == module) & THE_WORLD)
    }


def test_p8_a_pure_module_touches_nothing_of_the_world() -> None:
    # One that became a package stays pure in each of its parts.
    pure = [module for module in sources.modules() if is_in(module, PURE)]
    assert set(PURE) <= set(pure)
    assert {module: world for module in pure if (world := touched(module))} == {}


@pytest.mark.parametrize("room", sources.ROOMS)
def test_no_room_claims_the_namespace_for_itself(room: str) -> None:
    assert not (sources.ROOT / room / "paddock" / "__init__.py").exists()


def test_only_three_places_know_duckdb() -> None:
    knowing = [m for m in sources.modules() if "duckdb" in sources.foreign(m, in_functions=True)]
    assert [module for module in knowing if not is_in(module, ASKS_DUCKDB)] == []


def needed(module: str) -> dict[str, list[str]]:
    """Return which libraries importing a module needs beyond a worker's own."""
    allowed = WORKER_NEEDS | set(sys.stdlib_module_names)
    return {
        name: sorted(extra)
        for name in sources.reached(module, in_functions=False)
        if (extra := sources.foreign(name, in_functions=False) - allowed)
    }


def test_a_worker_s_core_needs_only_its_five_libraries() -> None:
    of_workers = [m for m in sources.modules() if is_in(m, WORKERS) and not is_in(m, LOADED_LATER)]
    assert of_workers
    assert {module: extra for module in of_workers if (extra := needed(module))} == {}


def test_every_package_is_typed() -> None:
    packages = {
        path.parent
        for path in sources.modules().values()
        if path.name == "__init__.py" and path.parent.parent.name == "paddock"
    }
    assert sorted(str(p) for p in packages if not (p / "py.typed").exists()) == []
