"""The gateway's application over a real socket in this process, with whatever engine a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from fastapi_foundry.app import create_app
from fastapi_foundry.bootstrap import build_services
from fastapi_foundry.container import Services
from fastapi_foundry.engines.base import Engine
from fastapi_foundry.engines.process import bind_first_free
from fastapi_foundry.engines.router import Router
from fastapi_foundry.server.express_desk import express_desk
from fastapi_foundry.server.running import GatewayServer
from fastapi_foundry.settings import FOUNDRY, Settings, load_settings
from tests.support.fake_engine import FakeEngine

__all__ = ["RunningGateway", "gateway_settings", "running_gateway"]


@dataclass
class RunningGateway:
    url: str
    services: Services
    client: httpx2.AsyncClient

    @property
    def engine(self) -> FakeEngine:
        assert isinstance(self.services.engine, Router)
        engine = self.services.engine.engines[FOUNDRY].engine
        assert isinstance(engine, FakeEngine)
        return engine

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def gateway_settings(home: Path, **overrides: object) -> Settings:
    """Settings that read nothing of this machine; ``fastapi_server__port=1`` sets ``fastapi_server.port``."""
    dotted: Mapping[str, object] = {key.replace("__", "."): value for key, value in overrides.items()}
    environ = {"FOUNDRY_HOME": str(home), "HOME": str(home)}
    return load_settings(None, environ, {"foundry_ai.default_model": "m:1", "foundry_ai.preload": False, **dotted})


@asynccontextmanager
async def running_gateway(
    home: Path, engine: Engine | None = None, *, port: int = 0, **overrides: object
) -> AsyncIterator[RunningGateway]:
    """Serve the application on that port of loopback, any free one for 0, until the block is left.

    The engine is a fake one unless another is given, or the address of one (``foundry_ai__base_url``).
    """
    settings = gateway_settings(home, **overrides)
    services = build_services(
        settings, engine=engine or (None if "foundry_ai__base_url" in overrides else FakeEngine())
    )
    desk = express_desk(services.express, services.limits, settings)
    server = GatewayServer(
        create_app(settings, services), settings, stopping=services.stopping, ready=lambda: None, desk=desk
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    with bind_first_free("127.0.0.1", port, 1, 0) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        # Uvicorn's own main loop would add two waits of 0.1 s to every test, and take the tests' signals.
        await server.startup(sockets=[sock])
        try:
            async with httpx2.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
                yield RunningGateway(url, services, client)
        finally:
            server.bounds.stop()
            for listener in server.servers:
                listener.close()
            for connection in list(server.server_state.connections):
                connection.transport.close()
            if server.server_state.tasks:
                await asyncio.wait(list(server.server_state.tasks), timeout=2)
            await server.lifespan.shutdown()
