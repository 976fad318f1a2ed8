"""What every driver can do, and what all of them ask in the same way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Protocol

import orjson

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.catalog import Catalog, DownloadProgress
from fastapi_foundry.engines.http_client import HttpError, Timeouts
from fastapi_foundry.engines.transport import Ask, Transport
from fastapi_foundry.errors import EngineFailedError, FoundryError

__all__ = ["Driver", "change", "entries", "lines", "names", "with_alias", "with_state"]

# A large file on a slow line reports seldom; silence for longer than this is a failure.
_SILENCE_S: Final = 120.0
_MAX_LINE_BYTES: Final = 64 * 1024


class Driver(Protocol):
    """What can be done with an engine of one kind.

    Every method blocks until the engine has answered and raises the fact behind an error answer.
    """

    async def list_models(self) -> list[ModelCard]:
        """The models that can be used, each with its state as far as the engine tells; about a second at most."""
        ...

    async def catalog(self, *, refresh: bool) -> Catalog:
        """What can be downloaded; about a second at most, unless ``refresh`` waits for news of the network."""
        ...

    async def load(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Load a model and wait for it; ``status`` is ``loaded`` or ``already_loaded``."""
        ...

    async def unload(self, model: str, *, limit_s: float) -> dict[str, Any]:
        """Unload a model."""
        ...

    def download(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[DownloadProgress]]:
        """Download a model; entering waits until the engine has taken the job, the last item carries the full id."""
        ...

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """End a download; answers when it has ended."""
        ...


async def change(
    transport: Transport, method: str, path: str, *, done: str, model: str, limit_s: float, body: bytes = b""
) -> dict[str, Any]:
    """The engine's answer to a change of one model; ``{"status": done, "model"}`` where it answers without words."""
    timeouts = transport.patience.timeouts(total_s=limit_s)
    sent = body if method == "POST" else None
    _, answer = await transport.whole(Ask(method, path, timeouts, transport.patience.ready_s, sent, model=model))
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError:
        document = None
    return document if isinstance(document, dict) else {"status": done, "model": model}


@asynccontextmanager
async def lines(transport: Transport, path: str, body: object, model: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """The lines of an answer to a POST, as they arrive, for as long as it takes; leaving closes the connection.

    Raises:
        EngineFailedError: It broke off, or a line has no end.
        EngineTimeoutError: It was silent for two minutes.
    """
    patience = transport.patience
    timeouts = Timeouts(patience.connect_s, _SILENCE_S, _SILENCE_S)
    response = await transport.send(Ask("POST", path, timeouts, patience.ready_s, orjson.dumps(body), model=model))

    async def split() -> AsyncIterator[bytes]:
        rest = b""
        try:
            async for part in response:
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield line
                if len(rest) > _MAX_LINE_BYTES:
                    raise EngineFailedError("The engine reported the download in a way that makes no sense.")
        except HttpError as error:
            raise transport.fact(error) from error
        if rest:
            yield rest

    try:
        yield split()
    finally:
        response.close()


async def names(transport: Transport, path: str) -> list[str] | None:
    """The ids that a route lists, plain or as objects; None where it does not."""
    listed = await entries(transport, path)
    if listed is None:
        return None
    ids = [entry.get("id", entry.get("name")) if isinstance(entry, dict) else entry for entry in listed]
    return [name for name in ids if isinstance(name, str)]


async def entries(transport: Transport, path: str) -> list[Any] | None:
    """What a route lists, bare or within an object; None where it does not."""
    try:
        document = orjson.loads(await transport.get(path))
    except (FoundryError, orjson.JSONDecodeError):
        return None
    listed = document.get("data", document.get("models")) if isinstance(document, dict) else document
    return listed if isinstance(listed, list) else None


def with_state(card: ModelCard, loaded: list[str]) -> ModelCard:
    """The card of a model that is on the machine, in memory or not."""
    return replace(card, state="loaded" if card.id in loaded else "cached")


def with_alias(card: ModelCard, alias: str | None) -> ModelCard:
    """The card with a further name, where there is one."""
    return card if alias is None or alias == card.id else replace(card, names=frozenset({alias}))
