"""A plain blocking HTTP client for tests that look at bytes and timing.

Whole answers, event streams that can be left early, and raw bytes.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
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


def chat_body(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": "foundry-demo", "messages": [{"role": "user", "content": text}]} | more


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
        """The error in OpenAI's envelope, which has these four fields and no other."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


def ask(
    url: str,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """One request, its whole answer; ``body`` is sent as JSON unless it is bytes.

    Without ``method``, a request with a body is a POST and one without is a GET.
    """
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if data is not None else {}
    with _connection(url, timeout_s) as connection:
        connection.request(method or ("GET" if data is None else "POST"), path, data, sent | (headers or {}))
        response = connection.getresponse()
        return Answer(response.status, _headers_of(response), response.read())


class EventStream:
    """An open answer of server-sent events, read as they arrive; what one method has read, the next does not see."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = _headers_of(response)
        self._response = response

    def payloads(self) -> Iterator[str]:
        """What follows each ``data:``, ``[DONE]`` included; ends when the connection does, however that comes."""
        try:
            yield from self._payloads()
        except (http.client.IncompleteRead, ConnectionError):
            return

    def take(self, count: int) -> list[str]:
        return [payload for _, payload in zip(range(count), self.payloads(), strict=False)]

    def events(self) -> Iterator[Any]:
        """Each payload as parsed JSON, or the text ``[DONE]``; raises when the connection breaks."""
        for payload in self._payloads():
            yield payload if payload == "[DONE]" else json.loads(payload)

    def rest(self) -> tuple[list[Any], float]:
        """Every further event (at last ``broken`` if the connection breaks), and the seconds until the end."""
        began = time.monotonic()
        seen = []
        try:
            seen.extend(self.events())
        except (http.client.IncompleteRead, ConnectionError):
            seen.append("broken")
        return seen, time.monotonic() - began

    def text(self) -> str:
        """What is left of the body as it is, for the message of a failed assertion."""
        return self._response.read().decode(errors="replace")

    def _payloads(self) -> Iterator[str]:
        while line := self._response.readline():
            if line.startswith(b"data: "):
                yield line[6:].decode().rstrip("\n")


@contextmanager
def event_stream(url: str, path: str, body: dict[str, Any], *, timeout_s: float = 30.0) -> Iterator[EventStream]:
    """POST ``body`` with ``stream`` set and hold the answer open; leaving the block drops the connection."""
    with _connection(url, timeout_s) as connection:
        connection.request("POST", path, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
        yield EventStream(connection.getresponse())


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


@contextmanager
def _connection(url: str, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        yield connection
    finally:
        connection.close()


def _headers_of(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}
