"""A model on the network. What speaks to it (``backend``) takes a second to load: in a thread."""

import asyncio
import importlib
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

from paddock.session_worker.errors import NeedsCredentials
from paddock.session_worker.model import (
    DeltaKind,
    ModelAnswer,
    ModelFailed,
    ModelRequest,
    OnDelta,
)
from paddock.session_worker.models import catalog
from paddock.session_worker.models.catalog import Place

if TYPE_CHECKING:
    from paddock.session_worker.models.backend import Connection

BACKEND = "paddock.session_worker.models.backend"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a provider is waited for (P11)."""

    connect_seconds: float = 15.0
    silence_seconds: float = 180.0
    """Between two signs of life. Providers that think for long send pings, or let a first byte
    wait for two minutes at most."""
    answer_seconds: float = 1800.0
    """For the whole answer: 64,000 tokens at 40 a second take 27 minutes."""


class ProviderModel:
    """A provider's model, with a client that lives as long as its key is taken."""

    def __init__(self, place: Place, key: str, patience: Patience | None = None) -> None:
        self.provider = place.provider.name
        self.name = place.model
        self._place = place
        self._key = key
        self._patience = patience or Patience()
        self._connection: Connection | None = None
        self._backend: Future[Any] = _load_in_thread(BACKEND)

    @property
    def context_limit(self) -> int | None:
        """Tokens that fit in a request and its answer; of some models known after the first."""
        known = catalog.context_limit(self._place)
        if known is not None or self._connection is None:
            return known
        return self._connection.context_limit

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> ModelAnswer:
        """Return the provider's answer.

        Raises:
            ModelFailed: There is none. What had been streamed was voided by a ``reset``.
        """
        connection = await self._connected(request.environment)
        has_streamed = False

        def tell(kind: DeltaKind, text: str) -> None:
            nonlocal has_streamed
            has_streamed = True
            on_delta(kind, text)

        try:
            backend = await self._loaded()
            answer: ModelAnswer = await backend.ask(connection, request, tell)
        except ModelFailed as failed:
            if has_streamed:
                on_delta("reset", "")
            if failed.kind == "auth":
                await self.close()  # the next request is made with what the key is then
            raise
        return answer

    async def close(self) -> None:
        """Close the client; the next request opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self, environment: Mapping[str, str]) -> "Connection":
        key = self._key_in(environment)
        if self._connection is not None and key == self._key:
            return self._connection
        await self.close()
        backend = await self._loaded()
        # In a thread: making a client reads the system's certificates, for 50 to 200 ms.
        connection: Connection = await asyncio.to_thread(
            backend.connect, self._place, key, self._patience
        )
        self._key, self._connection = key, connection
        return connection

    def _key_in(self, environment: Mapping[str, str]) -> str:
        """Return the key of the request's environment, if it has one, else the one of before."""
        try:
            key = catalog.key_of(self._place, environment)
        except NeedsCredentials:
            return self._key
        return self._key if key == catalog.KEYLESS else key

    async def _loaded(self) -> Any:
        try:
            return await asyncio.shield(asyncio.wrap_future(self._backend))
        except ImportError as error:
            message = (
                f"{self._place.name} needs a library that is not installed ({error.name}): "
                "install paddock[agent]"
            )
            raise ModelFailed("not_installed", message) from error


def _load_in_thread(module: str) -> Future[Any]:
    """Return a module to be; importing it does not hold up the loop."""
    loaded: Future[Any] = Future()

    def load() -> None:
        try:
            loaded.set_result(importlib.import_module(module))
        except BaseException as error:  # noqa: BLE001 - whoever asks for the module is told
            loaded.set_exception(error)

    # A daemon: a worker that is told to stop does not wait for an import.
    Thread(target=load, name=f"load {module}", daemon=True).start()
    return loaded
