"""How a route gets at the services and at its request's id."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request

from fastapi_foundry.container import Services

__all__ = ["request_id_of", "services_of"]


def services_of(request: Request) -> Services:
    """The services of the application that handles ``request``."""
    return cast("Services", request.app.state.services)


def request_id_of(request: Request) -> str:
    """The id that the middleware gave to ``request``."""
    return cast("str", request.scope["request_id"])
