"""Reads the heads of requests that may go the express way; what is known of a head is kept, since most are repeated.

A head is parsed by llhttp when it is first seen. Neither the same one again nor one that differs in the figure of its
Content-Length alone need be parsed: they mean the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Final

import httptools

from fastapi_foundry.api.access_control import comes_from_elsewhere, shown_key
from fastapi_foundry.api.hosts import HostRule
from fastapi_foundry.api.limits import LimitLines
from fastapi_foundry.api.middleware import SANE_REQUEST_ID
from fastapi_foundry.engines.outbox import Outbox
from fastapi_foundry.observability.exchange_log import ExchangeLog
from fastapi_foundry.services.express import CHAT_PATH, ExpressService, Sender
from fastapi_foundry.services.express_exchange import Exchange, Sink
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.settings import Settings

__all__ = ["ExpressDesk", "express_desk", "header_lines"]

_START: Final = b"POST %b HTTP/1.1\r\n" % CHAT_PATH.encode()
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,8})\r\n", re.IGNORECASE)
_END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_HEADS: Final = 4096
# Who sends it, how long its body is, and the id that the client gave it.
_Head = tuple[Sender, int, bytes]
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


class ExpressDesk:
    """For all connections of a server.

    Args:
        service: Takes the requests.
        host_rule: Which ``Host`` headers are ours.
        limits: What is said of limits in every answer.
        max_head_bytes: Larger heads go the ordinary way, which refuses them.
        max_headers: Likewise.
        max_body_bytes: Likewise for bodies.

    Attributes:
        limit_lines: See ``LimitLines.of``.
        outbox: Through which all answers of the express way go.
        log: Where exchanges leave their records.
    """

    def __init__(
        self,
        service: ExpressService,
        host_rule: HostRule,
        limits: LimitsService,
        *,
        max_head_bytes: int,
        max_headers: int,
        max_body_bytes: int,
    ) -> None:
        self._service = service
        self._host_rule = host_rule
        self.outbox = Outbox()
        self.limit_lines = LimitLines(limits).of
        self.log = ExchangeLog("fastapi_foundry.services.generations", "fastapi_foundry.server.express")
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._max_body_bytes = max_body_bytes
        self._known: dict[bytes, _Head] = {}
        self._senders: dict[bytes, Sender] = {}  # by heads without the figure of their length
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""
        # Ids have to differ, not to be secret.
        self._random = random.Random()  # noqa: S311

    def begin(self, data: bytes, sink: Sink) -> Exchange | None:
        """Begin the exchange of the request that ``data`` is, from its first byte to its last; see ``ExpressService.begin``.

        None, and nothing has happened, where it has to go the ordinary way.
        """
        body = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        known = self._known.get(data[:body])
        if known is None:
            known = self._read(data, body)
            if known is None:
                return None
        sender, length, request_id = known
        if len(data) - body != length:
            return None
        if not request_id:
            request_id = b"req_%032x" % self._random.getrandbits(128)
        return self._service.begin(sender, data[body:], request_id, sink)

    def default_lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The lines of headers that are the same for about a second, as long as it is the same list."""
        if headers is not self._default_headers:
            self._default_headers, self._default_lines = headers, header_lines(headers)
        return self._default_lines

    def _read(self, data: bytes, body: int) -> _Head | None:
        """The head of ``data``, up to ``body``: what another one taught that differs in its length alone, or parsed."""
        end = body - 2
        if (
            end < len(_START)
            or len(data) - body > self._max_body_bytes
            or (found := _LENGTH.search(data, 0, end)) is None
        ):
            return None
        at, after = found.span(1)
        rest = data[:at] + data[after:end]
        sender, request_id = self._senders.get(rest), b""
        if sender is None:
            read = self._read_anew(data, body)
            if read is None:
                return None
            sender, request_id = read
        head = sender, int(data[at:after]), request_id
        if not request_id:
            if len(self._senders) >= _MOST_HEADS:
                self._senders.clear()
            self._senders[rest] = sender
            if len(self._known) >= _MOST_HEADS:
                self._known.clear()
            self._known[data[:body]] = head
        return head

    def _read_anew(self, data: bytes, body: int) -> tuple[Sender, bytes] | None:
        """Who sends ``data``, and the id that he gave it, if any."""
        if not data.startswith(_START) or body - 2 > self._max_head_bytes:
            return None
        head = _parsed(data[:body])
        if head is None or len(head) > self._max_headers:
            return None
        found = dict(head)
        given = found.pop(b"x-request-id", None)
        if not self._is_usual(found, repeated=len(found) + (given is not None) != len(head)):
            return None
        sender = Sender(shown_key(found), comes_from_elsewhere(found))
        if given is not None and not SANE_REQUEST_ID.fullmatch(given):
            given = b"req_%032x" % self._random.getrandbits(128)
        return sender, given or b""

    def _is_usual(self, headers: dict[bytes, bytes], *, repeated: bool) -> bool:
        if headers.get(b"connection", b"").lower() == _HARMLESS_CONNECTION:
            headers = {name: value for name, value in headers.items() if name != b"connection"}
        if repeated or not headers.keys().isdisjoint(_UNUSUAL) or any(name.startswith(_OURS) for name in headers):
            return False
        host = headers.get(b"host", b"").decode("latin-1")
        return headers.get(b"content-type") in _JSON and self._host_rule.allows(host)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are written."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def express_desk(service: ExpressService, limits_service: LimitsService, settings: Settings) -> ExpressDesk:
    """A desk with the bounds of the settings."""
    server, limits = settings.fastapi_server, settings.http_limits
    return ExpressDesk(
        service,
        HostRule(server.host, settings.security.allowed_hosts),
        limits_service,
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
