"""API keys: made, listed, rotated, revoked."""

from __future__ import annotations

import time
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import address_of, principal_of, services_of
from fastapi_foundry.api.bodies import read_json
from fastapi_foundry.api.documentation import json_body, native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.security.keys import ApiKey, KeyLimits
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest, NewKey
from fastapi_foundry.wire.keys import CreatedKey, KeyInfo, KeyList, NewKeyBody, RotateKeyBody
from fastapi_foundry.wire.validation import validate

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/keys", tags=["Keys"])

_ERRORS: Final = native_errors(400, 404, 413, 503)
_CREATED: Final = 201
_NO_STORE: Final = {"cache-control": "no-store"}
_EXAMPLES: Final = {
    "For an application": {"name": "notes app", "scopes": ["chat"], "expires_in_s": 7776000},
    "With limits": {
        "name": "guest",
        "scopes": ["chat"],
        "allowed_models": ["foundry-demo*"],
        "limits": {"requests_per_minute": 20, "tokens_per_day": 100000},
    },
}


@router.get("", response_model=KeyList, responses=native_errors(503))
async def list_keys(request: Request) -> Response:
    """Every key, the newest first; the text of none is known."""
    keys = [_shown(key) for key in await services_of(request).keys.list_keys()]
    return JSONBytes(orjson.dumps({"success": True, "keys": keys, "count": len(keys)}))


@router.get("/{key_id}", response_model=KeyInfo, responses=native_errors(404, 503))
async def get_key(request: Request, key_id: str) -> Response:
    """One key."""
    return JSONBytes(orjson.dumps(_shown(await services_of(request).keys.get(key_id))))


@router.post(
    "",
    status_code=_CREATED,
    response_model=CreatedKey,
    responses=native_errors(400, 413, 503),
    openapi_extra=json_body(NewKeyBody, _EXAMPLES),
)
async def create_key(request: Request) -> Response:
    """Make a key. Its text is in this answer and nowhere else."""
    _, parsed = await read_json(request)
    body = validate(NewKeyBody, parsed)
    wanted = KeyRequest(
        name=body.name,
        scopes=frozenset(Scope(name) for name in body.scopes),
        expires_in_s=body.expires_in_s,
        allowed_models=_names(body.allowed_models),
        allowed_tools=_names(body.allowed_tools),
        allowed_stores=_names(body.allowed_stores),
        limits=KeyLimits(**body.limits.model_dump()),
    )
    made = await services_of(request).keys.create(wanted, actor=_actor(request), address=address_of(request))
    return _shown_once(made)


@router.post(
    "/{key_id}/rotate",
    status_code=_CREATED,
    response_model=CreatedKey,
    responses=_ERRORS,
    openapi_extra=json_body(RotateKeyBody, {"With a day to exchange it": {"grace_s": 86400}}),
)
async def rotate_key(request: Request, key_id: str) -> Response:
    """Make a key like this one, which ends at once or after `grace_s` seconds."""
    _, parsed = await read_json(request)
    grace_s = validate(RotateKeyBody, parsed).grace_s
    keys = services_of(request).keys
    return _shown_once(await keys.rotate(key_id, grace_s=grace_s, actor=_actor(request), address=address_of(request)))


@router.post("/{key_id}/revoke", response_model=KeyInfo, responses=_ERRORS)
async def revoke_key(request: Request, key_id: str) -> Response:
    """End a key and its sessions; its next request is refused, whichever process it reaches."""
    key = await services_of(request).keys.revoke(key_id, actor=_actor(request), address=address_of(request))
    return JSONBytes(orjson.dumps(_shown(key)))


def _shown(key: ApiKey) -> dict[str, Any]:
    return key.shown(time.time_ns() // 1000)


def _shown_once(made: NewKey) -> Response:
    body = {"success": True, "key": made.text} | _shown(made.key)
    return JSONBytes(orjson.dumps(body), _CREATED, _NO_STORE)


def _actor(request: Request) -> str:
    return principal_of(request).key_id or "local"


def _names(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
