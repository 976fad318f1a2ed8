"""The gateway's application; ``server`` has the process around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from fastapi_foundry import __version__
from fastapi_foundry.api.access_control import AccessControl
from fastapi_foundry.api.body_memory import BodyMemory
from fastapi_foundry.api.documentation import DESCRIPTION, TITLE, operation_id, use_own_openapi
from fastapi_foundry.api.hosts import HostRule
from fastapi_foundry.api.limits import Limits
from fastapi_foundry.api.middleware import Guards, RequestContext
from fastapi_foundry.api.problems import register_problem_handlers
from fastapi_foundry.api.routes import all_routers
from fastapi_foundry.api.routes.openai_files import UPLOAD_PATH
from fastapi_foundry.bootstrap import build_services
from fastapi_foundry.container import Services
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.settings import Settings
from fastapi_foundry.web import mount_web

__all__ = ["create_app"]

logger = get_logger(__name__)

_PREFLIGHT_S: Final = 600
_FORM_BYTES: Final = 65_536  # of the form around an uploaded file
_EXPOSED_HEADERS: Final = (
    "x-request-id",
    "x-foundry-engine",
    "x-foundry-altered",
    "x-foundry-fallback",
    "x-foundry-queue-ms",
    "x-foundry-truncated",
    "x-foundry-cache",
    "age",
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)


def create_app(settings: Settings, services: Services | None = None, *, config_path: Path | None = None) -> FastAPI:
    """Build the gateway's application; nothing is started before its lifespan begins.

    Args:
        settings: Everything that can be set.
        services: Other services than ``bootstrap`` builds from ``settings``.
        config_path: The configuration file in use, for a service that has to be started with the same.
    """
    services = services or build_services(settings, config_path=config_path)
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        # Else FastAPI would send what it sees to wherever the environment points, unasked and unmasked.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.services = services
    server = settings.fastapi_server
    # The last one added is the outermost.
    security = settings.security
    uploads = {UPLOAD_PATH: settings.batches.max_file_bytes + _FORM_BYTES}
    app.add_middleware(BodyMemory, limit_bytes=settings.http_limits.max_held_body_bytes, uploads=uploads)
    app.add_middleware(Limits, limits=services.limits)
    app.add_middleware(AccessControl, access=services.access)
    if security.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=security.allowed_origins,
            allow_credentials=security.allow_credentials,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
            max_age=_PREFLIGHT_S,
        )
    app.add_middleware(
        Guards,
        host_rule=HostRule(server.host, security.allowed_hosts),
        allowed_origins=frozenset(security.allowed_origins),
        max_body_bytes=server.max_body_bytes,
        upload_bytes=uploads,
        via=services.via,
    )
    app.add_middleware(RequestContext)
    register_problem_handlers(app.exception_handlers)
    for router in all_routers():
        app.include_router(router)
    mount_web(app)
    use_own_openapi(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    try:
        await services.database.open()
    except FoundryError as fact:
        app.state.start_failure = fact
        raise
    for service in (services.usage, services.limits, services.upkeep):
        await service.start()
    await services.engine.start()
    await services.batch_worker.start()
    preload = asyncio.create_task(_preload(services)) if services.settings.foundry_ai.preload else None
    try:
        yield
    finally:
        if not services.stopping.begun:
            services.stopping.begin(0.0)
        if preload is not None:
            preload.cancel()
            with suppress(asyncio.CancelledError):
                await preload
        await services.batch_worker.aclose()
        await services.engine.aclose()
        for service in (services.limits, services.usage, services.upkeep):
            await service.aclose()
        services.access.close()
        await services.database.aclose()


async def _preload(services: Services) -> None:
    """Have the default model in memory before somebody asks for it; failing costs nothing but that."""
    model = services.settings.foundry_ai.default_model
    try:
        await services.engine.wait_ready(services.settings.foundry_service.start_timeout_s)
        await services.models.load(model)
    except FoundryError as fact:
        logger.warning("default model not preloaded", model_id=model, error=fact.message, code=fact.code)
