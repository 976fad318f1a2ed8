"""A small, fast HTTP/1.1 client: what the path of a token needs, and no more.

Connections are kept alive and used again, per origin. A request is sent in one piece; the response is
handed on as it arrives. There is no cookie jar, redirect, proxy or content coding: engines are programs
that we address, not sites that we visit. Why this is not a library is in ``docs/adr/0003-http-client.md``.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from fastapi_foundry.engines.http_errors import (
    ConnectFailedError,
    ConnectionLostError,
    HttpError,
    Limits,
    ProtocolError,
    ResponseTimeoutError,
    Timeouts,
)
from fastapi_foundry.engines.http_protocol import HttpConnection
from fastapi_foundry.engines.http_response import HttpResponse
from fastapi_foundry.engines.http_short_ways import KnownHeads
from fastapi_foundry.engines.outbox import Outbox

__all__ = [
    "ConnectFailedError",
    "ConnectionLostError",
    "HttpClient",
    "HttpError",
    "HttpResponse",
    "Limits",
    "Origin",
    "ProtocolError",
    "ResponseTimeoutError",
    "Timeouts",
    "origin_of",
    "request_head",
]

# A line break in a name or value would let its author write further headers, or a second request.
_FORBIDDEN_IN_HEAD: Final = frozenset("\r\n\0")
# Not left to the resolver, which needs a thread and may not know it; in this order, as browsers do.
_LOCALHOST: Final = ("127.0.0.1", "::1")

Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class _Target:
    origin: Origin
    path: str
    host_header: str


class HttpClient:
    """Sends requests and keeps connections; belongs to one event loop, any number of tasks may use it.

    How many connections are in use is bounded by how many requests its callers have under way.

    Args:
        timeouts: Used where a request brings none of its own.
        limits: See ``Limits``.
        max_idle_per_origin: Connections kept for later use.
        max_idle_s: How long an unused connection is kept, in seconds. Below the keep-alive time of the
            servers (uvicorn: 5 s), so that the race for a closing connection is rare.
        ssl_context: For https; without one, https is refused.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        max_idle_per_origin: int = 64,
        max_idle_s: float = 4.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._limits = limits or Limits()
        self._max_idle_per_origin = max_idle_per_origin
        self._max_idle_s = max_idle_s
        self._ssl_context = ssl_context
        self._heads = KnownHeads()
        self._outbox = Outbox()
        self._idle: dict[Origin, deque[HttpConnection]] = {}
        self._open: dict[HttpConnection, Origin] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open_connections(self) -> int:
        """Connections that exist now, idle ones included."""
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        """Connections that wait for a request."""
        return sum(map(len, self._idle.values()))

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        timeouts: Timeouts | None = None,
        fresh: bool = False,
        repeat_if_stale: bool = True,
    ) -> HttpResponse:
        """Send a request and wait for the head of its response, which must be read to its end or closed.

        A kept connection may have been closed by the server at the very moment when it is used again. Such
        a request is sent once more, on a new connection, if no byte of a response had arrived.

        Args:
            url: Absolute, ``http://host:port/path?query``; no user, no fragment.
            headers: Without ``host`` and ``content-length``, which are set here.
            body: Sent with its length; None for a request without a body.
            timeouts: For this request.
            fresh: Use a new connection.
            repeat_if_stale: Whether the repetition above may take place.

        Raises:
            ConnectFailedError: Nothing was sent.
            ConnectionLostError: The connection ended before the head was whole.
            ResponseTimeoutError: The head was not whole in time.
            ProtocolError: What arrived is no response.
            ValueError: The URL or a header is not one.
        """
        target = _parse(url)
        timeouts = timeouts or self._timeouts
        head = _head(method, target, headers, body)
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        connection = None if fresh else self.take_idle(target.origin)
        if connection is not None:
            try:
                return await _exchange(connection, method, head, body, timeouts, started_at)
            except ConnectionLostError as error:
                if error.received_any or not repeat_if_stale or self._closed:
                    raise
        connection = await self._connect(target.origin, timeouts)
        return await _exchange(connection, method, head, body, timeouts, started_at)

    def take_idle(self, origin: Origin) -> HttpConnection | None:
        """A kept connection, for one ``send`` on it, or to be given back; None where there is none."""
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()  # the last one used is the one most likely alive
            if connection.is_fresh(self._max_idle_s):
                return connection
            connection.abort()
        return None

    async def connect(self, origin: Origin, timeouts: Timeouts) -> HttpConnection:
        """A new connection, for one ``send`` on it, or to be given back.

        Raises:
            ConnectFailedError: There is none.
            ConnectionLostError: It has been closed at once.
        """
        return await self._connect(origin, timeouts)

    def give_back(self, connection: HttpConnection) -> None:
        """Keep a connection of ``take_idle`` on which nothing has been sent."""
        self._free(connection)

    def close_idle(self) -> None:
        """Close every connection that is not in use."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    async def aclose(self) -> None:
        """Close every connection, used ones included, and wait until they are closed."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        connections = list(self._open)
        for connection in connections:
            connection.abort()
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=1.0)

    async def _connect(self, origin: Origin, timeouts: Timeouts) -> HttpConnection:
        scheme, host, port = origin
        if self._closed:
            raise ConnectFailedError("the client is closed", refused=False)
        if scheme == "https" and self._ssl_context is None:
            raise ConnectFailedError("https is not set up", refused=False)
        limit_s = timeouts.connect_s if timeouts.total_s is None else min(timeouts.connect_s, timeouts.total_s)
        try:
            async with asyncio.timeout(limit_s):
                return await self._open_connection(origin)
        except TimeoutError:
            message = f"no connection to {host}:{port} within {limit_s:g} s"
            raise ConnectFailedError(message, refused=False) from None
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED
            raise ConnectFailedError(f"no connection to {host}:{port}: {error}", refused=refused) from error

    async def _open_connection(self, origin: Origin) -> HttpConnection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()

        def protocol() -> HttpConnection:
            return HttpConnection(loop, self._limits, self._heads, self._outbox, self._free, self._lost)

        context = self._ssl_context if scheme == "https" else None
        addresses = _LOCALHOST if host == "localhost" else (host,)
        for address in addresses[:-1]:
            try:
                _, connection = await loop.create_connection(protocol, address, port, ssl=context)
            except OSError:
                continue
            break
        else:
            _, connection = await loop.create_connection(protocol, addresses[-1], port, ssl=context)
        if not connection.usable:
            raise ConnectionLostError("the server closed the connection at once", received_any=False)
        self._open[connection] = origin
        if self._closed:
            connection.abort()
            raise ConnectFailedError("the client is closed", refused=False)
        return connection

    def _free(self, connection: HttpConnection) -> None:
        """Called by a connection whose response has ended."""
        origin = self._open[connection]
        connections = self._idle.get(origin)
        if connections is None:
            connections = self._idle[origin] = deque()
        if self._closed or len(connections) >= self._max_idle_per_origin:
            connection.abort()
            return
        connection.rest()
        connections.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._max_idle_s, self._close_old)

    def _lost(self, connection: HttpConnection) -> None:
        """Called by a connection that has ended."""
        origin = self._open.pop(connection, None)
        connections = self._idle.get(origin) if origin is not None else None
        if connections is None:
            return
        if connection in connections:
            connections.remove(connection)
        if not connections and origin is not None:
            del self._idle[origin]

    def _close_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        oldest = loop.time()
        for connections in self._idle.values():
            while connections and loop.time() - connections[0].idle_since >= self._max_idle_s:
                connections.popleft().abort()
            if connections:
                oldest = min(oldest, connections[0].idle_since)
        if any(self._idle.values()):
            self._sweep = loop.call_at(oldest + self._max_idle_s, self._close_old)


async def _exchange(
    connection: HttpConnection, method: str, head: bytes, body: bytes | None, timeouts: Timeouts, started_at: float
) -> HttpResponse:
    response = connection.send(head, body or b"", timeouts, started_at, head_only=method == "HEAD")
    await response.wait_for_head(timeouts.first_byte_s)
    return response


def origin_of(url: str) -> Origin:
    """Scheme, host and port of an absolute URL; raises ``ValueError`` when it is none."""
    return _parse(url).origin


def request_head(method: str, url: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request for ``HttpClient.begin``; raises ``ValueError`` where something does not belong there."""
    return _head(method, _parse(url), headers, None)[:-2]


@lru_cache(maxsize=256)
def _parse(url: str) -> _Target:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError(f"not an http URL: {url!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or " " in path or not _FORBIDDEN_IN_HEAD.isdisjoint(url):
        raise ValueError(f"not a quoted URL: {url!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return _Target((parts.scheme, parts.hostname, port), path, f"{host}:{port}")


def _head(
    method: str, target: _Target, headers: Mapping[str, str] | Iterable[tuple[str, str]], body: bytes | None
) -> bytes:
    lines = [f"{method} {target.path} HTTP/1.1\r\nhost: {target.host_header}\r\n"]
    if body is not None:
        lines.append(f"content-length: {len(body)}\r\n")
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if not (_FORBIDDEN_IN_HEAD.isdisjoint(name) and _FORBIDDEN_IN_HEAD.isdisjoint(value)):
            raise ValueError(f"a line break in the header {name!r}")
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")
