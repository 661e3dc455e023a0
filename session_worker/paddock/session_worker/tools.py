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
from paddock.session_worker.toolbox.read_file import ReadFile
from paddock.session_worker.toolbox.write_files import EditFile, MultiEditFile, WriteFile

__all__ = [
    "Approval",
    "BadCall",
    "Change",
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
    "builtin_tools",
]


def builtin_tools(limits: Limits | None = None) -> Mapping[str, Tool]:
    """Return the built-in tools by name, each bound by ``limits``."""
    bounds = limits or Limits()
    tools: tuple[Tool, ...] = (
        Bash(bounds),
        ReadFile(bounds),
        WriteFile(bounds),
        EditFile(bounds),
        MultiEditFile(bounds),
    )
    return {tool.spec.name: tool for tool in tools}
