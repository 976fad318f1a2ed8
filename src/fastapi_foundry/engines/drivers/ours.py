"""Our own service: it tells the state of each model, takes ids and aliases everywhere, and changes by POST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.catalog import Catalog, CatalogModel, CatalogSource, DownloadProgress
from fastapi_foundry.engines.drivers.base import change, lines
from fastapi_foundry.engines.transport import Ask, Transport, model_cards
from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.wire.errors import fact_from_error_event

__all__ = ["OurDriver"]

_LIST_S: Final = 2.0
_REFRESH_S: Final = 20.0  # the service itself waits 15 s for the network
_CANCEL_S: Final = 10.0
_TOLD: Final = frozenset({"id", "state", "percent"})


@dataclass(frozen=True, slots=True)
class OurDriver:
    """See the module."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        """Every model on its machine."""
        return model_cards(await self.transport.get("/v1/models"))

    async def catalog(self, *, refresh: bool) -> Catalog:
        """The online catalogue as far as the service knows it."""
        limit_s = _REFRESH_S if refresh else _LIST_S
        path = f"/models/catalog{'?refresh=1' if refresh else ''}"
        _, answer = await self.transport.whole(
            Ask("GET", path, self.transport.patience.timeouts(total_s=limit_s), ready_s=_LIST_S)
        )
        try:
            view = orjson.loads(answer)
            source = CatalogSource("", view["status"], view["fetched_at"], view["reason"])
            return Catalog((source,), tuple(map(_catalog_model, view["models"])))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine's catalogue makes no sense.", cause=repr(error)) from error

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Load a model and wait for it."""
        path = f"/models/load/{quote(model, safe='')}"
        return await change(self.transport, "POST", path, done="loaded", model=model, limit_s=limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Unload a model and wait until its process has ended."""
        path = f"/models/unload/{quote(model, safe='')}"
        return await change(self.transport, "POST", path, done="unloaded", model=model, limit_s=limit_s)

    @asynccontextmanager
    async def download(self, model: str) -> AsyncIterator[AsyncIterator[DownloadProgress]]:
        """Download a model, or join its download; the job goes on when the block is left."""
        async with lines(self.transport, "/models/download", {"model": model}, model) as told:
            yield _progress(told)

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """End a download and wait until it has ended."""
        body = orjson.dumps({"model": model})
        path = "/models/download/cancel"
        return await change(self.transport, "POST", path, done="cancelled", model=model, limit_s=_CANCEL_S, body=body)


def _catalog_model(entry: dict[str, Any]) -> CatalogModel:
    extra = {key: value for key, value in entry.items() if key not in _TOLD}
    return CatalogModel(entry["id"], entry["state"], percent=entry.get("percent"), extra=extra)


async def _progress(told: AsyncIterator[bytes]) -> AsyncIterator[DownloadProgress]:
    async for line in told:
        event = orjson.loads(line)
        match event["event"]:
            case "progress":
                yield DownloadProgress(float(event["percent"]))
            case "done":
                yield DownloadProgress(100.0, event["model"])
                return
            case _:
                raise fact_from_error_event(line)
    raise EngineFailedError("The download ended without a result.")
