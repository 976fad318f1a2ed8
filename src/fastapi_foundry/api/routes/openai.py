"""OpenAI's generation routes: checked here, carried through as the client's bytes."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import principal_of, request_id_of, services_of
from fastapi_foundry.api.bodies import read_json
from fastapi_foundry.api.documentation import event_stream, json_body, openai_errors
from fastapi_foundry.api.event_stream import EventStreamResponse
from fastapi_foundry.api.interruption import interruptible
from fastapi_foundry.api.notes import note_headers
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.api.wishes import wish_of
from fastapi_foundry.engines.base import NO_NOTES
from fastapi_foundry.services.inference import OpenAIRequest
from fastapi_foundry.services.truncation import TRUNCATION_HEADER
from fastapi_foundry.wire.errors import error_frame
from fastapi_foundry.wire.openai import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from fastapi_foundry.wire.validation import validate

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_ERRORS: Final = openai_errors(400, 404, 413, 429, 502, 503, 504)
_CHAT_ERRORS: Final = _ERRORS | openai_errors(422)
_CHAT_EXAMPLES: Final = {
    "Ask": {"model": "foundry-demo:1", "messages": [{"role": "user", "content": "What are you?"}]},
    "Ask for a stream": {
        "model": "foundry-demo:1",
        "messages": [{"role": "user", "content": "What are you?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
}


@router.post(
    "/chat/completions",
    responses=event_stream("The answer, or with `stream` its chunks and `data: [DONE]`.") | _CHAT_ERRORS,
    openapi_extra=json_body(ChatCompletionRequest, _CHAT_EXAMPLES),
)
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    return await _answer(request, "/v1/chat/completions", ChatCompletionRequest)


@router.post(
    "/completions",
    responses=event_stream("The text, or with `stream` its chunks and `data: [DONE]`.") | _ERRORS,
    openapi_extra=json_body(
        CompletionRequest, {"Continue a text": {"model": "foundry-demo:1", "prompt": "Once upon a time"}}
    ),
)
async def create_completion(request: Request) -> Response:
    """Continue a text."""
    return await _answer(request, "/v1/completions", CompletionRequest)


@router.post(
    "/embeddings",
    responses={200: {"description": "One vector for each input, in order."}, **_ERRORS},
    openapi_extra=json_body(EmbeddingRequest, {"Embed": {"model": "an-embedding-model", "input": ["one", "two"]}}),
)
async def create_embedding(request: Request) -> Response:
    """Turn texts into vectors."""
    return await _answer(request, "/v1/embeddings", EmbeddingRequest)


async def _answer(
    request: Request, path: str, model: type[ChatCompletionRequest | CompletionRequest | EmbeddingRequest]
) -> Response:
    raw, parsed = await read_json(request)
    services = services_of(request)
    checked = validate(model, parsed)
    wish = wish_of(request, parsed)
    truncation = request.headers.get(TRUNCATION_HEADER)
    openai_request = OpenAIRequest(
        path, raw, parsed, checked, request_id_of(request), principal_of(request), wish, truncation
    )
    if openai_request.streams:
        source = services.inference.stream(openai_request)
        return EventStreamResponse(
            source,
            error_frame=error_frame,
            stopping=services.stopping,
            keepalive_s=services.settings.fastapi_server.keepalive_s,
            notice_s=services.settings.queue.notice_s,
            progress=wish.progress,
        )
    async with interruptible(request.receive, services.stopping):
        reply = await services.inference.complete(openai_request)
    response = JSONBytes(reply.body)
    if reply.notes is not NO_NOTES:
        response.raw_headers.extend(note_headers(reply.notes))
    return response
