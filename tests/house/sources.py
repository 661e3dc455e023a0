"""What the rooms' modules import, read from their text: nothing is run, so nothing is hidden."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("store", "session_worker", "supervisor")


@cache
def modules() -> dict[str, Path]:
    """Return every module of the rooms by its import name; a package is its ``__init__``."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("paddock/**/*.py")):
            parts = path.relative_to(ROOT / room).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str, *, in_functions: bool) -> frozenset[str]:
    """Return the names that a module imports, less those for the type checker alone.

    ``from a import b`` gives both ``a`` and ``a.b``, since b may be a module.
    """
    path = modules()[module]
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), in_functions=in_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node, is_package=path.name == "__init__.py")
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def statements(tree: ast.AST, *, in_functions: bool) -> Iterator[ast.AST]:
    """Walk a module, less what only the type checker reads and, if asked, what is run later."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            and not in_functions
        ):
            continue
        yield node
        yield from statements(node, in_functions=in_functions)


def absolute(module: str, node: ast.ImportFrom, *, is_package: bool) -> str:
    """Return the module that a ``from`` names, from the top."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *(node.module or "").split(".")]).strip(".")


def reached(module: str, *, in_functions: bool) -> dict[str, str]:
    """Return the modules of ours that importing one brings in, each with the one that asked."""
    found = {module: module}
    waiting = [module]
    while waiting:
        asker = waiting.pop()
        wanted = imports(asker, in_functions=in_functions)
        for name in sorted({*wanted, *parents(asker), *(p for w in wanted for p in parents(w))}):
            if name in modules() and name not in found:
                found[name] = asker
                waiting.append(name)
    return found


def parents(module: str) -> list[str]:
    """Return the packages whose ``__init__`` runs before the module does."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def foreign(module: str, *, in_functions: bool) -> set[str]:
    """Return the top-level names of what a module imports from elsewhere."""
    names = imports(module, in_functions=in_functions)
    return {name.partition(".")[0] for name in names} - {"paddock", ""}


def load_dev() -> ModuleType:
    """Load ./dev, which has no .py at its end."""
    loader = SourceFileLoader("dev", str(ROOT / "dev"))
    spec = spec_from_loader("dev", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
