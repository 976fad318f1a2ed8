"""The one place where a request is asked who sends it and whether it may: pure ASGI, before any route is reached."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_foundry.api.permissions import UNDECLARED, Rule, rule_for
from fastapi_foundry.api.problems import problem_response
from fastapi_foundry.errors import AuthenticationError, FoundryError, InsufficientScopeError
from fastapi_foundry.observability.context import user_id as user_id_variable
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.access import AccessService, Credentials

__all__ = ["CSRF_HEADER", "SESSION_COOKIE", "AccessControl", "comes_from_elsewhere", "session_cookie", "shown_key"]

logger = get_logger(__name__)

SESSION_COOKIE: Final = "foundry_session"
CSRF_HEADER: Final = "x-csrf-token"

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Whatever stands in front of us says with these that the request comes from elsewhere.
_FORWARDED: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"cf-connecting-ip"})


class AccessControl:
    """Finds out who asks, refuses who may not, and leaves the principal in the request's scope.

    Args:
        access: Knows the keys and sessions.
    """

    def __init__(self, app: ASGIApp, *, access: AccessService) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass or answer why not: here, inside of what adds the headers for other origins' pages."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._principal(scope, rule_for(scope["method"], scope["path"]))
        except FoundryError as fact:
            logger.warning("request refused", error=fact.message, code=fact.code, raw_path=scope["path"])
            await problem_response(scope["path"], fact)(scope, receive, send)
            return
        scope["principal"] = principal
        if principal is None or principal.key_id is None:
            await self._app(scope, receive, send)
            return
        token = user_id_variable.set(principal.key_id)
        try:
            await self._app(scope, receive, send)
        finally:
            user_id_variable.reset(token)

    async def _principal(self, scope: Scope, rule: Rule) -> Principal | None:
        """Who asks.

        Raises:
            AuthenticationError: It shows no key where one is needed, or a wrong one.
            ForbiddenError: Its key lacks the right, or a page sends it that must not.
            StorageError: Whether a key has changed cannot be found out.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        credentials = _credentials(headers)
        try:
            principal = await self._access.principal_for(credentials)
        except AuthenticationError:
            if not rule.public:
                raise
            principal = None  # a page must open for somebody whose key has expired, too
        if principal is None:
            if rule.public:
                return None
            raise AuthenticationError(
                "This server wants an API key: send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'."
            )
        # Who signs in again has a stale cookie perhaps, and no token; a foreign page's attempt ends at its origin.
        if principal.session and not rule.public and scope["method"] not in _SAFE_METHODS:
            await self._access.check_csrf(credentials, headers.get(CSRF_HEADER.encode(), b"").decode("latin-1"))
        if not rule.public and not principal.may_any(rule.scopes):
            _refuse(scope, rule, principal)
        return principal


def comes_from_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Whether something in front of this server handed the request on."""
    return not _FORWARDED.isdisjoint(headers)


def session_cookie(headers: Mapping[bytes, bytes]) -> str | None:
    """The session's secret that a browser sends along; None when there is none, or nothing that could be one."""
    raw = headers.get(b"cookie")
    if raw is None or SESSION_COOKIE.encode() not in raw:
        return None
    try:
        morsel = SimpleCookie(raw.decode("latin-1")).get(SESSION_COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None else None


def shown_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The key that a request shows; None where it shows none."""
    token = headers.get(b"x-api-key")
    if (given := headers.get(b"authorization")) is not None:
        kind, _, value = given.partition(b" ")
        if kind.lower() == b"bearer":
            token = value
    text = None if token is None else token.decode("latin-1").strip()
    return text or None


def _credentials(headers: Mapping[bytes, bytes]) -> Credentials:
    return Credentials(
        token=shown_key(headers),
        session=session_cookie(headers),
        from_elsewhere=comes_from_elsewhere(headers),
    )


def _refuse(scope: Scope, rule: Rule, principal: Principal) -> None:
    """Raise why ``principal`` may not; a path that nothing answers is left to the 404 that it deserves."""
    if rule is UNDECLARED and not _is_answered(scope):
        return
    wanted = " or ".join(f"'{scope_name}'" for scope_name in sorted(rule.scopes))
    has = ", ".join(f"'{scope_name}'" for scope_name in sorted(principal.scopes)) or "none"
    raise InsufficientScopeError(f"This takes the right {wanted}; the key '{principal.name}' has {has}.")


def _is_answered(scope: Scope) -> bool:
    application: Any = scope["app"]
    return any(route.matches(scope)[0] is Match.FULL for route in application.router.routes)
