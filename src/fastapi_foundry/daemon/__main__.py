"""``python -m fastapi_foundry.daemon``: the Foundry service as a process."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import uvicorn

from fastapi_foundry import __version__
from fastapi_foundry.daemon.app import ServiceApp
from fastapi_foundry.daemon.daemon_file import DaemonFile
from fastapi_foundry.daemon.service import Service, make_service
from fastapi_foundry.engines.process import bind_first_free
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.observability.logging import configure_logging, get_logger
from fastapi_foundry.settings import Settings, load_settings

__all__ = ["main"]

_HOST: Final = "127.0.0.1"
_GRACE_S: Final = 3


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: ending starts with the runners, not with the connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``_run``."""
        yield


def main(arguments: list[str] | None = None) -> int:
    """Run the service until it is told to stop; the exit status.

    Prints one JSON line on stdout when it is ready, or when it cannot be; everything else goes to the log.
    """
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        overrides: dict[str, object] = {} if options.port is None else {"foundry_service.port": options.port}
        settings = load_settings(config_path=options.config, overrides=overrides)
        sock = _bind(settings)
        log = configure_logging(settings.logging, home=settings.home, process="service")
    except FoundryError as fact:
        _announce({"event": "failed", "error": fact.message})
        return 1
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings, sock, supervised=options.supervised))
    finally:
        log.close()
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fastapi_foundry.daemon", description="The Foundry service.")
    parser.add_argument("--port", type=int, help="port to try first; 0 lets the system choose")
    parser.add_argument("--config", type=Path, help="configuration file")
    parser.add_argument("--supervised", action="store_true", help="end with the end of stdin, and so with the parent")
    return parser.parse_args(arguments)


def _bind(settings: Settings) -> socket.socket:
    limits = settings.foundry_service
    if limits.port == 0:
        return bind_first_free(_HOST, 0, 1, 0)
    return bind_first_free(_HOST, limits.port, limits.port_range_start, limits.port_range_end)


def _loop_factory() -> Any:
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(settings: Settings, sock: socket.socket, *, supervised: bool) -> None:
    logger = get_logger("fastapi_foundry.daemon")
    port = int(sock.getsockname()[1])
    service = make_service(settings, f"http://{_HOST}:{port}")
    _stop_on_signals(service)
    if supervised:
        _stop_with_parent(service)
    server = _Server(
        uvicorn.Config(
            ServiceApp(service),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=75,
        )
    )
    daemon_file = DaemonFile(settings.home, secrets.token_hex(8))
    serving = asyncio.create_task(server.serve([sock]), name="http")
    try:
        await server.ready.wait()
        daemon_file.write(url=service.url, pid=os.getpid(), version=__version__)
        logger.info("service started", version=__version__, port=port, offline=settings.foundry_service.offline)
        _announce({"event": "ready", "url": service.url, "pid": os.getpid()})
        stopping = asyncio.create_task(service.stop.wait(), name="stop")
        await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    finally:
        daemon_file.remove()
        started = time.monotonic()
        # Streams end with an error frame here, so that uvicorn has nothing left to wait for.
        await service.close()
        server.should_exit = True
        await serving
        logger.info("service stopped", version=__version__, port=port, duration=time.monotonic() - started)


def _stop_on_signals(service: Service) -> None:
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(service.stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _stop_with_parent(service: Service) -> None:
    """End when stdin ends: the operating system closes it however the parent ends."""
    loop = asyncio.get_running_loop()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(service.stop.set)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def _announce(line: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
