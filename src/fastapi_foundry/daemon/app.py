"""The service as an ASGI application: who may ask, which route answers, how errors look."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi_foundry.daemon import routes_gen1 as gen1
from fastapi_foundry.daemon import routes_inference as inference
from fastapi_foundry.daemon import routes_models as models
from fastapi_foundry.daemon import routes_tokens as tokens
from fastapi_foundry.daemon.http import ClientGoneError, Exchange, Receive, Scope, Send
from fastapi_foundry.daemon.service import Service
from fastapi_foundry.errors import ForbiddenError, FoundryError
from fastapi_foundry.observability.context import request_id as request_id_variable
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.wire.errors import error_frame, openai_error

__all__ = ["ROUTES", "ServiceApp"]

logger = get_logger(__name__)

Handler = Callable[[Service, Exchange], Awaitable[None]]

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/status", models.status),
    ("GET", "/models/loaded", models.loaded),
    ("GET", "/models/catalog", models.catalog),
    ("POST", "/models/load/{name}", models.load),
    ("GET", "/models/load/{name}", models.load),
    ("POST", "/models/unload/{name}", models.unload),
    ("GET", "/models/unload/{name}", models.unload),
    ("POST", "/models/download", models.download),
    ("POST", "/models/download/cancel", models.cancel_download),
    ("POST", "/models/register", models.register),
    ("POST", "/models/remove", models.remove),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{name}", models.model_info),
    ("POST", "/v1/chat/completions", inference.chat_completions),
    ("POST", "/v1/completions", inference.completions),
    ("POST", "/v1/embeddings", inference.embeddings),
    ("POST", "/tokenize", tokens.tokenize),
    ("POST", "/shutdown", models.shutdown),
    ("GET", "/foundry/list", gen1.catalog),
    ("GET", "/openai/status", gen1.status),
    ("GET", "/openai/models", gen1.cached),
    ("GET", "/openai/loadedmodels", models.loaded),
    ("GET", "/openai/load/{name}", gen1.load),
    ("GET", "/openai/unload/{name}", gen1.unload),
    ("POST", "/openai/download", gen1.download),
)
"""Every route; ``{name}`` is the rest of the path, so that a model id may hold a slash."""

# Kept for programs written for Foundry Local, where these change state by GET.
_CHANGING_GETS: Final = frozenset({models.load, models.unload, gen1.load, gen1.unload})
_LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class ServiceApp:
    """The ASGI application; ``service`` is given before the first request is accepted."""

    def __init__(self, service: Service) -> None:
        self._service = service
        # Path or prefix: (pattern, method: handler).
        self._exact: dict[str, tuple[str, dict[str, Handler]]] = {}
        self._prefixes: dict[str, tuple[str, dict[str, Handler]]] = {}
        for method, pattern, handler in ROUTES:
            table, path = (
                (self._prefixes, pattern.removesuffix("{name}"))
                if pattern.endswith("{name}")
                else (self._exact, pattern)
            )
            table.setdefault(path, (pattern, {}))[1][method] = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; every error becomes an answer or an error frame."""
        limit = self._service.settings.fastapi_server.max_body_bytes
        exchange = Exchange(scope, receive, send, max_body_bytes=limit)
        started = time.perf_counter()
        token = request_id_variable.set(exchange.request_id)
        try:
            await self._serve(exchange)
        except ClientGoneError:
            exchange.status = exchange.status or 499
        except FoundryError as fact:
            _log_fact(fact, exchange)
            await _answer_error(exchange, fact, send)
        except Exception as error:
            # The top of the request's loop: the client gets an envelope without details, the log gets them.
            logger.exception("request failed unexpectedly", route=exchange.route)
            await _answer_error(exchange, error, send)
        finally:
            logger.log_api_request(exchange.method, exchange.route, exchange.status, time.perf_counter() - started)
            request_id_variable.reset(token)

    async def _serve(self, exchange: Exchange) -> None:
        _check_host(exchange)
        route = self._route(exchange.path)
        if route is None:
            await _refuse(exchange, 404, f"There is no route {exchange.method} {exchange.path}.", "not_found")
            return
        exchange.route, handlers = route
        logger.debug("request arrived", method=exchange.method, route=exchange.route)
        handler = handlers.get("GET" if exchange.method == "HEAD" else exchange.method)
        if handler is None:
            allowed = ", ".join(sorted(handlers))
            text = f"{exchange.method} is not allowed for {exchange.path}; allowed: {allowed}."
            await _refuse(exchange, 405, text, "method_not_allowed", {"allow": allowed})
            return
        _check_origin(exchange, handler)
        await handler(self._service, exchange)

    def _route(self, path: str) -> tuple[str, dict[str, Handler]] | None:
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        for prefix, route in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return route
        return None


def _check_host(exchange: Exchange) -> None:
    """A foreign Host means a name that was bound to loopback to get past the browser's rules."""
    host = (exchange.header("host") or "").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name not in _LOOPBACK_HOSTS:
        raise ForbiddenError(
            "The service answers on loopback only: the Host header must be 127.0.0.1, localhost or [::1]."
        )


def _check_origin(exchange: Exchange, handler: Handler) -> None:
    if exchange.method in {"GET", "HEAD"} and handler not in _CHANGING_GETS:
        return
    if exchange.header("origin") is not None:
        raise ForbiddenError("Requests from web pages are not served here; use the gateway.")
    if handler in _CHANGING_GETS and exchange.method != "POST":
        # A page can make a browser send a GET without an Origin, an image for example; browsers then say so here.
        site = exchange.header("sec-fetch-site")
        if exchange.method == "HEAD" or not exchange.from_loopback or site not in {None, "none"}:
            raise ForbiddenError(
                "This GET form is for programs on this machine; use POST /models/load or POST /models/unload."
            )


async def _refuse(
    exchange: Exchange, status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    await exchange.answer({"error": error}, status=status, headers=headers)


async def _answer_error(exchange: Exchange, error: BaseException, send: Send) -> None:
    if exchange.started:
        await send({"type": "http.response.body", "body": error_frame(error)})
        return
    response = openai_error(error)
    await exchange.answer(response.body, status=response.status, headers=response.headers)


def _log_fact(fact: FoundryError, exchange: Exchange) -> None:
    status = openai_error(fact).status
    level = logger.error if status >= 500 else logger.info  # noqa: PLR2004 - a status reads best as its number
    level("request refused", code=fact.code, reason=fact.message, route=exchange.route, **fact.context)
