"""What a session's effects touch: tools, the model, and the time. Each effect is a task."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from paddock.session_worker.approvals import ToolFacts, Toolkit
from paddock.session_worker.errors import NeedsCredentials, UnknownModel
from paddock.session_worker.journal import Journal
from paddock.session_worker.model import (
    DeltaKind,
    Item,
    Model,
    ModelAnswer,
    ModelFailed,
    ModelRequest,
    ToolDescription,
    UserWords,
)
from paddock.session_worker.models.opening import open_model
from paddock.session_worker.previews import Preview
from paddock.session_worker.protocol import Delta
from paddock.session_worker.sizes import flaw_in, too_large
from paddock.session_worker.stimuli import (
    Answered,
    CallEnded,
    LacksCredentials,
    NotAnswered,
    Prepared,
    RetryDue,
    Stimulus,
    WorkspaceSeen,
)
from paddock.session_worker.toolbox.threads import in_thread
from paddock.session_worker.tools import BadCall, Plan, Room, Tool, Warm
from paddock.session_worker.turn import AskModel, model_items
from paddock.session_worker.words import know_secrets
from paddock.session_worker.workspace import workspace_seen
from paddock.store.errors import StoreError, TooLarge
from paddock.store.events import ImagePart, ThinkingPart
from paddock.store.ids import ToolCallId
from paddock.store.session import Call, Session
from paddock.store.session_file.faults import translated

SYSTEM_PROMPT = (
    "You are a careful software engineer working in the user's workspace through tools. Read"
    " before you change, make the smallest change that does what was asked, and check that it"
    " works. A tool result that says it was interrupted may or may not have taken effect: look"
    " before you repeat it. When you are done, say briefly what you did."
)


class World:
    """Carries out effects and reports what came of them as stimuli."""

    def __init__(
        self,
        journal: Journal,
        tools: Mapping[str, Tool],
        room: Room,
        credentials: dict[str, str],
        arrive: Callable[[Stimulus], None],
        preview: Callable[[Delta], object],
        warm: Warm | None = None,
    ) -> None:
        self._warm = warm
        self.tools = dict(tools)
        self.room = room
        self.credentials = variables_of(credentials)
        self._journal = journal
        self._arrive = arrive
        self._preview = preview
        self._model: Model | None = None
        self._model_name: str | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # --- tasks ---

    def _begin(self, name: str, work: Coroutine[object, object, None]) -> None:
        # Begun at once, and not at the loop's next turn: what is cancelled before its first step
        # would never report, and whoever stops it would wait for ever.
        loop = asyncio.get_running_loop()
        task = asyncio.Task(work, loop=loop, name=name, eager_start=True)
        self._tasks[name] = task
        task.add_done_callback(lambda ended: self._forget(name, ended))

    def _forget(self, name: str, ended: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is ended:
            del self._tasks[name]
        if not ended.cancelled() and (error := ended.exception()) is not None:
            # An effect that breaks is a fault of ours: the worker dies of it, with its story.
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"effect {name} broke", "exception": error}
            )

    def stop(self, prefix: str = "") -> None:
        """Cancel the effects whose name begins so; each still reports what came of it."""
        for name, task in list(self._tasks.items()):
            if name.startswith(prefix):
                task.cancel()

    async def close(self) -> None:
        """End every effect and let go of the model."""
        self.stop()
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        if self._warm is not None:
            await self._warm.close()
        await self._drop_model()

    # --- calls ---

    def prepare_call(self, call: Call, arguments: Mapping[str, JsonValue]) -> None:
        """Check a call's arguments and read what its intent needs."""
        self._begin(f"prepare:{call.tool_call_id}", self._prepare(call, arguments))

    async def _prepare(self, call: Call, arguments: Mapping[str, JsonValue]) -> None:
        tool = self.tools[call.tool]
        plan, error = None, None
        try:
            plan = await in_thread(lambda: tool.prepare(arguments, self.room))
        except BadCall as bad:
            error = str(bad)
        except asyncio.CancelledError:
            error = None
        self._arrive(Prepared(call.tool_call_id, plan, error))

    def run_call(self, call_id: ToolCallId, plan: Plan) -> None:
        """Run a call whose intent is durable."""
        self._begin(f"call:{call_id}", self._run(call_id, plan))

    async def _run(self, call_id: ToolCallId, plan: Plan) -> None:
        output = Preview(call_id, "output", self._secrets(), self._preview)
        tool = self.tools[plan.tool]
        try:
            outcome = await tool.run(plan, self.room, output.add)
        except asyncio.CancelledError:
            happened = tool.happened(plan.intent, self.room) if plan.intent else None
            self._arrive(CallEnded(call_id, None, happened=happened))
            return
        output.end()
        blob = None if outcome.spool is None else await self._keep(outcome.spool)
        self._arrive(CallEnded(call_id, outcome, blob))

    async def _keep(self, spool: Path) -> str | None:
        """Keep a call's whole output; without room, or when stopped, its head and tail must do."""
        try:
            return await self._journal.keep(spool, self._secrets())
        except (StoreError, TooLarge) as error:
            print(f"output not kept: {error.message}", file=sys.stderr)  # noqa: T201 - for its log
            return None
        except asyncio.CancelledError:
            return None  # the call itself is over: what came of it is still to be told
        finally:
            spool.unlink(missing_ok=True)  # noqa: ASYNC240 - takes no time

    def happened(self, call: Call) -> bool | None:
        """Tell after a death whether an intent took effect; blocking, for the start only."""
        tool = self.tools.get(call.tool)
        if tool is None or call.intent is None:
            return None
        return tool.happened(call.intent, self.room)

    def look_at_workspace(self) -> None:
        """Say what became of the workspace's repository; once at a time, if its disk is stuck."""
        if "workspace" not in self._tasks:
            self._begin("workspace", self._look())

    async def _look(self) -> None:
        seen = await in_thread(lambda: workspace_seen(self.room.workspace))
        self._arrive(WorkspaceSeen(seen))

    # --- the model ---

    def ask_model(self, session: Session, effect: AskModel, model: str) -> None:
        """Send the conversation of the moment to the model."""
        config = session.life.config
        request = ModelRequest(
            model=model,
            system_prompt=(config.system_prompt if config else None) or SYSTEM_PROMPT,
            items=model_items(session),
            tools=tuple(
                ToolDescription(tool.spec.name, tool.spec.description, dict(tool.spec.parameters))  # type: ignore[arg-type]  # JSON schemas
                for tool in self.tools.values()
            ),
            environment=self.credentials,
        )
        self._begin("model", self._ask(effect, request))

    async def _ask(self, effect: AskModel, request: ModelRequest) -> None:
        began = time.monotonic()

        def failed(failure: ModelFailed | None) -> NotAnswered:
            jitter = int.from_bytes(os.urandom(4)) / 2**32
            return NotAnswered(effect.model_call_id, effect.attempt, failure, elapsed(), jitter)

        def elapsed() -> float:
            return (time.monotonic() - began) * 1000

        try:
            request = replace(request, images=await self._images(request))
            answer = await self._answer(effect, request)
        except asyncio.CancelledError:
            self._arrive(failed(None))
        except NeedsCredentials as lacking:
            self._arrive(LacksCredentials(effect.model_call_id, lacking.message, elapsed()))
        except UnknownModel as unknown:
            self._arrive(failed(ModelFailed("unknown_model", unknown.message)))
        except ModelFailed as failure:
            self._arrive(failed(failure))
        else:
            self._arrive(Answered(effect.model_call_id, answer, elapsed()))

    async def _images(self, request: ModelRequest) -> Mapping[str, bytes]:
        named = tuple(images_in(request.items))
        return await self._journal.images(named) if named else {}

    async def _answer(self, effect: AskModel, request: ModelRequest) -> ModelAnswer:
        channels: tuple[Literal["text", "thinking"], ...] = ("text", "thinking")
        previews = {
            channel: Preview(effect.message_id, channel, self._secrets(), self._preview)
            for channel in channels
        }

        def on_delta(kind: DeltaKind, text: str) -> None:
            if kind != "reset":
                previews[kind].add(text)
                return
            for preview in previews.values():
                preview.reset()
            void = Delta(message_id=effect.message_id, channel="reset", offset=0, text=text)
            self._preview(void)

        model = await self._open(request.model)
        answer = await model.answer(request, on_delta)
        answer = replace(answer, context_limit=model.context_limit)
        for preview in previews.values():
            preview.end()
        reason = _unfit(answer)
        if reason is not None:
            raise ModelFailed("bad_answer", reason)
        return answer

    def _secrets(self) -> tuple[str, ...]:
        return tuple(self.credentials.values())

    async def _open(self, name: str) -> Model:
        if self._model is None or self._model_name != name:
            await self._drop_model()
            environment = {**self.room.environment, **self.credentials}
            self._model = await in_thread(lambda: open_model(name, environment))
            self._model_name = name
        return self._model

    async def _drop_model(self) -> None:
        model, self._model = self._model, None
        if model is not None:
            await model.close()

    def renew(self, credentials: Mapping[str, str]) -> None:
        """Use these secrets from now on."""
        self.credentials.update(variables_of(credentials))
        know_secrets(credentials.values())
        self._model_name = None

    def retry_later(self, delay_ms: float) -> None:
        """Say when the time to ask again has come."""
        self._begin("retry", self._wait(delay_ms / 1000))

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            return
        self._arrive(RetryDue())


def images_in(items: Iterable[Item]) -> Iterator[str]:
    """Yield the digests of the images that users sent."""
    for item in items:
        if isinstance(item, UserWords):
            yield from (part.blob for part in item.parts if isinstance(part, ImagePart))


def _unfit(answer: ModelAnswer) -> str | None:
    """Return why no event can hold an answer, or None if one can."""
    content = [answer.parts, answer.malformed, answer.model_state]
    details = [part.details for part in answer.parts if isinstance(part, ThinkingPart)]
    flaw = flaw_in([*content, details])
    if flaw is not None:
        return f"the model's answer {flaw}"
    return too_large("the model's answer", content, "ask for less at once")


@contextmanager
def empty_spool(folder: Path) -> Iterator[Path]:
    """Make the folder for outputs that are too large to hold, empty; it goes with its content.

    Called by the owner of the session's file: what lies in it was left by a worker that died.

    Raises:
        DiskFull, StoreError: It cannot be made.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with translated(folder):
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def toolkit_of(tools: Mapping[str, Tool]) -> Toolkit:
    """Return what deciding and ordering need to know of tools."""
    return {
        name: ToolFacts(tool.spec.effects, tool.spec.approval, tool.spec.exclusive)
        for name, tool in tools.items()
    }


def variables_of(credentials: Mapping[str, str]) -> dict[str, str]:
    """Return secrets by the names of their variables; a log refers to one as ``env:NAME``."""
    return {name.removeprefix("env:"): value for name, value in credentials.items()}
