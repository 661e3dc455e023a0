"""The door of the command line: find the verb, load its module alone, turn errors into one line.

Verbs are loaded by need, since most of them answer in a moment and the libraries behind others
(duckdb, providers) take longer to import than that.
"""

import difflib
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from paddock.supervisor.cli import exit_codes

CLI = "paddock.supervisor.cli"


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb is answered, and its line in the list of verbs."""

    place: str
    """``module:function`` below this package."""
    summary: str


GROUPS: dict[str, dict[str, Verb]] = {
    "Work": {
        "run": Verb("run:run", "give an agent one task, watch it, and answer its questions"),
        "new": Verb("sessions:new", "make a session without giving it work"),
        "send": Verb("sessions:send", "give a session words"),
        "attach": Verb("attach:attach", "watch a session, answer it, talk to it"),
        "wait": Verb("attach:wait", "wait until a session is at rest"),
        "interrupt": Verb("sessions:interrupt", "end what a session is doing"),
        "approvals": Verb("approvals:approvals", "list what waits for a decision"),
        "approve": Verb("approvals:approve", "let a call run"),
        "deny": Verb("approvals:deny", "do not let a call run"),
        "replay": Verb("replay:replay", "run a recorded Claude Code session again"),
    },
    "Look": {
        "ls": Verb("looking:ls", "list sessions"),
        "show": Verb("looking:show", "tell all about one session"),
        "events": Verb("looking:events", "print the events of a session"),
        "logs": Verb("looking:logs", "print what a session's workers, and agents, printed"),
        "output": Verb("looking:output", "print the whole output of a tool call"),
        "deaths": Verb("deaths:deaths", "tell what died, of what, and what was done"),
        "ps": Verb("hosting:ps", "list the workers that live now"),
        "sql": Verb("sql:sql", "ask the whole history in SQL"),
        "report": Verb("report:report", "answer a ready question about all sessions"),
    },
    "Care": {
        "suspend": Verb("sessions:suspend", "let a session rest without a process"),
        "resume": Verb("sessions:resume", "wake a session, or free one that failed"),
        "rm": Verb("sessions:rm", "delete a session"),
        "erase": Verb("sessions:erase", "delete a session and leave no byte of it"),
        "store": Verb("store:store", "verify, rebuild, snapshot what is stored"),
    },
    "Host": {
        "up": Verb("hosting:up", "start the host"),
        "down": Verb("hosting:down", "end the host; sessions come to rest"),
        "restart": Verb("hosting:restart", "end the host and start it anew; workers live on"),
        "status": Verb("hosting:status", "say what the host is and how it fares"),
        "doctor": Verb("doctor:doctor", "look whether this machine is fit for it"),
        "config": Verb("config:config", "print every setting and where its value is from"),
        "demo": Verb("demo:demo", "watch four sessions work, be killed, and recover"),
    },
}
VERBS: dict[str, Verb] = {name: verb for verbs in GROUPS.values() for name, verb in verbs.items()}

HEAD = """\
Usage: paddock [--home DIR] VERB [ARGS]

A long-running host for AI-agent sessions: a process each, durable, restarted, asked in SQL.
"""
FOOT = """\
Examples:
  paddock run "say hello"                 one task, in this folder
  paddock ls                              what there is
  paddock sql "select tool, count(*) from tool_calls group by 1"

`paddock VERB --help` tells more. PADDOCK_HOME=DIR (or --home DIR) puts everything under one folder.
Exit codes: docs/OPERATIONS.md.
"""


HERE_IS_GONE = "the current folder is not there any more; go to another (cd)"


def _is_here_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - there is nothing to be made of it
    except FileNotFoundError:
        return True
    return False


def main(argv: Sequence[str] | None = None) -> None:
    """Answer one command line and end the process with its exit code."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal has not
            stream.reconfigure(errors="backslashreplace")
    try:
        code = answer(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`): that is no fault and needs no words.
        from paddock.supervisor.cli.printing import silence_stdout

        silence_stdout()
        code = exit_codes.DONE
    except OSError as error:  # what was still to be written found no room
        from paddock.supervisor.cli.printing import silence_stdout

        silence_stdout()
        code = _fail(f"paddock: {error.strerror or error}", exit_codes.STORAGE)
    except KeyboardInterrupt:
        code = exit_codes.KEYBOARD
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Let a standard stream that was closed (``>&-``) lead nowhere, at the place that it has.

    Else what is opened next, a socket or a session's file, would stand there and be printed to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - as long as we live


def answer(words: list[str]) -> int:
    """Return the exit code of a command line, having said on stderr what went wrong."""
    try:
        _check_words(words)
        words = _home_of(words)
    except _WrongUsage as wrong:
        return _fail(str(wrong), exit_codes.USAGE)
    if "_PADDOCK_COMPLETE" in os.environ or words[:1] in (
        ["--install-completion"],
        ["--show-completion"],
    ):
        return _completion(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return exit_codes.DONE if words else exit_codes.USAGE
    if words[0] in ("-V", "--version", "version"):
        return _version()
    if words[0] not in VERBS:
        return _fail(_unknown(words[0]), exit_codes.USAGE)
    return _run(words[0], words[1:])


class _WrongUsage(Exception):
    pass


def _check_words(words: list[str]) -> None:
    """Refuse what is no text: a log and SQL hold nothing else."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode("utf-8", "backslashreplace").decode()
            message = f"paddock: {shown!r} is no UTF-8 text; name it otherwise"
            raise _WrongUsage(message) from None


def _home_of(words: list[str]) -> list[str]:
    """Take ``--home`` off the front, for this process and all that it starts."""
    home = None
    if words and words[0].startswith("--home="):
        home, words = words[0].removeprefix("--home="), words[1:]
    elif words and words[0] == "--home":
        if len(words) < 2:  # noqa: PLR2004 - the option and its value
            raise _WrongUsage("paddock: --home needs a folder")
        home, words = words[1], words[2:]
    if home == "":
        raise _WrongUsage("paddock: --home needs a folder")
    if home is not None:
        try:
            os.environ["PADDOCK_HOME"] = os.path.abspath(os.path.expanduser(home))  # noqa: PTH100, PTH111
        except FileNotFoundError:
            message = f"paddock: {HERE_IS_GONE}, or give the whole path of --home"
            raise _WrongUsage(message) from None
    return words


def _run(name: str, words: list[str]) -> int:
    from typer.exceptions import Abort, Exit, TyperException

    from paddock.store.errors import Bug, PaddockError

    try:
        result = command_of(name).main(
            args=words, prog_name=f"paddock {name}", standalone_mode=False
        )
        return result if isinstance(result, int) else exit_codes.DONE
    except PaddockError as error:
        _fail(f"paddock {name}: {error.message}", 0)
        return exit_codes.exit_code_of(error.code)
    except Exit as error:
        return error.exit_code
    except Abort:
        return exit_codes.KEYBOARD
    except TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", f"paddock {name}")
        text = " ".join(error.format_message().split()).rstrip(".")
        return _fail(f"{command}: {text}; see `{command} --help`", exit_codes.USAGE)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except SystemExit as leaving:
        # typer and rich make an exit code 1 of a reader who is gone; `main` knows that it is none.
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        raise
    except OSError as error:
        if _is_here_gone():
            return _fail(f"paddock {name}: {HERE_IS_GONE}", exit_codes.NOT_FOUND)
        where = f" {error.filename!r}" if error.filename else ""
        text = f"paddock {name}: {error.strerror or error}{where}"
        return _fail(text, exit_codes.STORAGE)
    except Exception as error:  # the last door: nobody is to see a traceback
        if os.environ.get("PADDOCK_DEBUG"):
            raise
        story = f"{type(error).__name__}: {error}".splitlines()[0]
        _fail(
            f"paddock {name}: a fault of Paddock's own ({story}); "
            "please report it, with what PADDOCK_DEBUG=1 prints",
            0,
        )
        return exit_codes.exit_code_of(Bug.code)


def command_of(name: str) -> Any:
    """Return a verb's command, its module loaded now."""
    import typer

    found = _load(VERBS[name].place)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    context = {"help_option_names": ["-h", "--help"]}
    app.command(name, help=help_of(found), context_settings=context)(found)
    return typer.main.get_command(app)


def help_of(function: Callable[..., Any]) -> str:
    """Return a verb's docstring for typer, its examples marked to be printed as they are."""
    return inspect.cleandoc(function.__doc__ or "").replace("\nExamples:", "\n\b\nExamples:")


def _load(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"{CLI}.{module}"), function)
    return found


def _help() -> str:
    lines = [HEAD]
    for group, verbs in GROUPS.items():
        lines.append(f"{group}:")
        lines += [f"  {name:<11}{verb.summary}" for name, verb in verbs.items()]
        lines.append("")
    return "\n".join(lines) + "\n" + FOOT.rstrip()


def _unknown(word: str) -> str:
    if word.startswith("-"):
        return f"paddock: there is no option {word!r}; see `paddock --help`"
    near = difflib.get_close_matches(word, VERBS, n=3)
    advice = f"did you mean {', '.join(near)}?" if near else "see `paddock --help`"
    return f"paddock: there is no verb {word!r}; {advice}"


def _version() -> int:
    from importlib.metadata import version

    print(f"paddock {version('paddock')}")
    return exit_codes.DONE


def _completion(words: list[str]) -> int:
    import typer

    app = typer.Typer(rich_markup_mode=None)
    for name, verb in VERBS.items():
        found = _load(verb.place)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    result = typer.main.get_command(app).main(
        args=words, prog_name="paddock", standalone_mode=False
    )
    return result if isinstance(result, int) else exit_codes.DONE


def _fail(text: str, code: int) -> int:
    """Say what went wrong: exactly one line, on stderr."""
    from paddock.supervisor.cli.printing import one_line

    print(one_line(text, 2000), file=sys.stderr, flush=True)
    return code
