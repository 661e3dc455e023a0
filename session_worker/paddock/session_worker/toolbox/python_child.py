"""Call one Python function in a process of its own: ``python -P python_child.py REQUEST RESULT``.

Both arguments are descriptors: JSON comes in from the first and goes out to the second, so that
whatever the function prints or reads disturbs neither. Whatever the function does to its process,
a segfault, ``os._exit``, a loop that keeps the interpreter, is the end of this process alone; the
exit status and the missing result then tell. Only the standard library is loaded where it suffices.
"""

import faulthandler
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

FRAMES_SHOWN = 20
# Of what the function raised, as of what an agent's code does (``sizes``): more is cut.
ERROR_CHARACTERS = 64 * 1024
# What JSON gives as it is: for these no library is needed to check.
PLAIN = {
    "str": (str,),
    "int": (int,),
    "float": (float,),  # JSON's 1 is to be made one
    "bool": (bool,),
    "dict": (dict,),
    "list": (list,),
}


class Failed(Exception):
    """The call cannot be made or its result not be sent; ``kind`` names why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def load(reference: str) -> Callable[..., Any]:
    """Return the function that ``module:qualname`` names."""
    module_name, _, qualname = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise Failed("not_found", f"{reference}: {_said(error)}") from error
    if not callable(found):
        raise Failed("not_found", f"{reference} is no function")
    return found  # type: ignore[no-any-return]  # it is what was named


def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call the function, awaiting what it returns when that is to be awaited."""
    positional: list[Any] = []
    named = dict(arguments)
    if not _is_plain(function, named):
        from paddock.session_worker.toolbox.signature import BadArguments, BadSignature, bind

        try:
            positional, named = bind(function, arguments)
        except (BadArguments, BadSignature) as error:
            raise Failed(error.code, str(error)) from error
    result = function(*positional, **named)
    if inspect.isawaitable(result):
        import asyncio

        return asyncio.run(_awaited(result))
    return result


def as_json(value: Any) -> bytes:
    """Return a value as JSON; models, dates and dataclasses as pydantic draws them."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError as error:
        raise Failed("bad_result", "the result is nested too deeply") from error
    except (TypeError, ValueError):
        return _drawn(value)


def answer(request: Mapping[str, Any]) -> Sequence[bytes]:
    """Make the call that is asked for; return the answer: JSON.

    A value over ``limit`` follows on a line of its own, a text as it is, others as JSON: the call
    was made, and whoever asked reads the value, or copies it, as its memory allows.
    """
    for folder in request["path"]:
        if folder not in sys.path:
            sys.path.append(folder)  # at the end: nothing of the user's shadows the library
    try:
        value = call(load(request["function"]), request["arguments"])
        data = as_json(value)
        if len(data) <= request["limit"]:
            return b'{"status": "ok", "value": ', data, b"}"
        if isinstance(value, str):
            data = value.encode("utf-8", "replace")
        if len(data) > request["most"]:
            size = f"{len(data):,} bytes, over {request['most']:,}"
            raise Failed("bad_result", f"the function returned, but its result has {size}")
        return b'{"status": "large", "bytes": %d}\n' % len(data), data
    except Failed as failed:
        return (_answer(failed.kind, str(failed)),)
    except SystemExit as leaving:
        return (_answer("exit", f"the function left with {leaving.code!r}", code=_code(leaving)),)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
        return (_answer("exception", _said(error), trace=_cut(_trace(error))),)


def serve(request_fd: int, result_fd: int) -> NoReturn:
    """Answer the request and leave at once: threads that the function left do not hold the call."""
    os.set_inheritable(result_fd, False)  # noqa: FBT003 - it takes no keyword
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        _by_lines(stream)
    with os.fdopen(request_fd, "rb") as file:
        request = json.load(file)
    pieces = answer(request)
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    for piece in pieces:
        data = memoryview(piece)
        while data:
            data = data[os.write(result_fd, data) :]
    os._exit(0)


def main() -> None:
    """Answer the request that this process's arguments name."""
    serve(int(sys.argv[1]), int(sys.argv[2]))


def has_plain_parameters(function: Callable[..., Any]) -> bool:
    """Tell whether a call can be checked without pydantic, as far as the signature says."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(_type_name(parameter.annotation) in ("", *PLAIN) for parameter in parameters)


def _is_plain(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Tell whether names and types fit without any conversion, so that pydantic need not load."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            return False
        if name not in arguments and parameter.default is parameter.empty:
            return False
    return all(
        name in parameters and _fits(parameters[name].annotation, value)
        for name, value in arguments.items()
    )


def _fits(annotation: Any, value: Any) -> bool:
    name = _type_name(annotation)
    return not name or type(value) in PLAIN.get(name, ())


def _type_name(annotation: Any) -> str:
    """Return the name of a plain type, "" for any type at all, and "?" for every other."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return ""
    if isinstance(annotation, str):
        return annotation or "?"
    plain = (str, int, float, bool, dict, list)
    return annotation.__name__ if annotation in plain else "?"


def _drawn(value: Any) -> bytes:
    from pydantic_core import PydanticSerializationError, to_json

    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        kind = type(value).__name__
        raise Failed("bad_result", f"a {kind} was returned, which is no JSON: {error}") from error


async def _awaited(result: Any) -> Any:
    return await result


def _answer(kind: str, message: str, **more: object) -> bytes:
    return json.dumps({"status": kind, "message": _cut(message), **more}).encode()


def _cut(text: str) -> str:
    left = len(text) - ERROR_CHARACTERS
    return text if left <= 0 else f"{text[:ERROR_CHARACTERS]} [... {left:,} characters cut here]"


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _trace(error: BaseException) -> str:
    """Return the traceback of the function's own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames, limit=-FRAMES_SHOWN)
    return "".join(lines)


def _code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    return leaving.code & 0xFF if isinstance(leaving.code, int) else 1  # all that a process tells


def _by_lines(stream: Any) -> None:
    """Let each printed line be seen at once: it is a long call's progress."""
    try:
        stream.reconfigure(line_buffering=True)
    except (OSError, ValueError, AttributeError):  # replaced while modules were loaded
        return


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):  # closed or replaced by the function
        return


if __name__ == "__main__":
    main()
