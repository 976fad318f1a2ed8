"""Foundry Local's third generation, the web service of the SDK 1.x and 2.x.

Requests take full ids alone, loads and unloads take aliases alone, as they are, and by GET. No route tells which alias
is whose, nor what is cached; the files below its ``modelCachePath`` do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.catalog import Catalog, CatalogModel, CatalogSource, DownloadProgress
from fastapi_foundry.engines.drivers.base import change, names, with_alias, with_state
from fastapi_foundry.engines.model_cache import ModelCache, read_model_cache
from fastapi_foundry.engines.transport import Transport, model_cards
from fastapi_foundry.errors import FoundryError, InvalidInputError

__all__ = ["ThirdGenerationDriver"]


@dataclass(frozen=True, slots=True)
class ThirdGenerationDriver:
    """See the module."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        """What is cached or loaded; everything that is listed where the cache cannot be read."""
        cards = model_cards(await self.transport.get("/v1/models"))
        loaded = await names(self.transport, "/models/loaded") or []
        known = await self._read_cache()
        usable = [card for card in cards if card.id in loaded or known is None or card.id in known.cached]
        aliases = known.aliases if known is not None else {}
        return [with_alias(with_state(card, loaded), aliases.get(card.id)) for card in usable]

    async def catalog(self, *, refresh: bool) -> Catalog:
        """Its list of models, which is the catalogue's; when it asks the network is its own business."""
        del refresh
        cards = model_cards(await self.transport.get("/v1/models"))
        states = {card.id: card.state for card in await self.list_models()}
        known = await self._read_cache()
        details = known.details if known is not None else {}
        models = [
            CatalogModel(card.id, states.get(card.id, "available"), extra=details.get(card.id, {})) for card in cards
        ]
        return Catalog((CatalogSource("", "fresh"),), tuple(models))

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Load a model and wait for it."""
        return await self._change("load", model, limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Unload a model."""
        return await self._change("unload", model, limit_s)

    def download(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[DownloadProgress]]:
        """Raises ``InvalidInputError``: there is no such route."""
        raise InvalidInputError(
            f"This generation of Foundry Local has no way to ask its service for a download. Download '{model}' with "
            "its SDK, or with our own service: fastapi-foundry model download."
        )

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """Raises ``InvalidInputError``: there is no such route."""
        del model
        raise InvalidInputError("This generation of Foundry Local has no way to ask its service for a download.")

    async def _change(self, verb: str, model: str, limit_s: float) -> dict[str, Any]:
        known = await self._read_cache()
        alias = known.aliases.get(model, model) if known is not None else model
        path = f"/models/{verb}/{quote(alias, safe='-._~:')}"
        answer = await change(self.transport, "GET", path, done=f"{verb}ed", model=model, limit_s=limit_s)
        return answer | {"model": model}

    async def _read_cache(self) -> ModelCache | None:
        try:
            path = orjson.loads(await self.transport.get("/status"))["modelCachePath"]
        except (FoundryError, orjson.JSONDecodeError, KeyError, TypeError):
            return None
        return await asyncio.to_thread(read_model_cache, path) if isinstance(path, str) else None
