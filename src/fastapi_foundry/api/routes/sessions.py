"""A browser signs in with a key or a one-time link, and out again."""

from __future__ import annotations

from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import address_of, known_principal_of, principal_of, services_of
from fastapi_foundry.api.access_control import SESSION_COOKIE, comes_from_elsewhere, session_cookie
from fastapi_foundry.api.bodies import read_json
from fastapi_foundry.api.documentation import json_body, native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.security.sessions import Session
from fastapi_foundry.wire.keys import SessionInfo, SessionLink, SignInBody
from fastapi_foundry.wire.times import shown_time
from fastapi_foundry.wire.validation import validate

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/session", tags=["Session"])

_NO_STORE: Final = {"cache-control": "no-store"}
_SECOND_US: Final = 1_000_000


@router.get("", response_model=SessionInfo, responses=native_errors(503))
async def get_session(request: Request) -> Response:
    """Whether this browser is signed in, and whether it has to be."""
    services = services_of(request)
    session = await services.access.session_of(session_cookie(dict(request.scope["headers"])))
    return _answer(_info(request, known_principal_of(request), session))


@router.post(
    "",
    response_model=SessionInfo,
    responses=native_errors(400, 401, 413, 503),
    openapi_extra=json_body(SignInBody, {"With a key": {"key": "ffk_..."}, "With a one-time link": {"link": "..."}}),
)
async def sign_in(request: Request) -> Response:
    """Open a session for this browser: a cookie that pages of other origins cannot use, and that scripts cannot read."""
    _, parsed = await read_json(request)
    body = validate(SignInBody, parsed)
    if (body.key is None) == (body.link is None):
        raise InvalidInputError("Send either 'key' or 'link'.", param="key")
    sessions, address = services_of(request).sessions, address_of(request)
    opened = await (sessions.open(body.key, address) if body.key else sessions.redeem(body.link or "", address))
    response = _answer(_info(request, opened.principal, opened.session))
    age_s = (opened.session.expires_at - opened.session.created_at) // _SECOND_US
    response.set_cookie(
        SESSION_COOKIE,
        opened.secret,
        max_age=age_s,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.delete("", response_model=SessionInfo, responses=native_errors(503))
async def sign_out(request: Request) -> Response:
    """End this browser's session."""
    await services_of(request).sessions.close(session_cookie(dict(request.scope["headers"])))
    response = _answer(_info(request, None, None))
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return response


@router.post("/links", response_model=SessionLink, status_code=201, responses=native_errors(400, 413, 503))
async def create_link(request: Request) -> Response:
    """Make a link that signs a browser in, once, within ten minutes, with the rights of the key that asks for it."""
    link, session = await services_of(request).sessions.make_link(principal_of(request), address_of(request))
    # Behind the number sign, so that it reaches no server and no log.
    body = {"success": True, "path": f"/#link={link}", "expires_at": shown_time(session.expires_at)}
    return JSONBytes(orjson.dumps(body), 201, _NO_STORE)


def _info(request: Request, principal: Principal | None, session: Session | None) -> dict[str, Any]:
    from_elsewhere = comes_from_elsewhere(dict(request.scope["headers"]))
    demands = services_of(request).access.policy.demands_key(from_elsewhere=from_elsewhere)
    known = principal is not None and (session is not None or not demands)
    return {
        "signed_in": known,
        "needed": demands,
        "name": principal.name if principal is not None and known else None,
        "scopes": sorted(principal.scopes) if principal is not None and known else [],
        "csrf": session.csrf if session is not None else None,
        "expires_at": shown_time(session.expires_at) if session is not None else None,
    }


def _answer(body: dict[str, Any]) -> Response:
    return JSONBytes(orjson.dumps(body), headers=_NO_STORE)
