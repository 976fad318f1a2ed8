"""A small blocking HTTP client for the commands.

The commands run one request at a time and must react to Ctrl-C at once, and the standard library's
client costs 30 ms to import; the engines' asynchronous client is made for many streams at once.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import orjson

from fastapi_foundry import errors
from fastapi_foundry.wire.errors import fact_from_response

if TYPE_CHECKING:
    import ssl

__all__ = ["HttpApi", "path_segment"]

_ANSWER_LIMIT_BYTES: Final = 64 * 1024 * 1024
_LINE_LIMIT_BYTES: Final = 4 * 1024 * 1024
_SUCCESS: Final = range(200, 300)
_DENIED: Final = frozenset({401, 403})
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for


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
        key: Sent along, where the server asks for one.
        certificate: The server's own certificate, for an https address; the only one that is trusted then, whatever
            name it is for. Without it the usual rules hold.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 5.0, key: str | None = None, certificate: Path | None = None
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self._secure = parts.scheme == "https"
        self._netloc = parts.netloc
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s
        self._key = key
        self._tls = _pinned(certificate) if self._secure and certificate is not None else None

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
        try:
            connection = self._connection(limit_s)
        except http.client.InvalidURL as error:
            raise errors.InvalidInputError(f"{self.url} is not an address: {error}.", param="url") from error
        headers = {"Accept": "application/json", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if method == "POST":
            headers["Content-Type"] = "application/json"
        data = None if method == "GET" else orjson.dumps({} if body is None else body)
        try:
            with self._facts(limit_s):
                connection.request(method, self._prefix + path, body=data, headers=headers)
                response = connection.getresponse()
                refusal = None if response.status in _SUCCESS else response.read(_LINE_LIMIT_BYTES)
            if refusal is not None and response.status in _DENIED:
                raise _denied(refusal)
            if refusal is not None:
                raise fact_from_response(response.status, refusal, model=model)
            yield response
        finally:
            connection.close()

    def _connection(self, limit_s: float) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(self._netloc, timeout=limit_s, context=self._tls)
        return http.client.HTTPConnection(self._netloc, timeout=limit_s)

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


def _pinned(certificate: Path) -> ssl.SSLContext | None:
    """A client's context that trusts this very certificate; None where the file is of no use."""
    import ssl  # noqa: PLC0415 - most addresses are plain

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Whoever holds the key to that very certificate is who we want to talk to, by whatever name we reach it.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        # The first one alone: whatever else its issuer has signed is not ours.
        first = _PEM.search(certificate.read_text(encoding="latin-1"))
        context.load_verify_locations(cadata=first.group() if first is not None else "")
    except (OSError, ValueError):  # ssl.SSLError included
        return None
    return context


def _denied(refusal: bytes) -> errors.AuthenticationError:
    """What the server says to a request without a key, or with one that will not do; it has both forms of an error."""
    try:
        body = orjson.loads(refusal)
        error = body.get("error")
        message = error.get("message") if isinstance(error, dict) else body.get("detail")
    except (orjson.JSONDecodeError, AttributeError):
        message = None
    words = message if isinstance(message, str) and message else "The server does not allow it."
    return errors.AuthenticationError(f"{words} This command takes the key from FOUNDRY_API_KEY.")
