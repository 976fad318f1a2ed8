"""OpenAI's model list."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import principal_of, services_of
from fastapi_foundry.api.documentation import openai_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.errors import ModelNotFoundError
from fastapi_foundry.services.model_access import allows_card, require_allowed, unseen
from fastapi_foundry.wire.openai import Model, ModelList, model_entry

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.get("/models", response_model=ModelList, responses=openai_errors(502, 503, 504))
async def list_models(request: Request) -> Response:
    """Every model that can be used now, with the key at hand."""
    principal, cards = principal_of(request), await services_of(request).models.cards()
    seen = [_entry(card) for card in cards if allows_card(principal, card)]
    return JSONBytes(orjson.dumps({"object": "list", "data": seen}))


@router.get("/models/{model_id:path}", response_model=Model, responses=openai_errors(404, 502, 503, 504))
async def retrieve_model(request: Request, model_id: str) -> Response:
    """One model, by its id or alias."""
    principal = principal_of(request)
    try:
        card = await services_of(request).models.get(model_id)
    except ModelNotFoundError as fact:
        raise unseen(fact, principal, model_id) from None
    require_allowed(principal, model_id, [card])
    return JSONBytes(orjson.dumps(_entry(card)))


def _entry(card: ModelCard) -> dict[str, Any]:
    return model_entry(card.id, card.created, card.owned_by, card.state, card.extra)
