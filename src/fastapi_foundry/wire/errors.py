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
from fastapi_foundry.wire.engine_text import clean_engine_text, shows_inside

__all__ = ["ErrorResponse", "error_frame", "fact_from_error_event", "fact_from_response", "openai_error"]

_INTERNAL_MESSAGE: Final = "The server had an error while processing your request. The details are in its log."

# How llama.cpp, vLLM and others say that they are on their way.
_LOADING: Final = re.compile(r"\bload(?:s|ing)\b|\bwarming up\b", re.IGNORECASE)

# The most specific class first; the first match wins.
_STATUS: Final[tuple[tuple[type[errors.FoundryError], int, str], ...]] = (
    (errors.BodyTooLargeError, 413, "invalid_request_error"),
    (errors.InvalidInputError, 400, "invalid_request_error"),
    (errors.ForbiddenError, 403, "permission_error"),
    (errors.ModelNotFoundError, 404, "invalid_request_error"),
    (errors.ModelUnavailableError, 503, "server_error"),
    (errors.QueueFullError, 429, "rate_limit_error"),
    (errors.StructuredOutputError, 422, "invalid_request_error"),
    (errors.CatalogUnavailableError, 503, "server_error"),
    (errors.StoppingError, 503, "server_error"),
    (errors.EngineUnavailableError, 503, "server_error"),
    (errors.EngineTimeoutError, 504, "server_error"),
    (errors.EngineError, 502, "server_error"),
)


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
                headers=_retry_after(fact),
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
    if code == "model_not_found":
        return fact_from_response(404, data)
    return fact_from_response(400 if type_ == "invalid_request_error" else 502, data)


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
        return errors.InvalidInputError(
            message or "The engine refused the request as invalid.",
            param=param,
            code=code or "invalid_request",
            engine_status=status,
            engine_body=_excerpt(body),
        )
    if status == 404:  # noqa: PLR2004 - a status reads best as its number
        fact: errors.FoundryError = errors.ModelNotFoundError(model or "?")
        if message:
            fact.message = message
        return fact
    if status == 429:  # noqa: PLR2004 - as above
        return errors.QueueFullError(message or "The engine is at its limit.", retry_after_s=retry_after_s or 1.0)
    if code in {"model_put_aside", "model_load_failed"}:
        unavailable = errors.ModelUnavailableError(model or "?", "", code=code, retry_after_s=retry_after_s)
        unavailable.message = message or unavailable.message
        return unavailable
    if code == "catalog_unavailable":
        return errors.CatalogUnavailableError(message or "The model catalogue cannot be reached.")
    if code == "engine_timeout" or status == 504:  # noqa: PLR2004 - as above
        return errors.EngineTimeoutError(message or "The engine did not answer in time.", limit_s=0.0)
    if status == 503:  # noqa: PLR2004 - as above
        return _not_ready(message, code, retry_after_s)
    return errors.EngineFailedError(
        message if code == "engine_failed" and message else "The engine failed to answer the request.",
        engine_status=status,
        engine_body=_excerpt(body),
    )


def _excerpt(body: bytes) -> str:
    """The engine's own words, for the log."""
    return body[:500].decode("utf-8", "replace")


def _not_ready(message: str | None, code: str | None, retry_after_s: float | None) -> errors.EngineUnavailableError:
    if code == "model_loading" or _LOADING.search(message or ""):
        return errors.ModelLoadingError("The engine is still loading the model.", retry_after_s=retry_after_s or 1.0)
    return errors.EngineUnavailableError(message or "The engine is not ready.", retry_after_s=retry_after_s)


def _envelope(message: str, type_: str, param: str | None, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def _retry_after(fact: errors.FoundryError) -> dict[str, str]:
    seconds = getattr(fact, "retry_after_s", None)
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


def _read_envelope(body: bytes) -> tuple[str | None, str | None, str | None]:
    try:
        error = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None, None, None
    if isinstance(error, str):
        return _presentable(error), None, None
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
