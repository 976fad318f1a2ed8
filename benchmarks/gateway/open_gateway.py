"""The same gateway with nobody asked who he is, nothing limited and nothing recorded: what ``access_cost`` compares with.

It is started like ``fastapi-foundry serve --json --port 0``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_foundry import app as application
from fastapi_foundry import bootstrap
from fastapi_foundry.api.access_control import AccessControl
from fastapi_foundry.api.limits import Limits
from fastapi_foundry.cli.main import main
from fastapi_foundry.container import Services
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.server import running
from fastapi_foundry.services.access import AccessService, Recognition
from fastapi_foundry.services.inference import InferenceDefaults, InferenceService
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.settings import Settings


class Everybody:
    """Takes everybody for somebody on this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["principal"] = LOCAL
        await self._app(scope, receive, send)


class OpenAccess(AccessService):
    """Does so on the express way."""

    def __init__(self) -> None:
        pass

    def recognise(self, token: str | None, *, from_elsewhere: bool) -> Recognition:
        del token, from_elsewhere
        return Recognition(LOCAL)

    def still_knows(self, recognition: Recognition) -> bool:
        del recognition
        return True


class NoLimits(LimitsService):
    """Limits nobody."""

    def __init__(self) -> None:
        pass

    def apply_to(self, principal: Principal) -> bool:
        del principal
        return False


def build_services(settings: Settings, **more: Any) -> Services:
    services = bootstrap.build_services(settings, **more)
    ai = settings.foundry_ai
    defaults = InferenceDefaults(model=ai.default_model, temperature=ai.temperature, max_tokens=ai.max_tokens)
    inference = InferenceService(services.engine, services.models, defaults)
    express = services.express
    express._access, express._limits = OpenAccess(), NoLimits()  # noqa: SLF001 - nothing else is to differ
    express._generations = inference.generations  # noqa: SLF001 - as above
    return replace(services, inference=inference)


def create_app(settings: Settings, services: Services) -> ASGIApp:
    app = application.create_app(settings, services)
    kept = [each for each in app.user_middleware if each.cls is not Limits]
    app.user_middleware = [Middleware(Everybody) if each.cls is AccessControl else each for each in kept]
    return app


if __name__ == "__main__":
    running.build_services = build_services
    running.create_app = create_app
    sys.argv[1:] = ["serve", "--json", "--port", "0"]  # started in the same way, since imports have their price, too
    main()
