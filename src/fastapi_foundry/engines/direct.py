"""A line to an engine on which a request can be sent at once: no waiting, no repair, no second try.

What the express way of plain requests uses. Whatever is not plain goes the ordinary way, by ``Engine.post`` and
``Engine.stream``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from fastapi_foundry.engines.http_client import HttpClient, HttpError, HttpResponse, Origin, Timeouts
from fastapi_foundry.engines.http_protocol import HttpConnection
from fastapi_foundry.engines.http_response import Listener
from fastapi_foundry.errors import FoundryError

if TYPE_CHECKING:
    from fastapi_foundry.engines.way import RoutedEngine

__all__ = ["DirectLine", "DirectWay"]

_SMALL_BYTES: Final = 16_384  # joined with its head at once


@dataclass(frozen=True, slots=True)
class DirectLine:
    """One engine that is ready, at one address.

    Attributes:
        origin: Its address.
        head: Of every request to it on one path, but for what differs.
        whole: Limits for a whole answer.
        stream: Limits for a stream.
        fact: What a failed exchange means; has the engine checked in passing.
        refusal: What an answer that is no success means, by its response and body.
    """

    client: HttpClient
    origin: Origin
    head: bytes
    whole: Timeouts
    stream: Timeouts
    fact: Callable[[HttpError], FoundryError]
    refusal: Callable[[HttpResponse, bytes, str], FoundryError]

    def take(self) -> HttpConnection | None:
        """A connection for one ``send``; None where there is none at rest."""
        return self.client.take_idle(self.origin)

    def connect(self) -> asyncio.Task[HttpConnection]:
        """A new one, made in the background; the result's ``HttpError`` says why there is none."""
        return asyncio.get_running_loop().create_task(self.client.connect(self.origin, self.whole))

    def give_back(self, connection: HttpConnection) -> None:
        """Nothing is to be sent on ``connection`` after all."""
        self.client.give_back(connection)

    def send(
        self, connection: HttpConnection, body: bytes, request_id: bytes, listener: Listener, *, streams: bool
    ) -> HttpResponse:
        """Send a chat request, without waiting for anything.

        Args:
            connection: Of ``take``.
            body: The request's JSON.
            request_id: Visible ASCII, and no line break.
            listener: Told of the response.
        """
        limits, length = self.stream if streams else self.whole, len(body)
        if length < _SMALL_BYTES:
            request = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (self.head, request_id, length, body)
            return connection.send(request, b"", limits, listener=listener)
        head = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (self.head, request_id, length)
        return connection.send(head, body, limits, listener=listener)


class DirectWay(NamedTuple):
    """The way of a request to the one engine that has its model.

    Attributes:
        routed: What the router knows of the engine.
        engine_name: For the answer; empty where there is only one.
    """

    routed: RoutedEngine
    line: DirectLine
    engine_name: str
