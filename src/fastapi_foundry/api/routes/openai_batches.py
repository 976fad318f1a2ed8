"""OpenAI's Batch API: many requests in a file, run in the background."""

from __future__ import annotations

from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import principal_of, services_of
from fastapi_foundry.api.bodies import read_json
from fastapi_foundry.api.documentation import json_body, openai_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.services.batch_jobs import BatchWanted
from fastapi_foundry.storage.batches import BatchRecord
from fastapi_foundry.wire.batches import BatchList, BatchObject, CreateBatchBody
from fastapi_foundry.wire.files import page_of
from fastapi_foundry.wire.validation import validate

__all__ = ["router"]

router = APIRouter(prefix="/v1/batches", tags=["OpenAI"])

_EXAMPLES: Final = {
    "Answer a file of conversations": {
        "input_file_id": "file-0d37580dfb074bb19959e7a912e6d4f3",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
}
_TIMES: Final = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_SECOND_US: Final = 1_000_000
_ONE: Final = openai_errors(404, 503)


@router.post(
    "",
    response_model=BatchObject,
    responses=openai_errors(400, 404, 413, 503),
    openapi_extra=json_body(CreateBatchBody, _EXAMPLES),
    name="create_batch",
)
async def create_batch(request: Request) -> Response:
    """Have the requests of an uploaded file run."""
    _, parsed = await read_json(request)
    body = validate(CreateBatchBody, parsed)
    expires = body.output_expires_after
    keep_s = None if expires is None else expires.seconds
    wanted = BatchWanted(body.input_file_id, body.endpoint, body.metadata, keep_s)
    return _json(_shown(await services_of(request).batch_jobs.create(principal_of(request), wanted)))


@router.get("", response_model=BatchList, responses=openai_errors(400, 404, 503), name="list_batches")
async def list_batches(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """Your batches, the newest first; behind `after` where that is given."""
    found, has_more = await services_of(request).batch_jobs.page(principal_of(request), limit=limit, after=after)
    return _json(page_of([_shown(batch) for batch in found], has_more=has_more))


@router.get("/{batch_id}", response_model=BatchObject, responses=_ONE, name="get_batch")
async def get_batch(request: Request, batch_id: str) -> Response:
    """How far a batch is."""
    return _json(_shown(await services_of(request).batch_jobs.get(principal_of(request), batch_id)))


@router.post(
    "/{batch_id}/cancel", response_model=BatchObject, responses=openai_errors(400, 404, 503), name="cancel_batch"
)
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """End a batch; what is done by then is in its files."""
    return _json(_shown(await services_of(request).batch_jobs.cancel(principal_of(request), batch_id)))


def _shown(batch: BatchRecord) -> dict[str, Any]:
    prompt, completion = batch.prompt_tokens, batch.completion_tokens
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at // _SECOND_US,
        "expires_at": batch.expires_at // _SECOND_US,
        **{f"{name}_at": _seconds(getattr(batch, f"{name}_at")) for name in _TIMES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        },
        "metadata": batch.metadata,
    }


def _seconds(at_us: int | None) -> int | None:
    return None if at_us is None else at_us // _SECOND_US


def _json(body: Any) -> Response:
    return JSONBytes(orjson.dumps(body))
