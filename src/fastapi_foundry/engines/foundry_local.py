"""Foundry Local behind the ``Engine`` port: found or started, supervised, whichever its generation."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from fastapi_foundry.engines.base import Call, Reply, ReplyStream
from fastapi_foundry.engines.discovery import Discovery
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.http_engine import HttpEngine
from fastapi_foundry.engines.own_service import OwnService
from fastapi_foundry.engines.supervisor import Supervisor
from fastapi_foundry.engines.transport import Patience, Transport
from fastapi_foundry.errors import InvalidInputError, ModelNotFoundError
from fastapi_foundry.settings import Settings

__all__ = ["FoundryLocalEngine"]

_LOAD_MARGIN_S: Final = 0.5
# In the words of Gen 3 and of Gen 1, which has no others for a model that it has never heard of.
_NOT_LOADED: Final = re.compile(r"Model not loaded|Model not cached|No OpenAIService provider found")


class FoundryLocalEngine(HttpEngine):
    """The ``Engine`` for Foundry Local; see ``engines.base.Engine`` for what each method promises.

    Make it and use it within one event loop.

    Args:
        settings: Where to look, what may be started, time-outs.
        config_path: The configuration file, handed on to a service that is started.
        supervisor: Instead of the one that the settings describe.
        client: Instead of one of its own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        config_path: Path | None = None,
        supervisor: Supervisor | None = None,
        client: HttpClient | None = None,
    ) -> None:
        client = client or HttpClient()
        supervisor = supervisor or _supervisor(settings, config_path, client)
        # The service has the same limit and says more about it when it passes.
        load_s = settings.foundry_service.load_timeout_s + _LOAD_MARGIN_S
        super().__init__(Transport(client, supervisor, _patience(settings)), load_s=load_s)
        self._loading: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def first_look(self, timeout_s: float) -> None:
        """Wait until something is known of it, or until ``timeout_s`` seconds have passed; see ``Supervisor.first_look``."""
        await self._transport.supervisor.first_look(timeout_s)

    async def post(self, call: Call) -> Reply:
        """Send ``call`` and wait for the whole answer; see ``Engine.post``."""
        try:
            return await super().post(call)
        except InvalidInputError as fact:
            if not _says_not_loaded(fact):
                raise
        await self._load_once(call.model)
        return await super().post(call)

    @contextlib.asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[ReplyStream]:
        """Send ``call`` and stream the answer; see ``Engine.stream``."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                reply = await stack.enter_async_context(self._transport.stream(call))
            except InvalidInputError as fact:
                if not _says_not_loaded(fact):
                    raise
                await self._load_once(call.model)
                reply = await stack.enter_async_context(self._transport.stream(call))
            yield reply

    async def _load_once(self, model: str) -> None:
        """Load what Microsoft's own services want to have loaded first; one load however many ask."""
        loading = self._loading.get(model)
        if loading is None:
            loading = asyncio.create_task(self.load_model(model), name=f"load {model}")
            self._loading[model] = loading
            loading.add_done_callback(lambda _: self._loading.pop(model, None))
        try:
            # Shielded: one caller's disconnect must not take the model from the others.
            await asyncio.shield(loading)
        except InvalidInputError as fact:
            if _says_not_loaded(fact):
                raise ModelNotFoundError(model, "The engine has not downloaded it.") from fact
            raise


def _says_not_loaded(fact: InvalidInputError) -> bool:
    return _NOT_LOADED.search(f"{fact.message} {fact.context.get('engine_body', '')}") is not None


def _patience(settings: Settings) -> Patience:
    ai = settings.foundry_ai
    return Patience(
        ready_s=settings.foundry_service.start_timeout_s,
        answer_s=ai.timeout_s,
        connect_s=ai.connect_timeout_s,
        first_byte_s=ai.first_byte_timeout_s,
        idle_s=ai.idle_timeout_s,
    )


def _supervisor(settings: Settings, config_path: Path | None, client: HttpClient) -> Supervisor:
    service = settings.foundry_service
    discovery = Discovery(
        client,
        home=settings.home,
        ports=range(service.port_range_start, service.port_range_end + 1),
        default_port=service.port,
    )
    return Supervisor(
        client,
        discovery=discovery if settings.foundry_ai.discovery else None,
        starter=OwnService(settings, config_path) if service.start == "auto" else None,
        base_url=settings.foundry_ai.base_url,
    )
