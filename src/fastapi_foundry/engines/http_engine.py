"""What both adapters are: an ``Engine`` over one transport, its models asked for by the driver of its kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from fastapi_foundry.engines.base import Call, EngineStatus, ModelCard, Reply, ReplyStream, TokenCount
from fastapi_foundry.engines.catalog import Catalog, DownloadProgress
from fastapi_foundry.engines.counting import count_tokens
from fastapi_foundry.engines.direct import DirectLine
from fastapi_foundry.engines.drivers import Driver, driver_of
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.transport import Transport

__all__ = ["HttpEngine"]

_TELL_S: Final = 1.0


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

    @property
    def version(self) -> str:
        """What it told of its version when it was found; empty where it told nothing."""
        return self._transport.supervisor.version

    def direct_line(self) -> DirectLine | None:
        """See ``Engine.direct_line``."""
        return self._transport.direct_line()

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
        return await (await self._driver(_TELL_S)).list_models()

    async def post(self, call: Call) -> Reply:
        """Send ``call`` and wait for the whole answer; see ``Engine.post``."""
        return await self._transport.post(call)

    async def count_tokens(self, call: Call) -> TokenCount | None:
        """How long the prompt is; see ``Engine.count_tokens``."""
        await self._transport.supervisor.wait_ready(self._transport.patience.ready_s)
        return await count_tokens(self._transport, call)

    def stream(self, call: Call) -> AbstractAsyncContextManager[ReplyStream]:
        """Send ``call`` and stream the answer; see ``Engine.stream``."""
        return self._transport.stream(call)

    async def load_model(self, model: str) -> dict[str, Any]:
        """Load a model and wait until it is ready, where the engine has a way to be asked for it."""
        return await (await self._driver()).load(model, limit_s=self._load_s)

    async def unload_model(self, model: str) -> dict[str, Any]:
        """Unload a model and wait for it, where the engine has a way to be asked for it."""
        return await (await self._driver()).unload(model, limit_s=self._load_s)

    async def catalog(self, *, refresh: bool = False) -> Catalog:
        """What can be downloaded; see ``Engine.catalog``."""
        return await (await self._driver(_TELL_S)).catalog(refresh=refresh)

    @asynccontextmanager
    async def download(self, model: str) -> AsyncIterator[AsyncIterator[DownloadProgress]]:
        """Download a model, where the engine has a way to be asked for it; see ``Engine.download``."""
        async with (await self._driver()).download(model) as progress:
            yield progress

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """End a download and wait until it has ended, where the engine has a way to be asked for it."""
        return await (await self._driver()).cancel_download(model)

    async def _driver(self, ready_s: float | None = None) -> Driver:
        """The driver of what is there; only once it is there can be known which."""
        patience = self._transport.patience
        await self._transport.supervisor.wait_ready(patience.ready_s if ready_s is None else ready_s)
        return driver_of(self._transport)
