"""Foundry Local's first two generations: the CLI 0.x and its service, and the CLI 0.10 preview, the same routes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.catalog import Catalog, CatalogModel, CatalogSource, DownloadProgress
from fastapi_foundry.engines.drivers.base import change, entries, lines, names, with_alias, with_state
from fastapi_foundry.engines.model_cache import catalog_details
from fastapi_foundry.engines.transport import Transport
from fastapi_foundry.errors import CatalogUnavailableError, EngineFailedError, InvalidInputError, ModelNotFoundError

__all__ = ["FirstGenerationDriver"]

_PERCENT: Final = re.compile(rb"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True, slots=True)
class FirstGenerationDriver:
    """See the module."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        """Cached models and which of them are loaded; what the catalogue offers beyond is not usable yet."""
        cached = await names(self.transport, "/openai/models") or []
        loaded = await names(self.transport, "/openai/loadedmodels") or []
        aliases = {entry["name"]: entry.get("alias") for entry in await self._offers() or ()}
        cards = [ModelCard(name, 0, "Microsoft") for name in dict.fromkeys([*cached, *loaded])]
        return [with_alias(with_state(card, loaded), aliases.get(card.id)) for card in cards]

    async def catalog(self, *, refresh: bool) -> Catalog:
        """What the service lists; when it asks the network is its own business."""
        del refresh
        offers = await self._offers()
        if offers is None:
            return Catalog((CatalogSource("", "unavailable", reason="The service does not tell its catalogue."),))
        states = {card.id: card.state for card in await self.list_models()}
        models = [CatalogModel(o["name"], states.get(o["name"], "available"), extra=catalog_details(o)) for o in offers]
        return Catalog((CatalogSource("", "fresh"),), tuple(models))

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Load a model and wait for it."""
        path = f"/openai/load/{quote(model, safe=':')}?ttl=600"
        return await change(self.transport, "GET", path, done="loaded", model=model, limit_s=limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Unload a model, also one that was to be kept."""
        path = f"/openai/unload/{quote(model, safe=':')}?force=true"
        return await change(self.transport, "GET", path, done="unloaded", model=model, limit_s=limit_s)

    @asynccontextmanager
    async def download(self, model: str) -> AsyncIterator[AsyncIterator[DownloadProgress]]:
        """Download a model; whether that goes on when the block is left is the service's own business."""
        offers = await self._offers()
        if offers is None:
            raise CatalogUnavailableError("The service does not tell its catalogue, so nothing can be downloaded.")
        offer = next((offer for offer in offers if model in {offer["name"], offer.get("alias")}), None)
        if offer is None:
            raise ModelNotFoundError(model, "The engine's catalogue has no such model.")
        async with lines(self.transport, "/openai/download", _order(offer), model) as told:
            yield _progress(told, offer["name"])

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """Raises ``InvalidInputError``: there is no such route."""
        del model
        raise InvalidInputError("This generation of Foundry Local has no way to cancel a download.")

    async def _offers(self) -> list[dict[str, Any]] | None:
        listed = await entries(self.transport, "/foundry/list")
        if listed is None:
            return None
        return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("name"), str)]


def _order(offer: Mapping[str, Any]) -> dict[str, Any]:
    """What the SDKs of that generation send for an entry of the list."""
    provider = offer.get("providerType")
    return {
        "model": {
            "Name": offer["name"],
            "Uri": offer.get("uri", ""),
            "Publisher": offer.get("publisher", ""),
            "ProviderType": f"{provider}Local" if provider == "AzureFoundry" else provider,
            "PromptTemplate": offer.get("promptTemplate") or {},
        },
        "token": None,
        "IgnorePipeReport": True,
    }


async def _progress(told: AsyncIterator[bytes], model: str) -> AsyncIterator[DownloadProgress]:
    """The progress in lines of which no more is certain than a percent sign, and the JSON at their end."""
    async for line in told:
        if line.lstrip().startswith(b"{"):
            _require_success(line, model)
            yield DownloadProgress(100.0, model)
            return
        if match := _PERCENT.search(line):
            yield DownloadProgress(min(float(match[1]), 100.0))
    raise EngineFailedError(f"The download of '{model}' ended without a result.")


def _require_success(line: bytes, model: str) -> None:
    try:
        result = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise EngineFailedError(f"The download of '{model}' ended without a result.", cause=repr(error)) from error
    if result.get("success") is not True:
        reason = result.get("errorMessage") or "the service does not say why."
        raise CatalogUnavailableError(f"The model '{model}' could not be downloaded: {reason}")
