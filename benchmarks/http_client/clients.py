"""The same two operations through each client: a whole answer, and a stream chunk by chunk."""

from __future__ import annotations

from contextlib import asynccontextmanager

__all__ = ["CLIENTS"]

HEADERS = {"content-type": "application/json", "x-request-id": "req-0123456789abcdef"}
BODY = b'{"model":"foundry-demo:1","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 400)


@asynccontextmanager
async def ours():
    from fastapi_foundry.engines.http_client import HttpClient, Timeouts  # noqa: PLC0415 - only what is measured

    client = HttpClient(timeouts=Timeouts(2, 300, 120), max_idle_per_origin=256)

    async def whole(url):
        response = await client.request("POST", url, headers=HEADERS, body=BODY)
        return len(await response.read(1 << 20))

    async def stream(url, on_part):
        response = await client.request("POST", url, headers=HEADERS, body=BODY)
        async for part in response:
            on_part(part)

    yield whole, stream
    await client.aclose()


@asynccontextmanager
async def aiohttp():
    import aiohttp as library  # noqa: PLC0415 - only what is measured

    limits = library.ClientTimeout(total=None, sock_connect=2, sock_read=300)
    connector = library.TCPConnector(limit=0)
    async with library.ClientSession(connector=connector, timeout=limits, auto_decompress=False) as session:

        async def whole(url):
            async with session.post(url, data=BODY, headers=HEADERS) as response:
                return len(await response.read())

        async def stream(url, on_part):
            async with session.post(url, data=BODY, headers=HEADERS) as response:
                async for part in response.content.iter_any():
                    on_part(part)

        yield whole, stream


@asynccontextmanager
async def httpx():
    import httpx as library  # noqa: PLC0415 - only what is measured

    limits = library.Limits(max_connections=None, max_keepalive_connections=256)
    async with library.AsyncClient(timeout=library.Timeout(300), limits=limits, trust_env=False) as session:

        async def whole(url):
            response = await session.post(url, content=BODY, headers=HEADERS)
            return len(response.content)

        async def stream(url, on_part):
            async with session.stream("POST", url, content=BODY, headers=HEADERS) as response:
                async for part in response.aiter_raw():
                    on_part(part)

        yield whole, stream


CLIENTS = {"ours": ours, "aiohttp": aiohttp, "httpx": httpx}
