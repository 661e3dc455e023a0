"""The tools a session offers, and the types they share: the door to the toolbox.

A caller prepares a call (``Tool.prepare``), records its intent where it has one, and runs it
(``Tool.run``); what can go wrong inside a tool is a ``ToolOutcome``, never an exception.
"""

from collections.abc import Mapping

from paddock.session_worker.toolbox.bash import Bash
from paddock.session_worker.toolbox.contract import (
    Approval,
    BadCall,
    Change,
    Confines,
    Effects,
    FileChange,
    Limits,
    Outcome,
    Plan,
    Progress,
    Room,
    Tool,
    ToolOutcome,
    ToolSpec,
)
from paddock.session_worker.toolbox.python_functions import PythonFunction
from paddock.session_worker.toolbox.read_file import ReadFile
from paddock.session_worker.toolbox.read_output import ReadOutput, Shelf
from paddock.session_worker.toolbox.searching import Glob, Grep, Ls
from paddock.session_worker.toolbox.signature import BadSignature, schema_of
from paddock.session_worker.toolbox.warm import Warm
from paddock.session_worker.toolbox.write_files import EditFile, MultiEditFile, WriteFile

__all__ = [
    "Approval",
    "BadCall",
    "BadSignature",
    "Change",
    "Confines",
    "Effects",
    "FileChange",
    "Limits",
    "Outcome",
    "Plan",
    "Progress",
    "Room",
    "Tool",
    "ToolOutcome",
    "ToolSpec",
    "Warm",
    "builtin_tools",
    "python_tool",
    "schema_of",
]


def builtin_tools(limits: Limits | None = None, shelf: Shelf | None = None) -> Mapping[str, Tool]:
    """Return the built-in tools by name, each bound by ``limits``; ``shelf`` keeps outputs."""
    bounds = limits or Limits()
    tools: tuple[Tool, ...] = (
        Bash(bounds),
        ReadFile(bounds),
        ReadOutput(bounds, shelf),
        WriteFile(bounds),
        EditFile(bounds),
        MultiEditFile(bounds),
        Grep(bounds),
        Glob(bounds),
        Ls(bounds),
    )
    return {tool.spec.name: tool for tool in tools}


def python_tool(
    function_reference: str,
    spec: ToolSpec,
    python_path: tuple[str, ...] = (),
    limits: Limits | None = None,
    warm: Warm | None = None,
) -> Tool:
    """Return the function that ``module:qualname`` names as a tool; it runs in a child process.

    With ``warm`` that is forked from its template, else each call starts an interpreter.

    ``python_path`` is where its module may be found beside where this process finds modules. Time
    and output are bound by ``spec``, all else by ``limits``. ``schema_of`` gives its parameters.
    """
    return PythonFunction(function_reference, spec, python_path, limits or Limits(), warm)
