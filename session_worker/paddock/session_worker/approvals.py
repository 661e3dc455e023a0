"""Whether a tool call may run: allowed, denied, or somebody must be asked. A pure ruling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import JsonValue

from paddock.store.events import Effects
from paddock.store.session import Session

UNATTENDED = "unattended: nobody is there to approve it"
"""The rule by which a call is denied that would have been asked for."""


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """What deciding and ordering need to know of a tool."""

    effects: Effects
    approval: Literal["allow", "ask"]
    exclusive: bool
    mcp_server: str | None = None


type Toolkit = Mapping[str, ToolFacts]
"""The tools that a session may see, by name; what is not here is unknown and never runs (P12)."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """The outcome, and the rule that gave it."""

    outcome: Literal["allowed", "denied", "ask"]
    rule: str


def rule_on(
    session: Session, tool: str, arguments: Mapping[str, JsonValue], facts: ToolFacts
) -> Ruling:
    """Return whether the call may run. Denials come first, then what allows, then the default."""
    config = session.life.config
    if config is None:
        return Ruling("denied", "the session has no configuration")
    approvals = config.approvals
    mode = session.mode()
    if tool in approvals.deny_tools:
        return Ruling("denied", f"approvals.deny_tools: {tool}")
    if mode == "plan" and facts.effects == "write":
        return Ruling("denied", "mode: plan")
    if mode == "yolo":
        return Ruling("allowed", "mode: yolo")
    if facts.approval == "allow":
        return Ruling("allowed", f"tool: {tool} needs no approval")
    if tool in approvals.tools:
        return Ruling("allowed", f"approvals.tools: {tool}")
    if tool in session.conversation.allowed_tools:
        return Ruling("allowed", f"always: {tool}")
    command = arguments.get("command")
    if tool == "bash" and isinstance(command, str):
        patterns = (*approvals.bash_patterns, *session.conversation.allowed_patterns)
        matched = matching_pattern(command, patterns)
        if matched is not None:
            return Ruling("allowed", f"pattern: {matched}")
    if approvals.default != "ask":
        outcome: Literal["allowed", "denied"] = (
            "allowed" if approvals.default == "allow" else "denied"
        )
        return Ruling(outcome, f"approvals.default: {approvals.default}")
    if config.unattended:
        return Ruling("denied", UNATTENDED)
    return Ruling("ask", "approvals.default: ask")


def matching_pattern(command: str, patterns: Sequence[str]) -> str | None:
    """Return the pattern that allows a shell command, or None.

    Every part of a compound command must match one (A17): ``git *`` never allows
    ``git status; rm -rf x``. What substitutes commands or redirects is matched by no pattern but
    the exact text. The last matching pattern is the one that is named.
    """
    if command in patterns:
        return command
    parts = command_parts(command)
    if not parts:
        return None
    named: str | None = None
    for part in parts:
        named = next((pattern for pattern in patterns if _matches(part, pattern)), None)
        if named is None:
            return None
    return named


def _matches(part: str, pattern: str) -> bool:
    if "*" not in pattern:
        return part == pattern
    # Only the star is special, so that brackets and question marks match themselves (A9).
    escaped = pattern.replace("[", "[[]").replace("?", "[?]")
    return fnmatchcase(part, escaped) or (pattern.endswith(" *") and part == pattern[:-2])


_SEPARATORS = frozenset(";&|\n")
_UNSAFE = frozenset("`()<>{}")


def command_parts(command: str) -> list[str]:
    """Return the simple commands of a shell line, or an empty list when it is beyond this parser.

    Split at ``; & && | ||`` and line ends outside quotes. Substitution, subshells, redirection,
    groups, comments and unbalanced quotes are beyond it, on purpose: nothing is then matched.
    """
    parts: list[str] = []
    part: list[str] = []
    quote = ""
    escaped = False
    for index, character in enumerate(command):
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            if character == quote:
                quote = ""
            elif quote == '"' and (character == "`" or command[index : index + 2] == "$("):
                return []
        elif character in "'\"":
            quote = character
        elif (
            character in _UNSAFE
            or command[index : index + 2] in {"$(", "${"}
            or (character == "#" and (not part or part[-1].isspace()))
        ):
            return []
        elif character in _SEPARATORS:
            parts.append("".join(part).strip())
            part = []
            continue
        part.append(character)
    if quote or escaped:
        return []
    parts.append("".join(part).strip())
    return [found for found in parts if found]
