"""The OpenAPI document: what the routes say of themselves, with the schemas of the bodies that they parse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.wire import batches, keys, native, openai
from fastapi_foundry.wire.token_counts import TokenCountRequest

__all__ = ["event_stream", "json_body", "native_errors", "openai_errors", "operation_id", "use_own_openapi"]

TITLE: Final = "FastAPI Foundry"
DESCRIPTION: Final = (
    "A dependable, OpenAI-compatible gateway in front of Microsoft Foundry Local. Everything under `/v1` is OpenAI's "
    "API; everything under `/api/v1` is the native one. Every answer carries `x-request-id`."
)

_TEMPLATE: Final = "#/components/schemas/{model}"
_BODIES: Final[tuple[type[BaseModel], ...]] = (
    openai.ChatCompletionRequest,
    openai.CompletionRequest,
    openai.EmbeddingRequest,
    native.GenerateRequest,
    native.BatchRequest,
    TokenCountRequest,
    batches.CreateBatchBody,
    keys.NewKeyBody,
    keys.RotateKeyBody,
    keys.SignInBody,
)
_FAILURES: Final[tuple[type[BaseModel], ...]] = (native.Problem, openai.ErrorEnvelope)
_NATIVE_ERRORS: Final = {
    400: "The input is wrong; `detail` says how, `param` where.",
    401: "No API key where one is needed, or one that is wrong, revoked or expired.",
    403: "Foreign Host or Origin, or a key without the right that this takes.",
    404: "No such model.",
    408: "The request arrived too slowly, or the engine did not answer within the limit.",
    413: "The body is larger than `fastapi_server.max_body_bytes`.",
    422: "No answer of the model kept to the schema that was asked for.",
    429: "Too many requests wait already; see `Retry-After`.",
    431: "The head of the request is larger than `http_limits` allows.",
    500: "Something unexpected; the details are in the log.",
    502: "The engine broke.",
    503: "The engine or the model cannot be used now, or the server has too many connections.",
    507: "There is no space left for what was to be stored.",
    508: "The request came back to a gateway that it had passed; between gateways alone.",
}
_SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as OpenAI's clients send it."},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key in another header."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "foundry_session",
        "description": "A browser that has signed in; changes need the header `x-csrf-token` besides.",
    },
}
_ALWAYS: Final = (401, 403, 408, 431, 500, 503, 508)  # what may befall any request
_OPENAI_ERRORS: Final = {408: "The request arrived too slowly.", 504: "The engine did not answer within the limit."}


def native_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents failures of a route under ``/api/v1``; those that may befall any request are always among them."""
    every = sorted({*_ALWAYS, *statuses})
    return {status: _failure(_NATIVE_ERRORS[status], native.Problem) for status in every}


def openai_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents failures of a route under ``/v1``; those that may befall any request are always among them."""
    described = {**_NATIVE_ERRORS, **_OPENAI_ERRORS}
    every = sorted({*_ALWAYS, *statuses})
    return {status: _failure(described[status], openai.ErrorEnvelope) for status in every}


def _failure(description: str, model: type[BaseModel]) -> dict[str, Any]:
    # Given the model itself, FastAPI would make a field of it for each of some 400 documented failures: 30 ms of each start.
    schema = {"$ref": _TEMPLATE.format(model=model.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def json_body(model: type[BaseModel], examples: Mapping[str, Any]) -> dict[str, Any]:
    """``openapi_extra`` of a route that parses its own body; ``examples`` maps a summary to a body."""
    named = {name.replace(" ", "_"): {"summary": name, "value": value} for name, value in examples.items()}
    schema = {"$ref": _TEMPLATE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": named}}}}


def event_stream(
    description: str, model: type[BaseModel] | None = None, *, answers_json: bool = True
) -> dict[int | str, dict[str, Any]]:
    """Documents the 200 of a route that answers as a stream, always or only when asked to and as JSON otherwise."""
    content: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}
    if model is None and answers_json:
        content["application/json"] = {"schema": {"type": "object"}}
    answer: dict[str, Any] = {"description": description, "content": content}
    return {200: answer if model is None else answer | {"model": model}}


def operation_id(route: APIRoute) -> str:
    """The name of the function that answers, which is unique among our routes."""
    return route.name


def use_own_openapi(app: FastAPI) -> None:
    """Let ``app`` make its document in our way, once, when it is first asked for, and serve it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way

    async def openapi_document() -> Response:
        return JSONBytes(orjson.dumps(app.openapi()))

    app.add_api_route("/openapi.json", openapi_document, include_in_schema=False)


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    bodies = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_TEMPLATE)
    failures = models_json_schema([(model, "serialization") for model in _FAILURES], ref_template=_TEMPLATE)
    for _, definitions in (bodies, failures):
        schemas |= definitions.get("$defs", {})
    for operation in _operations(document):
        # FastAPI announces it for every parameter; ours are 400 in our own form.
        if "HTTPValidationError" in str(operation.get("responses", {}).get("422")):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    # Without one where none is needed: on this machine alone, for instance.
    document["security"] = [{}, *({name: []} for name in _SECURITY_SCHEMES)]
    return document


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]
