"""The table of error codes in docs/OPERATIONS.md, made from the classes themselves.

``python -m tests.house.error_table`` in the root of the project writes it anew.
"""

import ast
from dataclasses import dataclass

from tests.house import sources

OPERATIONS = sources.ROOT / "docs" / "OPERATIONS.md"
BEGIN, END = "<!-- errors: begin -->\n", "<!-- errors: end -->\n"
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


def table() -> str:
    """Return the table as Markdown, in the order of codes."""
    known = errors()
    lines = [
        f"| `{error.code}` | {fault(error, known)} | {error.meaning.replace('``', '`')} |"
        for error in sorted(known.values(), key=lambda error: error.code)
    ]
    return "\n".join(["| code | whose fault | meaning |", "| --- | --- | --- |", *lines, ""])


def written() -> str:
    """Return the table as it stands in the document."""
    return OPERATIONS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Write the table into the document."""
    text = OPERATIONS.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    OPERATIONS.write_text(before + begin + table() + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
