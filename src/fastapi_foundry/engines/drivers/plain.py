"""A server that only speaks OpenAI's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.catalog import Catalog, CatalogSource, DownloadProgress
from fastapi_foundry.engines.transport import Transport, model_cards
from fastapi_foundry.errors import InvalidInputError

__all__ = ["PlainDriver"]


@dataclass(frozen=True, slots=True)
class PlainDriver:
    """It loads and fetches its models as it likes; nothing can be asked for."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        """What its list says."""
        return model_cards(await self.transport.get("/v1/models"))

    async def catalog(self, *, refresh: bool) -> Catalog:
        """Nothing."""
        del refresh
        return Catalog((CatalogSource("", "none", reason="This engine has no catalogue."),))

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Raises ``InvalidInputError``."""
        del model, limit_s
        raise InvalidInputError("This engine loads its models by itself; there is no way to ask for it.")

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Raises ``InvalidInputError``."""
        del model, limit_s
        raise InvalidInputError("This engine unloads its models by itself; there is no way to ask for it.")

    def download(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[DownloadProgress]]:
        """Raises ``InvalidInputError``."""
        del model
        raise InvalidInputError("This engine cannot be asked to download a model; use its own program.")

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """Raises ``InvalidInputError``."""
        del model
        raise InvalidInputError("This engine cannot be asked to download a model, so there is nothing to cancel.")
