"""How each generation of Foundry Local is asked for its models and told to load them.

Gen 1 (the CLI 0.x and its service), Gen 2 (the CLI 0.10 preview, the same routes), Gen 3 (the web service of the
SDK 1.x and 2.x, changes by GET) and our own service (Gen 3's routes, changes by POST). Every method blocks until
the engine has answered and raises the fact behind an error answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import quote

import orjson

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.model_cache import ModelCache, read_model_cache
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.transport import Ask, Transport, model_cards
from fastapi_foundry.errors import FoundryError, InvalidInputError

__all__ = ["Driver", "driver_of"]


class Driver(Protocol):
    """What can be done with a Foundry of one generation."""

    async def list_models(self) -> list[ModelCard]:
        """The models that can be used, each with its state as far as the engine tells; about a second at most."""
        ...

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Load a model and wait for it; ``status`` is ``loaded`` or ``already_loaded``."""
        ...

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Unload a model."""
        ...


def driver_of(transport: Transport) -> Driver:
    """The driver for what the supervisor has found; cheap, so it follows when another generation appears."""
    match transport.supervisor.kind:
        case EngineKind.GEN1:
            return _Gen1(transport)
        case EngineKind.GEN3:
            return _Gen3(transport)
        case EngineKind.OURS:
            return _Ours(transport)
        case _:
            return _Plain(transport)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A server that only speaks OpenAI's API: it loads its models as it likes."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        return model_cards(await self.transport.get("/v1/models"))

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        del model, limit_s
        raise InvalidInputError("This engine loads its models by itself; there is no way to ask for it.")

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        del model, limit_s
        raise InvalidInputError("This engine unloads its models by itself; there is no way to ask for it.")


@dataclass(frozen=True, slots=True)
class _Ours:
    """Our own service: it tells the state of each model, takes ids and aliases everywhere, and changes by POST."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        return model_cards(await self.transport.get("/v1/models"))

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        return await _change(self.transport, "POST", f"/models/load/{quote(model, safe='')}", "load", model, limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        return await _change(
            self.transport, "POST", f"/models/unload/{quote(model, safe='')}", "unload", model, limit_s
        )


@dataclass(frozen=True, slots=True)
class _Gen3:
    """The SDK's web service: requests take full ids alone, loads and unloads take aliases alone, as they are.

    No route tells which alias is whose, nor what is cached; the files below its ``modelCachePath`` do.
    """

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        cards = model_cards(await self.transport.get("/v1/models"))
        loaded = await _names(self.transport, "/models/loaded") or []
        known = await self._read_cache()
        usable = [card for card in cards if card.id in loaded or known is None or card.id in known.cached]
        aliases = known.aliases if known is not None else {}
        return [_with_alias(_with_state(card, loaded), aliases.get(card.id)) for card in usable]

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        return await self._change("load", model, limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        return await self._change("unload", model, limit_s)

    async def _change(self, verb: str, model: str, limit_s: float) -> dict[str, Any]:
        known = await self._read_cache()
        alias = known.aliases.get(model, model) if known is not None else model
        path = f"/models/{verb}/{quote(alias, safe='-._~:')}"
        return await _change(self.transport, "GET", path, verb, model, limit_s) | {"model": model}

    async def _read_cache(self) -> ModelCache | None:
        try:
            path = orjson.loads(await self.transport.get("/status"))["modelCachePath"]
        except (FoundryError, orjson.JSONDecodeError, KeyError, TypeError):
            return None
        return await asyncio.to_thread(read_model_cache, path) if isinstance(path, str) else None


@dataclass(frozen=True, slots=True)
class _Gen1:
    """The CLI 0.x and its service, and the CLI 0.10 preview."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        """Cached models and which of them are loaded; what the catalogue offers beyond is not usable yet."""
        cached = await _names(self.transport, "/openai/models") or []
        loaded = await _names(self.transport, "/openai/loadedmodels") or []
        aliases = await self._aliases()
        cards = [ModelCard(name, 0, "Microsoft") for name in dict.fromkeys([*cached, *loaded])]
        return [_with_alias(_with_state(card, loaded), aliases.get(card.id)) for card in cards]

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        path = f"/openai/load/{quote(model, safe=':')}?ttl=600"
        return await _change(self.transport, "GET", path, "load", model, limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        path = f"/openai/unload/{quote(model, safe=':')}?force=true"
        return await _change(self.transport, "GET", path, "unload", model, limit_s)

    async def _aliases(self) -> dict[str, str]:
        entries = await _entries(self.transport, "/foundry/list") or []
        pairs = [(entry.get("name"), entry.get("alias")) for entry in entries if isinstance(entry, dict)]
        return {name: alias for name, alias in pairs if isinstance(name, str) and isinstance(alias, str)}


async def _change(
    transport: Transport, method: str, path: str, verb: str, model: str, limit_s: float
) -> dict[str, Any]:
    timeouts = transport.patience.timeouts(total_s=limit_s)
    body = b"" if method == "POST" else None
    ask = Ask(method, path, timeouts, ready_s=transport.patience.ready_s, body=body, model=model)
    _, answer = await transport.whole(ask)
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError:
        document = None
    return document if isinstance(document, dict) else {"status": f"{verb}ed", "model": model}


async def _names(transport: Transport, path: str) -> list[str] | None:
    """The ids that a route lists, plain or as objects; None where it does not."""
    entries = await _entries(transport, path)
    if entries is None:
        return None
    names = [entry.get("id", entry.get("name")) if isinstance(entry, dict) else entry for entry in entries]
    return [name for name in names if isinstance(name, str)]


async def _entries(transport: Transport, path: str) -> list[Any] | None:
    """What a route lists, bare or within an object; None where it does not."""
    try:
        document = orjson.loads(await transport.get(path))
    except (FoundryError, orjson.JSONDecodeError):
        return None
    entries = document.get("data", document.get("models")) if isinstance(document, dict) else document
    return entries if isinstance(entries, list) else None


def _with_state(card: ModelCard, loaded: list[str]) -> ModelCard:
    return replace(card, state="loaded" if card.id in loaded else "cached")


def _with_alias(card: ModelCard, alias: str | None) -> ModelCard:
    return card if alias is None or alias == card.id else replace(card, names=frozenset({alias}))
