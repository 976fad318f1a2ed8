"""The gateway's application and the process around it.

``create_app`` builds the application; ``serve`` binds the port and runs it until it is told to stop. The order
of the end: the port is closed and new work refused; what runs may finish for ``shutdown_timeout_s`` and is
then ended with a clear error; the engine's supervision ends, with what it started; the log is closed.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from fastapi_foundry import __version__
from fastapi_foundry.api.documentation import DESCRIPTION, TITLE, operation_id, use_own_openapi
from fastapi_foundry.api.hosts import HostRule
from fastapi_foundry.api.middleware import Guards, RequestContext
from fastapi_foundry.api.problems import register_problem_handlers
from fastapi_foundry.api.routes import all_routers
from fastapi_foundry.bootstrap import build_services
from fastapi_foundry.container import Services
from fastapi_foundry.engines.openai_http import require_reachable
from fastapi_foundry.engines.process import bind_first_free
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.observability.logging import configure_logging, get_logger
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.settings import Settings
from fastapi_foundry.web import mount_web

__all__ = ["create_app", "serve"]

logger = get_logger(__name__)

_KEEP_ALIVE_S: Final = 75  # longer than the idle time of common clients' pools, which then close first
_BACKSTOP_S: Final = 2.0  # what interrupted streams get to say their last words
_MAX_CONNECTIONS: Final = 4096
_WANTED_FILES: Final = 4 * _MAX_CONNECTIONS


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
    app.add_middleware(Guards, host_rule=HostRule(server.host), max_body_bytes=server.max_body_bytes)
    app.add_middleware(RequestContext)
    register_problem_handlers(app.exception_handlers)
    for router in all_routers():
        app.include_router(router)
    mount_web(app)
    use_own_openapi(app)
    return app


def serve(settings: Settings, ready: Callable[[str], None], *, config_path: Path | None = None) -> None:
    """Run the gateway in this thread until SIGINT or SIGTERM; blocks.

    Args:
        settings: Everything that can be set.
        ready: Called with the base URL, such as ``http://127.0.0.1:9696``, once connections are accepted.
        config_path: The configuration file in use, for a service that has to be started with the same.

    Raises:
        PortUnavailableError: When no port that the settings allow is free.
        ConfigurationError: When an engine that is required cannot be reached.
    """
    if settings.engines:
        asyncio.run(require_reachable(settings.engines, settings.foundry_ai))
    with _bind(settings) as sock:
        port = sock.getsockname()[1]
        with configure_logging(settings.logging, home=settings.home, process="gateway"):
            _allow_many_files()
            url = _url(settings.fastapi_server.host, port)
            services = build_services(settings, config_path=config_path)
            server = _Server(
                _uvicorn_config(create_app(settings, services), settings),
                stopping=services.stopping,
                grace_s=settings.fastapi_server.shutdown_timeout_s,
                ready=lambda: ready(url),
            )
            logger.info("gateway starting", version=__version__, port=port, url=url)
            server.run(sockets=[sock])
            logger.info("gateway stopped", version=__version__, port=port)


class _Server(uvicorn.Server):
    """Uvicorn's server that says when it is ready and tells the services when it has to end."""

    def __init__(
        self, config: uvicorn.Config, *, stopping: Stopping, grace_s: float, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._grace_s = grace_s
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn raises the signal again when it is done, which would end the process before the log is closed.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            # This runs between two bytecodes of whatever was running; the loop takes it from here.
            self._loop.call_soon_threadsafe(self._stopping.begin, self._grace_s)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    await services.engine.start()
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
        await services.engine.aclose()


async def _preload(services: Services) -> None:
    """Have the default model in memory before somebody asks for it; failing costs nothing but that."""
    model = services.settings.foundry_ai.default_model
    try:
        await services.engine.wait_ready(services.settings.foundry_service.start_timeout_s)
        await services.models.load(model)
    except FoundryError as fact:
        logger.warning("default model not preloaded", model_id=model, error=fact.message, code=fact.code)


def _bind(settings: Settings) -> socket.socket:
    server, ports = settings.fastapi_server, settings.port_management
    if ports.conflict_resolution == "fail" or not ports.auto_find_free_port:
        return bind_first_free(server.host, server.port, 1, 0)
    return bind_first_free(server.host, server.port, ports.port_range_start, ports.port_range_end)


def _allow_many_files() -> None:
    """Use as many file descriptors as the system lets us; every open stream takes two."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - does not exist on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _url(host: str, port: int) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared with, not bound to
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio" if sys.platform == "win32" else "uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.fastapi_server.shutdown_timeout_s + _BACKSTOP_S) + 1,
    )
