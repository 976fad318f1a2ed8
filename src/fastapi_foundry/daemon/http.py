"""What the service needs of HTTP, on bare ASGI: requests with bounded bodies, answers, streams.

No framework: its routing and models would cost more memory than the whole service has.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import orjson

from fastapi_foundry.errors import BodyTooLargeError, InvalidInputError

__all__ = ["ClientGoneError", "Exchange", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_REQUEST_ID: Final = re.compile(rb"^[A-Za-z0-9._-]{1,128}$")
_BODY_STALL_S: Final = 30.0


class ClientGoneError(Exception):
    """The client has closed its connection; there is nobody to answer."""


class Exchange:
    """One request and its answer.

    Attributes:
        method: Upper case.
        path: Decoded path.
        request_id: The caller's ``x-request-id`` where it is usable, else a new one.
        route: The template of the route that serves it, for logs.
        status: What was answered; 0 before that.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, max_body_bytes: int) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.route = "(none)"
        self.status = 0
        self._raw_path: bytes = scope.get("raw_path") or b""
        self._query: bytes = scope["query_string"]
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._client: tuple[str, int] | None = scope.get("client")
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._body_read = False
        given = self._headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if _REQUEST_ID.match(given) else f"req_{secrets.token_hex(12)}"

    @property
    def started(self) -> bool:
        """Whether headers have gone out."""
        return self.status != 0

    def header(self, name: str) -> str | None:
        """A request header; None when it is missing."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def query(self, name: str) -> str | None:
        """The first value of a query parameter."""
        values = parse_qs(self._query.decode("latin-1")).get(name)
        return values[0] if values else None

    def rest_of_path(self, prefix: str) -> str:
        """What follows ``prefix`` in the path, decoded once; a model id may hold an encoded slash."""
        raw = self._raw_path.decode("latin-1").partition("?")[0]
        return unquote(raw[len(prefix) :]) if raw.startswith(prefix) else self.path[len(prefix) :]

    @property
    def from_loopback(self) -> bool:
        """Whether the connection comes from this machine."""
        host = self._client[0] if self._client else ""
        return host in {"::1", "localhost"} or host.startswith(("127.", "::ffff:127."))

    async def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object sent as JSON.

        Raises:
            BodyTooLargeError: At once for a large ``content-length``, else as soon as the limit is passed.
            InvalidInputError: Not JSON (NaN, invalid UTF-8 and absurd nesting included), not an object, another
                content type, or no data for 30 s.
            ClientGoneError: The connection closed.
        """
        kind = (self.header("content-type") or "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise InvalidInputError("The body must be JSON, sent with 'Content-Type: application/json'.")
        body = await self._body()
        if not body.strip():
            raise InvalidInputError("The body is empty; a JSON object is needed.")
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInputError(f"The body is not valid JSON: {error}.", code="invalid_json") from error
        if not isinstance(value, dict):
            raise InvalidInputError("The body must be a JSON object.")
        return value

    async def _body(self) -> bytes:
        length = self.header("content-length")
        if length is not None and length.isdigit() and int(length) > self._max_body_bytes:
            raise BodyTooLargeError(self._max_body_bytes)
        parts: list[bytes] = []
        size = 0
        while True:
            try:
                async with asyncio.timeout(_BODY_STALL_S):
                    message = await self._receive()
            except TimeoutError:
                raise InvalidInputError("The body did not arrive in time.", code="body_stalled") from None
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            size += len(message.get("body", b""))
            if size > self._max_body_bytes:
                raise BodyTooLargeError(self._max_body_bytes)
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                self._body_read = True
                return b"".join(parts)

    async def disconnected(self) -> None:
        """Wait until the client closes the connection; call it after the body was read or when there is none."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole JSON answer; ``bytes`` are JSON already."""
        body = value if isinstance(value, bytes) else orjson.dumps(value)
        extra = dict(headers or {}) | {"content-type": "application/json", "content-length": str(len(body))}
        if not self._body_read and self.method not in {"GET", "HEAD"}:
            # What is left of the body would be read as the next request.
            extra["connection"] = "close"
        await self._start(status, extra)
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def stream(self, content_type: str, chunks: AsyncIterator[bytes]) -> None:
        """Send an answer of unknown length; each chunk leaves as it comes."""
        await self._start(200, {"content-type": content_type, "cache-control": "no-cache", "x-accel-buffering": "no"})
        async for chunk in chunks:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        every = dict(headers) | {"x-request-id": self.request_id, "x-content-type-options": "nosniff"}
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(key.lower().encode(), value.encode("latin-1")) for key, value in every.items()],
            }
        )
