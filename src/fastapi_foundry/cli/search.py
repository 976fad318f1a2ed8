"""The search for an engine as the gateway does it, for ``status`` to tell about."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastapi_foundry.engines.discovery import Discovery
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.probe import probe

if TYPE_CHECKING:
    from fastapi_foundry.settings import Settings

__all__ = ["Search", "look_for_engine"]

_PROBE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Search:
    """What was tried and what came of it.

    Attributes:
        url: Of the engine that a gateway started now would use; None if it had to start one.
        found_by: The step that found it; empty without one.
        tried: (step, address, outcome), in order.
    """

    url: str | None
    found_by: str
    tried: tuple[tuple[str, str, str], ...]


def look_for_engine(settings: Settings) -> Search:
    """Go through the steps of discovery; blocks, for 50 ms usually and for seconds at the worst."""
    return asyncio.run(_search(settings))


async def _search(settings: Settings) -> Search:
    client = HttpClient()
    try:
        if settings.foundry_ai.base_url:
            url = settings.foundry_ai.base_url
            seen = await probe(client, url, timeout_s=_PROBE_TIMEOUT_S)
            tried = (("base_url", url, seen.outcome),)
            return Search(url, "base_url", tried) if seen.kind is not None else Search(None, "", tried)
        if not settings.foundry_ai.discovery:
            return Search(None, "", (("discovery", "", "switched off by foundry_ai.discovery"),))
        service = settings.foundry_service
        ports = range(service.port_range_start, service.port_range_end + 1)
        discovery = Discovery(client, home=settings.home, ports=ports, default_port=service.port)
        found = await discovery.find()
        return Search(found.url if found else None, found.found_by if found else "", tuple(discovery.tried))
    finally:
        await client.aclose()
