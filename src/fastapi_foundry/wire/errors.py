"""OpenAI's error envelope: facts to envelope, and an engine's envelope back to facts.

The envelope is ``{"error": {"message", "type", "param", "code"}}``. The service and the gateway
write it, the gateway also reads it from engines.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from fastapi_foundry import errors
from fastapi_foundry.wire.context_length import numbers_in
from fastapi_foundry.wire.engine_text import (
    INVALID_TOOL_CALL,
    clean_engine_text,
    is_invalid_tool_call,
    shows_inside,
)

__all__ = ["ErrorResponse", "error_frame", "fact_from_error_event", "fact_from_response", "openai_error"]

_INTERNAL_MESSAGE: Final = "The server had an error while processing your request. The details are in its log."

# How llama.cpp, vLLM and others say that they are on their way.
_LOADING: Final = re.compile(r"\bload(?:s|ing)\b|\bwarming up\b", re.IGNORECASE)

# The most specific class first; the first match wins.
_STATUS: Final[tuple[tuple[type[errors.FoundryError], int, str], ...]] = (
    (errors.BodyTooLargeError, 413, "invalid_request_error"),
    (errors.HeadTooLargeError, 431, "invalid_request_error"),
    (errors.RequestTooSlowError, 408, "invalid_request_error"),
    (errors.InvalidInputError, 400, "invalid_request_error"),
    (errors.AuthenticationError, 401, "authentication_error"),
    (errors.ForbiddenError, 403, "permission_error"),
    (errors.KeyNotFoundError, 404, "invalid_request_error"),
    (errors.ObjectNotFoundError, 404, "invalid_request_error"),
    (errors.ModelNotFoundError, 404, "invalid_request_error"),
    (errors.ModelUnavailableError, 503, "server_error"),
    (errors.QueueFullError, 429, "rate_limit_error"),
    (errors.TokenBudgetExceededError, 429, "insufficient_quota"),
    (errors.LimitExceededError, 429, "rate_limit_error"),
    (errors.OverloadedError, 503, "server_error"),
    (errors.StructuredOutputError, 422, "invalid_request_error"),
    (errors.CatalogUnavailableError, 503, "server_error"),
    (errors.StorageConflictError, 409, "invalid_request_error"),
    (errors.StorageUnavailableError, 503, "server_error"),
    (errors.StorageFullError, 507, "server_error"),
    (errors.StoppingError, 503, "server_error"),
    (errors.EngineUnavailableError, 503, "server_error"),
    (errors.EngineTimeoutError, 504, "server_error"),
    (errors.EngineLoopError, 508, "server_error"),
    (errors.EngineError, 502, "server_error"),
)

# Of errors that come without a status of their own.
_STATUS_OF_CODE: Final = {"model_not_found": 404, "loop_detected": 508}


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An error ready to be sent: HTTP status, envelope, and headers such as ``Retry-After``."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def openai_error(fact: BaseException) -> ErrorResponse:
    """Turn a fact into OpenAI's envelope.

    Anything that is not a ``FoundryError`` becomes a 500 whose message tells nothing about the inside.
    """
    for kind, status, type_ in _STATUS:
        if isinstance(fact, kind):
            return ErrorResponse(
                status=status,
                body=_envelope(fact.message, type_, getattr(fact, "param", None), fact.code),
                headers=_headers(fact),
            )
    return ErrorResponse(status=500, body=_envelope(_INTERNAL_MESSAGE, "server_error", None, "internal_error"))


def error_frame(fact: BaseException) -> bytes:
    """One SSE frame that reports ``fact`` inside a stream whose headers have gone out already."""
    return b"data: " + orjson.dumps(openai_error(fact).body) + b"\n\n"


def fact_from_error_event(data: bytes) -> errors.FoundryError:
    """The fact behind an error that came without a status of its own: as an event of a stream, or with a 200."""
    try:
        error = orjson.loads(data)["error"]
        type_, code = error.get("type"), error.get("code")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        type_, code = None, None
    status = 400 if type_ == "invalid_request_error" else 502
    return fact_from_response(_STATUS_OF_CODE.get(str(code), status), data)


def fact_from_response(
    status: int, body: bytes, *, model: str | None = None, retry_after_s: float | None = None
) -> errors.FoundryError:
    """Read an engine's error answer back into a fact.

    An engine's 401 or 403 is the gateway's own trouble with that engine, hence ``EngineFailedError``,
    never the client's. A body that is no envelope keeps its cause in the fact's log context alone.
    """
    message, param, code = _read_envelope(body)
    if code == errors.StructuredOutputError.code and message:
        return errors.StructuredOutputError(message, param=param or "response_format")
    if code == "context_length_exceeded" or status in {400, 409, 413, 422}:
        return _refusal(status, body)
    if status == 404:  # noqa: PLR2004 - a status reads best as its number
        fact: errors.FoundryError = errors.ModelNotFoundError(model or "?")
        if message:
            fact.message = message
        return fact
    if status == 429:  # noqa: PLR2004 - as above
        return errors.QueueFullError(message or "The engine is at its limit.", retry_after_s=retry_after_s or 1.0)
    if code in {"model_put_aside", "model_load_failed", "model_does_not_fit"}:
        unavailable = errors.ModelUnavailableError(model or "?", "", code=code, retry_after_s=retry_after_s)
        unavailable.message = message or unavailable.message
        return unavailable
    if code == "catalog_unavailable":
        return errors.CatalogUnavailableError(message or "The model catalogue cannot be reached.")
    if code == "engine_timeout" or status == 504:  # noqa: PLR2004 - as above
        return errors.EngineTimeoutError(message or "The engine did not answer in time.", limit_s=0.0)
    if status in {503, 508}:
        return _out_of_reach(status, message, code, retry_after_s)
    return _failure(status, body, message, code)


def _refusal(status: int, body: bytes) -> errors.InvalidInputError:
    """The fact behind a request that the engine finds wrong; a prompt that leaves no room for an answer among them."""
    message, param, code = _read_envelope(body)
    context: dict[str, object] = {"engine_status": status, "engine_body": _excerpt(body)}
    numbers = numbers_in(_excerpt(body))
    if numbers is None or not numbers.leaves_no_room:
        return errors.InvalidInputError(
            message or "The engine refused the request as invalid.",
            param=param,
            code=code or "invalid_request",
            **context,
        )
    fact = errors.ContextLengthExceededError(
        prompt_tokens=numbers.prompt_tokens, context_length=numbers.context_length, model=""
    )
    fact.context = context
    if code == fact.code and message:
        fact.message, fact.param = message, param
    return fact


def _failure(status: int, body: bytes, message: str | None, code: str | None) -> errors.EngineFailedError:
    context: dict[str, object] = {"engine_status": status, "engine_body": _excerpt(body)}
    if message and (message == INVALID_TOOL_CALL or is_invalid_tool_call(message)):
        return errors.ModelOutputError(INVALID_TOOL_CALL, **context)
    told = message if code == "engine_failed" else None
    return errors.EngineFailedError(told or "The engine failed to answer the request.", **context)


def _excerpt(body: bytes) -> str:
    """The engine's own words, for the log."""
    return body[:500].decode("utf-8", "replace")


def _out_of_reach(
    status: int, message: str | None, code: str | None, retry_after_s: float | None
) -> errors.EngineUnavailableError | errors.EngineLoopError:
    if status == 508:  # noqa: PLR2004 - as above
        return errors.EngineLoopError(message or "The way to the engine leads back to this gateway.")
    if code == "model_loading" or _LOADING.search(message or ""):
        return errors.ModelLoadingError("The engine is still loading the model.", retry_after_s=retry_after_s or 1.0)
    return errors.EngineUnavailableError(message or "The engine is not ready.", retry_after_s=retry_after_s)


def _envelope(message: str, type_: str, param: str | None, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def _headers(fact: errors.FoundryError) -> dict[str, str]:
    if isinstance(fact, errors.AuthenticationError):
        return {"WWW-Authenticate": "Bearer"}
    seconds = getattr(fact, "retry_after_s", None)
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


def _read_envelope(body: bytes) -> tuple[str | None, str | None, str | None]:
    try:
        document = orjson.loads(body)
        error = document["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None, None, None
    if isinstance(error, str):
        # The native form of a gateway has the reason in a field of its own.
        detail = document.get("detail")
        error = {**document, "message": detail if isinstance(detail, str) else error}
    if not isinstance(error, dict):
        return None, None, None
    texts = (error.get(key) for key in ("message", "param", "code"))
    message, param, code = (text if isinstance(text, str) else None for text in texts)
    return _presentable(message), param, code


def _presentable(message: str | None) -> str | None:
    """An engine's message without what is no client's business; None when nothing is left of it."""
    if not message or not shows_inside(message):
        return message
    cleaned = clean_engine_text(message)
    return None if shows_inside(cleaned) else cleaned
