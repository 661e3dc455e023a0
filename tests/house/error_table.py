"""The tables of error and exit codes in docs/OPERATIONS.md, made from the sources themselves.

``python -m tests.house.error_table`` in the root of the project writes them anew.
"""

import ast
from dataclasses import dataclass

from paddock.supervisor.cli import exit_codes
from tests.house import sources

OPERATIONS = sources.ROOT / "docs" / "OPERATIONS.md"
FAULTS = {"Refused": "refused", "PeerBroke": "peer", "StoreError": "store", "Bug": "bug"}


@dataclass(frozen=True, slots=True)
class Error:
    """One error class as its source tells it."""

    name: str
    base: str
    code: str
    meaning: str


def errors() -> dict[str, Error]:
    """Return every class with a ``code`` of its own, by its name."""
    found = {}
    for path in sources.modules().values():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and (code := code_of(node)) and node.bases:
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                base = ast.unparse(node.bases[0])
                found[node.name] = Error(node.name, base, code, text)
    return {name: error for name, error in found.items() if fault(error, found)}


def code_of(node: ast.ClassDef) -> str | None:
    """Return the literal that a class gives as its ``code``."""
    for line in node.body:
        match line:
            case (
                ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code)))
                | ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(code)))
            ):
                return code
            case _:
                pass
    return None


def fault(error: Error, known: dict[str, Error]) -> str | None:
    """Return whose fault an error is; None for a class that is no error of ours."""
    if error.name in FAULTS:
        return FAULTS[error.name]
    base = error.base.rpartition(".")[2]
    if base in FAULTS:
        return FAULTS[base]
    return fault(known[base], known) if base in known else None


def error_codes() -> str:
    """Return the table of errors, in the order of their codes."""
    known = errors()
    lines = [
        f"| `{error.code}` | {fault(error, known)} | {exit_codes.exit_code_of(error.code)} "
        f"| {error.meaning.replace('``', '`')} |"
        for error in sorted(known.values(), key=lambda error: error.code)
    ]
    return "\n".join(["| code | whose | exit | meaning |", "| --- | --- | --- | --- |", *lines, ""])


def exits() -> str:
    """Return the table of exit codes, in their order."""
    lines = [f"| {code} | {meaning} |" for code, meaning in sorted(exit_codes.MEANING.items())]
    return "\n".join(["| exit code | meaning |", "| --- | --- |", *lines, ""])


TABLES = {"errors": error_codes, "exits": exits}


def written(name: str) -> str:
    """Return a table as it stands in the document."""
    return parts(name)[1]


def parts(name: str) -> tuple[str, str, str]:
    """Return what stands before, in and after a table, the marks going with what is around it."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = OPERATIONS.read_text(encoding="utf-8").partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside, end + after


def main() -> None:
    """Write the tables into the document."""
    for name, table in TABLES.items():
        before, _, after = parts(name)
        OPERATIONS.write_text(before + table() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
