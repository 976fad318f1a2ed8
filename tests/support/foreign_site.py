"""A site of somebody else's on this machine: one empty page for every path, and a redirect to wherever it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

__all__ = ["ForeignSite", "foreign_site"]

_PAGE = b"<!doctype html><title>Somebody else</title><link rel=icon href=data:,><body></body>"


@dataclass(frozen=True)
class ForeignSite:
    port: int

    def origin(self, host: str) -> str:
        """The site under a name; Chromium in these tests takes every name below ``.test`` to this machine."""
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def foreign_site() -> AsyncIterator[ForeignSite]:
    """Serve on a free port of loopback until the block is left; ``/redirect?to=URL`` answers 307."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    try:
        yield ForeignSite(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        target = urlsplit(head.split(b" ", 2)[1].decode())
        length = b"Content-Length: %d\r\nConnection: close\r\n\r\n"
        if target.path == "/redirect":
            to = parse_qs(target.query)["to"][0]
            allow = b"Access-Control-Allow-Origin: *\r\n"
            writer.write(b"HTTP/1.1 307 Elsewhere\r\nLocation: " + to.encode() + b"\r\n" + allow + length % 0)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + length % len(_PAGE) + _PAGE)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # a browser opens connections in advance and drops them
    finally:
        writer.close()
