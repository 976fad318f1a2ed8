"""The native generation routes."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import principal_of, request_id_of, services_of
from fastapi_foundry.api.bodies import read_json
from fastapi_foundry.api.documentation import event_stream, json_body, native_errors
from fastapi_foundry.api.event_stream import EventStreamResponse
from fastapi_foundry.api.interruption import interruptible
from fastapi_foundry.api.limits import ticket_of
from fastapi_foundry.api.notes import note_headers
from fastapi_foundry.api.problems import JSONBytes, native_problem
from fastapi_foundry.api.wishes import wish_of
from fastapi_foundry.container import Services
from fastapi_foundry.engines.base import NotedStream
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.inference import GenerationEnd, GenerationPiece
from fastapi_foundry.services.turns import Wish
from fastapi_foundry.wire.native import BatchRequest, BatchResult, GenerateRequest, GenerateResult
from fastapi_foundry.wire.sse import encode_json
from fastapi_foundry.wire.validation import validate

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["Generation"])

_DIGITS: Final = 6
_ERRORS: Final = native_errors(400, 404, 408, 413, 429, 502, 503)
_STREAMED: Final = (
    'The text with its usage; with `stream` frames `{"content"}`, then one with `"done": true`, or one `{"error"}`.'
)


@router.post(
    "/generate",
    responses=event_stream(_STREAMED, GenerateResult) | _ERRORS,
    openapi_extra=json_body(
        GenerateRequest,
        {"Generate": {"prompt": "What are you?"}, "Generate a stream": {"prompt": "What are you?", "stream": True}},
    ),
)
async def generate(request: Request) -> Response:
    """Generate a text from a prompt."""
    _, parsed = await read_json(request)
    checked = validate(GenerateRequest, parsed)
    services, request_id, principal = services_of(request), request_id_of(request), principal_of(request)
    wish = wish_of(request, parsed)
    if checked.stream:
        return EventStreamResponse(
            _generation_frames(services, checked, request_id, principal, wish),
            error_frame=_error_frame,
            stopping=services.stopping,
            keepalive_s=services.settings.fastapi_server.keepalive_s,
            notice_s=services.settings.queue.notice_s,
            progress=wish.progress,
        )
    async with interruptible(request.receive, services.stopping):
        end = await services.inference.generate(checked, request_id=request_id, principal=principal, wish=wish)
    response = JSONBytes(orjson.dumps(_result(end) | {"request_id": request_id}))
    response.raw_headers.extend(note_headers(end.notes))
    return response


@router.post(
    "/generate/batch",
    response_model=BatchResult,
    responses=native_errors(400, 413, 429, 503),
    openapi_extra=json_body(
        BatchRequest, {"Two prompts": {"prompts": ["What are you?", {"prompt": "Say more.", "max_tokens": 20}]}}
    ),
)
async def generate_batch(request: Request) -> Response:
    """Generate texts from several prompts; results in order, an error for each item that failed."""
    _, parsed = await read_json(request)
    items = validate(BatchRequest, parsed).items()
    services, request_id = services_of(request), request_id_of(request)
    begun = time.perf_counter()
    async with interruptible(request.receive, services.stopping):
        outcomes = await services.batches.generate(
            items, request_id=request_id, principal=principal_of(request), ticket=ticket_of(request)
        )
    failed = sum(not isinstance(outcome, GenerationEnd) for outcome in outcomes)
    body = {
        "success": failed == 0,
        "results": [
            {"index": index}
            | (
                _result(outcome)
                if isinstance(outcome, GenerationEnd)
                else {"success": False, **native_problem(outcome)}
            )
            for index, outcome in enumerate(outcomes)
        ],
        "count": len(outcomes),
        "failed": failed,
        "duration": round(time.perf_counter() - begun, _DIGITS),
        "request_id": request_id,
    }
    return JSONBytes(orjson.dumps(body))


@asynccontextmanager
async def _generation_frames(
    services: Services, checked: GenerateRequest, request_id: str, principal: Principal, wish: Wish
) -> AsyncIterator[NotedStream]:
    async with (
        services.inference.generate_stream(checked, request_id=request_id, principal=principal, wish=wish) as pieces,
        aclosing(_frames(pieces, request_id)) as frames,
    ):
        yield NotedStream(frames, {}, pieces.notes)


async def _frames(
    pieces: AsyncIterable[GenerationPiece | GenerationEnd], request_id: str
) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        if isinstance(piece, GenerationPiece):
            yield encode_json({"content": piece.content})
        else:
            end = _result(piece)
            del end["success"], end["content"]
            yield encode_json({"done": True, **end, "request_id": request_id})


def _result(end: GenerationEnd) -> dict[str, Any]:
    return {
        "success": True,
        "content": end.content,
        "model": end.model,
        "usage": end.usage,
        "finish_reason": end.finish_reason,
        "duration": round(end.duration, _DIGITS),
    }


def _error_frame(fact: BaseException) -> bytes:
    return encode_json({"error": native_problem(fact)})
