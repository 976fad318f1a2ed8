"""The native model routes: the list with states, load and unload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import audit, principal_of, services_of
from fastapi_foundry.api.documentation import native_errors
from fastapi_foundry.api.interruption import interruptible
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.errors import ModelNotFoundError
from fastapi_foundry.services.model_access import allows_card, require_allowed, unseen
from fastapi_foundry.wire.native import ModelOperation, NativeModelList

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/models", tags=["Models"])

_ERRORS: Final = native_errors(400, 404, 408, 413, 429, 502, 503)


@router.get("", response_model=NativeModelList, responses=native_errors(408, 502, 503))
async def list_native_models(request: Request) -> Response:
    """Every usable model with its state, as far as the key at hand is for it."""
    principal, cards = principal_of(request), await services_of(request).models.cards()
    models = [_entry(card) for card in cards if allows_card(principal, card)]
    return JSONBytes(orjson.dumps({"success": True, "models": models, "count": len(models)}))


@router.post("/{model_id:path}/load", response_model=ModelOperation, responses=_ERRORS)
async def load_model(request: Request, model_id: str) -> Response:
    """Load a model and wait until it is ready."""
    return await _operation(request, "model.load", model_id, services_of(request).models.load)


@router.post("/{model_id:path}/unload", response_model=ModelOperation, responses=_ERRORS)
async def unload_model(request: Request, model_id: str) -> Response:
    """Unload a model and wait until its memory is returned."""
    return await _operation(request, "model.unload", model_id, services_of(request).models.unload)


async def _operation(
    request: Request, action: str, model_id: str, operate: Callable[[str], Awaitable[dict[str, Any]]]
) -> Response:
    services, principal = services_of(request), principal_of(request)
    require_allowed(principal, model_id, services.models.last_known)
    async with interruptible(request.receive, services.stopping):
        try:
            answer = await operate(model_id)
        except ModelNotFoundError as fact:
            raise unseen(fact, principal, model_id) from None
    await audit(request, action, model_id)
    return JSONBytes(orjson.dumps({"success": True, "model": model_id, "status": "done"} | answer))


def _entry(card: ModelCard) -> dict[str, Any]:
    own = {"id": card.id, "state": card.state, "owned_by": card.owned_by, "created": card.created}
    return own | {key: value for key, value in card.extra.items() if key not in own}
