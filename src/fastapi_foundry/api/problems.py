"""The one table from errors to responses: OpenAI's envelope under ``/v1``, the native form elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry import errors
from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.wire.errors import openai_error
from fastapi_foundry.wire.validation import describe_errors

__all__ = ["JSONBytes", "logged_problem", "native_problem", "problem_response", "register_problem_handlers"]

logger = get_logger(__name__)

_SERVER_ERRORS: Final = 500
_UNEXPECTED_DETAIL: Final = "Something went wrong inside the server. The details are in its log."

# The most specific class first; the first match wins. Status and words of F3.
_NATIVE: Final[tuple[tuple[type[errors.FoundryError], int, str], ...]] = (
    (errors.BodyTooLargeError, 413, "Request too large"),
    (errors.HeadTooLargeError, 431, "Request head too large"),
    (errors.RequestTooSlowError, 408, "Request too slow"),
    (errors.InvalidInputError, 400, "Invalid input"),
    (errors.AuthenticationError, 401, "Not authenticated"),
    (errors.ForbiddenError, 403, "Forbidden"),
    (errors.KeyNotFoundError, 404, "Key not found"),
    (errors.ObjectNotFoundError, 404, "Not found"),
    (errors.ModelNotFoundError, 404, "Model not available"),
    (errors.ModelUnavailableError, 503, "Model not available"),
    (errors.QueueFullError, 429, "Too many requests"),
    (errors.TokenBudgetExceededError, 429, "Token budget exceeded"),
    (errors.LimitExceededError, 429, "Too many requests"),
    (errors.OverloadedError, 503, "Server overloaded"),
    (errors.StructuredOutputError, 422, "Structured output invalid"),
    (errors.CatalogUnavailableError, 503, "Catalogue unavailable"),
    (errors.StorageConflictError, 409, "Conflict"),
    (errors.StorageUnavailableError, 503, "Storage unavailable"),
    (errors.StorageFullError, 507, "Storage full"),
    (errors.StoppingError, 503, "Server shutting down"),
    (errors.EngineUnavailableError, 503, "Foundry service unavailable"),
    (errors.EngineTimeoutError, 408, "Generation timeout"),
    (errors.EngineLoopError, 508, "Loop detected"),
    (errors.EngineError, 502, "Foundry service failed"),
)


class JSONBytes(Response):
    """JSON that is bytes already."""

    media_type = "application/json"


def native_problem(fact: BaseException) -> dict[str, Any]:
    """The body under ``/api/v1`` for ``fact``; anything that is no ``FoundryError`` tells nothing of the inside."""
    for kind, status, title in _NATIVE:
        if isinstance(fact, kind):
            param = getattr(fact, "param", None)
            body = _native_body(status, title, _native_detail(fact), fact.code)
            return body if param is None else body | {"param": param}
    return _native_body(500, "Internal server error", _UNEXPECTED_DETAIL, "internal_error")


def problem_response(path: str, fact: BaseException) -> Response:
    """The answer to a request for ``path`` that ended with ``fact``."""
    envelope = openai_error(fact)
    if path.startswith("/v1/") or path == "/v1":
        return JSONBytes(orjson.dumps(envelope.body), envelope.status, envelope.headers)
    body = native_problem(fact)
    return JSONBytes(orjson.dumps(body), body["status_code"], envelope.headers)


def register_problem_handlers(handlers: dict[Any, Any]) -> None:
    """Enter the handlers into an application's ``exception_handlers``."""
    handlers[errors.FoundryError] = _on_fact
    handlers[HTTPException] = _on_http_exception
    handlers[RequestValidationError] = _on_validation_error


def logged_problem(path: str, fact: errors.FoundryError) -> Response:
    """The answer to a request for ``path`` that ended with ``fact``, which is logged."""
    response = problem_response(path, fact)
    fields = {"code": fact.code, "status_code": response.status_code, **_loggable(fact.context)}
    if response.status_code >= _SERVER_ERRORS:
        logger.error("request failed", error=fact.message, **fields)
    else:
        logger.warning("request refused", error=fact.message, **fields)
    return response


async def _on_fact(request: Request, fact: errors.FoundryError) -> Response:
    return logged_problem(request.url.path, fact)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """What the router itself found: no such path, no such method."""
    path, status = request.url.path, error.status_code
    phrase = HTTPStatus(status).phrase
    detail = error.detail if error.detail and error.detail != phrase else _router_detail(request, status)
    code = phrase.lower().replace(" ", "_")
    headers = error.headers
    logger.warning("request refused", error=detail, code=code, status_code=status)
    if path.startswith("/v1/") or path == "/v1":
        type_ = "invalid_request_error" if status < _SERVER_ERRORS else "server_error"
        body = {"error": {"message": detail, "type": type_, "param": None, "code": code}}
        return JSONBytes(orjson.dumps(body), status, headers)
    return JSONBytes(orjson.dumps(_native_body(status, phrase, detail, code)), status, headers)


async def _on_validation_error(request: Request, error: RequestValidationError) -> Response:
    """What FastAPI found wrong with a path or query parameter; bodies are checked by our own code."""
    # The first step of FastAPI's locations says where the parameter was ("query"), which its name says by itself.
    found = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
    message, param, code = describe_errors(found, {**request.path_params, **request.query_params})
    return await _on_fact(request, errors.InvalidInputError(message, param=param, code=code))


def _router_detail(request: Request, status: int) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return f"There is nothing at {request.method} {request.url.path}."
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{request.url.path} does not take {request.method}."
    return HTTPStatus(status).phrase + "."


def _native_detail(fact: errors.FoundryError) -> str:
    if isinstance(fact, errors.EngineUnavailableError) and fact.url and fact.url not in fact.message:
        return f"{fact.message} (looked for at {fact.url})"
    if isinstance(fact, errors.EngineTimeoutError) and fact.limit_s:
        limit = f"{fact.limit_s:g} s"
        return fact.message if limit in fact.message else f"{fact.message} The limit is {limit}."
    return fact.message


def _native_body(status: int, title: str, detail: str, code: str) -> dict[str, Any]:
    return {
        "error": title,
        "detail": detail,
        "status_code": status,
        "code": code,
        "request_id": request_id.get() or "",
    }


def _loggable(context: Mapping[str, object]) -> dict[str, object]:
    taken = {"error", "code", "status_code", "message", "level", "event", "timestamp"}
    return {f"cause_{key}" if key in taken else key: value for key, value in context.items()}
