"""Plain HTTP for tests of the service: whole answers, event streams that can be left early, raw bytes."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["LONG_ANSWER", "Answer", "EventStream", "ask", "chat_body", "event_stream", "send_raw"]

# A grammar that cannot end before thousands of tokens are out: the answer goes on until max_tokens or the context.
LONG_ANSWER: dict[str, Any] = {
    "max_tokens": 4000,
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "long",
            "schema": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "minItems": 4000},
        },
    },
}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


def chat_body(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": "foundry-demo", "messages": [{"role": "user", "content": text}]} | more


def ask(
    url: str,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """One request; ``body`` is sent as JSON unless it is bytes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        connection.request(method or ("GET" if data is None else "POST"), path, data, sent | (headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class EventStream:
    """A running event stream."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.status = response.status

    def payloads(self) -> Iterator[str]:
        """What follows each ``data:``, ``[DONE]`` included; ends when the connection does."""
        try:
            while line := self.response.readline():
                if line.startswith(b"data: "):
                    yield line[6:].decode().rstrip("\n")
        except (http.client.IncompleteRead, ConnectionError):
            return

    def take(self, count: int) -> list[str]:
        return [payload for _, payload in zip(range(count), self.payloads(), strict=False)]


@contextmanager
def event_stream(url: str, path: str, body: dict[str, Any], *, timeout_s: float = 30.0) -> Iterator[EventStream]:
    """Start a stream; leaving the block closes the connection."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", path, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        yield EventStream(response)
    finally:
        connection.close()


def send_raw(url: str, data: bytes, *, timeout_s: float = 10.0) -> bytes:
    """Send bytes as they are and read until the other side closes or is silent."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=timeout_s) as sock:
        sock.sendall(data)
        received = b""
        try:
            while chunk := sock.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionError):
            pass
        return received
