"""How each generation of Foundry Local is asked for its models and told to load them.

Gen 1 (the CLI 0.x and its service), Gen 2 (the CLI 0.10 preview, the same routes), Gen 3 (the web service of the
SDK 1.x and 2.x, changes by GET) and our own service (Gen 3's routes, changes by POST). Every method blocks until
the engine has answered and raises the fact behind an error answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Protocol
from urllib.parse import quote

import orjson

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.transport import Ask, Transport, model_cards
from fastapi_foundry.errors import FoundryError, InvalidInputError

__all__ = ["Driver", "driver_of"]

_LIST_S: Final = 1.0


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
        case EngineKind.GEN1 | EngineKind.GEN2:
            return _Gen1(transport)
        case EngineKind.GEN3:
            return _Gen3(transport, method="GET")
        case EngineKind.OURS:
            return _Gen3(transport, method="POST")
        case _:
            return _Plain(transport)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A server that only speaks OpenAI's API: it loads its models as it likes."""

    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        return model_cards(await self.transport.list_models())

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        del model, limit_s
        raise InvalidInputError("This engine loads its models by itself; there is no way to ask for it.")

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        del model, limit_s
        raise InvalidInputError("This engine unloads its models by itself; there is no way to ask for it.")


@dataclass(frozen=True, slots=True)
class _Gen3:
    transport: Transport
    method: str

    async def list_models(self) -> list[ModelCard]:
        cards = model_cards(await self.transport.list_models())
        if self.method == "POST":
            return cards  # our own service tells the state of each
        loaded = await _names(self.transport, "/models/loaded")
        return [card if loaded is None else _with_state(card, loaded) for card in cards]

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        return await self._change("load", model, limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        return await self._change("unload", model, limit_s)

    async def _change(self, verb: str, model: str, limit_s: float) -> dict[str, Any]:
        path = f"/models/{verb}/{quote(model, safe='')}"
        return await _change(self.transport, self.method, path, verb, model, limit_s)


@dataclass(frozen=True, slots=True)
class _Gen1:
    transport: Transport

    async def list_models(self) -> list[ModelCard]:
        """Cached models and which of them are loaded; what the catalogue offers beyond is not usable yet."""
        cached = await _names(self.transport, "/openai/models") or []
        loaded = await _names(self.transport, "/openai/loadedmodels") or []
        owner = "Microsoft"
        cards = [ModelCard(name, 0, owner) for name in dict.fromkeys([*cached, *loaded])]
        return [_with_state(card, loaded) for card in cards]

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        path = f"/openai/load/{quote(model, safe='')}?ttl=0"
        return await _change(self.transport, "GET", path, "load", model, limit_s)

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        path = f"/openai/unload/{quote(model, safe='')}?force=true"
        return await _change(self.transport, "GET", path, "unload", model, limit_s)


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
    ask = Ask("GET", path, transport.patience.timeouts(total_s=_LIST_S), ready_s=_LIST_S)
    try:
        _, answer = await transport.whole(ask)
        document = orjson.loads(answer)
    except (FoundryError, orjson.JSONDecodeError):
        return None
    entries = document.get("data", document.get("models")) if isinstance(document, dict) else document
    if not isinstance(entries, list):
        return None
    names = [entry.get("id", entry.get("name")) if isinstance(entry, dict) else entry for entry in entries]
    return [name for name in names if isinstance(name, str)]


def _with_state(card: ModelCard, loaded: list[str]) -> ModelCard:
    return replace(card, state="loaded" if card.id in loaded else "cached")
