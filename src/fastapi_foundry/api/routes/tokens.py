"""How many tokens a prompt takes."""

from __future__ import annotations

from dataclasses import asdict

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import principal_of, request_id_of, services_of
from fastapi_foundry.api.bodies import read_json
from fastapi_foundry.api.documentation import json_body, native_errors
from fastapi_foundry.api.interruption import interruptible
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.engines.base import Call
from fastapi_foundry.errors import ModelNotFoundError
from fastapi_foundry.services.context import ContextService
from fastapi_foundry.services.model_access import require_allowed, unseen
from fastapi_foundry.wire.token_counts import TokenCountRequest, TokenCountResult
from fastapi_foundry.wire.validation import validate

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["Generation"])

_MESSAGES = [{"role": "user", "content": "What are you?"}]


@router.post(
    "/tokens/count",
    response_model=TokenCountResult,
    responses=native_errors(400, 404, 408, 413, 429, 502, 503),
    openapi_extra=json_body(
        TokenCountRequest,
        {"A chat": {"model": "foundry-demo:1", "messages": _MESSAGES}, "A prompt": {"prompt": "What are you?"}},
    ),
)
async def count_tokens(request: Request) -> Response:
    """Count a prompt as its model does, without generating anything; loads the model if need be."""
    _, parsed = await read_json(request)
    checked = validate(TokenCountRequest, parsed)
    services, principal, request_id = services_of(request), principal_of(request), request_id_of(request)
    chat = checked.chat(parsed, services.settings.foundry_ai.default_model)
    name = chat["model"]
    try:
        await services.models.require_known(name)
    except ModelNotFoundError as fact:
        raise unseen(fact, principal, name) from None
    require_allowed(principal, name, services.models.last_known)
    call = Call("/v1/chat/completions", orjson.dumps(chat), request_id, known=chat)
    async with interruptible(request.receive, services.stopping):
        size = await ContextService(services.engine, services.models).measure(call)
    return JSONBytes(orjson.dumps({"success": True, **asdict(size), "request_id": request_id}))
