"""A small blocking HTTP client for the commands.

The commands run one request at a time and must react to Ctrl-C at once, and the standard library's
client costs 30 ms to import; the engines' asynchronous client is made for many streams at once.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from fastapi_foundry import errors
from fastapi_foundry.wire.errors import fact_from_response

__all__ = ["HttpApi", "path_segment"]

_ANSWER_LIMIT_BYTES: Final = 64 * 1024 * 1024
_LINE_LIMIT_BYTES: Final = 4 * 1024 * 1024
_SUCCESS: Final = range(200, 300)


def path_segment(name: str) -> str:
    """A model's name as one segment of a path."""
    return quote(name, safe=":")


class HttpApi:
    """JSON over HTTP to one server.

    Every call raises ``EngineUnavailableError`` when nothing answers at the address,
    ``EngineTimeoutError`` when nothing arrives within the time limit (seconds without a byte), and the fact
    behind an error answer otherwise.

    Args:
        url: Base URL; a trailing ``/v1`` is dropped, since the service's own routes lie beside it.
        timeout_s: Limit on each wait for bytes, unless a call gives its own.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self._secure = parts.scheme == "https"
        self._netloc = parts.netloc
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s

    def get(self, path: str, *, timeout_s: float | None = None) -> Any:
        """GET ``path`` and return the decoded answer."""
        return self._whole("GET", path, None, timeout_s, None)

    def post(self, path: str, body: object = None, *, timeout_s: float | None = None, model: str | None = None) -> Any:
        """POST ``body`` as JSON and return the decoded answer; ``model`` names the model in an error."""
        return self._whole("POST", path, body, timeout_s, model)

    @contextmanager
    def lines(
        self, path: str, body: object, *, timeout_s: float | None = None, model: str | None = None
    ) -> Iterator[Iterator[bytes]]:
        """POST ``body`` and read the answer line by line, as it arrives; leaving closes the connection."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        with self._exchange("POST", path, body, limit_s, model) as response:
            yield self._read_lines(response, limit_s)

    def _whole(self, method: str, path: str, body: object, timeout_s: float | None, model: str | None) -> Any:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        with self._exchange(method, path, body, limit_s, model) as response, self._facts(limit_s):
            content = response.read(_ANSWER_LIMIT_BYTES)
            if response.length:  # what Content-Length promised and did not come
                raise http.client.IncompleteRead(content, response.length)
        try:
            return orjson.loads(content) if content else None
        except orjson.JSONDecodeError as error:
            raise errors.EngineFailedError(f"The answer from {self.url} is not JSON.") from error

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: object, limit_s: float, model: str | None
    ) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        try:
            connection = kind(self._netloc, timeout=limit_s)
        except http.client.InvalidURL as error:
            raise errors.InvalidInputError(f"{self.url} is not an address: {error}.", param="url") from error
        headers = {"Accept": "application/json", "Connection": "close"}
        if method == "POST":
            headers["Content-Type"] = "application/json"
        data = None if method == "GET" else orjson.dumps({} if body is None else body)
        try:
            with self._facts(limit_s):
                connection.request(method, self._prefix + path, body=data, headers=headers)
                response = connection.getresponse()
                refusal = None if response.status in _SUCCESS else response.read(_LINE_LIMIT_BYTES)
            if refusal is not None:
                raise fact_from_response(response.status, refusal, model=model)
            yield response
        finally:
            connection.close()

    def _read_lines(self, response: http.client.HTTPResponse, limit_s: float) -> Iterator[bytes]:
        while True:
            with self._facts(limit_s):
                line = response.readline(_LINE_LIMIT_BYTES)
            if not line:
                return
            yield line.strip()

    @contextmanager
    def _facts(self, limit_s: float) -> Iterator[None]:
        # Only around calls into http.client: an error of the reader of a stream must stay what it is.
        try:
            yield
        except TimeoutError as error:
            message = f"No answer from {self.url} within {limit_s:g} s."
            raise errors.EngineTimeoutError(message, limit_s=limit_s) from error
        except (OSError, http.client.BadStatusLine) as error:
            raise errors.EngineUnavailableError(f"Nothing answers at {self.url}.", url=self.url) from error
        except http.client.HTTPException as error:
            raise errors.EngineFailedError(f"The connection to {self.url} broke.") from error
