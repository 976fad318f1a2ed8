"""FastAPI Foundry's gateway: it tells the state of each model and takes the names that it lists, for every change too.

Each model carries the gateways on the way to it (``via``), so that a gateway never takes its own models from others.
"""

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
from fastapi_foundry.engines.drivers.plain import PlainDriver
from fastapi_foundry.engines.transport import Ask
from fastapi_foundry.engines.via import MOST_GATEWAYS
from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.settings import FOUNDRY, QUALIFIER
from fastapi_foundry.wire.errors import fact_from_response

__all__ = ["GatewayDriver", "download_progress"]

_UNNAMED: Final = "gateway"
# What the other gateway says of its own engines and aliases means nothing here.
_NOT_OFFERED: Final = frozenset({"id", "engine", "state", "percent"})
_LIST_S: Final = 3.0
_REFRESH_S: Final = 25.0  # the gateway waits 20 s for a service that waits 15 s for the network
_CANCEL_S: Final = 12.0
_DATA: Final = b"data: "
_NOT_TAKEN: Final = frozenset({"id", "object", "created", "owned_by", "state", "engine", "alias_of", "via"})


@dataclass(frozen=True, slots=True)
class GatewayDriver(PlainDriver):
    """See the module."""

    async def list_models(self) -> list[ModelCard]:
        """What it offers, without what it has from here or from too far away."""
        body = await self.transport.get("/api/v1/models")
        gateway = self.transport.supervisor.gateway or _UNNAMED
        own = self.transport.via.pseudonym if self.transport.via is not None else None
        try:
            cards = [_card(entry, gateway) for entry in orjson.loads(body)["models"]]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine's list of models makes no sense.", cause=repr(error)) from error
        return [card for card in cards if own not in card.extra["via"] and len(card.extra["via"]) < MOST_GATEWAYS]

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Load a model and wait for it."""
        path = f"/api/v1/models/{quote(model, safe='')}/load"
        return await change(self.transport, "POST", path, done="loaded", model=model, limit_s=limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Unload a model and wait until its memory is returned."""
        path = f"/api/v1/models/{quote(model, safe='')}/unload"
        return await change(self.transport, "POST", path, done="unloaded", model=model, limit_s=limit_s)

    async def catalog(self, *, refresh: bool) -> Catalog:
        """What its engines offer, and how current each of their catalogues is."""
        path = f"/api/v1/models/catalog{'?refresh=true' if refresh else ''}"
        timeouts = self.transport.patience.timeouts(total_s=_REFRESH_S if refresh else _LIST_S)
        _, answer = await self.transport.whole(Ask("GET", path, timeouts, ready_s=_LIST_S))
        try:
            told = orjson.loads(answer)
            sources = [CatalogSource("", s["status"], s["fetched_at"], s["reason"]) for s in told["sources"]]
            return Catalog(tuple(sources), tuple(map(_offer, told["models"])))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine's catalogue makes no sense.", cause=repr(error)) from error

    @asynccontextmanager
    async def download(self, model: str) -> AsyncIterator[AsyncIterator[DownloadProgress]]:
        """Have one of its engines download a model."""
        path = f"/api/v1/models/{quote(model, safe='')}/download"
        async with lines(self.transport, path, {}, model) as told:
            yield download_progress(told)

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """End a download there and wait until it has ended."""
        path = f"/api/v1/models/{quote(model, safe='')}/download/cancel"
        return await change(self.transport, "POST", path, done="cancelled", model=model, limit_s=_CANCEL_S)


def _offer(entry: dict[str, Any]) -> CatalogModel:
    engine, name = entry["engine"], entry["id"]
    extra = {key: value for key, value in entry.items() if key not in _NOT_OFFERED}
    # By this name it takes an order for a download.
    known_as = name if engine == FOUNDRY else f"{engine}{QUALIFIER}{name}"
    return CatalogModel(known_as, entry["state"], percent=entry.get("percent"), extra=extra)


async def download_progress(told: AsyncIterator[bytes]) -> AsyncIterator[DownloadProgress]:
    """The progress that the other gateway's event stream tells, line by line; raises the fact behind a failure."""
    async for line in told:
        if not line.startswith(_DATA):
            continue
        event = orjson.loads(line[len(_DATA) :])
        match event.get("event"):
            case "progress":
                yield DownloadProgress(float(event["percent"]))
            case "done":
                yield DownloadProgress(100.0, event["model"])
                return
            case _:
                fact = fact_from_response(event["error"].get("status_code", 502), orjson.dumps(event["error"]))
                raise fact
    raise EngineFailedError("The download ended without a result.")


def _card(entry: dict[str, Any], gateway: str) -> ModelCard:
    created, owner, state, way = (entry.get(key) for key in ("created", "owned_by", "state", "via"))
    extra = {key: value for key, value in entry.items() if key not in _NOT_TAKEN}
    further = [name for name in way if isinstance(name, str)] if isinstance(way, list) else []
    return ModelCard(
        id=str(entry["id"]),
        created=created if isinstance(created, int) else 0,
        owned_by=owner if isinstance(owner, str) else "",
        state=state if isinstance(state, str) else "unknown",
        extra=extra | {"via": [gateway, *further]},
    )
