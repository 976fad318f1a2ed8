"""How a route gets at the services and at its request's id."""

from __future__ import annotations

import time
from typing import cast

from starlette.requests import Request

from fastapi_foundry.container import Services
from fastapi_foundry.errors import AuthenticationError, StorageError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.storage.audit import AuditEntry

__all__ = ["address_of", "audit", "known_principal_of", "principal_of", "request_id_of", "services_of"]

logger = get_logger(__name__)


def services_of(request: Request) -> Services:
    """The services of the application that handles ``request``."""
    return cast("Services", request.app.state.services)


def request_id_of(request: Request) -> str:
    """The id that the middleware gave to ``request``."""
    return cast("str", request.scope["request_id"])


def known_principal_of(request: Request) -> Principal | None:
    """Who asks; None where nobody needs to be known."""
    return cast("Principal | None", request.scope["principal"])


def principal_of(request: Request) -> Principal:
    """Who asks; access control has let nobody else come this far.

    Raises:
        AuthenticationError: Nobody is known, so the route is declared as one for everybody by mistake.
    """
    principal = known_principal_of(request)
    if principal is None:
        raise AuthenticationError("This takes an API key.")
    return principal


def address_of(request: Request) -> str:
    """The client's address as the server sees it."""
    return request.client.host if request.client is not None else ""


async def audit(request: Request, action: str, target: str) -> None:
    """Put an administrative act of ``request`` that changes nothing in the database into the audit log.

    A database that cannot be written is logged and does not undo the act, which has happened.
    """
    actor = principal_of(request).key_id or "local"
    entry = AuditEntry(time.time_ns() // 1000, actor, action, target, {}, address_of(request), request_id_of(request))
    try:
        await services_of(request).audit.add(entry)
    except StorageError as fact:
        logger.error("act not audited", action=action, target=target, actor=actor, error=fact.message)  # noqa: TRY400 - no trace: the fact says it
