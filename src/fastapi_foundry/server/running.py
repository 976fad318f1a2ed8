"""The process around the application: binding the port, serving until told to stop, the order of the end.

The order: the port is closed and new work refused; what runs may finish for ``shutdown_timeout_s`` and is then
ended with a clear error; the engine's supervision ends, with what it started; the log is closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.server import HANDLED_SIGNALS

from fastapi_foundry.app import create_app
from fastapi_foundry.bootstrap import access_policy, build_services
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.server.connections import Connections, Seat
from fastapi_foundry.server.express import ExpressProtocol
from fastapi_foundry.server.express_desk import ExpressDesk, express_desk
from fastapi_foundry.server.protocol import BoundedProtocol
from fastapi_foundry.server.tls import CertificateFiles
from fastapi_foundry.server.tls_listener import TlsListener
from fastapi_foundry.services.access import AccessService
from fastapi_foundry.services.first_key import ensure_first_key
from fastapi_foundry.services.keys import KeysService, NewKey
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.settings import Settings
from fastapi_foundry.storage.database import open_database

__all__ = ["GatewayServer", "run"]

logger = get_logger(__name__)

_BACKSTOP_S: Final = 2.0  # what interrupted streams get to say their last words
# What the system holds of an answer beyond what is on its way: 3.5 MB were measured otherwise, for each client that
# does not read, and as much has to be read before it counts as progress.
_UNSENT_BYTES: Final = 131_072


async def run(
    settings: Settings,
    sock: socket.socket,
    *,
    foundry: FoundryLocalEngine,
    ready: Callable[[], None],
    certificate: CertificateFiles | None = None,
    show_key: Callable[[NewKey], None] | None = None,
) -> None:
    """Serve the application until SIGINT or SIGTERM.

    Args:
        settings: Everything that can be set.
        sock: Listens already.
        foundry: Started already, or not; it is closed at the end.
        ready: Called once connections are accepted.
        certificate: With it connections speak TLS.
        show_key: As for ``launch.serve``, which has the errors too.
    """
    await _ensure_first_key(settings, show_key)
    services = build_services(settings, foundry=foundry)
    app = create_app(settings, services)
    server = GatewayServer(
        app,
        settings,
        stopping=services.stopping,
        ready=ready,
        certificate=certificate,
        failure=lambda: getattr(app.state, "start_failure", None),
        desk=express_desk(services.express, services.limits, settings),
    )
    await server.serve(sockets=[sock])


async def _ensure_first_key(settings: Settings, show: Callable[[NewKey], None] | None) -> None:
    """Make the first admin key where one is needed, before anybody can ask for anything."""
    policy = access_policy(settings)
    if policy.admin_key is not None or not policy.demands_key(from_elsewhere=False):
        return
    database = await open_database(settings)
    try:
        store = KeyStore(database)
        await ensure_first_key(AccessService(store, policy), KeysService(store), show)
    finally:
        await database.aclose()


class GatewayServer(uvicorn.Server):
    """Uvicorn's server with bounded connections, which says when it is ready and when it has to end.

    Args:
        app: The application.
        settings: Everything that can be set.
        stopping: Told when the end begins.
        ready: Called once connections are accepted.
        certificate: With it connections speak TLS.
        failure: Why the application did not start, where that is a fact.
        desk: With it plain chat requests go the express way.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        stopping: Stopping,
        ready: Callable[[], None],
        certificate: CertificateFiles | None = None,
        failure: Callable[[], FoundryError | None] = lambda: None,
        desk: ExpressDesk | None = None,
    ) -> None:
        super().__init__(_uvicorn_config(app, settings))
        self._failure = failure
        self._desk = desk
        self.bounds = Connections(settings.http_limits)
        self._stopping = stopping
        self._grace_s = settings.fastapi_server.shutdown_timeout_s
        self._ready = ready
        self._certificate = certificate
        self._watch: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._had_terminal = _has_terminal()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections on ``sockets``, which listen already."""
        self._loop = loop = asyncio.get_running_loop()
        await self.lifespan.startup()
        if self.lifespan.should_exit and (fact := self._failure()) is not None:
            raise fact
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self.bounds.start()
        self.servers = [await self._listen(sock, loop) for sock in sockets or ()]
        if self._certificate is not None:
            self._watch = asyncio.create_task(self._certificate.watch())
        self.started = True
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, let what runs finish, end the rest."""
        await super().shutdown(sockets)
        if self._watch is not None:
            self._watch.cancel()
        self.bounds.stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the block runs."""
        # Uvicorn raises the signal again when it is done, which would end the process before the log is closed.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        if self._certificate is not None and sys.platform != "win32":
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._handle_hangup)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            # This runs between two bytecodes of whatever was running; the loop takes it from here.
            self._loop.call_soon_threadsafe(self._stopping.begin, self._grace_s)

    def _handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Read the certificate again; but end if the terminal that this was started from has gone."""
        if self._had_terminal and not _has_terminal():
            self.handle_exit(sig, frame)
        elif self._certificate is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._certificate.reload_soon)

    async def _listen(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> Any:
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        certificate = self._certificate
        if certificate is None:
            return await loop.create_server(self._protocol, sock=sock, backlog=self.config.backlog)
        return TlsListener(sock, connections=self.bounds, context=lambda: certificate.context, make=self._protocol)

    def _protocol(self, seat: Seat | None = None) -> BoundedProtocol:
        parts = (self.config, self.server_state, self.lifespan.state, self._loop)
        if self._desk is None:
            return BoundedProtocol(*parts, connections=self.bounds, seat=seat)
        return ExpressProtocol(*parts, connections=self.bounds, seat=seat, desk=self._desk)


def _has_terminal() -> bool:
    """Whether standard input is a terminal that is still there."""
    try:
        return os.isatty(0)
    except OSError:
        return False


def _uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
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
        timeout_graceful_shutdown=int(settings.fastapi_server.shutdown_timeout_s + _BACKSTOP_S) + 1,
    )
