"""What both adapters are: an ``Engine`` over one transport, its models asked for by the driver of its kind."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi_foundry.engines.base import Call, EngineStatus, ModelCard, Reply, ReplyStream
from fastapi_foundry.engines.drivers import driver_of
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.transport import Transport

__all__ = ["HttpEngine"]


class HttpEngine:
    """An ``Engine`` over HTTP; see ``engines.base.Engine`` for what each method promises.

    Args:
        transport: Its own; closed with it.
        load_s: Seconds that a load or an unload may take.
    """

    def __init__(self, transport: Transport, *, load_s: float) -> None:
        self._transport = transport
        self._load_s = load_s

    @property
    def status(self) -> EngineStatus:
        """The last known status; never waits."""
        return self._transport.status

    @property
    def kind(self) -> EngineKind:
        """What it is; meaningful once it is ready."""
        return self._transport.supervisor.kind

    async def start(self) -> None:
        """Begin discovery and supervision in the background; returns at once."""
        self._transport.supervisor.start()

    async def aclose(self) -> None:
        """End supervision, stop what was started here and nothing else, close every connection."""
        await self._transport.aclose()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the engine is ready; see ``Engine.wait_ready``."""
        await self._transport.supervisor.wait_ready(timeout_s)

    async def list_models(self) -> list[ModelCard]:
        """What can be used now; bounded to about a second."""
        return await driver_of(self._transport).list_models()

    async def post(self, call: Call) -> Reply:
        """Send ``call`` and wait for the whole answer; see ``Engine.post``."""
        return await self._transport.post(call)

    def stream(self, call: Call) -> AbstractAsyncContextManager[ReplyStream]:
        """Send ``call`` and stream the answer; see ``Engine.stream``."""
        return self._transport.stream(call)

    async def load_model(self, model: str) -> dict[str, Any]:
        """Load a model and wait until it is ready, where the engine has a way to be asked for it."""
        return await driver_of(self._transport).load(model, limit_s=self._load_s)

    async def unload_model(self, model: str) -> dict[str, Any]:
        """Unload a model and wait for it, where the engine has a way to be asked for it."""
        return await driver_of(self._transport).unload(model, limit_s=self._load_s)
