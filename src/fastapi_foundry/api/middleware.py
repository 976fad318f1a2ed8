"""What every request passes, as pure ASGI: its id, its place in the log, and what it must not be.

``RequestContext`` is the outermost: it also catches what nobody expected. ``Guards`` is inside it, so
that a refused request is logged and has an id like any other.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_foundry.api.hosts import HostRule, is_drive_by, is_same_origin
from fastapi_foundry.api.interruption import ClientGoneError
from fastapi_foundry.api.problems import problem_response
from fastapi_foundry.engines.via import Via
from fastapi_foundry.errors import BodyTooLargeError, ForbiddenError, FoundryError, InvalidInputError
from fastapi_foundry.observability.context import request_id as request_id_variable
from fastapi_foundry.observability.logging import get_logger

__all__ = ["EVERY_ANSWER", "REFUSED", "SANE_REQUEST_ID", "Guards", "RequestContext"]

logger = get_logger(__name__)

SANE_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_CLIENT_CLOSED_REQUEST: Final = 499  # nginx's number for a client that left; only ever seen in the log
_UNMATCHED: Final = "(unmatched)"

REFUSED: Final = "fastapi_foundry.refused"
"""Where the scope of a request holds the status that its connection was ended with, if it was."""
EVERY_ANSWER: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-fastapi-foundry-role", b"gateway"),
]
_CSP: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    b"connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HTML: Final = [
    (b"content-security-policy", _CSP),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class RequestContext:
    """Gives each request an id, adds the headers of every answer, and writes the access log.

    Args:
        clock: Seconds; only differences count.
    """

    def __init__(self, app: ASGIApp, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._clock = clock
        # Ids have to differ, not to be secret; asking the system for randomness each time was measured at 55 µs.
        self._random = random.Random()  # noqa: S311

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; lifespan messages pass untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self._clock()
        request_id = _incoming_id(scope) or f"req_{self._random.getrandbits(128):032x}"
        scope["request_id"] = request_id
        token = request_id_variable.set(request_id)
        status = 0
        extra = [(b"x-request-id", request_id.encode()), *EVERY_ANSWER]

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.get("headers", [])
                html = _HTML if _is_html(headers) else ()
                message["headers"] = [*headers, *extra, *_missing(headers, html)]
            await send(message)

        logger.debug("request received", method=scope["method"], raw_path=scope["path"])
        try:
            await self._app(scope, receive, send_with_headers)
        except ClientGoneError:
            status = scope.get(REFUSED, _CLIENT_CLOSED_REQUEST)
        except FoundryError as fact:
            # Raised by a middleware, outside of the application's own handlers.
            logger.warning("request refused", error=fact.message, code=fact.code, raw_path=scope["path"])
            await self._answer(scope, receive, send_with_headers, fact, begun=bool(status))
        # The last line of defence: whatever this was, the client gets its status, and the log the trace.
        except Exception as error:
            logger.exception("request crashed", method=scope["method"], route=_route(scope))
            await self._answer(scope, receive, send_with_headers, error, begun=bool(status))
        finally:
            duration = self._clock() - begun
            logger.log_api_request(scope["method"], _route(scope), status or 500, duration)
            request_id_variable.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, error: Exception, *, begun: bool) -> None:
        if begun:
            # Too late for an answer; an open end tells the client that it does not have all of it.
            raise error
        await problem_response(scope["path"], error)(scope, receive, send)


class Guards:
    """Refuses foreign hosts and origins, bodies that are too large, and requests that have been here before.

    Args:
        host_rule: Which ``Host`` headers are ours.
        allowed_origins: Other origins whose pages may ask here; ``*`` for all.
        max_body_bytes: Longest body that is taken.
        upload_bytes: The same for paths where bodies go to the disk as they arrive.
        via: Which gateways a request has passed.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host_rule: HostRule,
        max_body_bytes: int,
        via: Via,
        allowed_origins: frozenset[str] = frozenset(),
        upload_bytes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._app = app
        self._host_rule = host_rule
        self._allowed_origins = allowed_origins
        self._max_body_bytes = max_body_bytes
        self._upload_bytes = upload_bytes
        self._via = via

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass or raise why not."""
        if scope["type"] == "http":
            headers: dict[bytes, bytes] = dict(scope["headers"])
            self._check_host_and_origin(scope, headers)
            limit = self._upload_bytes.get(scope["path"], self._max_body_bytes)
            receive = self._bounded(headers, receive, limit)
            if b"via" in headers:
                await self._serve_proxied(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _serve_proxied(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what came by a gateway or another proxy, which is told in turn who answers."""
        received = b", ".join(value for name, value in scope["headers"] if name == b"via").decode("latin-1")

        async def send_with_via(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"via", self._via.own.encode())]
            await send(message)

        with self._via.serving(received):
            await self._app(scope, receive, send_with_via)

    def _check_host_and_origin(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._host_rule.allows(host):
            raise ForbiddenError("The Host header does not name this server.")
        if scope["method"] == "OPTIONS":
            return  # a preflight does nothing, and is answered by what knows the allowed origins
        origin = headers.get(b"origin")
        if origin is None:
            if is_drive_by(headers, scope["path"]):
                raise ForbiddenError(
                    "Pages of another origin may not do this; enter the address into the browser itself."
                )
            return
        # Whatever the method: a page learns nothing from a GET or a WebSocket's handshake, and can make us work by them.
        text = origin.decode("latin-1")
        if not is_same_origin(text, host) and self._allowed_origins.isdisjoint((text.lower(), "*")):
            raise ForbiddenError("Pages of another origin may not do this.")

    def _bounded(self, headers: dict[bytes, bytes], receive: Receive, limit: int) -> Receive:
        if length := headers.get(b"content-length"):
            if not length.isdigit():
                raise InvalidInputError("The Content-Length header is not a number.")
            if int(length) > limit:
                raise BodyTooLargeError(limit)
            # The server holds the client to the length that it announced.
            return receive
        if b"transfer-encoding" not in headers:
            return receive
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLargeError(limit)
            return message

        return bounded_receive


def _incoming_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if SANE_REQUEST_ID.fullmatch(value) else None
    return None


def _is_html(headers: list[Any]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers)


def _missing(headers: list[Any], wanted: Any) -> list[Any]:
    """Those of ``wanted`` that the answer does not set itself."""
    present = {name.lower() for name, _ in headers} if wanted else ()
    return [pair for pair in wanted if pair[0] not in present]


def _route(scope: Scope) -> str:
    """The template of the path, so that the log counts routes and not whatever anybody asks for."""
    route = scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if template is None and scope.get("root_path"):
        return f"{scope['root_path']}/{{path}}"
    return template or _UNMATCHED
