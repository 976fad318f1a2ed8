"""The native catalogue routes: what can be downloaded, a download with its progress, and its end before its time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import audit, principal_of, services_of
from fastapi_foundry.api.documentation import event_stream, native_errors
from fastapi_foundry.api.event_stream import EventStreamResponse
from fastapi_foundry.api.interruption import interruptible
from fastapi_foundry.api.problems import JSONBytes, native_problem
from fastapi_foundry.engines.catalog import CatalogModel, CatalogSource, DownloadProgress
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.model_access import require_allowed
from fastapi_foundry.wire.native import ModelCatalog, ModelOperation
from fastapi_foundry.wire.sse import encode_json

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/models", tags=["Models"])

_DIGITS: Final = 1
_ERRORS: Final = native_errors(400, 404, 408, 413, 429, 502, 503)
_STREAMED: Final = (
    'A stream of frames `{"event": "progress", "percent"}`, then one `{"event": "done", "model"}` or one `{"error"}`.'
)


@router.get("/catalog", response_model=ModelCatalog, responses=native_errors(400))
async def list_catalog(
    request: Request,
    refresh: Annotated[bool, Query(description="Wait up to 20 seconds for news of the network.")] = False,  # noqa: FBT002 - a query parameter
) -> Response:
    """What can be downloaded, on this machine already or not, and how current that knowledge is."""
    services = services_of(request)
    async with interruptible(request.receive, services.stopping):
        catalog = await services.models.catalog(refresh=refresh)
    principal = principal_of(request)
    models = [_model(model) for model in catalog.models if _may_see(principal, model)]
    body = {
        "success": True,
        "models": models,
        "count": len(models),
        "sources": [_source(source) for source in catalog.sources],
    }
    return JSONBytes(orjson.dumps(body))


@router.post(
    "/{model_id:path}/download",
    status_code=200,
    response_class=Response,
    responses=event_stream(_STREAMED, answers_json=False) | _ERRORS,
)
async def download_model(request: Request, model_id: str) -> Response:
    """Download a model and watch it come; `engine::model` says which engine shall, Foundry Local otherwise.

    With our own service the download goes on when the client leaves, and asking again joins it.
    """
    services = services_of(request)
    require_allowed(principal_of(request), model_id, services.models.last_known)
    return EventStreamResponse(
        _download_frames(request, model_id),
        error_frame=_error_frame,
        stopping=services.stopping,
        keepalive_s=services.settings.fastapi_server.keepalive_s,
    )


@router.post("/{model_id:path}/download/cancel", response_model=ModelOperation, responses=_ERRORS)
async def cancel_download(request: Request, model_id: str) -> Response:
    """End a download; answers when it has ended."""
    services = services_of(request)
    require_allowed(principal_of(request), model_id, services.models.last_known)
    async with interruptible(request.receive, services.stopping):
        answer = await services.models.cancel_download(model_id)
    await audit(request, "model.download.cancel", model_id)
    return JSONBytes(orjson.dumps({"success": True, "status": "cancelled"} | answer | {"model": model_id}))


@asynccontextmanager
async def _download_frames(request: Request, model_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
    async with (
        services_of(request).models.download(model_id) as progress,
        aclosing(_frames(progress)) as frames,
    ):
        await audit(request, "model.download", model_id)
        yield frames


async def _frames(progress: AsyncIterator[DownloadProgress]) -> AsyncGenerator[bytes, None]:
    async for step in progress:
        if step.model:
            yield encode_json({"event": "done", "model": step.model})
        else:
            yield encode_json({"event": "progress", "percent": round(step.percent, _DIGITS)})


def _error_frame(fact: BaseException) -> bytes:
    return encode_json({"error": native_problem(fact)})


def _model(model: CatalogModel) -> dict[str, Any]:
    own = {"id": model.id, "engine": model.engine, "state": model.state, "percent": model.percent}
    return own | {key: value for key, value in model.extra.items() if key not in own}


def _may_see(principal: Principal, model: CatalogModel) -> bool:
    alias = model.extra.get("alias")
    return principal.allows_model(model.id, alias) if isinstance(alias, str) else principal.allows_model(model.id)


def _source(source: CatalogSource) -> dict[str, Any]:
    return {
        "engine": source.engine,
        "status": source.status,
        "fetched_at": source.fetched_at,
        "reason": source.reason,
    }
