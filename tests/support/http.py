"""A plain blocking HTTP client for tests that look at bytes and timing."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "EventStream", "call", "open_stream"]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    method: str,
    url: str,
    payload: object | None = None,
    *,
    headers: dict[str, str] | None = None,
    raw: bytes | None = None,
    timeout_s: float = 60.0,
) -> Answer:
    """One request, its whole answer; ``raw`` is sent as it is, ``payload`` as JSON."""
    body = raw if raw is not None else (json.dumps(payload).encode() if payload is not None else None)
    connection = _connect(url, timeout_s)
    try:
        connection.request(method, _target(url), body=body, headers=_headers(body, headers))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@dataclass
class EventStream:
    """An open SSE answer: ``status``, and ``events()`` as they arrive (parsed JSON, or the text ``[DONE]``)."""

    response: http.client.HTTPResponse
    connection: http.client.HTTPConnection
    status: int
    headers: dict[str, str] = field(default_factory=dict)

    def events(self) -> Iterator[Any]:
        for line in self.response:
            text = line.decode().strip()
            if text.startswith("data: "):
                data = text.removeprefix("data: ")
                yield data if data == "[DONE]" else json.loads(data)

    def rest(self) -> tuple[list[Any], float]:
        """Every further event, and the seconds until the stream ended (also by a broken connection)."""
        began = time.monotonic()
        seen = []
        try:
            seen.extend(self.events())
        except (http.client.IncompleteRead, ConnectionError):
            seen.append("broken")
        return seen, time.monotonic() - began


@contextmanager
def open_stream(url: str, payload: object, *, timeout_s: float = 60.0) -> Iterator[EventStream]:
    """POST ``payload`` and hold the streamed answer open; leaving drops the connection."""
    connection = _connect(url, timeout_s)
    body = json.dumps(payload).encode()
    try:
        connection.request("POST", _target(url), body=body, headers=_headers(body, None))
        response = connection.getresponse()
        yield EventStream(response, connection, response.status, {k.lower(): v for k, v in response.getheaders()})
    finally:
        connection.close()


def _connect(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _headers(body: bytes | None, headers: dict[str, str] | None) -> dict[str, str]:
    return ({"Content-Type": "application/json"} if body is not None else {}) | (headers or {})
