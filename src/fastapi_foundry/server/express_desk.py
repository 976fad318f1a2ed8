"""Reads the heads of requests that may go the express way; what is known of a head is kept, since most are repeated.

A head is parsed by llhttp when it is first seen. Another one that differs in the figure of its Content-Length alone means
the same, so it need not be parsed again.
"""

from __future__ import annotations

import random
import re
from typing import Final, NamedTuple

import httptools

from fastapi_foundry.api.access_control import comes_from_elsewhere, shown_key
from fastapi_foundry.api.hosts import HostRule
from fastapi_foundry.api.middleware import SANE_REQUEST_ID
from fastapi_foundry.services.express import CHAT_PATH, ExpressService, Sender
from fastapi_foundry.services.express_exchange import Exchange, Sink
from fastapi_foundry.settings import Settings

__all__ = ["ExpressDesk", "ExpressRequest", "express_desk"]

_START: Final = b"POST %b HTTP/1.1\r\n" % CHAT_PATH.encode()
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,8})\r\n", re.IGNORECASE)
_MOST_HEADS: Final = 4096
# These change what is to be done; the application knows what.
_UNUSUAL: Final = frozenset(
    {
        b"connection",
        b"content-encoding",
        b"cookie",
        b"expect",
        b"origin",
        b"sec-fetch-site",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"via",
    }
)
_HARMLESS_CONNECTION: Final = b"keep-alive"
_OURS: Final = b"x-foundry-"
_JSON: Final = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


class ExpressRequest(NamedTuple):
    """A request that may go the express way."""

    sender: Sender
    request_id: bytes
    body: bytes


class ExpressDesk:
    """For all connections of a server.

    Args:
        service: Takes the requests.
        host_rule: Which ``Host`` headers are ours.
        max_head_bytes: Larger heads go the ordinary way, which refuses them.
        max_headers: Likewise.
        max_body_bytes: Likewise for bodies.
    """

    def __init__(
        self,
        service: ExpressService,
        host_rule: HostRule,
        *,
        max_head_bytes: int,
        max_headers: int,
        max_body_bytes: int,
    ) -> None:
        self._service = service
        self._host_rule = host_rule
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._max_body_bytes = max_body_bytes
        self._known: dict[bytes, Sender] = {}
        # Ids have to differ, not to be secret.
        self._random = random.Random()  # noqa: S311

    def read(self, data: bytes) -> ExpressRequest | None:
        """The request that ``data`` is, from its first byte to its last; None where it has to go the ordinary way."""
        end = data.find(b"\r\n\r\n") + 2
        if end < len(_START) or (length := _LENGTH.search(data, 0, end)) is None:
            return None
        digits, after = length.span(1)
        if len(data) != end + 2 + int(data[digits:after]):
            return None
        sender = self._known.get(data[:digits] + data[after:end])
        if sender is None:
            return self._read_anew(data, end, digits, after)
        return ExpressRequest(sender, b"req_%032x" % self._random.getrandbits(128), data[end + 2 :])

    def begin(self, request: ExpressRequest, sink: Sink) -> Exchange | None:
        """See ``ExpressService.begin``."""
        return self._service.begin(request.sender, request.body, request.request_id, sink)

    def _read_anew(self, data: bytes, end: int, digits: int, after: int) -> ExpressRequest | None:
        if not data.startswith(_START) or end > self._max_head_bytes or len(data) - end > self._max_body_bytes:
            return None
        head = _parsed(data[: end + 2])
        if head is None or len(head) > self._max_headers:
            return None
        found = dict(head)
        given = found.pop(b"x-request-id", None)
        if not self._is_usual(found, repeated=len(found) + (given is not None) != len(head)):
            return None
        sender = Sender(shown_key(found), comes_from_elsewhere(found))
        if given is None:
            if len(self._known) >= _MOST_HEADS:
                self._known.clear()
            self._known[data[:digits] + data[after:end]] = sender
        if given is None or not SANE_REQUEST_ID.fullmatch(given):
            given = b"req_%032x" % self._random.getrandbits(128)
        return ExpressRequest(sender, given, data[end + 2 :])

    def _is_usual(self, headers: dict[bytes, bytes], *, repeated: bool) -> bool:
        if headers.get(b"connection", b"").lower() == _HARMLESS_CONNECTION:
            headers = {name: value for name, value in headers.items() if name != b"connection"}
        if repeated or not headers.keys().isdisjoint(_UNUSUAL) or any(name.startswith(_OURS) for name in headers):
            return False
        host = headers.get(b"host", b"").decode("latin-1")
        return headers.get(b"content-type") in _JSON and self._host_rule.allows(host)


def express_desk(service: ExpressService, settings: Settings) -> ExpressDesk:
    """A desk with the bounds of the settings."""
    server, limits = settings.fastapi_server, settings.http_limits
    return ExpressDesk(
        service,
        HostRule(server.host, settings.security.allowed_hosts),
        max_head_bytes=limits.max_head_bytes,
        max_headers=limits.max_headers,
        max_body_bytes=server.max_body_bytes,
    )


def _parsed(head: bytes) -> list[tuple[bytes, bytes]] | None:
    """The headers of a head, names in lower case; None where it is no head of a request that keeps its connection."""
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if not reader.is_complete or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
        return None
    return reader.headers


class _Reader:
    """What llhttp tells of a head."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.is_complete = True
